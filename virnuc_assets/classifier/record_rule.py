"""The call of a record from its scored chunks: which rule, and the probability that follows, learnt out of sample.

What speaks for a record is the mean of its chunks' log-odds, or the share of them that is viral. Of n chunks with such
evidence e the probability of virus is sigmoid(e · (slope + slope_per_doubling · log2 n) + intercept). It is fitted on
windows of consecutive chunks, so that it holds for short records, too, though most known ones are long; clusters of
relatives count equally within their label, and so do the labels. Neighbouring chunks err together, so n of them are
worth less than n independent ones: how much less is learnt.

Chunks that a rule is fitted on are a frame with columns record_id, cluster, label, position (of the chunk in its
record), log_odds (`chunk_log_odds`), and known: whether the model that scored it was trained on relatives of its
record; a record may be there as both.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self, get_args

import numpy as np
import pandas as pd
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from scipy.special import expit, logit

from virnuc_assets.classifier.calls import (
    MIN_VIRAL_FRACTION,
    calibrated_scores,
    chunk_calls,
    chunk_numbers,
    chunk_probability,
)

Kind = Literal["share_of_chunks", "mean_log_odds"]
KINDS: tuple[Kind, ...] = get_args(Kind)
# Of a chunk: float32, in which samples' probabilities are kept, ends near it.
MOST_LOG_ODDS = 16.0
FEWEST_CLUSTERS = 4  # of each label: of fewer no rule is fitted
_SIZES, _WINDOWS = 2 ** np.arange(7), 6  # chunks of a window; windows of each size and record
_FOLDS = 5
_WORDS: dict[Kind, str] = {
    "mean_log_odds": "mean log-odds of the scored chunks",
    "share_of_chunks": "share of the scored chunks that are viral",
}
NO_RULE = f"none is fitted: of a label fewer than {FEWEST_CLUSTERS} clusters are left out; half of the chunks decide"
_INVERSE_STRENGTH = 100.0  # of the penalty: hardly any, but a bound where evidence separates the labels
_NOT_NEGATIVE = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Curve(_Frozen):
    """Probability by evidence; never falls with it."""

    slope: _NOT_NEGATIVE
    slope_per_doubling: _NOT_NEGATIVE  # of the number of chunks
    intercept: float = Field(allow_inf_nan=False)

    def probability(self, evidence: np.ndarray, chunks: np.ndarray) -> np.ndarray:
        """(n,) float64 of evidence (n,) from so many chunks (n,), at least one."""
        steepness = self.slope + self.slope_per_doubling * np.log2(chunks)
        return np.asarray(expit(evidence * steepness + self.intercept))

    @classmethod
    def fitted(cls, evidence: np.ndarray, chunks: np.ndarray, viral: np.ndarray, weights: np.ndarray) -> Self:
        """The likeliest curve, drawn to a flat one by its penalty; flat where the evidence says the contrary."""
        from sklearn.linear_model import LogisticRegression

        columns = np.stack([evidence, evidence * np.log2(chunks)], axis=1)  # (n, 2)
        scale = np.sqrt(np.average(np.square(columns), axis=0, weights=weights))
        scale[scale == 0.0] = 1.0
        for used in ([0, 1], [0]):
            model = LogisticRegression(C=_INVERSE_STRENGTH, solver="newton-cholesky")
            model.fit(columns[:, used] / scale[used], viral, sample_weight=weights)
            slopes = np.zeros(2)
            slopes[used] = model.coef_[0] / scale[used]
            if (slopes >= 0.0).all():
                return cls(slope=slopes[0], slope_per_doubling=slopes[1], intercept=model.intercept_[0])
        return cls(slope=0.0, slope_per_doubling=0.0, intercept=0.0)


class Auroc(_Frozen):
    """How well a kind of evidence separates viruses from hosts."""

    windows: float  # by fitted curves, each window judged by a curve of other clusters, which count equally
    records: float  # by the evidence of whole records, each counted once


class RecordRule(_Frozen):
    """How records are classified, and why so."""

    kind: Kind  # what the evidence is
    novel: Curve  # of records without relatives in training
    known: Curve | None = None  # of those with; None where none were scored out of sample: `novel` holds for them
    most_chunks: PositiveInt  # of a window that was fitted on; more make no record surer
    # Of records without relatives in training. That of windows chose the kind: samples are of contigs, and most known
    # records are long.
    auroc: dict[Kind, Auroc]
    records: PositiveInt  # how many these are
    clusters: PositiveInt  # of relatives among them

    def probability(self, evidence: np.ndarray, chunks: np.ndarray, known: np.ndarray) -> np.ndarray:
        """Of virus of each record, (n,) float64; NaN where no chunk is scored.

        Args:
            evidence: (n,) mean over the record's scored chunks of `chunk_evidence`.
            chunks: (n,) how many these are.
            known: (n,) bool, whether training had relatives of the record.
        """
        counted = np.clip(chunks, 1, self.most_chunks)
        found = self.novel.probability(evidence, counted)
        if self.known is not None:
            found = np.where(known, self.known.probability(evidence, counted), found)
        return np.asarray(np.where(chunks > 0, found, np.nan))

    def described(self) -> str:
        """The rule and why it was chosen, in one line."""
        figures = ", ".join(f"{_WORDS[kind]} {one.windows:.3f}" for kind, one in self.auroc.items())
        return (
            f"{_WORDS[self.kind]}; AUROC out of sample over windows of {self.records} records of {self.clusters} "
            f"clusters: {figures}"
        )


def chunk_evidence(kind: Kind, log_odds: np.ndarray) -> np.ndarray:
    """Evidence of each chunk, whose mean is the record's; (n,) float64."""
    return np.asarray(log_odds if kind == "mean_log_odds" else (log_odds >= 0.0) - MIN_VIRAL_FRACTION, np.float64)


