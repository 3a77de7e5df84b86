"""Calls of a sample's records: what a plain walk over its chunks gives, whatever the shards are."""

from __future__ import annotations

import math
from itertools import groupby
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from virnuc_assets.classifier.novelty import TrainedProteins
from virnuc_assets.classifier.record_rule import Curve
from virnuc_assets.classifier.sample_calls import CALLS
from virnuc_assets.errors import VirnucError
from virnuc_assets.settings import SplitSettings
from virnuc_assets.storage.tables import write_table
from virnuc_assets_tests.classifier.sample_fakes import (
    FakeRecord,
    fake_calls,
    fake_collector,
    fake_predictions,
)
from virnuc_assets_tests.classifier.test_record_rule import rule as record_rule
from virnuc_assets_tests.sequences.plain import plain_reverse_complement, walked_chunks

FRAMES = ("F1", "F2", "F3", "R1", "R2", "R3")
SCORES = st.sampled_from([0.0, 0.125, 0.25, 0.4375, 0.5, 0.5625, 0.75, 0.875, 1.0])  # of which no sum is rounded


@st.composite
def samples(draw: st.DrawFn) -> tuple[list[FakeRecord], int]:
    chunk_length, records = draw(st.sampled_from([300, 500])), []
    for number in range(draw(st.integers(1, 4))):
        length_nt = draw(st.integers(0, 3000))
        frames = st.dictionaries(st.sampled_from(FRAMES), SCORES, max_size=3)
        chunks = [draw(frames) for _ in range(math.ceil(length_nt / chunk_length))]
        records.append(FakeRecord(f"r{number}", length_nt, chunks))
    return records, chunk_length


def plain_row(record: FakeRecord, chunk_length: int, min_confidence: float) -> tuple[object, ...]:
    """Call, probability, viral fraction, chunks scored, viral and uncertain, longest viral stretch."""

    def probability(frames: dict[str, float]) -> float:
        virus, other = max(frames.values()), max(1 - score for score in frames.values())
        return virus / (virus + other)

    def word(viral: bool, found: float) -> str:
        sure = (found if viral else 1 - found) >= min_confidence
        return ("virus" if viral else "other") if sure else "uncertain"

    found = [probability(dict(frames)) if frames else None for frames in record.chunks]
    scored = [each for each in found if each is not None]
    longest, spans = 0, walked_chunks(record.length_nt, chunk_length) if record.length_nt else []
    for viral, run in groupby(zip(found, spans, strict=True), key=lambda pair: (pair[0] or 0.0) >= 0.5):
        stretch = list(run)
        longest = max(longest, stretch[-1][1][1] - stretch[0][1][0]) if viral else longest
    viral = sum(each >= 0.5 for each in scored)
    if not scored:
        return "not scored", None, None, 0, 0, 0, 0
    mean, fraction = sum(scored) / len(scored), viral / len(scored)
    uncertain = sum(word(each >= 0.5, each) == "uncertain" for each in scored)
    return word(fraction >= 0.5, mean), mean, fraction, len(scored), viral, uncertain, longest


@settings(max_examples=60, deadline=None)
# No mean of a few chunks comes so near to these that rounding decides.
@given(samples(), st.sampled_from([0.56171, 0.62713, 0.75239]))
def test_records_are_those_of_a_plain_walk(sample: tuple[list[FakeRecord], int], min_confidence: float) -> None:
    records, chunk_length = sample
    calls = fake_calls(records, chunk_length, None, min_confidence)
    columns = ("call", "probability", "viral_fraction", "chunks_scored", "chunks_viral", "chunks_uncertain")
    rows = zip(*(calls.records[name].to_pylist() for name in (*columns, "longest_viral_nt")), strict=True)
    for record, row in zip(records, rows, strict=True):
        expected = plain_row(record, chunk_length, min_confidence)
        assert row == (expected[0], pytest.approx(expected[1], rel=1e-6), *expected[2:])
    assert calls.records["record_id"].to_pylist() == [record.record_id for record in records]
    reasons = [None if any(record.chunks) else "no open frame" for record in records]
    assert calls.records["reason"].to_pylist() == reasons


