"""What calls and probabilities are worth against the truth, by scikit-learn; positive is viral."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn import metrics as sk

from virnuc_assets.classifier.levels import Scored
from virnuc_assets.errors import VirnucError

RELIABILITY_BINS = 10


class MetricsError(VirnucError):
    """Rows for which the metrics are not defined."""


@dataclass(frozen=True)
class GroupAccuracy:
    """How many rows of a virus or host group, or of one range of lengths, were called right."""

    group: str
    label: str
    rows: int
    correct: int

    @property
    def accuracy(self) -> float:
        """Share of the rows called right."""
        return self.correct / self.rows


@dataclass(frozen=True)
class ReliabilityBin:
    """Rows whose probability lies between two bounds: what was said, and what was so."""

    low: float
    high: float
    rows: int
    mean_probability: float
    viral_fraction: float


def classification_metrics(scored: Scored) -> dict[str, float]:
    """Metrics of calls and of probabilities.

    Returns:
        accuracy, precision, recall, f1, mcc (of the calls), auroc, average_precision, brier, ece (of the
        probability), rows, and the counts tn, fp, fn, tp. Precision is 0 where nothing is called virus.

    Raises:
        MetricsError: shapes do not match, or all rows are of one label, where most of these are undefined.
    """
    truth, called, virus = scored.viral, scored.called, scored.probability
    if not truth.shape == called.shape == virus.shape or truth.ndim != 1:
        raise MetricsError(
            f"expected truth, calls and probabilities (n,), found {truth.shape}, {called.shape}, {virus.shape}"
        )
    if truth.all() or not truth.any():
        raise MetricsError(
            f"metrics need rows of both labels, found {int(truth.sum())} viral and {int((~truth).sum())} host; "
            "look at the split of the records"
        )
    tn, fp, fn, tp = sk.confusion_matrix(truth, called, labels=[False, True]).ravel().tolist()
    values = {
        "accuracy": sk.accuracy_score(truth, called),
        "precision": sk.precision_score(truth, called, zero_division=0.0),
        "recall": sk.recall_score(truth, called),
        "f1": sk.f1_score(truth, called),
        "mcc": sk.matthews_corrcoef(truth, called),
        "auroc": sk.roc_auc_score(truth, virus),
        "average_precision": sk.average_precision_score(truth, virus),
        "brier": sk.brier_score_loss(truth, virus),
        "ece": expected_calibration_error(reliability(truth, virus)),
        "rows": len(truth),
        **{"tn": tn, "fp": fp, "fn": fn, "tp": tp},
    }
    return {name: float(value) for name, value in values.items()}


def reliability(viral: np.ndarray, probability: np.ndarray) -> list[ReliabilityBin]:
    """Bins of equal width over the probability of virus, those without rows left out.

    Source: the reliability diagram of C. Guo et al. 2017 (arXiv:1706.04599), for the positive class.
    """
    number = np.minimum((probability * RELIABILITY_BINS).astype(np.int64), RELIABILITY_BINS - 1)  # (n,)
    found = []
    for i in np.unique(number).tolist():
        rows = number == i
        mean, share = float(probability[rows].mean()), float(viral[rows].mean())
        low, high = i / RELIABILITY_BINS, (i + 1) / RELIABILITY_BINS
        found.append(ReliabilityBin(low, high, int(rows.sum()), mean, share))
    return found


def expected_calibration_error(bins: Sequence[ReliabilityBin]) -> float:
    """Mean distance between probability and viral share over the bins, weighted by rows."""
    rows = sum(one.rows for one in bins)
    return sum(one.rows * abs(one.mean_probability - one.viral_fraction) for one in bins) / rows


def group_accuracies(scored: Scored, groups: Sequence[str]) -> list[GroupAccuracy]:
    """Accuracy and counts of every group (one name a row), sorted by label and group.

    Raises:
        MetricsError: shapes do not match.
    """
    if len(groups) != len(scored.viral):
        raise MetricsError(f"expected a group for each of {len(scored.viral)} rows, found {len(groups)}")
    label = np.where(scored.viral, "viral", "host")
    rows = pd.DataFrame({"label": label, "group": groups, "right": scored.called == scored.viral})
    counted = rows.groupby(["label", "group"])["right"].agg(["size", "sum"])
    return [GroupAccuracy(group, label, int(n), int(right)) for (label, group), n, right in counted.itertuples()]
