"""The page of a sample: its numbers are those of the calls, it takes nothing from outside, and every id is hostile."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pytest

from virnuc_assets.classifier.sample_calls import SampleCalls
from virnuc_assets.reports.sample_page import MOST_ROWS, ROWS, certainty, pictures, stretches

from .report_fakes import Page
from .sample_fakes import NAN, four_calls, html_of, packed, record, run_json, sample

HOSTILE = [
    "</script><script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "a\u2028b\u202ec",
    "{{ 7 * 7 }}",
    "]]>-->&lt;",
    "'; drop",
    "病毒|x",
    "y" * 1000,
]


def hostile() -> SampleCalls:
    return sample(
        *(record(name, "virus", [0.9, 0.9], 200, source=name) for name in HOSTILE),
        *(record(name, "not scored", [NAN], 50, source=name, reason=name) for name in HOSTILE),
    )


def many(records: int, chunks: int = 1) -> SampleCalls:
    """Records of equal length with probabilities from 0 to 1, by column."""
    values = np.linspace(0, 1, records).astype(np.float32)
    call = np.select([values >= 0.8, values > 0.2], ["virus", "uncertain"], "other")
    counts = np.full(records, chunks)
    columns = {
        "source": ["contigs.fna"] * records,
        "record_id": [f"NODE_{i}_length_{100 * chunks}" for i in range(records)],
        "length_nt": 100 * counts,
        "call": call,
        "probability": values.astype(np.float64),
        "viral_fraction": (values >= 0.5).astype(float),
        "chunks": counts,
        "chunks_scored": counts,
        "chunks_viral": counts * (values >= 0.5),
        "chunks_uncertain": counts * (call == "uncertain"),
        "longest_viral_nt": 100 * counts * (values >= 0.5),
        "reason": pa.nulls(records, pa.string()),
    }
    offsets = np.arange(0, records * chunks + 1, chunks)
    return SampleCalls(
        pa.table(columns), offsets, np.repeat(values, chunks), np.full(records * chunks, 3, np.uint8), 100, 0.8
    )


def test_the_first_screen_says_how_many_and_what_was_not_scored(tmp_path: Path) -> None:
    page = Page(html_of(tmp_path, four_calls()))
    assert page.text.startswith("2 of 5 records classified as virus 2 of 5 records classified as virus")
    for call, count, share, nt in (
        ("virus", 2, "40.0", "1,000"),
        ("uncertain", 1, "20.0", "200"),
        ("other", 1, "20.0", "380"),
        ("not scored", 1, "20.0", "150"),
    ):
        assert f"{call} {count} {share} % of records, {nt} nt show them" in page.text
    assert "Nothing is known of 1 record: no open frame (1)." in page.text
    assert "9 of 18 chunks of 100 nt (50.0 %) have no score: a stop codon in each of the six frames (9)." in page.text
    assert "In 1 scored record, less than half of the chunks are scored" in page.text
    assert "probabilities from 0.880 to 0.990, half of them at least 0.935. Between 0.2 and 0.8 a call is" in page.text
    assert "Miniature" not in page.text


def test_the_table_has_a_row_per_record_virus_first_and_longest_first(tmp_path: Path) -> None:
    html = html_of(tmp_path, four_calls())
    rows = [row for row in Page(html).rows if len(row) == 9]
    assert rows[1:] == [
        ["5", "long_phage", "virus", "0.990", "600", "100", "1 of 1", "0", "5 of 6"],
        ["2", "phage", "virus", "0.880", "400", "200", "3 of 3", "1", "1 of 4"],
        ["3", "plasmid", "uncertain", "0.525", "200", "100", "1 of 2", "2", "0 of 2"],
        ["1", "bacterium", "other", "0.350", "380", "100", "1 of 3", "0", "1 of 4"],
        ["4", "intron", "not scored no open frame", "–", "150", "–", "–", "–", "2 of 2"],
    ]
    table = packed(html)
    assert [table["calls"][i] for i in table["call"]] == [row[2].removesuffix(" no open frame") for row in rows[1:]]
    assert table["probability"] == [990, 880, 525, 350, None]
    assert table["reason"] == [None] * 4 + ["no open frame"]
    assert table["drawn"] == [4, 1, 2, 0] and table["names"] == []


@pytest.mark.parametrize(
    ("files", "shown"), [(["x/a.fna", "x/b.fna"], ["a.fna", "b.fna"]), (["x/a", "y/a"], ["x/a", "y/a"])]
)
def test_several_inputs_are_named_in_the_table(files: list[str], shown: list[str], tmp_path: Path) -> None:
    """Without their folders unless these make the difference."""
    html = html_of(tmp_path, sample(*(record(f"of {file}", "virus", [0.9], 90, source=file) for file in files)))
    assert [row[-1] for row in Page(html).rows if len(row) == 10] == ["Input", *shown]
    table = packed(html)
    assert [table["names"][i] for i in table["source"]] == shown


def test_reasons_are_counted_by_what_comes_before_the_record_that_they_name(tmp_path: Path) -> None:
    reasons = [f"duplicate id: same sequence as record {i}" for i in range(5)] + [f"reason {i}" for i in range(9)]
    text = Page(html_of(tmp_path, sample(*(record("r", "not scored", [], 9, reason=each) for each in reasons)))).text
    assert "Nothing is known of 14 records: duplicate id (5), reason 0 (1)," in text
    assert "reason 6 (1), and others (2)." in text


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    html = html_of(tmp_path, hostile())
    page = Page(html)
    assert page.tags.count("script") == 2 and "img" not in page.tags
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    for name in HOSTILE:
        assert name in page.text or name == HOSTILE[2]
    assert r"a\u2028b\u202ec" in page.text and "\u2028" not in html and "\u202e" not in html
    assert packed(html)["id"][:2] == HOSTILE[:2] and packed(html)["names"][7] == HOSTILE[7]


def test_only_the_script_of_the_page_may_run_and_nothing_is_loaded(tmp_path: Path) -> None:
    html = html_of(tmp_path, hostile())
    page = Page(html)
    (script,) = re.findall(r"<script>(.*?)</script>", html, flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    assert ("content", policy) in page.attributes
    assert not {"link", "img", "iframe", "object"} & set(page.tags) and "src" not in dict(page.attributes)
    assert all(str(value).startswith("#") for name, value in page.attributes if name in ("href", "xlink:href"))
    assert "@import" not in html and not re.search(r"url\((?!#)", html)


def test_ids_are_unique_references_have_their_target_and_colours_both_themes(tmp_path: Path) -> None:
    html = html_of(tmp_path, many(40, chunks=3))
    ids = [value for name, value in Page(html).attributes if name == "id"]
    assert len(ids) == len(set(ids))
    targets = re.findall(r"(?:url\(|href=\")#([\w-]+)", html)
    assert len(targets) > 30 and set(targets) <= set(ids)
    used = set(re.findall(r"var\(--([\w-]+)\)", html)) - {"share", "call"}
    for theme in re.findall(r":root \{(.*?)\}", html, flags=re.DOTALL):
        assert used <= set(re.findall(r"--([\w-]+):", theme))


def test_text_is_readable_in_both_themes(tmp_path: Path) -> None:
    """Contrast of at least 4.5 for text and 3 for what is drawn (WCAG 2.2, AA)."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        red, green, blue = (one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    for theme in re.findall(r":root \{(.*?)\}", html_of(tmp_path, four_calls()), flags=re.DOTALL):
        light = {name: luminance(colour) for name, colour in re.findall(r"--([\w-]+): (#\w{6})", theme)}
        pairs = [("ink", "page", 4.5), ("soft", "page", 4.5), ("candidate", "page", 4.5), ("soft", "panel", 4.5)]
        pairs += [(name, "panel", 3) for name in ("baseline", "candidate", "kmer_baseline", "good")]
        for one, other, least in pairs:
            dark, bright = sorted((light[one], light[other]))
            assert (bright + 0.05) / (dark + 0.05) >= least, (one, other)


