"""One small evaluation table, and everything that is told of it, by hand."""

from __future__ import annotations

import pyarrow as pa
import pytest

from virnuc_assets.classifier.levels import levels_of
from virnuc_assets.classifier.performance import length_range, performance, uncertain_chunks
from virnuc_assets.settings import EvaluationSettings
from virnuc_assets.storage.schemas import evaluation_schema

# record, its length, label; then score_virus of the frames of each of its chunks
RECORDS = [
    ("phage", 900, "viral", [[0.9, 0.1], [0.7]]),
    ("corona", 29_903, "viral", [[0.2], [0.4], [0.6]]),
    ("plant", 30_000, "host", [[0.3, 0.2], [0.1]]),
    ("yeast", 2_999, "host", [[0.8], [0.3]]),
]


def table() -> pa.Table:
    columns: dict[str, list[object]] = {name: [] for name in evaluation_schema().names}
    for record, length, label, chunks in RECORDS:
        for number, scores in enumerate(chunks, start=1):
            for frame, virus in enumerate(scores, start=1):
                values = {
                    "frame_id": f"{record}_chunk_{number}F{frame}",
                    "chunk_id": f"{record}_chunk_{number}",
                    "record_id": record,
                    "record_length_nt": length,
                    "cluster": record,
                    "label": label,
                    "group": record,
                    "score_other": 1.0 - virus,
                    "score_virus": virus,
                    "call": "virus" if virus > 0.5 else "others",
                }
                for name, value in values.items():
                    columns[name].append(value)
    return pa.table(columns, schema=evaluation_schema())


def test_levels_follow_the_rules_of_calls() -> None:
    levels = levels_of(table())
    assert {level: len(scored.ids) for level, scored in levels.items()} == {"frame": 11, "chunk": 9, "record": 4}
    chunk = dict(zip(levels["chunk"].ids.tolist(), levels["chunk"].called.tolist(), strict=True))
    # Highest virus 0.9 equals highest other 0.9: a tie is virus.
    assert chunk["phage_chunk_1"] and chunk["phage_chunk_2"] and not chunk["corona_chunk_2"]
    assert levels["chunk"].probability[0] == pytest.approx(0.5)
    assert levels["record"].ids.tolist() == ["phage", "corona", "plant", "yeast"]
    assert levels["record"].probability.tolist() == pytest.approx([1.0, 1 / 3, 0.0, 0.5])
    assert levels["record"].called.tolist() == [True, False, False, True]
    assert levels["record"].viral.tolist() == [True, True, False, False]


def test_metrics_of_every_level() -> None:
    levels = performance(table(), 1.0, EvaluationSettings()).levels
    assert {level: metrics["rows"] for level, metrics in levels.items()} == {"frame": 11, "chunk": 9, "record": 4}
    assert levels["frame"]["accuracy"] == pytest.approx(7 / 11)
    assert levels["chunk"]["accuracy"] == pytest.approx(6 / 9)
    assert levels["record"]["accuracy"] == 0.5


def test_lengths_are_of_records_and_in_order() -> None:
    lengths = performance(table(), 1.0, EvaluationSettings(length_bins_nt=(1_000, 30_000))).lengths
    assert [(one.label, one.group, one.rows, one.correct) for one in lengths] == [
        ("host", "1,000 to 29,999 nt", 1, 0),
        ("host", "30,000 nt and more", 1, 1),
        ("viral", "0 to 999 nt", 1, 1),
        ("viral", "1,000 to 29,999 nt", 1, 0),
    ]


@pytest.mark.parametrize(
    ("length_nt", "name"),
    [(0, "0 to 999 nt"), (999, "0 to 999 nt"), (1000, "1,000 to 2,999 nt"), (3000, "3,000 nt and more")],
)
def test_ranges_are_half_open(length_nt: int, name: str) -> None:
    assert length_range(length_nt, (1000, 3000)) == name


def test_the_abstain_band_leaves_open_what_is_unsure() -> None:
    """Of nine chunks those at 0.5, 0.4 and 0.6 are unsure; of the other six two are wrong."""
    found = performance(table(), 1.0, EvaluationSettings(min_confidence=0.65)).abstention
    assert (found.chunks, found.called, found.accuracy) == (9, 6, pytest.approx(4 / 6))
    everything = performance(table(), 1.0, EvaluationSettings(min_confidence=0.5)).abstention
    assert (everything.called, everything.accuracy) == (9, pytest.approx(6 / 9))


def test_uncertain_chunks_of_a_sample_are_those_of_the_band() -> None:
    predictions = table().select(["frame_id", "chunk_id", "record_id", "score_other", "score_virus", "call"])
    assert uncertain_chunks(predictions, 1.0, 0.65) == {"phage": 1, "corona": 2}
    assert uncertain_chunks(predictions, 1.0, 0.5) == {}
    assert uncertain_chunks(predictions, 10.0, 0.65).total() == 9


def test_a_temperature_moves_probabilities_and_no_call() -> None:
    plain, cool = (performance(table(), temperature, EvaluationSettings()) for temperature in (1.0, 4.0))
    assert plain.levels == cool.levels and plain.groups == cool.groups
    assert cool.calibration.brier != plain.calibration.brier
    assert plain.calibration.brier == pytest.approx(plain.levels["frame"]["brier"])
    assert all(0.3 < one.mean_probability < 0.7 for one in cool.calibration.bins)
    assert sum(one.rows for one in cool.calibration.bins) == 11
    assert performance(table(), None, EvaluationSettings()).calibration.temperature is None


def test_length_bins_must_ascend() -> None:
    with pytest.raises(ValueError, match="must ascend"):
        EvaluationSettings(length_bins_nt=(3000, 1000))
