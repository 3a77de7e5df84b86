"""What a table of scores is worth against the truth, by scikit-learn; positive is viral."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn import metrics as sk

from virnuc_assets.errors import VirnucError


class MetricsError(VirnucError):
    """Rows for which the metrics are not defined."""


@dataclass(frozen=True)
class GroupAccuracy:
    """How many rows of a virus or host group were called right."""

    group: str
    label: str
    rows: int
    correct: int

    @property
    def accuracy(self) -> float:
        """Share of the rows called right."""
        return self.correct / self.rows


def classification_metrics(labels: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """Metrics of frame calls and of score_virus.

    Args:
        labels: (n,) truth, True or 1 for viral.
        scores: (n, 2) score_other, score_virus; a row is called virus if score_virus is higher.

    Returns:
        accuracy, precision, recall, f1, mcc, auroc, average_precision, brier, rows, and the counts tn, fp, fn, tp.
        Precision is 0 where nothing is called virus.

    Raises:
        MetricsError: shapes do not match, or all rows are of one label, where most of these are undefined.
    """
    truth, called = _truth_and_calls(labels, scores)
    if truth.all() or not truth.any():
        raise MetricsError(
            f"metrics need rows of both labels, found {int(truth.sum())} viral and {int((~truth).sum())} host; "
            "look at the split of the records"
        )
    virus = scores[:, 1]
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
        "rows": len(truth),
        **{"tn": tn, "fp": fp, "fn": fn, "tp": tp},
    }
    return {name: float(value) for name, value in values.items()}


def group_accuracies(labels: np.ndarray, scores: np.ndarray, groups: Sequence[str]) -> list[GroupAccuracy]:
    """Accuracy and counts of every virus and host group, sorted by label and group.

    Args:
        labels: (n,) truth, True or 1 for viral.
        scores: (n, 2) score_other, score_virus.
        groups: one a row.

    Raises:
        MetricsError: shapes do not match.
    """
    truth, called = _truth_and_calls(labels, scores)
    names = np.asarray(groups, dtype=np.str_)
    if len(names) != len(truth):
        raise MetricsError(f"expected a group for each of {len(truth)} rows, found {len(names)}")
    found = []
    for label, of_label in (("host", ~truth), ("viral", truth)):
        for group in np.unique(names[of_label]).tolist():
            rows = of_label & (names == group)
            found.append(GroupAccuracy(group, label, int(rows.sum()), int((called == truth)[rows].sum())))
    return found


def _truth_and_calls(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if labels.ndim != 1 or scores.shape != (len(labels), 2):
        raise MetricsError(f"expected labels (n,) and scores (n, 2), found {labels.shape} and {scores.shape}")
    return labels.astype(bool), scores[:, 1] > scores[:, 0]
