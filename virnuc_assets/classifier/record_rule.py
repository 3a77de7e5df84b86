"""The call of a record from its scored chunks: which rule, and the probability that follows, learnt out of sample.

What speaks for a record is the mean of its chunks' log-odds, or the share of them that is viral. Of n chunks with such
evidence e the probability of virus is sigmoid(e · (slope + slope_per_doubling · log2 n) + intercept). It is fitted on
windows of consecutive chunks, so that it holds for short records, too, though most known ones are long; clusters of
relatives count equally within their label, and so do the labels. Neighbouring chunks err together, so n of them are
worth less than n independent ones: how much less is learnt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, Self, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from scipy.special import expit, logit

from virnuc_assets.classifier.calls import MIN_VIRAL_FRACTION, calibrated_scores, chunk_calls, chunk_probability

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
_PENALTY = 100.0  # the inverse of it: hardly any, but a bound where evidence separates the labels
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
            model = LogisticRegression(C=_PENALTY, solver="newton-cholesky").fit(
                columns[:, used] / scale[used], viral, sample_weight=weights
            )
            slopes = np.zeros(2)
            slopes[used] = model.coef_[0] / scale[used]
            if (slopes >= 0.0).all():
                return cls(slope=slopes[0], slope_per_doubling=slopes[1], intercept=model.intercept_[0])
        return cls(slope=0.0, slope_per_doubling=0.0, intercept=0.0)


class Auroc(_Frozen):
    """How well a kind of evidence separates viruses from hosts.

    Attributes:
        windows: fitted curves over windows of records, each judged by a curve of other clusters, which count equally.
        records: the evidence of whole records, each counted once.
    """

    windows: float
    records: float


class RecordRule(_Frozen):
    """How records are classified, and why so.

    Attributes:
        kind: what the evidence is.
        novel: curve of records without relatives in training.
        known: of records with relatives there; None where none were scored out of sample: `novel` holds for them.
        most_chunks: of a window that was fitted on; more make no record surer.
        auroc: of each kind, of records without relatives in training; that of windows chose the kind, since samples
            are of contigs and most known records are long.
        records: how many these are.
        clusters: of relatives among them.
    """

    kind: Kind
    novel: Curve
    known: Curve | None = None
    most_chunks: PositiveInt
    auroc: dict[Kind, Auroc]
    records: PositiveInt
    clusters: PositiveInt

    def of_chunks(self, log_odds: np.ndarray) -> np.ndarray:
        """Evidence of each chunk, whose mean is the record's; (n,) float64."""
        return _evidence(self.kind, log_odds)

    def probability(self, evidence: np.ndarray, chunks: np.ndarray, known: np.ndarray) -> np.ndarray:
        """Of virus of each record, (n,) float64; NaN where no chunk is scored.

        Args:
            evidence: (n,) mean over the record's scored chunks of `of_chunks`.
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


def _evidence(kind: Kind, log_odds: np.ndarray) -> np.ndarray:
    return np.asarray(log_odds if kind == "mean_log_odds" else (log_odds >= 0.0) - MIN_VIRAL_FRACTION, np.float64)


def chunk_log_odds(probability: np.ndarray) -> np.ndarray:
    """(n,) float64 of calibrated probabilities of chunks, bounded; NaN stays."""
    return np.asarray(np.clip(logit(probability.astype(np.float64)), -MOST_LOG_ODDS, MOST_LOG_ODDS))


def scored_chunks_schema() -> pa.Schema:
    """One row per scored chunk: its place among those of its record, its log-odds (`chunk_log_odds`).

    known: whether the model that scored it was trained on relatives of its record; a record may be there as both.
    """
    texts = [(name, pa.string()) for name in ("record_id", "cluster", "label")]
    return pa.schema([*texts, ("position", pa.int64()), ("log_odds", pa.float64()), ("known", pa.bool_())])


def novel_chunks(scored: pa.Table, split: pa.Table, temperature: float | None) -> pa.Table:
    """Chunks (`scored_chunks_schema`) of scored frames of records that have no relatives in training.

    Args:
        scored: frame_id, chunk_id, record_id, score_other, score_virus.
        split: record_id, cluster and label of these records and others.
        temperature: of the classifier's calibration.
    """
    chunks = chunk_calls(calibrated_scores(scored, temperature))
    rows = pc.index_in(chunks["record_id"], value_set=split["record_id"].combine_chunks())
    number = pc.list_element(pc.split_pattern(chunks["chunk_id"], "_", max_splits=1, reverse=True), 1)
    columns = {
        "record_id": chunks["record_id"],
        **{name: split[name].take(rows) for name in ("cluster", "label")},
        "position": number.cast(pa.int64()),
        "log_odds": pa.array(chunk_log_odds(chunk_probability(chunks))),
        "known": pa.repeat(False, chunks.num_rows),
    }
    return pa.table(columns, schema=scored_chunks_schema())


@dataclass(frozen=True)
class _Windows:
    """Windows of consecutive chunks of n records; (m,) each, and the evidence by kind."""

    evidence: dict[Kind, np.ndarray]
    chunks: np.ndarray
    viral: np.ndarray
    cluster: np.ndarray
    whole: np.ndarray  # bool: all chunks of the record

    @classmethod
    def of(cls, scored: pa.Table, seed: int) -> Self:
        """Draw them; the order of the rows changes nothing."""
        table = scored.sort_by([(name, "ascending") for name in ("record_id", "position")])
        ids = table["record_id"].combine_chunks().dictionary_encode().indices.to_numpy()
        starts, generator = np.flatnonzero(np.diff(ids, prepend=-1)), np.random.default_rng(seed)
        drawn = []
        for start, count in zip(starts.tolist(), np.diff(np.append(starts, len(ids))).tolist(), strict=True):
            for size in _SIZES[count > _SIZES].tolist():
                wanted = min(_WINDOWS, count // size)
                drawn += [(start + first, size) for first in generator.integers(0, count - size + 1, wanted)]
            drawn.append((start, count))
        first, chunks = np.array(drawn).T
        sums = {
            kind: np.concatenate([[0.0], np.cumsum(_evidence(kind, table["log_odds"].to_numpy()))]) for kind in KINDS
        }
        names = {name: table[name].to_numpy(zero_copy_only=False) for name in ("label", "cluster")}
        return cls(
            {kind: (cumulated[first + chunks] - cumulated[first]) / chunks for kind, cumulated in sums.items()},
            chunks,
            names["label"][first] == "viral",
            np.unique(names["cluster"], return_inverse=True)[1][first],
            np.diff(np.append(starts, len(ids)))[np.searchsorted(starts, first, "right") - 1] == chunks,
        )

    @property
    def clusters(self) -> tuple[int, int]:
        """Of hosts, of viruses."""
        return len(np.unique(self.cluster[~self.viral])), len(np.unique(self.cluster[self.viral]))

    def curve(self, kind: Kind, some: np.ndarray | slice = slice(None)) -> Curve:
        """Fitted on some windows, which have both labels."""
        weights = self.weights(some) * sum(self.clusters)  # as many observations as there are clusters
        return Curve.fitted(self.evidence[kind][some], self.chunks[some], self.viral[some], weights)

    def weights(self, some: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Of some windows, 1 together: labels weigh the same, and so do the clusters of one."""
        viral, cluster = self.viral[some], self.cluster[some]
        found = np.zeros(len(viral))
        for label in (viral, ~viral):
            _, which, counts = np.unique(cluster[label], return_inverse=True, return_counts=True)
            found[label] = 0.5 / counts[which] / len(counts)
        return found

    def folds(self, seed: int) -> np.ndarray:
        """(m,) number of each window's fold; clusters stay together, and each label's are spread evenly."""
        of_cluster = np.zeros(self.cluster.max() + 1, np.int64)
        generator = np.random.default_rng(seed)
        for label in (self.viral, ~self.viral):
            members = generator.permutation(np.unique(self.cluster[label]))
            of_cluster[members] = np.arange(len(members)) % min(_FOLDS, *self.clusters)
        return np.asarray(of_cluster[self.cluster])

    def auroc(self, kind: Kind, folds: np.ndarray) -> Auroc:
        """Of the evidence of whole records, and of the windows' probabilities by the curves of the other folds."""
        from sklearn.metrics import roc_auc_score

        found = np.empty(len(folds))
        for fold in np.unique(folds):
            own = folds == fold
            found[own] = self.curve(kind, ~own).probability(self.evidence[kind][own], self.chunks[own])
        whole = roc_auc_score(self.viral[self.whole], self.evidence[kind][self.whole])
        return Auroc(windows=roc_auc_score(self.viral, found, sample_weight=self.weights()), records=whole)


