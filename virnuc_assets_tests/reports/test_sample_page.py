"""The page of a sample: its numbers are those of the calls, it takes nothing from outside, and every id is hostile."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from virnuc_assets.classifier.sample_calls import SampleCalls
from virnuc_assets.reports.sample_page import (
    MOST_ROWS,
    ROWS,
    certainty,
    longest,
    means,
    note_texts,
    notes,
    pictures,
    unscored_nt,
)
from virnuc_assets.sequences.planning import chunk_count
from virnuc_assets_tests.sequences.plain import walked_chunks

from .report_fakes import Page, assert_self_contained
from .sample_fakes import CHUNK_LENGTH, NAN, four_calls, html_of, packed, record, run_json, sample

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
    """Records of equal length with probabilities from 0 to 1."""
    rows = []
    for number, value in enumerate(np.linspace(0, 1, records).astype(np.float32).tolist()):
        call = "virus" if value >= 0.8 else "uncertain" if value > 0.2 else "other"
        facts = {"probability": value, "longest_viral_nt": 100 * chunks * (value >= 0.5)}
        name = f"NODE_{number}_length_{100 * chunks}"
        rows.append(record(name, call, [value] * chunks, 100 * chunks, **facts))
    return sample(*rows)


def test_the_first_screen_says_how_many_and_what_was_not_scored(tmp_path: Path) -> None:
    page = Page(html_of(tmp_path, four_calls()))
    assert page.text.startswith("2 of 5 records classified as virus 2 of 5 records classified as virus")
    for call, count, share, nt in (
        ("virus", 2, "40.0", "1,000"),
        ("uncertain", 1, "20.0", "200"),
        ("other", 1, "20.0", "380"),
        ("not scored", 1, "20.0", "150"),
    ):
        unseen = "of all records, 48.7 % of nt have no score " if call == "not scored" else ""
        assert f"{call} {count} {share} % of records, {nt} nt {unseen}show them" in page.text
    assert "1 record was not scored: no open frame (1)." in page.text
    assert "9 of 18 chunks of 100 nt (50.0 %) were not scored: no open frame (9)." in page.text
    assert "842 of 1,730 nt have no score." in page.text
    assert (
        "probabilities from 0.8800 to 0.9900, half of them at least 0.9350. 4 calls (2 of them virus) rest" in page.text
    )
    assert "the probability is between 0.2 and 0.8, or the vote" in page.text and "Not sure" not in page.text
    assert "Accuracy of this model is not recorded." in page.text
    assert "Miniature" not in page.text


def test_the_table_has_a_row_per_record_virus_first_and_longest_first(tmp_path: Path) -> None:
    html = html_of(tmp_path, four_calls())
    rows = [" | ".join(row) for row in Page(html).rows if len(row) == 10]
    new, few = "resembles nothing in training", "few data"
    assert rows[1:] == [
        f"5 | long_phage | virus {few} {new} | 0.9900 | 1.0000 | 600 | 100 | 1 of 1 | 0 | 5 of 6",
        f"2 | phage | virus {few} | 0.8800 | 0.9999 | 400 | 200 | 3 of 3 | 1 | 1 of 4",
        f"3 | plasmid | uncertain {few} between 0.2 and 0.8 {new} | 0.5250 | 1.0000 | 200 | 100 | 1 of 2 | 2 | 0 of 2",
        f"1 | bacterium | other {few} | 0.3500 | 0.2500 | 380 | 100 | 1 of 3 | 0 | 1 of 4",
        "4 | intron | not scored no open frame | – | – | 150 | – | – | – | 2 of 2",
    ]
    table = packed(html)
    assert [table["calls"][i] for i in table["call"]] == ["virus", "virus", "uncertain", "other", "not scored"]
    assert table["probability"] == [9900, 8800, 5250, 3500, None] and table["notes"] == [9, 1, 11, 1, 0]
    assert table["reason"] == [None] * 4 + ["no open frame"]
    assert table["drawn"] == [4, 1, 2, 0] and table["names"] == []


@pytest.mark.parametrize(
    ("files", "shown"), [(["x/a.fna", "x/b.fna"], ["a.fna", "b.fna"]), (["x/a", "y/a"], ["x/a", "y/a"])]
)
def test_several_inputs_are_named_in_the_table(files: list[str], shown: list[str], tmp_path: Path) -> None:
    """Without their folders unless these make the difference."""
    html = html_of(tmp_path, sample(*(record(f"of {file}", "virus", [0.9], 90, source=file) for file in files)))
    assert [row[-1] for row in Page(html).rows if len(row) == 11] == ["Input", *shown]
    table = packed(html)
    assert [table["names"][i] for i in table["source"]] == shown


def test_reasons_are_counted_by_what_comes_before_the_record_that_they_name(tmp_path: Path) -> None:
    reasons = [f"duplicate id: same sequence as record {i}" for i in range(5)] + [f"reason {i}" for i in range(9)]
    text = Page(html_of(tmp_path, sample(*(record("r", "not scored", [], 9, reason=each) for each in reasons)))).text
    assert "14 records were not scored: duplicate id (5), reason 0 (1)," in text
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


def test_only_the_script_of_the_page_may_run(tmp_path: Path) -> None:
    html = html_of(tmp_path, hostile())
    page = Page(html)
    (script,) = re.findall(r"<script>(.*?)</script>", html, flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    assert ("content", policy) in page.attributes


@pytest.mark.parametrize("calls", [hostile(), many(40, chunks=3)], ids=["hostile", "tracks"])
def test_the_page_is_self_contained(calls: SampleCalls, tmp_path: Path) -> None:
    assert_self_contained(html_of(tmp_path, calls))


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
    for words in (
        "It is not calibrated",
        "Not known: the classifier was trained elsewhere.",
        "Origin made by VirNucPro",
    ):
        assert words in imported


@pytest.mark.parametrize(
    ("calls", "title"),
    [
        (sample(record("one", "virus", [0.9], 90)), "1 record: virus"),
        (sample(record("one", "not scored", [NAN], 90)), "1 record: not scored"),
        (sample(*[record("a", "not scored", [NAN], 90)] * 2), "0 of 2 records classified as virus"),
        (sample(), "0 of 0 records classified as virus"),
    ],
)
def test_few_records_have_no_distributions(calls: SampleCalls, title: str, tmp_path: Path) -> None:
    html = html_of(tmp_path, calls)
    page = Page(html)
    assert page.text.startswith(f"{title} {title}")
    assert "figure" not in page.tags and "Distributions" not in page.text
    scored = np.count_nonzero(calls.records["chunks_scored"])
    assert page.text.count("Viral stretches and their mean") + page.text.count("No viral chunk") == scored
    assert ("Along the sequence" in page.text) == bool(scored)


def test_distributions_are_drawn_of_ten_values(tmp_path: Path) -> None:
    assert Page(html_of(tmp_path, many(9))).tags.count("figure") == 0
    assert Page(html_of(tmp_path, many(10))).tags.count("figure") == 1  # all have one length
    assert "Of 10 scored chunks, 2 are virus, 2 other and 6 uncertain" in Page(html_of(tmp_path, many(10))).text


def test_a_page_of_many_records_is_small_shows_the_first_and_has_equal_bytes_of_equal_calls(tmp_path: Path) -> None:
    html = html_of(tmp_path, many(20_000))
    assert html == html_of(tmp_path, many(20_000))
    assert len(packed(html)["id"]) == 20_000 and len([row for row in Page(html).rows if len(row) == 10]) == ROWS + 1
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
    assert [certainty(one) for one in (None, 0.0, 0.00004, 0.00006, 0.5, 0.99994, 0.99996, 1.0)] == [
        *("–", "< 0.0001", "< 0.0001", "0.0001", "0.5000", "0.9999", "> 0.9999", "> 0.9999")
    ]
    assert means([(0, 100, 0.51), (2000, 2100, 0.9)]) == ["2,001–2,100 (0.900)", "1–100 (0.510)"]
    assert longest([(0, 10), (20, 100), (200, 300)]) == ["201–300", "21–100", "1–10"]


def test_a_low_maximum_is_stated_as_not_sure(tmp_path: Path) -> None:
    calls = sample(record("a", "virus", [0.6] * 5, 500), record("b", "other", [0.4] * 20, 2000))
    text = Page(html_of(tmp_path, calls)).text
    assert "Not sure: no virus record is above 0.6000, and 0.5 is a coin toss." in text
    assert "few data:" not in text
    assert "the record classified as other may be one" in text


def test_what_is_noted_of_a_call() -> None:
    """Few data, and why a record is uncertain: its mean is in between, or its chunks disagree with it."""
    rows = [
        record("sure", "virus", [0.9] * 5 + [NAN] * 15, 2000),
        record("few", "virus", [0.9] * 4, 400),
        record("part", "virus", [0.9] * 5 + [NAN] * 16, 2100),
        record("between", "uncertain", [0.6] * 5, 500),
        record("torn", "uncertain", [0.5] * 3 + [0.0] * 3, 600, probability=0.1),
        record("none", "not scored", [NAN], 90),
    ]
    assert notes(sample(*rows).records, 0.2).tolist() == [0, 1, 1, 2, 4, 0]
    assert note_texts(0.47)[:3] == ["few data", "between 0.47 and 0.53", "vote of the chunks and mean disagree"]


@given(st.lists(st.tuples(st.integers(0, 900), st.lists(st.booleans(), min_size=9, max_size=9)), max_size=5))
def test_nucleotides_without_a_score_are_those_that_no_scored_chunk_covers(drawn: list[tuple[int, list[bool]]]) -> None:
    rows, expected = [], 0
    for length_nt, some in drawn:
        values = [0.9 if one else NAN for one in some[: chunk_count(length_nt, CHUNK_LENGTH)]]
        rows.append(record("r", "uncertain", values, length_nt))
        seen = np.zeros(length_nt, bool)
        for (begin, end), value in zip(walked_chunks(length_nt, CHUNK_LENGTH) if values else [], values, strict=False):
            seen[begin:end] |= value == value
        expected += length_nt - int(seen.sum())
    assert unscored_nt(sample(*rows)) == expected


def test_the_page_says_what_the_model_was_trained_and_tested_on(tmp_path: Path) -> None:
    right = {"count": 4, "accuracy": 0.75}
    level = {**right, "recall": 0.5, "specificity": 1.0, "auroc": 0.8}
    groups = [{"label": "host", "group": "<b>", "records": right, "frames": {**right, "count": 1200}}]
    tested = {"clusters": 3, **dict.fromkeys(("records", "chunks", "frames"), level), "groups": groups}
    tested["certain_records"] = {"count": 3, "accuracy": 2 / 3, "auroc": 0.8, "max_error": 0.2}
    known = {"clusters": 1, "records": {"viral": {"retro": 7}, "host": {}}}
    page = Page(html_of(tmp_path, four_calls(), tested=tested, trained_on=known))
    assert "it found 50.0 % of the viruses, and 100.0 % of the hosts were not classified as virus" in page.text
    for row in (
        ["viral", "retro", "7"],
        ["chunks", "4", "75.0 %", "50.0 %", "100.0 %"],
        ["host", "<b>", "4", "75.0 %", "1,200", "75.0 %"],
    ):
        assert row in page.rows
    assert (
        "probability at least 0.8 in either call), 3 of 4 records were certain, and 66.7 % of these were" in page.text
    )
    assert "not recorded" not in page.text


def test_the_page_says_how_records_are_classified_and_what_is_new_to_the_model(tmp_path: Path) -> None:
    rule, sketch = {"kind": "mean_log_odds", "records": 1600, "clusters": 11}, {"kmers": 9}
    text = Page(html_of(tmp_path, four_calls(), record_rule=rule, sketch=sketch)).text
    assert "New to the model. 2 records (1 of them virus) resemble nothing that the model was trained on" in text
    assert "the probability is between 0.2 and 0.8, so that either call would be wrong in more than 20.0 %" in text
    assert "follows from the mean log-odds of its scored chunks and from how many they are" in text
    assert "of 1,600 records without a relative in training, from 11 clusters" in text
    assert "vote of the chunks" not in text and "not known for this classifier" not in text
    assert "novelty 1.0000; 600 nt" in text and "novelty 0.9999; 400 nt" in text
    present = Page(html_of(tmp_path, four_calls())).text
    assert "That of a record is the mean of its scored chunks." in present and "vote of the chunks" in present
    assert "It is not known for this classifier." in present


def test_the_run_is_described(tmp_path: Path) -> None:
    text = Page(html_of(tmp_path, four_calls())).text
    run = run_json(four_calls())
    for expected in (run["command"], "ab" * 32, "chunk length 100", "hidden 512", "reads dnabert_s and fastesm2_650."):
        assert expected in text
    assert "Started 2026-11-30 14:00:01 UTC, finished 2026-11-30 14:03:09 UTC, 188.2 s." in text
