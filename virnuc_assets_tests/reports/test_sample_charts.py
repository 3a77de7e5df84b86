"""Tracks show every stretch of a record, whatever its chunks, and stay small; distributions count every value once."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from virnuc_assets.classifier.sample_calls import SampleCalls
from virnuc_assets.reports.sample_charts import (
    drawn_rows,
    lengths_svg,
    probability_svg,
    track,
)
from virnuc_assets.sequences.planning import chunk_count
from virnuc_assets_tests.sequences.plain import walked_chunks

from .sample_fakes import CHUNK_LENGTH, NAN, record, sample


@st.composite
def one_record(draw: st.DrawFn) -> SampleCalls:
    length_nt = draw(st.integers(1, 1500))
    chunks = chunk_count(length_nt, CHUNK_LENGTH)
    values = st.sampled_from([NAN, 0.0, 0.3, 0.5, 0.9, 1.0])
    return sample(record("one", "uncertain", draw(st.lists(values, min_size=chunks, max_size=chunks)), length_nt))


def spans_of(calls: SampleCalls) -> list[tuple[int, int]]:
    return walked_chunks(calls.records["length_nt"][0].as_py(), CHUNK_LENGTH)


@given(one_record())
def test_viral_and_unscored_stretches_are_those_of_the_bases(calls: SampleCalls) -> None:
    found, spans = track(calls, 0), spans_of(calls)
    length_nt = calls.records["length_nt"][0].as_py()
    seen = np.zeros(length_nt, bool)
    for (begin, end), one in zip(spans, calls.probability, strict=True):
        seen[begin:end] |= not np.isnan(one)
    unseen = [index for index in range(length_nt) if not seen[index]]
    assert [index for begin, end in found.not_scored for index in range(begin, end)] == unseen
    runs = itertools.groupby(zip(spans, calls.probability, strict=True), key=lambda pair: bool(pair[1] >= 0.5))
    viral = [[span for span, _ in pairs] for is_viral, pairs in runs if is_viral]
    assert [(begin, end) for begin, end, _ in found.viral] == [(chunks[0][0], chunks[-1][1]) for chunks in viral]


@given(one_record())
def test_every_scored_chunk_is_one_box_where_it_is(calls: SampleCalls) -> None:
    found, length_nt = track(calls, 0), calls.records["length_nt"][0].as_py()
    boxes = [
        [float(one) for one in box]
        for path in found.bars.values()
        for box in re.findall(r"M([\d.e+-]+) ([\d.e+-]+)h([\d.e+-]+)v([\d.e+-]+)h", path)
    ]
    expected = [
        [1000 * begin / length_nt, 100 * (1 - one), 1000 * (end - begin) / length_nt, 100 * (one - 0.5)]
        for (begin, end), one in zip(spans_of(calls), calls.probability.tolist(), strict=True)
        if one == one
    ]
    assert len(boxes) == len(expected)
    if expected:
        np.testing.assert_allclose(sorted(boxes), sorted(expected), rtol=1e-3, atol=0.05)
    lanes = {"no score"} if found.not_scored else set()
    for (begin, end), one in zip(spans_of(calls), calls.probability.tolist(), strict=True):
        if one == one:  # frames F2 and R3 of the chunk, in those of its record
            lanes |= {f"F{(begin + 1) % 3 + 1}", f"R{(length_nt - end + 2) % 3 + 1}"}
    assert {name for name, path in found.lanes.items() if path} == lanes
    assert len(found.unscored) == len(found.not_scored) == found.lanes["no score"].count("M")


def test_a_record_of_many_chunks_is_drawn_in_columns() -> None:
    values = np.full(500_000, 0.1, np.float32)
    values[1000], values[20_000:30_000], values[40_000] = 0.9, NAN, NAN
    offsets = np.array([0, len(values)])
    rows = record("chromosome", "other", [0.1], 500_000 * CHUNK_LENGTH)
    calls = SampleCalls(
        sample(rows).records, offsets, values, np.full(len(values), 9, np.uint8), CHUNK_LENGTH, 0.8, 0.2
    )
    found = track(calls, 0)
    assert found.chunks_per_column == 1667 and found.bars.keys() == {"other"}
    assert found.viral == [(100_000, 100_100, pytest.approx(0.9))] and found.not_scored == [
        (2_000_000, 3_000_000),
        (4_000_000, 4_000_100),
    ]
    assert found.peaks.count("M") == 1 and "v40h" in found.peaks
    assert set(re.findall(r"v([\d.]+)h", found.ranges)) == {"0", "80"}
    assert len(re.findall("v80h", found.ranges)) == 1  # from 0.1 to 0.9 in one column
    assert len(found.unscored) == 1 and 4 < float(found.unscored[0][0]) < 4.4
    assert sum(map(len, (*found.bars.values(), *found.lanes.values(), found.ranges))) < 80_000
    assert [text for _, text in found.ticks] == ["1", "20,000,000", "50,000,000"]


def test_the_records_that_are_drawn() -> None:
    """What one call lacks is left to the others; of other records, a viral stretch comes before length."""
    virus = [record(f"v{i}", "virus", [0.9], 100 + i) for i in range(60)]
    uncertain = [record(f"u{i}", "uncertain", [0.6], 50) for i in range(2)]
    other = [record(f"o{i}", "other", [0.1], 100 + i, longest_viral_nt=i % 2) for i in range(40)]
    none = [record("n", "not scored", [NAN], 10_000)]
    calls = sample(*virus, *uncertain, *other, *none)
    found = [calls.records["record_id"][row].as_py() for row in drawn_rows(calls.records)]
    assert found == [*(f"v{i}" for i in range(59, 1, -1)), "u0", "u1", *(f"o{i}" for i in range(39, 20, -2))]
    assert drawn_rows(sample(*other[:3], *none).records) == [1, 2, 0]


def heights(svg: str, variable: str) -> int:
    """How many bars have a colour."""
    return len(re.findall(rf'style="fill: var\(--{variable}\)"', svg))


def test_distributions_have_a_bar_per_call_and_bin() -> None:
    records = [record(f"v{i}", "virus", [0.93, 0.93], 200 + i) for i in range(6)]
    records += [record(f"o{i}", "other", [0.02, NAN], 9000) for i in range(6)]
    calls = sample(*records)
    svg = probability_svg(calls)
    assert svg is not None and (heights(svg, "baseline"), heights(svg, "candidate")) == (2, 2)  # of records, of chunks
    lengths = lengths_svg(calls.records)
    assert lengths is not None and (heights(lengths, "baseline"), heights(lengths, "candidate")) == (1, 1)


@pytest.mark.parametrize("lengths", [[100] * 12, [0] * 12, [50, 100, 200]])
def test_lengths_that_say_nothing_are_not_drawn(lengths: list[int]) -> None:
    calls = sample(*(record(f"r{i}", "not scored", [NAN], length) for i, length in enumerate(lengths)))
    assert lengths_svg(calls.records) is None and probability_svg(calls) is None
