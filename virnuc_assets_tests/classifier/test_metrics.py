"""Metrics of tables whose every count can be made by hand."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest

from virnuc_assets.classifier.metrics import (
    GroupAccuracy,
    ReliabilityBin,
    Scored,
    classification_metrics,
    expected_calibration_error,
    group_accuracies,
    length_ranges,
    levels_of,
    performance,
    reliability,
)
from virnuc_assets.errors import VirnucError
from virnuc_assets.settings import EvaluationSettings

from .evaluations import evaluated
from .test_record_rule import rule

TRUTH = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0, 0], dtype=bool)
VIRUS = np.array([0.9, 0.8, 0.7, 0.5, 0.6, 0.4, 0.3, 0.2, 0.1, 0.0])
IDS = pa.chunked_array([[f"f{i}" for i in range(10)]])
SCORED = Scored(IDS, TRUTH, VIRUS > 0.5, VIRUS)


def test_metrics_are_those_counted_by_hand() -> None:
    # Row 3 is a tie: others for a frame, hence the one false negative; row 4 the one false positive.
    metrics = classification_metrics(SCORED)
    assert (metrics["tp"], metrics["fn"], metrics["fp"], metrics["tn"]) == (3, 1, 1, 5)
    assert metrics["rows"] == 10
    assert metrics["accuracy"] == pytest.approx(0.8)
    assert metrics["precision"] == metrics["recall"] == metrics["f1"] == pytest.approx(0.75)
    assert metrics["mcc"] == pytest.approx((3 * 5 - 1 * 1) / math.sqrt(4 * 4 * 6 * 6))
    assert metrics["auroc"] == pytest.approx(23 / 24)
    assert metrics["average_precision"] == pytest.approx((1 + 1 + 1 + 4 / 5) / 4)
    assert metrics["brier"] == pytest.approx(np.mean((VIRUS - TRUTH) ** 2), abs=1e-6)
    assert all(type(value) is float for value in metrics.values())


def test_ece_by_hand() -> None:
    """Bins of width 0.1: three rows share the last, the others stand alone; each is off by its own distance."""
    bins = reliability(TRUTH, np.array([0.95, 0.97, 0.7, 0.5, 0.6, 0.4, 0.3, 0.2, 0.1, 1.0]))
    assert bins[0] == ReliabilityBin(0.1, 0.2, 1, 0.1, 0.0)
    assert (bins[-1].rows, bins[-1].mean_probability) == (3, pytest.approx((0.95 + 0.97 + 1.0) / 3))
    assert bins[-1].viral_fraction == pytest.approx(2 / 3)
    wrong = 3 * abs(2.92 / 3 - 2 / 3) + 0.3 + 0.5 + 0.6 + 0.4 + 0.3 + 0.2 + 0.1
    assert expected_calibration_error(bins) == pytest.approx(wrong / 10)
    assert classification_metrics(SCORED)["ece"] == pytest.approx(np.abs(VIRUS - TRUTH).mean())
    viral = np.repeat([True, False, True, False], [3, 1, 1, 3])
    assert expected_calibration_error(reliability(viral, np.repeat([0.75, 0.25], 4))) == 0.0


def test_nothing_called_virus_has_no_precision() -> None:
    metrics = classification_metrics(Scored(IDS, TRUTH, np.zeros(10, dtype=bool), np.full(10, 0.1)))
    assert (metrics["precision"], metrics["recall"], metrics["mcc"], metrics["auroc"]) == (0, 0, 0, 0.5)


@pytest.mark.parametrize(("label", "message"), [(True, "10 viral and 0 host"), (False, "0 viral and 10 host")])
def test_one_label_alone_is_refused(label: bool, message: str) -> None:
    with pytest.raises(VirnucError, match=message):
        classification_metrics(Scored(IDS, np.full(10, label), VIRUS > 0.5, VIRUS))


def test_groups_are_counted_by_label() -> None:
    groups = ["phage"] * 3 + ["+ssRNA"] + ["plant"] * 2 + ["bacteria"] * 4
    found = group_accuracies(SCORED, groups)
    assert found == [
        GroupAccuracy("bacteria", "host", 4, 4),
        GroupAccuracy("plant", "host", 2, 1),
        GroupAccuracy("+ssRNA", "viral", 1, 0),
        GroupAccuracy("phage", "viral", 3, 3),
    ]
    assert [group.accuracy for group in found] == [1.0, 0.5, 0.0, 1.0]


RECORDS = [
    ("phage", 900, "viral", [[0.9, 0.1], [0.7]]),
    ("corona", 29_903, "viral", [[0.2], [0.4], [0.6]]),
    ("plant", 30_000, "host", [[0.3, 0.2], [0.1]]),
    ("yeast", 2_999, "host", [[0.8], [0.3]]),
]
TABLE = evaluated((name, length_nt, name, label, name, chunks) for name, length_nt, label, chunks in RECORDS)


def test_levels_follow_the_rules_of_calls() -> None:
    levels = levels_of(TABLE)
    assert {level: len(scored.ids) for level, scored in levels.items()} == {"frame": 11, "chunk": 9, "record": 4}
    chunk = dict(zip(levels["chunk"].ids.to_pylist(), levels["chunk"].called.tolist(), strict=True))
    # Highest virus 0.9 equals highest other 0.9: a tie is virus.
    assert chunk["phage_chunk_1"] and chunk["phage_chunk_2"] and not chunk["corona_chunk_2"]
    assert levels["chunk"].probability[0] == pytest.approx(0.5)
    assert levels["record"].ids.to_pylist() == ["phage", "corona", "plant", "yeast"]
    assert levels["record"].probability.tolist() == pytest.approx([1.0, 1 / 3, 0.0, 0.5])
    assert levels["record"].called.tolist() == [True, False, False, True]
    assert levels["record"].viral.tolist() == [True, True, False, False]
    measured = performance(TABLE, 1.0, EvaluationSettings()).levels
    assert [(one["rows"], one["accuracy"]) for one in measured.values()] == [
        (11, pytest.approx(7 / 11)),
        (9, pytest.approx(6 / 9)),
        (4, 0.5),
    ]


def test_lengths_are_of_records_and_in_order() -> None:
    lengths = performance(TABLE, 1.0, EvaluationSettings(length_bins_nt=(1_000, 30_000))).lengths
    assert [(one.label, one.group, one.rows, one.correct) for one in lengths] == [
        ("host", "1,000 to 29,999 nt", 1, 0),
        ("host", "30,000 nt and more", 1, 1),
        ("viral", "0 to 999 nt", 1, 1),
        ("viral", "1,000 to 29,999 nt", 1, 0),
    ]
    assert length_ranges([]) == ["0 nt and more"]


def test_the_abstain_band_leaves_open_what_is_unsure() -> None:
    """Of nine chunks those at 0.5, 0.4 and 0.6 are unsure; of the other six two are wrong."""
    found = performance(TABLE, 1.0, EvaluationSettings(min_confidence=0.65)).abstention
    assert (found.chunks, found.called, found.accuracy) == (9, 6, pytest.approx(4 / 6))
    everything = performance(TABLE, 1.0, EvaluationSettings(min_confidence=0.5)).abstention
    assert (everything.called, everything.accuracy) == (9, pytest.approx(6 / 9))


def test_records_are_certain_by_the_present_rule_or_by_a_fitted_one() -> None:
    """Mean probabilities of the chunks, 0.6, 0.4, 0.19 and 0.55, and half of the chunks; then a rule of shares."""
    found = performance(TABLE, 1.0, EvaluationSettings(max_error=0.41)).records
    # Of the three that are sure enough the viral one of three chunks is wrong.
    assert (found.rule, found.records, found.certain) == (None, 4, 3)
    assert found.accuracy == pytest.approx(2 / 3) and found.auroc == pytest.approx(3 / 4)
    strict = performance(TABLE, 1.0, EvaluationSettings(max_error=0.1)).records
    assert (strict.certain, strict.accuracy) == (0, None)
    ruled = performance(TABLE, 1.0, EvaluationSettings(max_error=0.41), rule("share_of_chunks")).records
    # Shares 1, 1/3, 0, 1/2 minus a half, 2 or 3 chunks: log-odds 0.5, -0.55, -1.0 and -0.25.
    assert (ruled.rule, ruled.certain, ruled.auroc) == ("share_of_chunks", 3, pytest.approx(3 / 4))
    assert ruled.accuracy == pytest.approx(2 / 3)


def test_a_temperature_moves_probabilities_and_no_call() -> None:
    plain, cool = (performance(TABLE, temperature, EvaluationSettings()) for temperature in (1.0, 4.0))
    assert plain.levels == cool.levels and plain.groups == cool.groups
    assert cool.calibration.brier != plain.calibration.brier
    assert plain.calibration.brier == pytest.approx(plain.levels["frame"]["brier"])
    assert all(0.3 < one.mean_probability < 0.7 for one in cool.calibration.bins)
    assert sum(one.rows for one in cool.calibration.bins) == 11
    assert performance(TABLE, None, EvaluationSettings()).calibration.temperature is None
