"""Metrics of a table whose every count can be made by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from virnuc_assets.classifier.metrics import GroupAccuracy, MetricsError, classification_metrics, group_accuracies

TRUTH = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0, 0])
VIRUS = np.array([0.9, 0.8, 0.7, 0.5, 0.6, 0.4, 0.3, 0.2, 0.1, 0.0])
SCORES = np.stack([1 - VIRUS, VIRUS], axis=1).astype(np.float32)


def test_metrics_are_those_counted_by_hand() -> None:
    # Row 3 is a tie: others for a frame, hence the one false negative; row 4 the one false positive.
    metrics = classification_metrics(TRUTH, SCORES)
    assert (metrics["tp"], metrics["fn"], metrics["fp"], metrics["tn"]) == (3, 1, 1, 5)
    assert metrics["rows"] == 10
    assert metrics["accuracy"] == pytest.approx(0.8)
    assert metrics["precision"] == metrics["recall"] == metrics["f1"] == pytest.approx(0.75)
    assert metrics["mcc"] == pytest.approx((3 * 5 - 1 * 1) / math.sqrt(4 * 4 * 6 * 6))
    assert metrics["auroc"] == pytest.approx(23 / 24)
    assert metrics["average_precision"] == pytest.approx((1 + 1 + 1 + 4 / 5) / 4)
    assert metrics["brier"] == pytest.approx(np.mean((VIRUS - TRUTH) ** 2), abs=1e-6)
    assert all(type(value) is float for value in metrics.values())


def test_truth_may_be_boolean() -> None:
    assert classification_metrics(TRUTH.astype(bool), SCORES) == classification_metrics(TRUTH, SCORES)


def test_nothing_called_virus_has_no_precision() -> None:
    metrics = classification_metrics(TRUTH, np.tile(np.float32([0.9, 0.1]), (10, 1)))
    assert (metrics["precision"], metrics["recall"], metrics["mcc"], metrics["auroc"]) == (0, 0, 0, 0.5)


@pytest.mark.parametrize(("label", "message"), [(1, "10 viral and 0 host"), (0, "0 viral and 10 host")])
def test_one_label_alone_is_refused(label: int, message: str) -> None:
    with pytest.raises(MetricsError, match=message):
        classification_metrics(np.full(10, label), SCORES)


def test_groups_are_counted_by_label() -> None:
    groups = ["phage"] * 3 + ["+ssRNA"] + ["plant"] * 2 + ["bacteria"] * 4
    found = group_accuracies(TRUTH, SCORES, groups)
    assert found == [
        GroupAccuracy("bacteria", "host", 4, 4),
        GroupAccuracy("plant", "host", 2, 1),
        GroupAccuracy("+ssRNA", "viral", 1, 0),
        GroupAccuracy("phage", "viral", 3, 3),
    ]
    assert [group.accuracy for group in found] == [1.0, 0.5, 0.0, 1.0]


def test_shapes_must_match() -> None:
    with pytest.raises(MetricsError, match=r"found \(9,\) and \(10, 2\)"):
        classification_metrics(TRUTH[:9], SCORES)
    with pytest.raises(MetricsError, match="a group for each of 10 rows, found 1"):
        group_accuracies(TRUTH, SCORES, ["phage"])
