"""The page is one file of equal bytes, takes nothing from outside, and treats every id as hostile."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from virnuc_assets.errors import VirnucError
from virnuc_assets.migration.evidence import Evidence
from virnuc_assets.reports.charts import styles
from virnuc_assets.reports.decision_report import markdown_summary
from virnuc_assets_tests.migration.evidence_fakes import (
    benchmark,
    description,
    evidence,
    measured,
    replaced,
    right,
    rows,
    variant,
)

from .report_fakes import Page, decided, go_html, good, page_of, rich_html, rich_page, sides

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


def test_nothing_comes_from_outside() -> None:
    page, parsed = rich_html(), rich_page()
    assert not {"script", "link", "img", "iframe", "object"} & set(parsed.tags)
    assert "src" not in dict(parsed.attributes)
    addresses = [value for name, value in parsed.attributes if name in ("href", "xlink:href")]
    assert [value for value in addresses if not str(value).startswith("#")] == ["http://127.0.0.1:5000/"]
    assert "@import" not in page and not re.search(r"url\((?!#)", page)


def test_charts_take_their_colours_from_the_page_and_have_no_date() -> None:
    charts = re.findall(r'<div role="img".*?</svg>', rich_html(), flags=re.DOTALL)
    assert len(charts) == 5
    assert all(f"var(--{role})" in charts[1] for role in ("candidate", "baseline", "kmer_baseline", "shown-1"))
    assert all(f"var(--{outcome})" in charts[4] for outcome in ("good", "soft", "bad"))
    for svg in charts:
        assert "#0102" not in svg and "#ffffff" not in svg and "dc:" not in svg and "DOCTYPE" not in svg


def test_every_colour_is_given_for_both_themes() -> None:
    page = rich_html()
    light, dark = re.findall(r":root \{(.*?)\}", page, flags=re.DOTALL)
    used = set(re.findall(r"var\(--([\w-]+)\)", page)) - {"share"}
    for theme in (light, dark):
        assert used <= set(re.findall(r"--([\w-]+):", theme))


def test_ids_are_unique_and_references_have_their_target() -> None:
    attributes = rich_page().attributes
    ids = [value for name, value in attributes if name == "id"]
    assert len(ids) == len(set(ids))
    targets = re.findall(r"(?:url\(|href=\")#([\w-]+)", rich_html())
    assert targets and set(targets) <= set(ids)


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