def chunk_log_odds(probability: np.ndarray) -> np.ndarray:
    """(n,) float64 of calibrated probabilities of chunks, bounded; NaN stays."""
    return np.asarray(np.clip(logit(probability.astype(np.float64)), -MOST_LOG_ODDS, MOST_LOG_ODDS))


def record_probability(
    rule: RecordRule | None, probability: np.ndarray, record: np.ndarray, known: np.ndarray
) -> np.ndarray:
    """Of virus of each of n records, (n,) float64: by the rule, or the mean of its chunks; NaN where none is scored.

    Args:
        rule: of the classifier.
        probability: (m,) of virus of each scored chunk, calibrated.
        record: (m,) number of the chunk's record.
        known: (n,) bool, whether training had relatives of the record.
    """
    evidence = chunk_evidence(rule.kind, chunk_log_odds(probability)) if rule else probability
    chunks = np.bincount(record, minlength=len(known))
    with np.errstate(invalid="ignore"):  # 0 / 0 where no chunk is scored
        mean = np.bincount(record, evidence, minlength=len(known)) / chunks
    return rule.probability(mean, chunks, known) if rule else mean


def novel_chunks(scored: pa.Table, split: pa.Table, temperature: float | None) -> pd.DataFrame:
    """Chunks to fit a rule on, of scored frames of records that have no relatives in training.

    Args:
        scored: frame_id, chunk_id, record_id, score_other, score_virus.
        split: record_id, cluster and label of these records and others.
        temperature: of the classifier's calibration.
    """
    chunks = chunk_calls(calibrated_scores(scored, temperature))
    facts = split.select(["record_id", "cluster", "label"]).to_pandas().set_index("record_id")
    found = facts.loc[chunks["record_id"].to_pylist()].reset_index()
    log_odds = chunk_log_odds(chunk_probability(chunks))
    return found.assign(position=chunk_numbers(chunks["chunk_id"]), log_odds=log_odds, known=False)


def fit_record_rule(scored: pd.DataFrame, seed: int) -> RecordRule | None:
    """The rule with the higher AUROC over windows, of equal ones the share of chunks, which needs no curve to decide.

    Args:
        scored: chunks, each scored by a model that was not trained on its record.
        seed: decides windows and folds.

    Returns:
        None where a label has fewer than `FEWEST_CLUSTERS` clusters of records without relatives in training.
    """
    novel, related = scored[~scored["known"]], scored[scored["known"]]
    if (clusters := clusters_of_labels(novel)).min() < FEWEST_CLUSTERS:
        return None
    windows = _windows(novel, seed)
    folds = _folds(windows, min(_FOLDS, clusters.min()), seed)
    auroc = {kind: _auroc(windows, kind, folds, clusters.sum()) for kind in KINDS}
    best = max(KINDS, key=lambda kind: auroc[kind].windows)  # the first of equals
    of_known = None
    if (known := clusters_of_labels(related)).min() >= FEWEST_CLUSTERS:
        of_known = _curve(_windows(related, seed), best, known.sum())
    return RecordRule(
        kind=best,
        novel=_curve(windows, best, clusters.sum()),
        known=of_known,
        most_chunks=int(windows["chunks"].max()),
        auroc=auroc,
        records=int(windows["whole"].sum()),
        clusters=windows["cluster"].nunique(),
    )


