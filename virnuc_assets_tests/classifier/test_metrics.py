"""Metrics of a table whose every count can be made by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from virnuc_assets.classifier.levels import Scored
from virnuc_assets.classifier.metrics import (
    GroupAccuracy,
    MetricsError,
    ReliabilityBin,
    classification_metrics,
    expected_calibration_error,
    group_accuracies,
    reliability,
)

TRUTH = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0, 0], dtype=bool)
VIRUS = np.array([0.9, 0.8, 0.7, 0.5, 0.6, 0.4, 0.3, 0.2, 0.1, 0.0])
IDS = np.array([f"f{i}" for i in range(10)])
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


def test_ece_is_zero_where_shares_are_as_said() -> None:
    viral = np.repeat([True, False, True, False], [3, 1, 1, 3])
    assert expected_calibration_error(reliability(viral, np.repeat([0.75, 0.25], 4))) == 0.0


def test_nothing_called_virus_has_no_precision() -> None:
    metrics = classification_metrics(Scored(IDS, TRUTH, np.zeros(10, dtype=bool), np.full(10, 0.1)))
    assert (metrics["precision"], metrics["recall"], metrics["mcc"], metrics["auroc"]) == (0, 0, 0, 0.5)


@pytest.mark.parametrize(("label", "message"), [(True, "10 viral and 0 host"), (False, "0 viral and 10 host")])
def test_one_label_alone_is_refused(label: bool, message: str) -> None:
    with pytest.raises(MetricsError, match=message):
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


def test_shapes_must_match() -> None:
    with pytest.raises(MetricsError, match=r"found \(9,\), \(10,\), \(10,\)"):
        classification_metrics(Scored(IDS, TRUTH[:9], VIRUS > 0.5, VIRUS))
    with pytest.raises(MetricsError, match="a group for each of 10 rows, found 1"):
        group_accuracies(SCORED, ["phage"])
