"""The page says the verdict first, then what was compared, on what, and what was not measured."""

from __future__ import annotations

import re

import pytest

from virnuc_assets.migration.decision import not_measured
from virnuc_assets.migration.evidence import Evidence
from virnuc_assets.reports.decision_report import markdown_summary, render_html
from virnuc_assets_tests.migration.evidence_fakes import SLOTS, description, evidence, fingerprint, right, rows, variant

from .report_fakes import (
    HALF_WRONG,
    SECTIONS,
    Page,
    decided,
    go_html,
    go_page,
    good,
    page_of,
    rich_decision,
    rich_page,
    sides,
)


def full_size(name: str) -> dict[str, object]:
    dna, protein = SLOTS[name]
    return description(name, encoders={"dna": fingerprint(dna, ""), "protein": fingerprint(protein, "")})


@pytest.mark.parametrize(
    ("given", "outcome"),
    [
        (good(), "GO"),
        (good(candidate=variant("fastesm2", rows(right(50), HALF_WRONG))), "NO-GO"),
        (good(baseline=variant("esm2_3b", None)), "NO DECISION"),
    ],
)
def test_the_verdict_comes_first(given: Evidence, outcome: str) -> None:
    decision = decided(given)
    page = render_html(decision, given)
    assert re.findall(r"<h1>(.*)</h1>", page) == [outcome]
    assert page.index("<h1>") < page.index("<h2")
    text = Page(page).text
    assert all(criterion.name in text and criterion.question in text for criterion in decision.criteria)
    verdict = Page(page[page.index("<h1>") : page.index("</section>")].replace("</section>", "")).text
    assert all(reason in verdict for reason in decision.reasons)


def test_an_interval_too_wide_is_not_called_missing() -> None:
    text = Page(page_of(good(candidate=variant("fastesm2", rows(right(50, wrong=2), right(50, wrong=2)))))).text
    assert "Nothing fails, but an interval reaches over its threshold: accuracy_drop_within_margin is open" in text
    assert "? inconclusive" in text and "What is missing" not in text


def test_what_fails_is_said_though_evidence_is_missing() -> None:
    given = evidence(candidate=variant("fastesm2", rows(right(50), HALF_WRONG)), benchmark=None)
    assert "this fails already: accuracy_drop_within_margin, f1_drop_within_margin" in Page(page_of(given)).text


def test_all_sections_are_there_and_in_order() -> None:
    assert rich_page().section_ids == SECTIONS
    assert go_page().section_ids == [name for name in SECTIONS if name not in ("ablations", "frame_rules")]
    anchors = [value for name, value in rich_page().attributes if name == "href"]
    assert anchors == [*(f"#{name}" for name in SECTIONS), "http://127.0.0.1:5000/"]


def test_it_is_said_what_was_compared_and_on_what() -> None:
    text = rich_page().text
    assert "Candidate (fastesm2) and baseline (esm2_3b) called the same 100 test frames, 50 viral and 50 host." in text
    assert "They come from 20 records (genomes or contigs) in 19 clusters of relatives (9 with viral, 10 with " in text
    assert "1,000 bootstrap rounds, of which it holds 95 %" in text
    assert "no classifier trained here has seen a relative of a test record. What esm2_650 saw is not known" in text
    assert "as a whole: no classifier has seen a relative of a test record." in go_page().text


def test_what_was_not_measured_is_true_of_this_decision() -> None:
    limits = "\n".join(not_measured(rich_decision()))
    assert "Chunk lengths other than 500 nt." in limits
    assert "criteria judge frames only" in limits and "one seed" in limits
    few = (
        "Groups of fewer than 5 clusters, in which a loss would not be seen: viral / lonely (1 clusters), viral / rare"
    )
    assert few in limits
    assert "does not rule out one beyond the margin: host / bacteria (10 clusters)" in limits
    assert "What esm2_650 was trained on: its classifier was imported (elsewhere/published)" in limits
    plain = "\n".join(not_measured(decided(evidence())))
    assert not re.search("imported|would not be seen|rule out", plain)
    alone = "What each encoder alone is worth: no ablations of today's features are stored."
    assert alone in plain and alone not in limits
    assert all(limit in rich_page().text for limit in not_measured(rich_decision()))


def test_miniatures_are_said_before_everything() -> None:
    page = go_html()
    warning = "weights are random: this verdict shows the machinery, not the models"
    assert page.index(warning) < page.index("<h1>")
    assert warning in markdown_summary(decided(evidence()))


def test_no_banner_for_real_weights() -> None:
    given = evidence(**sides(lambda name, table: variant(name, table, description=full_size(name))))
    decision = decided(given)
    page = render_html(decision, given)
    assert decision.outcome == "GO"
    assert "random" not in page and "random" not in markdown_summary(decision)
    assert "fastesm2_650 may replace esm2_3b" in Page(page).text


def test_a_page_without_any_evidence() -> None:
    bare = sides(lambda name, _: variant(name, None, description=None))
    page = page_of(evidence(**bare, benchmark=None, environment={}))
    assert 'role="img"' not in page
    text = Page(page).text
    assert "No variant has stored predictions that can be drawn." in text
    assert "Nothing could be compared" in text and "No encoder benchmark is stored." in text


def test_markdown_has_a_line_for_each_criterion() -> None:
    summary = markdown_summary(decided(evidence(benchmark=None)))
    assert summary.startswith("## NO DECISION\n")
    assert "- no encoder benchmark is stored\n" in summary
    assert "| speedup reached | – | – | ≥ 2× | missing |" in summary
    assert "| kmer baseline beaten | +0.2000 | " in summary


def test_settings_are_shown_with_the_reason_for_their_default() -> None:
    assert "one frame in twenty is less than labs differ by" in go_html()
