"""The verdict first, the numbers of the JSON, nothing from outside, and every id as hostile text."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from virnuc_assets.errors import VirnucError
from virnuc_assets.migration.decision import not_measured
from virnuc_assets.migration.evidence import Evidence
from virnuc_assets.reports import decision_report as views
from virnuc_assets.reports.charts import styles
from virnuc_assets.reports.decision_report import METRICS, markdown_summary, probability, render_html, span
from virnuc_assets.reports.pages import percent, score, signed, times
from virnuc_assets_tests.migration.evidence_fakes import (
    SLOTS,
    benchmark,
    description,
    evidence,
    fingerprint,
    measured,
    replaced,
    right,
    rows,
    variant,
)

from .report_fakes import (
    HALF_WRONG,
    SECTIONS,
    Page,
    assert_self_contained,
    by_role,
    decided,
    go_html,
    go_page,
    good,
    page_of,
    rich_decision,
    rich_html,
    rich_json,
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


def test_criteria_show_number_interval_threshold_and_outcome() -> None:
    words = {"met": "✓ met", "failed": "✗ failed", "inconclusive": "? inconclusive", "missing": "– missing"}
    for criterion in rich_json()["criteria"]:
        (row,) = (one for one in rich_page().rows if len(one) == 5 and f" {criterion['name']} " in f"{one[0]} ")
        if criterion["unit"] == "times":
            low, high = times(criterion["low"]), times(criterion["high"])
            assert row[1:3] == [f"{times(criterion['value'])} (miniature)", "–" if low == "–" else f"{low} to {high}"]
        else:
            assert row[1:3] == [signed(criterion["value"]), span(criterion["low"], criterion["high"])]
        assert row[4] == words[criterion["outcome"]]
    assert "≥ 2×" in rich_page().text and "≤ 0.05" in rich_page().text and "> 0" in rich_page().text


def test_metrics_of_every_variant_and_level_are_those_of_the_decision() -> None:
    variants = [one["performance"]["levels"] for one in by_role(rich_json()["variants"])]
    for level in ("frame", "chunk", "record"):
        for metric, title in METRICS.items():
            assert [title, *(score(levels[level][metric]) for levels in variants)] in rich_page().rows
        for levels in variants:
            tn, fp, fn, tp = (levels[level][cell] for cell in ("tn", "fp", "fn", "tp"))
            host, viral = tn + fp, fn + tp
            for label, total, cells in (("host", host, (tn, fp)), ("viral", viral, (fn, tp))):
                assert [label, *(f"{cell:.0f} {100 * cell / total:.1f} %" for cell in cells)] in rich_page().rows


def test_comparisons_and_mcnemar_are_those_of_the_decision() -> None:
    names = {
        "baseline": "baseline, esm2_3b",
        "kmer_baseline": "kmer_baseline, kmer",
        "esm2_650": "esm2_650",
        "prot_t5": "prot_t5",
    }
    assert set(rich_json()["comparisons"]) == set(names)
    for role, found in rich_json()["comparisons"].items():
        drops = [found["accuracy_drop"], found["f1_drop"]]
        cells = [text for drop in drops for text in (signed(drop["value"]), span(drop["low"], drop["high"]))]
        assert [names[role], *cells] in rich_page().rows
        for test in found["mcnemar"]:
            counts = [str(test[name]) for name in ("rows", "only_candidate_right", "only_other_right")]
            assert [names[role], f"{test['level']}s", *counts, probability(test["p"])] in rich_page().rows
    assert "It takes rows to be independent. Frames, chunks and related records are not" in rich_page().text


def test_calibration_and_abstention_are_those_of_the_decision() -> None:
    found = rich_json()["variants"]["candidate"]["performance"]
    before, after, band = found["levels"]["frame"], found["calibration"], found["abstention"]
    assert after["ece"] != before["ece"]
    arrows = [f"{score(before[metric])} → {score(after[metric])}" for metric in ("ece", "brier")]
    assert ["candidate, fastesm2", "0.5000", *arrows] in rich_page().rows
    called, share = f"{band['called']} of {band['chunks']}", f"{100 * band['called'] / band['chunks']:.1f} %"
    accuracies = f"{score(found['levels']['chunk']['accuracy'])} → {score(band['accuracy'])}"
    assert ["candidate, fastesm2", called, share, accuracies] in rich_page().rows


def test_groups_are_shown_whether_tested_or_not() -> None:
    found = {(one["label"], one["group"]): one for one in rich_json()["comparisons"]["baseline"]["groups"]}
    shown = {(row[1], row[0]): row for row in rich_page().rows if len(row) == 11 and row[1] in ("viral", "host")}
    assert set(shown) == set(found)
    for key, group in found.items():
        drop = group["drop"]
        numbers = [score(group["candidate_accuracy"]), score(group["other_accuracy"]), signed(drop["value"])]
        counts = [str(group["rows"]), str(group["clusters"])]
        tests = [probability(group["p_worse"]), probability(group["p_lost"])]
        assert shown[key][2:10] == [*counts, *numbers, span(drop["low"], drop["high"]), *tests]
    outcomes = {group: row[10] for (_, group), row in shown.items()}
    none, few = "✓ no loss", "too few"
    assert outcomes == {"rare": few, "lonely": few, "phage": none, "bacteria": none}
    assert shown["viral", "lonely"][7:10] == ["–", "–", "–"]


def test_a_group_that_lost_and_one_that_is_worse() -> None:
    three_of_five_clusters = (right(5, wrong=1) * 3 + right(5) * 2) * 2
    given = good(candidate=variant("fastesm2", rows(three_of_five_clusters, HALF_WRONG)))
    assert [(one.group, one.status) for one in views.sorted_groups(decided(given))] == [
        ("bacteria", "lost"),
        ("phage", "worse"),
    ]
    text = Page(page_of(given)).text
    assert re.search(r"bacteria host 50 10 0\.5000 1\.0000 \+0\.5000 .* ✗ lost more phage", text)
    assert re.search(r"phage viral 50 10 0\.8800 1\.0000 \+0\.1200 .* \? worse", text)


def test_power_is_that_of_the_decision() -> None:
    found = rich_json()["power"]
    for one in found["chances"]:
        shares = [percent(share) for share in (one["go"], 1 - one["go"] - one["no_go"], one["no_go"])]
        assert [one["lost_in"], str(one["margins"]), *shares] in rich_page().rows
    equal = percent(found["chances"][0]["go"])
    assert f"two equally good models would get GO in {equal} of studies" in rich_page().text


def test_single_encoders_are_listed_next_to_both() -> None:
    lines = views.ablation_lines(rich_decision())
    assert [vectors for vectors, _ in lines] == [
        "DNA only: dnabert_s",
        "protein only: fastesm2",
        "both: dnabert_s + fastesm2 (candidate)",
        "both: dnabert_s + esm2_3b (baseline)",
        "both: kmer_dna + kmer_protein (kmer_baseline)",
        "both: dnabert_s + esm2_650 (esm2_650)",
        "both: dnabert_s + prot_t5 (prot_t5)",
    ]
    alone = rich_json()["ablations"]["dnabert_s"]["levels"]
    numbers = [score(alone["frame"][metric]) for metric in ("accuracy", "f1", "mcc", "auroc")]
    assert ["DNA only: dnabert_s", *numbers, score(alone["record"]["accuracy"])] in rich_page().rows


def test_both_frame_rules_are_side_by_side_with_their_difference() -> None:
    found = rich_json()["frame_rules"]
    old, new = found["rules"]["stop_free"], found["rules"]["longest_orf"]
    assert found["recommendation"] in rich_page().text
    covered = [percent(one["coverage"]["viral"]["bases"]) for one in (old, new)]
    assert ["Viral bases with a verdict", *covered, ""] in rich_page().rows
    gain = found["auroc_gain"]
    values = [
        f"{score(one['auroc']['value'])} {one['auroc']['low']:.4f} to {one['auroc']['high']:.4f}" for one in (old, new)
    ]
    difference = f"{signed(gain['value'])} {span(gain['low'], gain['high'])}"
    assert ["AUROC, all records", *values, difference] in rich_page().rows
    assert ["Frames per chunk, to be embedded", "0.50", "1.88", ""] in rich_page().rows
    assert ["Residues in these", "80.0", "75.0", ""] in rich_page().rows
    assert ["longest_orf", "0 to 49 aa", "1", "0.7000", "1.0000"] in rich_page().rows
    assert ["stop_free", "160 aa and more", "2", "0.7500", "0.5000"] in rich_page().rows
    shares = ["50.0 %", "0.0000", "0.6000", "75.0 %", "0.6667", "0.4000"]
    assert ["(no group)", "host", "3", "4", *shares] in rich_page().rows


def test_dims_and_lengths_are_side_by_side() -> None:
    assert ["Joined dim", "20", "32", "11", "20", "20"] in rich_page().rows
    assert ["training.hidden", "4", "4", "4", "4", "4"] in rich_page().rows
    assert ["1,000 to 2,999 nt", "host", "10", "0.9000", "1.0000", "0.6000", "0.9000", "0.8000"] in rich_page().rows


def test_speed_ratios_are_those_of_protein_encoders() -> None:
    shown = {row[0]: row[1:5] for row in rich_page().rows if len(row) == 10 and row[-1] == "cpu"}
    assert shown["fastesm2 (miniature)"] == ["30.0", "3×", "10.0", "0.5×"]
    assert shown["dnabert_s (miniature)"] == ["50.0", "–", "3.0", "–"]
    assert ["fastesm2", "protein encoder", "3× (miniature)", "3× to 3×"] in rich_page().rows
    assert ["fastesm2", "DNA and protein encoder", "2.25× (miniature)", "2.25× to 2.25×"] in rich_page().rows


HOSTILE = '<script>alert("1")</script>'
NAMES = ["$\\frac{", "a $x$ b", 'x id="y" url(#z)', "#010200", "病毒", "tab\tand\nline", "-->", "<g>", "x" * 300]


def hostile_evidence() -> Evidence:
    tables = [rows(right(50, wrong=wrong), right(50)) for wrong in (0, 0, 9)]
    for column in ("group", "cluster"):
        tables = [replaced(table, column, dict.fromkeys(range(50), HOSTILE)) for table in tables]
    return evidence(
        candidate=variant("fastesm2", tables[0], description=description("fastesm2", data_digest=HOSTILE)),
        baseline=variant("esm2_3b", tables[1], problems=(f"stale: {HOSTILE}",)),
        kmer_baseline=variant("kmer", tables[2]),
        benchmark={**benchmark(), HOSTILE: measured("dnabert_s", 1.0, 1, device=HOSTILE)},
        environment={HOSTILE: HOSTILE},
    )


def test_equal_evidence_gives_equal_bytes() -> None:
    shuffled = good(candidate=variant("fastesm2", rows(right(50), right(50)).take(list(range(99, -1, -1)))))
    assert go_html() == page_of(shuffled)


@pytest.mark.slow
def test_another_process_gives_equal_bytes(tmp_path: Path) -> None:
    """Neither the seed of hashes nor what was drawn before goes into the page."""
    code = (
        "import sys; from pathlib import Path; from virnuc_assets_tests.reports import report_fakes as t; "
        "Path(sys.argv[1]).write_text(t.page_of(t.good()), encoding='utf-8')"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "page")], check=True, env=environment, timeout=120)
    assert (tmp_path / "page").read_text(encoding="utf-8") == go_html()


def test_the_page_is_self_contained_and_runs_no_script() -> None:
    assert "script" not in assert_self_contained(rich_html(), ["http://127.0.0.1:5000/"]).tags


def test_charts_take_their_colours_from_the_page_and_have_no_date() -> None:
    charts = re.findall(r'<div role="img".*?</svg>', rich_html(), flags=re.DOTALL)
    assert len(charts) == 5
    assert all(f"var(--{role})" in charts[1] for role in ("candidate", "baseline", "kmer_baseline", "shown-1"))
    assert all(f"var(--{outcome})" in charts[4] for outcome in ("good", "soft", "bad"))
    for svg in charts:
        assert "#0102" not in svg and "#ffffff" not in svg and "dc:" not in svg and "DOCTYPE" not in svg


def test_hostile_ids_stay_text() -> None:
    page = page_of(hostile_evidence(), **{HOSTILE: 'http://127.0.0.1/"><script>'})
    parsed = Page(page)
    assert "script" not in parsed.tags and "<script" not in page
    assert parsed.text.count(HOSTILE) >= 8
    assert "<script" not in markdown_summary(decided(hostile_evidence()))


def test_a_group_may_be_named_anything() -> None:
    groups = {row: NAMES[row // 5] for row in range(45)}
    given = evidence(**sides(lambda name, table: variant(name, replaced(table, "group", groups))))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        parsed = Page(page_of(given))
    cells = [row[0] for row in parsed.rows if row[1:2] == ["viral"]]
    assert {" ".join(name.split()) for name in NAMES} <= set(cells)
    labels = [" ".join(f"{name} · viral".split()) for name in NAMES[:-1]]
    assert [label for label in labels if label not in parsed.text] == []
    assert f"{'x' * 33}…" in parsed.text


def test_a_link_that_runs_code_is_refused() -> None:
    with pytest.raises(VirnucError, match="javascript:alert"):
        page_of(evidence(), run="javascript:alert(1)")


def test_variants_that_are_only_shown_have_styles_of_their_own() -> None:
    found = styles(["candidate", "baseline", "kmer_baseline", *(f"variant{i}" for i in range(20))])
    assert len({(style.variable, style.dashes) for style in found.values()}) == 23