def test_miniatures_and_missing_calibration_are_stated(tmp_path: Path) -> None:
    words = "Miniature encoders: their weights are random. This page shows that the program runs."
    assert Page(html_of(tmp_path, four_calls(), miniature=True)).text.startswith(
        f"2 of 5 records classified as virus {words}"
    )
    assert "Scores of frames were calibrated" in Page(html_of(tmp_path, four_calls())).text
    imported = Page(html_of(tmp_path, four_calls(), trained_on={"origin": {"made_by": "VirNucPro"}})).text
    assert (
        "It is not calibrated" in imported
        and "Not known: the classifier was trained elsewhere. Origin made by VirNucPro" in imported
    )


@pytest.mark.parametrize(
    ("calls", "title"),
    [
        (sample(record("one", "virus", [0.9], 90)), "1 record: virus"),
        (sample(record("one", "not scored", [NAN], 90)), "1 record: not scored"),
        (
            sample(record("a", "not scored", [NAN], 90), record("b", "not scored", [], 0)),
            "0 of 2 records classified as virus",
        ),
        (sample(), "0 of 0 records classified as virus"),
    ],
)
def test_few_records_have_no_distributions(calls: SampleCalls, title: str, tmp_path: Path) -> None:
    html = html_of(tmp_path, calls)
    page = Page(html)
    assert page.text.startswith(f"{title} {title}")
    assert "figure" not in page.tags and "Distributions" not in page.text
    scored = np.count_nonzero(calls.records["chunks_scored"])
    assert page.text.count("Viral (0.5 or more):") == scored
    assert ("Along the sequence" in page.text) == bool(scored)


