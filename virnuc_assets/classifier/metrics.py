"""What a classifier's calls and probabilities on the test rows are worth, at three levels; positive is viral.

Follows from the evaluation table and the classifier's temperature alone. Levels are frames as scored, chunks by
VirNucPro's rule, records by ours.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from sklearn import metrics as sk

from virnuc_assets.classifier.calls import VIRUS, calibrated_scores, chunk_calls, chunk_probability, record_calls
from virnuc_assets.classifier.record_rule import RecordRule, record_probability
from virnuc_assets.errors import VirnucError
from virnuc_assets.settings import EvaluationSettings

Level = Literal["frame", "chunk", "record"]
LEVELS: tuple[Level, ...] = get_args(Level)


@dataclass(frozen=True)
class Scored:
    """n frames, chunks or records with truth, call and score.

    A frame's probability is its score_virus, a chunk's its highest score_virus over the sum of both highest scores, a
    record's its share of viral chunks.
    """

    ids: pa.ChunkedArray  # (n,) string
    viral: np.ndarray  # (n,) bool, the truth
    called: np.ndarray  # (n,) bool, called virus
    probability: np.ndarray  # (n,) float64 in [0, 1]


def levels_of(table: pa.Table) -> dict[Level, Scored]:
    """Frames, chunks and records of an evaluation table, each in order of first appearance."""
    known = table.group_by("record_id", use_threads=False).aggregate([("label", "first")])
    chunks = chunk_calls(table)
    records = record_calls(chunks)
    found: dict[Level, tuple[pa.Table, str, np.ndarray]] = {
        "frame": (table, "frame_id", table["score_virus"].to_numpy().astype(np.float64)),
        "chunk": (chunks, "chunk_id", chunk_probability(chunks)),
        "record": (records, "record_id", records["viral_fraction"].to_numpy()),
    }
    levels: dict[Level, Scored] = {}
    for level, (rows, ids, probability) in found.items():
        label = known["label_first"].take(pc.index_in(rows["record_id"], value_set=known["record_id"]))
        viral, called = (np.asarray(pc.equal(*pair), bool) for pair in ((label, "viral"), (rows["call"], VIRUS)))
        levels[level] = Scored(rows[ids], viral, called, probability)
    return levels


RELIABILITY_BINS = 10


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
    """Rows whose probability is between two bounds."""

    low: float
    high: float
    rows: int
    mean_probability: float
    viral_fraction: float


def classification_metrics(scored: Scored) -> dict[str, float]:
    """Metrics of calls and of probabilities; precision is 0 where nothing is called virus.

    Raises:
        VirnucError: all rows are of one label, where most of these are undefined.
    """
    truth, called, virus = scored.viral, scored.called, scored.probability
    if truth.all() or not truth.any():
        raise VirnucError(
            f"metrics need rows of both labels, found {int(truth.sum())} viral and {int((~truth).sum())} host; "
            "check the split of the records"
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
    """Accuracy and counts of every group (one name a row), sorted by label and group."""
    label = np.where(scored.viral, "viral", "host")
    rows = pd.DataFrame({"label": label, "group": groups, "right": scored.called == scored.viral})
    counted = rows.groupby(["label", "group"])["right"].agg(["size", "sum"])
    return [GroupAccuracy(group, label, int(n), int(right)) for (label, group), n, right in counted.itertuples()]


@dataclass(frozen=True)
class Calibration:
    """Frames' probabilities after temperature scaling (None: as they come); the bins of the reliability diagram."""

    temperature: float | None
    brier: float
    ece: float
    bins: tuple[ReliabilityBin, ...]


@dataclass(frozen=True)
class Abstention:
    """Chunks that are called when those below the confidence are left open; accuracy is None if none is called."""

    min_confidence: float
    chunks: int
    called: int
    accuracy: float | None


