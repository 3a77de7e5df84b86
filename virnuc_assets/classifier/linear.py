"""The k-mer baseline's classifier: logistic regression on the composition of chunks, judged out of fold.

Whole clusters of relatives are left out of each fit, and the strength of the penalty is the one whose scores of the
rows left out are likeliest. Tried on the bundled genomes out of fold at 500 and 3,000 nt (AUROC): this 0.75 and 0.86;
gradient boosting 0.74 and 0.82; a row for each open frame instead of the longest one 0.72 and 0.80.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from virnuc_assets.classifier.checkpoint import LinearModel
from virnuc_assets.classifier.record_rule import MOST_LOG_ODDS, scored_chunks_schema
from virnuc_assets.errors import VirnucError

# Inverse strengths of the L2 penalty, strongest first.
STRENGTHS = (1e-4, 3e-4, 1e-3, 3e-3)
_FOLDS = 5
_ITERATIONS = 2000
_WEIGHT = "logisticregression__sample_weight"


class LinearError(VirnucError):
    """Rows of which no part can be left out."""


@dataclass(frozen=True)
class CompositionRows:
    """Rows of chunks with their truth, n of each; rows of a record follow each other in its order."""

    features: np.ndarray  # (n, d) float32
    labels: np.ndarray  # (n,) int64, 0 host, 1 viral
    records: np.ndarray  # (n,) of str
    clusters: np.ndarray  # (n,) of str

    def take(self, chosen: np.ndarray) -> CompositionRows:
        """Some of the rows."""
        return CompositionRows(*(each[chosen] for each in (self.features, self.labels, self.records, self.clusters)))

    @property
    def weights(self) -> np.ndarray:
        """(n,): a cluster weighs as the root of its rows, so that no large genome decides; both labels the same."""
        _, cluster, rows = np.unique(self.clusters, return_inverse=True, return_counts=True)
        weights = rows[cluster] ** -0.5
        for label in (0, 1):
            weights[self.labels == label] /= weights[self.labels == label].sum()
        return np.asarray(weights * len(weights) / 2)


@dataclass(frozen=True)
class LinearFit:
    """A model and what it was chosen by.

    Attributes:
        model: of all rows.
        strength: of `STRENGTHS`, the one of the lowest loss out of fold.
        history: of each strength: strength, validation_loss, validation_auroc.
        log_odds: (n,) of the rows, by models that saw none of their clusters.
        known: (n,) likewise, by models that saw another record of their cluster; NaN where there is none.
    """

    model: LinearModel
    strength: float
    history: list[dict[str, float]]
    log_odds: np.ndarray
    known: np.ndarray

    def out_of_fold(self, rows: CompositionRows, temperature: float) -> pa.Table:
        """Calibrated scores of the rows by models that did not see their record (`scored_chunks_schema`).

        Rows with `known` come from models that saw a relative of it. `position` is the chunk's place among the rows.
        """
        _, first, record = np.unique(rows.records, return_index=True, return_inverse=True)
        facts = {
            "record_id": rows.records,
            "cluster": rows.clusters,
            "label": np.where(rows.labels == 1, "viral", "host"),
            "position": np.arange(len(record)) - first[record],
        }
        parts = []
        for known, scores in ((False, self.log_odds), (True, self.known)):
            there = np.isfinite(scores)
            columns = {name: values[there].tolist() for name, values in facts.items()}
            log_odds = np.clip(scores[there] / temperature, -MOST_LOG_ODDS, MOST_LOG_ODDS)
            columns |= {"log_odds": log_odds, "known": np.full(there.sum(), known)}
            parts.append(pa.table(columns, schema=scored_chunks_schema()))
        return pa.concat_tables(parts)


def fit_linear(
    rows: CompositionRows, seed: int, on_step: Callable[[int, Mapping[str, float]], None] | None = None
) -> LinearFit:
    """Choose the penalty out of fold over clusters, then fit all rows with it.

    Raises:
        LinearError: a label has rows of fewer than two clusters.
    """
    folds, weights, history = _folds(rows, rows.clusters, seed), rows.weights, list[dict[str, float]]()
    scores = []
    for number, strength in enumerate(STRENGTHS, 1):
        scores.append(_left_out(rows, folds, strength))
        loss = log_loss(rows.labels, 1.0 / (1.0 + np.exp(-scores[-1])), sample_weight=weights)
        auroc = roc_auc_score(rows.labels, scores[-1])
        history.append({"strength": strength, "validation_loss": float(loss), "validation_auroc": float(auroc)})
        if on_step is not None:
            on_step(number, history[-1])
    best = int(np.argmin([entry["validation_loss"] for entry in history]))
    model = LinearModel.of(*_folded(_fitted(rows, STRENGTHS[best])))
    return LinearFit(model, STRENGTHS[best], history, scores[best], _seen_relatives(rows, STRENGTHS[best], seed))


def _folds(rows: CompositionRows, units: np.ndarray, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rows to fit, of both labels, and rows to score, whole units (clusters or records) at a time."""
    fewest = min(len(np.unique(rows.clusters[rows.labels == label])) for label in (0, 1))
    if fewest < 2:
        raise LinearError(
            f"expected viral and host rows of at least two clusters of unrelated records, found {fewest} of a label; "
            "add reference genomes"
        )
    for count in range(min(_FOLDS, fewest), 1, -1):
        splitter = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
        folds = list(splitter.split(rows.features, rows.labels, units))
        if all(len(np.unique(rows.labels[fitted])) == 2 for fitted, _ in folds):
            return folds
    raise LinearError("clusters of relatives that hold viruses and hosts leave a fold without one of them; add genomes")


def _fitted(rows: CompositionRows, strength: float) -> Pipeline:
    regression = LogisticRegression(C=strength, max_iter=_ITERATIONS)
    return make_pipeline(StandardScaler(), regression).fit(rows.features, rows.labels, **{_WEIGHT: rows.weights})


def _left_out(rows: CompositionRows, folds: list[tuple[np.ndarray, np.ndarray]], strength: float) -> np.ndarray:
    scores = np.full(len(rows.labels), math.nan)
    for fitted, left_out in folds:
        scores[left_out] = _fitted(rows.take(fitted), strength).decision_function(rows.features[left_out])
    return scores


def _seen_relatives(rows: CompositionRows, strength: float, seed: int) -> np.ndarray:
    """Scores of records by models that saw another record of their cluster; NaN of rows without."""
    scores = np.full(len(rows.labels), math.nan)
    for fitted, left_out in _folds(rows, rows.records, seed):
        related = left_out[np.isin(rows.clusters[left_out], rows.clusters[fitted])]
        if len(related):
            scores[related] = _fitted(rows.take(fitted), strength).decision_function(rows.features[related])
    return scores


def _folded(pipeline: Pipeline) -> tuple[np.ndarray, float]:
    """Weights (d,) and intercept of the regression on features as they come, without the scaler."""
    scaler, regression = pipeline[0], pipeline[1]
    weights = regression.coef_[0].astype(np.float64) / scaler.scale_
    return weights, float(regression.intercept_[0] - weights @ scaler.mean_)