def test_distributions_are_drawn_of_ten_values(tmp_path: Path) -> None:
    assert Page(html_of(tmp_path, many(9))).tags.count("figure") == 0
    assert Page(html_of(tmp_path, many(10))).tags.count("figure") == 1  # all have one length
    assert "Of 10 scored chunks, 2 are virus, 2 other and 6 uncertain" in Page(html_of(tmp_path, many(10))).text


def test_equal_calls_give_equal_bytes(tmp_path: Path) -> None:
    assert html_of(tmp_path, many(30)) == html_of(tmp_path, many(30))


def test_a_page_of_many_records_is_small_and_shows_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    html = html_of(tmp_path, many(20_000))
    assert len(packed(html)["id"]) == 20_000 and len([row for row in Page(html).rows if len(row) == 9]) == ROWS + 1
    assert len(html) < 15 * 20_000 + 300_000  # so 200,000 have a tenth of the 30 MB that are allowed
    assert MOST_ROWS > 200_000


@pytest.mark.parametrize(
    ("limit", "value"), [("MOST_ROWS", 70), ("MOST_ID_BYTES", 70 * len("NODE_10_length_100") + 17)]
)
def test_a_page_of_too_many_records_holds_the_first(
    limit: str, value: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"virnuc_assets.reports.sample_page.{limit}", value)
    cut = html_of(tmp_path, many(100))
    assert packed(cut)["row"][:2] == [80, 81] and len(packed(cut)["id"]) == 70
    assert "The table holds the first 70 of 100 records; all are in summary.tsv ." in Page(cut).text


def test_pictures_are_svg_of_light_colours(tmp_path: Path) -> None:
    for calls in (many(40, chunks=1000), hostile(), four_calls()):
        text = pictures(calls)
        assert len(text) < 300_000 and "<" not in text.replace("&lt;", "")
        uris = re.findall(r"!\[[\w ]+\]\(data:image/svg\+xml;base64,([\w+/=]+)\)", text)
        assert len(uris) >= 4
        for uri in uris:
            svg = base64.b64decode(uri).decode()
            assert ElementTree.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg" and "var(" not in svg
    assert pictures(sample()) == "No record is scored, so there is nothing to draw."


def test_numbers_and_stretches_are_written_for_people() -> None:
    assert [certainty(one) for one in (None, 0.0, 0.0004, 0.0006, 0.5, 0.9994, 0.9996, 1.0)] == [
        *("–", "< 0.001", "< 0.001", "0.001", "0.500", "0.999", "> 0.999", "> 0.999")
    ]
    assert stretches([(0, 100), (2000, 2100)]) == "1–100, 2,001–2,100"
    assert stretches([(0, 10), (20, 100), (200, 300)], most=2) == "21–100, 201–300 and 1 shorter"


def test_the_run_is_described(tmp_path: Path) -> None:
    text = Page(html_of(tmp_path, four_calls())).text
    run = run_json(four_calls())
    for expected in (
        run["command"],
        "ab" * 32,
        "chunk length 100",
        "hidden 512",
        "Classifier fastesm2 on dnabert_s and",
    ):
        assert expected in text
    assert "Started 2026-11-30 14:00:01 UTC, finished 2026-11-30 14:03:09 UTC, 188.2 s." in text
