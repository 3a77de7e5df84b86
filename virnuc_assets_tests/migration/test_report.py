"""The page says the verdict first, holds nothing from outside, and treats every id as hostile."""

from __future__ import annotations

import functools
import re
from html.parser import HTMLParser

import pytest

from virnuc_assets.errors import VirnucError
from virnuc_assets.migration.evidence import Evidence
from virnuc_assets.migration.report import markdown_summary, not_measured, render_html
from virnuc_assets.migration.verdict import decide
from virnuc_assets.settings import DecisionSettings

from .evidence_fakes import SETTINGS, SLOTS, branch, description, evidence, fingerprint, replaced, right, rows

HOSTILE = '<script>alert("1")</script>'


class Page(HTMLParser):
    """Tags, attributes and visible text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1] != "style":
            self.words += data.split()

    @property
    def text(self) -> str:
        return " ".join(self.words)


def page_of(given: Evidence, settings: DecisionSettings = SETTINGS, **links: str) -> str:
    return render_html(decide(given, settings), given, list(links.items()))


@functools.cache
def go_page() -> str:
    return page_of(evidence())


def full_size(name: str) -> dict[str, object]:
    dna, protein = SLOTS[name]
    return description(name, encoders={"dna": fingerprint(dna, ""), "protein": fingerprint(protein, "")})


def hostile_evidence() -> Evidence:
    tables = [rows(right(50, wrong=wrong), right(50)) for wrong in (0, 0, 9)]
    for column in ("group", "cluster"):
        tables = [replaced(table, column, dict.fromkeys(range(50), HOSTILE)) for table in tables]
    return evidence(
        candidate=branch("fastesm2", tables[0], description=description("fastesm2", data_digest=HOSTILE)),
        baseline=branch("esm2_3b", tables[1], problems=(f"stale: {HOSTILE}",)),
        floor=branch("kmer", tables[2]),
        environment={HOSTILE: HOSTILE},
    )


@pytest.mark.parametrize(
    ("given", "outcome"),
    [
        (evidence(), "GO"),
        (evidence(candidate=branch("fastesm2", rows(right(50), right(50, wrong=20)))), "NO-GO"),
        (evidence(baseline=branch("esm2_3b", None)), "NO DECISION"),
    ],
)
def test_the_verdict_comes_first(given: Evidence, outcome: str) -> None:
    page = page_of(given)
    assert re.findall(r"<h1>(.*)</h1>", page) == [outcome]
    assert page.index("<h1>") < page.index("<h2>")
    text = Page(page).text
    assert all(criterion.name in text for criterion in decide(given, SETTINGS).criteria)
    assert all(reason in text for reason in decide(given, SETTINGS).reasons)


def test_criteria_show_number_interval_threshold_and_outcome() -> None:
    text = Page(go_page()).text
    assert re.search(r"floor_beaten .* \+0\.2000 \+0\.\d{4} to \+0\.\d{4} > 0 ✓ met", text)
    assert re.search(r"speedup_reached .* 3× – ≥ 2× ✓ met", text)


def test_three_branches_stand_side_by_side() -> None:
    text = Page(go_page()).text
    assert "Accuracy 1 1 0.8000" in text
    assert "merged_dim 20 32 11" in text


def test_groups_are_shown_whether_judged_or_not() -> None:
    few = rows(right(50), right(6))
    given = evidence(
        **{role: branch(name, few) for role, name in zip(("candidate", "baseline", "floor"), SLOTS, strict=True)}
    )
    text = Page(page_of(given)).text
    assert "phage viral 50 1.0000 1.0000 +0.0000 ✓ within" in text
    assert "bacteria host 6 1.0000 1.0000 +0.0000 not judged" in text
    assert "host / bacteria: 6 test rows, fewer than 10; shown, not judged." in not_measured(decide(given, SETTINGS))


def test_equal_evidence_gives_equal_bytes() -> None:
    shuffled = evidence(candidate=branch("fastesm2", rows(right(50), right(50)).take(list(range(99, -1, -1)))))
    assert go_page() == page_of(evidence()) == page_of(shuffled)


def test_nothing_comes_from_outside() -> None:
    page = page_of(evidence(), MLflow="http://127.0.0.1:5000/")
    parsed = Page(page)
    assert not {"script", "link", "img", "iframe", "object"} & set(parsed.tags)
    assert "src" not in dict(parsed.attributes)
    addresses = [value for name, value in parsed.attributes if name in ("href", "xlink:href")]
    assert [value for value in addresses if not str(value).startswith("#")] == ["http://127.0.0.1:5000/"]
    assert "@import" not in page and not re.search(r"url\((?!#)", page)


def test_curves_take_their_colours_from_the_page_and_have_no_date() -> None:
    page = go_page()
    svg = page[page.index("<svg") : page.index("</svg>")]
    assert all(f"var(--{name})" in svg for name in ("candidate", "baseline", "floor", "ink", "rule"))
    assert "#0102" not in svg and "#ffffff" not in svg and "dc:" not in svg and "DOCTYPE" not in svg


def test_hostile_ids_stay_text() -> None:
    page = page_of(hostile_evidence(), **{HOSTILE: 'http://127.0.0.1/"><script>'})
    parsed = Page(page)
    assert "script" not in parsed.tags and "<script" not in page
    assert parsed.text.count(HOSTILE) >= 6
    assert "<script" not in markdown_summary(decide(hostile_evidence(), SETTINGS))


def test_a_link_that_runs_code_is_refused() -> None:
    with pytest.raises(VirnucError, match="javascript:alert"):
        page_of(evidence(), run="javascript:alert(1)")


def test_miniatures_are_said_before_everything() -> None:
    page = go_page()
    warning = "weights are random: this verdict shows the machinery, not the models"
    assert page.index(warning) < page.index("<h1>")
    assert warning in markdown_summary(decide(evidence(), SETTINGS))


def test_no_banner_for_real_weights() -> None:
    sides = zip(("candidate", "baseline", "floor"), SLOTS, strict=True)
    tables = {"kmer": rows(right(50, wrong=20), right(50))}
    given = evidence(
        **{
            role: branch(name, tables.get(name, rows(right(50), right(50))), description=full_size(name))
            for role, name in sides
        }
    )
    assert decide(given, SETTINGS).outcome == "GO"
    assert "random" not in page_of(given) and "random" not in markdown_summary(decide(given, SETTINGS))
    assert "fastesm2_650 may replace esm2_3b" in Page(page_of(given)).text


def test_a_page_without_any_evidence() -> None:
    bare = {
        role: branch(name, None, description=None)
        for role, name in zip(("candidate", "baseline", "floor"), SLOTS, strict=True)
    }
    page = page_of(evidence(**bare, benchmark=None, environment={}))
    assert "<svg" not in page
    assert "No branch has stored predictions that can be drawn." in page


def test_markdown_has_a_line_for_each_criterion() -> None:
    summary = markdown_summary(decide(evidence(benchmark=None), SETTINGS))
    assert summary.startswith("## NO DECISION\n")
    assert "- no encoder benchmark is stored\n" in summary
    assert "| speedup_reached | – | – | ≥ 2× | missing |" in summary
    assert "| floor_beaten | +0.2000 | " in summary
