"""Pages to test: a usual one, and one that has everything; read back as text, attributes and table rows."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Collection, Mapping
from html.parser import HTMLParser
from typing import Any

import pyarrow as pa

from virnuc_assets.migration.decision import Decision, decide
from virnuc_assets.migration.evidence import Evidence, VariantEvidence
from virnuc_assets.reports.decision_report import render_html
from virnuc_assets.settings import DecisionSettings
from virnuc_assets_tests.migration.evidence_fakes import (
    EVALUATION,
    SETTINGS,
    SLOTS,
    description,
    evidence,
    fingerprint,
    frame_rules_table,
    replaced,
    right,
    rows,
    variant,
)

SECTIONS = [
    *("compared", "criteria", "power", "metrics", "curves", "calibration", "groups", "lengths"),
    *("ablations", "frame_rules", "encoders", "speed", "limits", "sources"),
]
VOID = {"meta", "br", "line", "input"}
KMER_BASELINE = rows(right(50, wrong=25), right(50, wrong=25))
HALF_WRONG = [True, False] * 25  # in every cluster


class Page(HTMLParser):
    """Tags, attributes, visible text and table rows of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words: list[str] = []
        self.rows: list[list[str]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.tags[-1:] in (["style"], ["script"]):
            return
        self.words += data.split()
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] = " ".join([*self.rows[-1][-1].split(), *data.split()])

    @property
    def text(self) -> str:
        return " ".join(self.words)

    @property
    def section_ids(self) -> list[str | None]:
        return [value for name, value in self.attributes if name == "id" and value in SECTIONS]


def assert_self_contained(html: str, links: Collection[str] = ()) -> Page:
    """A page loads nothing, its ids are unique, references have their target, and both themes every colour."""
    page = Page(html)
    assert not {"link", "img", "iframe", "object"} & set(page.tags) and "src" not in dict(page.attributes)
    addresses = [str(value) for name, value in page.attributes if name in ("href", "xlink:href")]
    assert [value for value in addresses if not value.startswith("#")] == list(links)
    assert "@import" not in html and not re.search(r"url\((?!#)", html)
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    targets = re.findall(r"(?:url\(|href=\")#([\w-]+)", html)
    assert targets and set(targets) <= set(ids)
    used = set(re.findall(r"var\(--([\w-]+)\)", html)) - {"share", "call"}
    light, dark = re.findall(r":root \{(.*?)\}", html, flags=re.DOTALL)
    assert used <= set(re.findall(r"--([\w-]+):", light)) & set(re.findall(r"--([\w-]+):", dark))
    return page


def decided(given: Evidence, settings: DecisionSettings = SETTINGS) -> Decision:
    return decide(given, settings, EVALUATION)


def page_of(given: Evidence, settings: DecisionSettings = SETTINGS, **links: str) -> str:
    return render_html(decided(given, settings), given, list(links.items()))


def sides(made: Callable[[str, pa.Table], VariantEvidence]) -> dict[str, VariantEvidence]:
    """The three roles by what is made of their variants' names and tables."""
    good = rows(right(50), right(50))
    roles = zip(("candidate", "baseline", "kmer_baseline"), SLOTS, (good, good, KMER_BASELINE), strict=True)
    return {role: made(name, table) for role, name, table in roles}


def good(**changes: object) -> Evidence:
    """The usual evidence, its k-mer baseline so low that the candidate beats it in every draw."""
    return evidence(**{"kmer_baseline": variant("kmer", KMER_BASELINE), **changes})


@functools.cache
def go_html() -> str:
    return page_of(good())


@functools.cache
def go_page() -> Page:
    return Page(go_html())


def also_compared(name: str, wrong: int = 3, **changes: object) -> VariantEvidence:
    """A variant of no role, with encoders that the fakes do not know."""
    sides = {"dna": fingerprint("dnabert_s"), "protein": fingerprint(name)}
    facts = description("fastesm2", encoders=sides, **changes)
    return VariantEvidence(name, "dnabert_s", name, rows(right(50, wrong=wrong), right(50, wrong=2 * wrong)), facts)


@functools.cache
def rich() -> Evidence:
    """Five variants, single encoders, both frame rules, a group of one cluster, one of two, a temperature."""
    # Errors differ between the labels, so that a table which confuses them is seen.
    tables = {wrong: grouped(rows(right(50, wrong=wrong), right(50, wrong=2 * wrong))) for wrong in (1, 2, 10)}
    return evidence(
        candidate=variant("fastesm2", tables[2], description=description("fastesm2", temperature=0.5)),
        baseline=variant("esm2_3b", tables[1], description=description("esm2_3b", temperature=2.0)),
        kmer_baseline=variant("kmer", tables[10]),
        also_compared=(
            with_groups(also_compared("esm2_650", origin="elsewhere/published")),
            with_groups(also_compared("prot_t5", wrong=6)),
        ),
        ablations={"dnabert_s": tables[10], "fastesm2": tables[2]},
        frame_rules=frame_rules_table(),
    )


def grouped(table: pa.Table) -> pa.Table:
    """Two rows of group "rare", one cluster of group "lonely"."""
    return replaced(table, "group", dict.fromkeys((0, 1), "rare") | dict.fromkeys(range(5, 15), "lonely")).set_column(
        table.column_names.index("cluster"),
        table.schema.field("cluster"),
        pa.array(["one" if 5 <= i < 15 else name for i, name in enumerate(table["cluster"].to_pylist())]),
    )


def with_groups(one: VariantEvidence) -> VariantEvidence:
    return VariantEvidence(**{**vars(one), "predictions": grouped(one.predictions)})


@functools.cache
def rich_decision() -> Decision:
    return decided(rich())


@functools.cache
def rich_html() -> str:
    return render_html(rich_decision(), rich(), [("MLflow", "http://127.0.0.1:5000/")])


@functools.cache
def rich_page() -> Page:
    return Page(rich_html())


@functools.cache
def rich_json() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(rich_decision().to_json())
    return found


def by_role(facts: Mapping[str, Any]) -> list[Any]:
    """Values in the order of the page; JSON has sorted its keys."""
    return [facts[role] for role in rich().variants]