@settings(max_examples=30, deadline=None)
@given(samples(), st.randoms())
def test_shards_in_any_order_and_of_any_size_change_nothing(
    sample: tuple[list[FakeRecord], int], random: np.random.Generator
) -> None:
    records, chunk_length = sample
    expected = fake_calls(records, chunk_length, 1.7)
    chunks = [(row, number) for row, record in enumerate(records) for number in range(len(record.chunks))]
    random.shuffle(chunks)
    collector = fake_collector(records, chunk_length, 1.7)
    for row, number in chunks:
        one = [{} if place != number else frames for place, frames in enumerate(records[row].chunks)]
        rows = np.arange(len(records)) if number % 2 else np.array([row])  # a shard may hold chunks of others, too
        collector.add(rows, fake_predictions([records[row]._replace(chunks=one)]))
    found = collector.calls()
    assert found.records == expected.records
    for name in ("probability", "frames", "offsets"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


def test_the_call_of_a_chunk_survives_rounding_and_calibration() -> None:
    """Virus by a hair, other by a hair, and a tie of two frames, which VirNucPro calls virus."""
    hair = float(np.nextafter(np.float32(0.5), np.float32(1)))
    record = FakeRecord("a", 1500, [{"F1": hair}, {"F1": 1 - hair}, {"F1": 0.875, "R3": 0.125}])
    for temperature in (None, 0.05, 20.0):
        calls = fake_calls([record], temperature=temperature, min_confidence=0.5)
        assert [CALLS[number] for number in calls.chunk_calls(slice(None))] == ["virus", "other", "virus"]
        assert calls.frames.tolist() == [1, 1, 0b100001]


def test_uncertain_is_what_the_calibration_makes_of_it() -> None:
    record = FakeRecord("a", 1000, [{"F1": 0.75}, {"F1": 0.875}])
    assert fake_calls([record]).records["call"].to_pylist() == ["virus"]
    assert fake_calls([record], temperature=20.0).records["call"].to_pylist() == ["uncertain"]


@pytest.mark.parametrize(
    ("min_confidence", "max_error", "record", "chunk"),
    [(0.9, 0.4, "virus", "uncertain"), (0.7, 0.1, "uncertain", "virus")],
)
def test_chunks_need_a_confidence_and_records_a_small_error(
    min_confidence: float, max_error: float, record: str, chunk: str
) -> None:
    sample = FakeRecord("a", 500, [{"F1": 0.75}])
    collector = fake_collector([sample], min_confidence=min_confidence)
    collector.max_error = max_error
    collector.add(np.array([0]), fake_predictions([sample]))
    calls = collector.calls()
    assert calls.records["call"].to_pylist() == [record]
    assert [CALLS[number] for number in calls.chunk_calls(slice(None))] == [chunk]
    assert calls.records["chunks_uncertain"].to_pylist() == [int(chunk == "uncertain")]
    assert calls.max_error == max_error


def test_a_fitted_rule_decides_records_and_no_chunk(tmp_path: Path) -> None:
    """By hand: the mean of both log-odds, from two chunks; relatives in training have their own curve."""
    known = Curve(slope=0.0, slope_per_doubling=0.0, intercept=4.0)
    rule = record_rule(known=known)
    proteins = {"a": "MKTAYIAKQRQISFVKSHFSRQ", "b": "ACDEFGHIKLMNPQRSTVWYAC"}
    table = pa.table({"record_id": ["a", "a", "b"], "protein": [proteins["a"], "ACDEFGHIKL", proteins["b"]]})
    write_table(tmp_path / "frames.parquet", table, {})
    write_table(tmp_path / "trained.parquet", table.slice(2), {})
    settings = SplitSettings(sketch_scaled=1, containment_threshold=0.5, min_shared_hashes=5)
    sketch = TrainedProteins([tmp_path / "trained.parquet"], settings).sketch(["b"])
    records = [
        FakeRecord("a", 1000, [{"F1": 0.75}, {"F1": 0.9}]),
        FakeRecord("b", 500, [{"F1": 0.25}]),
        FakeRecord("c", 500, [{}]),
        FakeRecord("d", 500, [{"F1": 0.5}]),
    ]
    found = []
    for used in (sketch, None):
        collector = fake_collector(records, min_confidence=0.8, rule=rule, sketch=used)
        collector.add(np.arange(4), fake_predictions(records))
        collector.compare(np.arange(4), tmp_path / "frames.parquet")
        found.append(collector.calls())
    with_sketch, without = found
    sure = 1 / (1 + math.exp(-(math.log(3) + math.log(9)) / 2 * (1 + 0.5) + 0.25))
    rows = with_sketch.records
    assert rows["call"].to_pylist() == ["virus", "virus", "not scored", "uncertain"]
    odds = [sure, 1 / (1 + math.exp(-4)), None, 1 / (1 + math.exp(0.25))]
    assert rows["probability"].to_pylist() == pytest.approx(odds, rel=1e-6)
    # Of a, 13 k-mers are new, and that of its second frame is the training's.
    assert rows["novelty"].to_pylist() == [pytest.approx(13 / 14), 0.0, None, None]
    assert rows["viral_fraction"].to_pylist() == [1.0, 0.0, None, 1.0]
    np.testing.assert_array_equal(with_sketch.probability, without.probability)
    novel = 1 / (1 + math.exp(math.log(3) + 0.25))
    assert without.records["probability"][1].as_py() == pytest.approx(novel)
    assert without.records["call"].to_pylist() == ["virus", "uncertain", "not scored", "uncertain"]
    assert without.records["novelty"].null_count == 4


def test_frames_are_where_the_bases_are_cut_from() -> None:
    """Each frame's stretch, cut out of the record, is what is translated."""
    bases = "".join(np.random.default_rng(1).choice(list("ACGT"), 1203))
    record = FakeRecord("a", len(bases), [dict.fromkeys(FRAMES, 0.75)] * 3)
    collector = fake_collector([record])
    rows = collector.add(np.array([0]), fake_predictions([record])).to_pylist()
    assert len(rows) == 18
    for row in rows:
        start, end = walked_chunks(len(bases), 500)[int(row["chunk_id"][-1]) - 1]
        chunk = bases[start:end] if row["strand"] == "+" else plain_reverse_complement(bases[start:end])
        cut = bases[row["start_nt"] : row["end_nt"]]
        codons = chunk[row["frame"] - 1 :]
        assert (cut if row["strand"] == "+" else plain_reverse_complement(cut)) == codons[: len(codons) // 3 * 3]
        assert row["source"] == "a.fasta" and row["probability"] == 0.75


def test_predictions_that_are_not_those_of_the_ledger_are_refused() -> None:
    records = [FakeRecord("a", 1000, [{"F1": 0.75}, {"F1": 0.75}]), FakeRecord("b", 500, [{}])]
    collector = fake_collector(records)
    with pytest.raises(VirnucError, match="predictions of record a, which is not in their shard"):
        collector.add(np.array([1]), fake_predictions(records))
    collector.add(np.array([0]), fake_predictions(records).slice(1))
    with pytest.raises(VirnucError, match="1 records have other predictions .* a: expected 2 scored chunks, found 1"):
        collector.calls()


def test_a_sample_without_records_has_no_calls() -> None:
    calls = fake_collector([]).calls()
    assert (calls.records.num_rows, len(calls.probability)) == (0, 0)
    assert isinstance(calls.records, pa.Table)
