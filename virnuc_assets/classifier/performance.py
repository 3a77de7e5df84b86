"""All that is told of one classifier on the test rows, from its evaluation table and its temperature alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from virnuc_assets.classifier.calibration import calibrated
from virnuc_assets.classifier.calls import chunk_calls, chunk_probability
from virnuc_assets.classifier.levels import Level, Scored, levels_of
from virnuc_assets.classifier.metrics import (
    GroupAccuracy,
    ReliabilityBin,
    classification_metrics,
    expected_calibration_error,
    group_accuracies,
    reliability,
)
from virnuc_assets.settings import EvaluationSettings


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
class Performance:
    """A classifier on its test rows.

    Attributes:
        levels: level → metrics as `classification_metrics` names them.
        calibration: of the frames.
        abstention: of the chunks.
        groups: frames called right, by virus and host group.
        lengths: records called right, by label and range of record length.
    """

    levels: Mapping[Level, Mapping[str, float]]
    calibration: Calibration
    abstention: Abstention
    groups: tuple[GroupAccuracy, ...]
    lengths: tuple[GroupAccuracy, ...]


def performance(table: pa.Table, temperature: float | None, settings: EvaluationSettings) -> Performance:
    """Measure an evaluation table.

    Args:
        table: test rows (`evaluation_schema`).
        temperature: of the classifier, fitted on validation rows; None where none was fitted.
        settings: bounds of the length ranges and of the abstain band.

    Raises:
        MetricsError: all rows are of one label.
    """
    levels = levels_of(table)
    frames, records = levels["frame"], levels["record"]
    length_of = dict(zip(table["record_id"].to_pylist(), table["record_length_nt"].to_pylist(), strict=True))
    lengths = [length_range(length_of[record], settings.length_bins_nt) for record in records.ids.tolist()]
    return Performance(
        levels={level: classification_metrics(scored) for level, scored in levels.items()},
        calibration=_calibration(table, frames, temperature),
        abstention=_abstention(table, temperature, settings.min_confidence),
        groups=tuple(group_accuracies(frames, [group or "" for group in table["group"].to_pylist()])),
        lengths=tuple(sorted(group_accuracies(records, lengths), key=lambda one: (one.label, _first_nt(one.group)))),
    )


def calibrated_scores(table: pa.Table, temperature: float | None) -> pa.Table:
    """The table with calibrated probabilities as scores; no call changes."""
    virus = calibrated(table["score_other"].to_numpy(), table["score_virus"].to_numpy(), temperature or 1.0)
    for name, values in (("score_other", 1.0 - virus), ("score_virus", virus)):
        table = table.set_column(table.column_names.index(name), name, pa.array(values, pa.float64()))
    return table


def uncertain_chunks(predictions: pa.Table, temperature: float | None, min_confidence: float) -> Counter[str]:
    """Chunks in the abstain band, by record: those whose calibrated confidence in either call is too low."""
    chunks = chunk_calls(calibrated_scores(predictions, temperature))
    virus = chunk_probability(chunks)
    unsure = np.maximum(virus, 1.0 - virus) < min_confidence
    return Counter(chunks.filter(pa.array(unsure))["record_id"].to_pylist())


def length_range(length_nt: int, bounds: tuple[int, ...]) -> str:
    """The range a record's length lies in, e.g. "1,000 to 2,999 nt"."""
    above = next((bound for bound in bounds if length_nt < bound), None)
    below = max((bound for bound in bounds if bound <= length_nt), default=0)
    return f"{below:,} nt and more" if above is None else f"{below:,} to {above - 1:,} nt"


def _first_nt(name: str) -> int:
    return int(name.split(" ", 1)[0].replace(",", ""))


def _calibration(table: pa.Table, frames: Scored, temperature: float | None) -> Calibration:
    virus = calibrated_scores(table, temperature)["score_virus"].to_numpy()
    bins = reliability(frames.viral, virus)
    brier = float(np.mean((virus - frames.viral) ** 2))
    return Calibration(temperature, brier, expected_calibration_error(bins), tuple(bins))


def _abstention(table: pa.Table, temperature: float | None, min_confidence: float) -> Abstention:
    chunks = levels_of(calibrated_scores(table, temperature))["chunk"]
    sure = np.maximum(chunks.probability, 1.0 - chunks.probability) >= min_confidence
    right = (chunks.called == chunks.viral)[sure]
    return Abstention(min_confidence, len(sure), int(sure.sum()), float(right.mean()) if right.size else None)