def fit_record_rule(scored: pa.Table, seed: int) -> RecordRule | None:
    """The rule with the higher AUROC over windows, of equal ones the share of chunks, which needs no curve to decide.

    Args:
        scored: chunks (`scored_chunks_schema`), each scored by a model that was not trained on its record.
        seed: decides windows and folds.

    Returns:
        None where a label has fewer than `FEWEST_CLUSTERS` clusters of records without relatives in training.
    """
    novel = scored.filter(pc.invert(scored["known"]))
    if novel.num_rows == 0 or min((windows := _Windows.of(novel, seed)).clusters) < FEWEST_CLUSTERS:
        return None
    folds = windows.folds(seed)
    auroc = {kind: windows.auroc(kind, folds) for kind in KINDS}
    best = max(KINDS, key=lambda kind: auroc[kind].windows)  # the first of equals
    known, of_known = scored.filter(scored["known"]), None
    if known.num_rows and min((related := _Windows.of(known, seed)).clusters) >= FEWEST_CLUSTERS:
        of_known = related.curve(best)
    return RecordRule(
        kind=best,
        novel=windows.curve(best),
        known=of_known,
        most_chunks=int(windows.chunks.max()),
        auroc=auroc,
        records=int(windows.whole.sum()),
        clusters=len(np.unique(windows.cluster)),
    )