@dataclass(frozen=True)
class RecordCalls:
    """Records by the classifier's own rule, or by the present one where it has none, when the unsure are left open."""

    rule: str | None  # its kind; None for the present one
    auroc: float  # of the probability; that of the share of viral chunks is among the metrics of records
    max_error: float  # a record is certain if its call is wrong with no higher probability
    records: int
    certain: int
    accuracy: float | None  # of these; None if none is


@dataclass(frozen=True)
class Performance:
    """A classifier on its test rows."""

    levels: Mapping[Level, Mapping[str, float]]  # as `classification_metrics` names them
    calibration: Calibration  # of frames
    abstention: Abstention  # of chunks
    records: RecordCalls
    groups: tuple[GroupAccuracy, ...]  # frames called right, by virus and host group
    lengths: tuple[GroupAccuracy, ...]  # records classified correctly, by label and range of record length


def performance(
    table: pa.Table, temperature: float | None, settings: EvaluationSettings, rule: RecordRule | None = None
) -> Performance:
    """Measure test rows (`evaluation_schema`); temperature and rule of the classifier were fitted on validation rows.

    Raises:
        VirnucError: all rows are of one label.
    """
    levels = levels_of(table)
    frames, records = levels["frame"], levels["record"]
    length_of = dict(zip(table["record_id"].to_pylist(), table["record_length_nt"].to_pylist(), strict=True))
    ranges = length_ranges(settings.length_bins_nt)
    lengths = [ranges[bisect_right(settings.length_bins_nt, length_of[record])] for record in records.ids.to_pylist()]
    calibrated = calibrated_scores(table, temperature)
    chunks = levels_of(calibrated)["chunk"]
    virus = calibrated["score_virus"].to_numpy()
    bins = reliability(frames.viral, virus)
    brier = float(np.mean((virus - frames.viral) ** 2))
    return Performance(
        levels={level: classification_metrics(scored) for level, scored in levels.items()},
        calibration=Calibration(temperature, brier, expected_calibration_error(bins), tuple(bins)),
        abstention=Abstention(
            settings.min_confidence,
            len(chunks.called),
            *_sure(chunks.probability, chunks.called, chunks.viral, settings.min_confidence),
        ),
        records=certain_records(calibrated, records, settings.max_error, rule),
        groups=tuple(group_accuracies(frames, [group or "" for group in table["group"].to_pylist()])),
        lengths=tuple(sorted(group_accuracies(records, lengths), key=lambda one: (one.label, ranges.index(one.group)))),
    )


def length_ranges(bounds: Sequence[int]) -> list[str]:
    """Names of the ranges that ascending bounds make, e.g. "1,000 to 2,999 nt"."""
    edges = [0, *bounds]
    return [*(f"{low:,} to {high - 1:,} nt" for low, high in pairwise(edges)), f"{edges[-1]:,} nt and more"]


def _sure(probability: np.ndarray, called: np.ndarray, viral: np.ndarray, least: float) -> tuple[int, float | None]:
    """How many calls are as probable as that at least, and which share of these is right."""
    right = (called == viral)[np.where(called, probability, 1.0 - probability) >= least]
    return len(right), float(right.mean()) if len(right) else None


def certain_records(calibrated: pa.Table, known: Scored, max_error: float, rule: RecordRule | None) -> RecordCalls:
    """Records (`levels_of`) by the calls of their chunks, calibrated; none of them has a relative in training."""
    chunks = chunk_calls(calibrated)
    record = pc.index_in(chunks["record_id"], value_set=known.ids.combine_chunks()).to_numpy()
    probability = record_probability(rule, chunk_probability(chunks), record, np.zeros(len(known.ids), bool))
    viral = known.called if rule is None else probability >= 0.5
    certain, accuracy = _sure(probability, viral, known.viral, 1.0 - max_error)
    return RecordCalls(
        rule=rule.kind if rule else None,
        auroc=float(sk.roc_auc_score(known.viral, probability)),
        max_error=max_error,
        records=len(viral),
        certain=certain,
        accuracy=accuracy,
    )