def clusters_of_labels(rows: pd.DataFrame) -> np.ndarray:
    """How many clusters the rows of hosts have, and how many those of viruses; (2,) int64."""
    counts = rows.groupby("label")["cluster"].nunique()
    return np.asarray(counts.reindex(["host", "viral"], fill_value=0))


def _windows(scored: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Windows of consecutive chunks of each record; the order of the rows changes nothing.

    Returns:
        The evidence of each kind, chunks, viral, cluster (its number), whole (whether it is all chunks of the record).
    """
    table = scored.sort_values(["record_id", "position"])
    sizes = table.groupby("record_id").size().to_numpy()
    generator, drawn = np.random.default_rng(seed), list[tuple[int, int, bool]]()
    for start, count in zip((np.cumsum(sizes) - sizes).tolist(), sizes.tolist(), strict=True):
        for size in _SIZES[count > _SIZES].tolist():
            firsts = generator.integers(0, count - size + 1, min(_WINDOWS, count // size))
            drawn += [(start + first, size, False) for first in firsts.tolist()]
        drawn.append((start, count, True))
    first, chunks, whole = np.array(drawn).T
    sums = {kind: np.append(0.0, np.cumsum(chunk_evidence(kind, table["log_odds"].to_numpy()))) for kind in KINDS}
    columns: dict[str, np.ndarray] = {
        "chunks": chunks,
        "viral": (table["label"] == "viral").to_numpy()[first],
        "cluster": table["cluster"].factorize(sort=True)[0][first],
        "whole": whole.astype(bool),
    }
    for kind, total in sums.items():
        columns[kind] = (total[first + chunks] - total[first]) / chunks
    return pd.DataFrame(columns)


def equal_weights(viral: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """(n,) of rows, together 1: labels weigh the same, and so do the clusters of one."""
    found = np.zeros(len(viral))
    for label in (viral, ~viral):
        _, cluster, counts = np.unique(clusters[label], return_inverse=True, return_counts=True)
        found[label] = 0.5 / counts[cluster] / len(counts)
    return found


def _weights(windows: pd.DataFrame) -> np.ndarray:
    return equal_weights(windows["viral"].to_numpy(), windows["cluster"].to_numpy())


def _curve(windows: pd.DataFrame, kind: Kind, observations: int) -> Curve:
    """Fitted on windows of both labels, which weigh as so many observations."""
    evidence, chunks, viral = (windows[name].to_numpy() for name in (kind, "chunks", "viral"))
    return Curve.fitted(evidence, chunks, viral, _weights(windows) * observations)


def _folds(windows: pd.DataFrame, folds: int, seed: int) -> np.ndarray:
    """(n,) number of each window's fold; clusters stay together, and each label's are spread evenly."""
    of_cluster, generator = np.zeros(windows["cluster"].max() + 1, np.int64), np.random.default_rng(seed)
    for viral in (True, False):
        members = generator.permutation(np.unique(windows["cluster"][windows["viral"] == viral]))
        of_cluster[members] = np.arange(len(members)) % folds
    return np.asarray(of_cluster[windows["cluster"]])


def _auroc(windows: pd.DataFrame, kind: Kind, folds: np.ndarray, observations: int) -> Auroc:
    """Of the evidence of whole records, and of the windows' probabilities by the curves of the other folds."""
    from sklearn.metrics import roc_auc_score

    found = np.empty(len(windows))
    for fold in np.unique(folds):
        own, curve = windows[folds == fold], _curve(windows[folds != fold], kind, observations)
        found[folds == fold] = curve.probability(own[kind].to_numpy(), own["chunks"].to_numpy())
    whole = windows[windows["whole"]]
    return Auroc(
        windows=roc_auc_score(windows["viral"], found, sample_weight=_weights(windows)),
        records=roc_auc_score(whole["viral"], whole[kind]),
    )
