"""The k-mer baseline's classifier: logistic regression on the composition of chunks, judged out of fold.

Whole clusters of relatives are left out of each fit, and the strength of the penalty is the one whose scores of the
rows left out are likeliest. Tried on the bundled genomes out of fold at 500 and 3,000 nt (AUROC): this 0.75 and 0.86;
gradient boosting 0.74 and 0.82; a row for each open frame instead of the longest one 0.72 and 0.80.

Rows are features (n, d) float32, and their facts: record_id, cluster and label, rows of a record in its order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from virnuc_assets.classifier.checkpoint import LinearModel
from virnuc_assets.classifier.record_rule import MOST_LOG_ODDS, clusters_of_labels
from virnuc_assets.errors import VirnucError

# Of the L2 penalty, strongest first; scikit-learn's C.
INVERSE_STRENGTHS = (1e-4, 3e-4, 1e-3, 3e-3)
_FOLDS = 5
_ITERATIONS = 2000
Folds = list[tuple[np.ndarray, np.ndarray]]  # rows to fit, of both labels, and rows to score


@dataclass(frozen=True)
class LinearFit:
    """A model of all rows and what it was chosen by."""

    model: LinearModel
    inverse_strength: float  # of those tried the one of the lowest loss out of fold
    history: list[dict[str, float]]  # of each of them: inverse_strength, validation_loss, validation_auroc
    log_odds: np.ndarray  # (n,) of the rows, by models that saw none of their clusters
    known: np.ndarray  # (n,) likewise, by models that saw another record of their cluster; NaN where there is none

    def out_of_fold(self, facts: pd.DataFrame, temperature: float) -> pd.DataFrame:
        """Calibrated scores of the rows by models that did not see their record, to fit a record rule on."""
        facts = facts.assign(position=facts.groupby("record_id").cumcount())
        parts = []
        for known, scores in ((False, self.log_odds), (True, self.known)):
            log_odds = np.clip(scores / temperature, -MOST_LOG_ODDS, MOST_LOG_ODDS)
            parts.append(facts.assign(log_odds=log_odds, known=known)[np.isfinite(scores)])
        return pd.concat(parts, ignore_index=True)


def fit_linear(
    features: np.ndarray,
    facts: pd.DataFrame,
    seed: int,
    on_step: Callable[[int, Mapping[str, float]], None] | None = None,
) -> LinearFit:
    """Choose the penalty out of fold over clusters, then fit all rows with it.

    Raises:
        VirnucError: a label has rows of fewer than two clusters.
    """
    folds, viral, weights = _folds(facts, "cluster", seed), (facts["label"] == "viral").to_numpy(), row_weights(facts)
    scores, history = list[np.ndarray](), list[dict[str, float]]()
    for number, inverse in enumerate(INVERSE_STRENGTHS, 1):
        scores.append(_left_out(features, facts, folds, inverse))
        loss = log_loss(viral, 1.0 / (1.0 + np.exp(-scores[-1])), sample_weight=weights)
        auroc = roc_auc_score(viral, scores[-1])
        history.append({"inverse_strength": inverse, "validation_loss": float(loss), "validation_auroc": float(auroc)})
        if on_step is not None:
            on_step(number, history[-1])
    best = int(np.argmin([entry["validation_loss"] for entry in history]))
    clusters = facts["cluster"].to_numpy()
    related = [
        (fitted, left_out[np.isin(clusters[left_out], clusters[fitted])])
        for fitted, left_out in _folds(facts, "record_id", seed)
    ]
    known = _left_out(features, facts, related, INVERSE_STRENGTHS[best])
    model = _unscaled(_fitted(features, facts, INVERSE_STRENGTHS[best]))
    return LinearFit(model, INVERSE_STRENGTHS[best], history, scores[best], known)


def row_weights(facts: pd.DataFrame) -> np.ndarray:
    """(n,): a cluster weighs as the root of its rows, so that no large genome decides; both labels the same."""
    weights = facts.groupby("cluster")["cluster"].transform("size").to_numpy() ** -0.5
    for label in ("host", "viral"):
        own = (facts["label"] == label).to_numpy()
        weights[own] /= weights[own].sum()
    return np.asarray(weights * len(weights) / 2)


def _folds(facts: pd.DataFrame, unit: str, seed: int) -> Folds:
    """Whole units at a time."""
    fewest = clusters_of_labels(facts).min()
    if fewest < 2:
        raise VirnucError(
            f"expected viral and host rows of at least two clusters of unrelated records, found {fewest} of a label; "
            "add reference genomes"
        )
    labels = facts["label"].to_numpy() == "viral"
    for count in range(min(_FOLDS, fewest), 1, -1):
        splitter = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
        folds = list(splitter.split(labels, labels, facts[unit].to_numpy()))
        if all(len(np.unique(labels[fitted])) == 2 for fitted, _ in folds):
            return folds
    raise VirnucError("clusters of relatives that hold viruses and hosts leave a fold without one of them; add genomes")


def _fitted(features: np.ndarray, facts: pd.DataFrame, inverse_strength: float) -> Pipeline:
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(C=inverse_strength, max_iter=_ITERATIONS))
    viral = (facts["label"] == "viral").to_numpy()
    return pipeline.fit(features, viral, logisticregression__sample_weight=row_weights(facts))


def _left_out(features: np.ndarray, facts: pd.DataFrame, folds: Folds, inverse_strength: float) -> np.ndarray:
    """Log-odds of the rows to score, (n,); NaN of others."""
    scores = np.full(len(features), math.nan)
    for fitted, left_out in folds:
        if len(left_out):
            model = _fitted(features[fitted], facts.iloc[fitted], inverse_strength)
            scores[left_out] = model.decision_function(features[left_out])
    return scores


def _unscaled(pipeline: Pipeline) -> LinearModel:
    """The regression on features as they come, without the scaler."""
    scaler, regression = pipeline[0], pipeline[1]
    weights = regression.coef_[0].astype(np.float64) / scaler.scale_
    return LinearModel.of(weights, float(regression.intercept_[0] - weights @ scaler.mean_))
