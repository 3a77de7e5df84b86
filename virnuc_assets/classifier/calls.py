"""Calls of frames, chunks and records from scores (upstream: prediction.py), and calibrated probabilities.

Reads tables, needs no model. Temperature scaling: C. Guo, G. Pleiss, Y. Sun, K. Weinberger, "On Calibration of Modern
Neural Networks", ICML 2017, arXiv:1706.04599. Log-odds are divided by a temperature that is chosen on validation rows:
which of two scores is higher, also among the frames of a chunk, is the same at every temperature.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.optimize import brentq
from scipy.special import expit

VIRUS, OTHERS = "virus", "others"
# VirNucPro stops at the chunk; our call of a sequence: virus if at least this share of its scored chunks is.
MIN_VIRAL_FRACTION = 0.5
# Where all rows are called right, ever lower temperatures are ever likelier; few rows carry no such certainty.
LOWEST, HIGHEST = 0.05, 20.0


def frame_calls(scores: np.ndarray) -> list[str]:
    """Call of each row of (n, 2) scores; VirNucPro's argmax takes the first of equals, so a tie is "others"."""
    return [VIRUS if virus > other else OTHERS for other, virus in scores]


def chunk_calls(predictions: pa.Table) -> pa.Table:
    """VirNucPro's call of a chunk: virus if its highest score_virus is at least its highest score_other.

    Returns:
        chunk_id, record_id, score_other, score_virus (each the highest), call; in order of first appearance.
    """
    highest = _aggregated(predictions, ["chunk_id", "record_id"], [("score_other", "max"), ("score_virus", "max")])
    table = highest.rename_columns({"score_other_max": "score_other", "score_virus_max": "score_virus"})
    call = pc.if_else(pc.greater_equal(table["score_virus"], table["score_other"]), VIRUS, OTHERS)
    return table.select(["chunk_id", "record_id", "score_other", "score_virus"]).append_column("call", call)


def _aggregated(table: pa.Table, keys: Sequence[str], what: Sequence[tuple[str, str]]) -> pa.Table:
    """Aggregates by group, in order of first appearance, which Arrow does not keep."""
    numbered = table.append_column("row", pa.array(np.arange(table.num_rows)))
    found = numbered.group_by(keys, use_threads=False).aggregate([*what, ("row", "min")])
    return found.sort_by("row_min").drop_columns("row_min")


def chunk_numbers(chunk_ids: pa.ChunkedArray) -> np.ndarray:
    """(n,) int64: the place of each chunk in its record, from 1, as its id ends."""
    found = pc.list_element(pc.split_pattern(chunk_ids, "_", max_splits=1, reverse=True), 1)
    return np.asarray(found.cast(pa.int64()))


def chunk_probability(chunks: pa.Table) -> np.ndarray:
    """(n,) float64: a chunk's highest score_virus over the sum of both its highest scores; 0.5 and more is virus."""
    other, virus = (chunks[name].to_numpy().astype(np.float64) for name in ("score_other", "score_virus"))
    return np.asarray(virus / (other + virus))


def are_viral(viral_fraction: np.ndarray) -> np.ndarray:
    """(n,) bool: which records are viral, by the share of viral chunks among those scored (NaN where none is)."""
    return np.asarray(viral_fraction >= MIN_VIRAL_FRACTION)


def record_calls(chunks: pa.Table) -> pa.Table:
    """Our call of a record from those of its scored chunks (`chunk_calls`), in order of first appearance.

    Returns:
        record_id, viral_fraction, call.
    """
    viral = pc.cast(pc.equal(chunks["call"], VIRUS), pa.int64())
    known = chunks.select(["record_id"]).append_column("viral", viral)
    table = _aggregated(known, ["record_id"], [("viral", "mean")]).rename_columns({"viral_mean": "viral_fraction"})
    call = pc.if_else(pa.array(are_viral(table["viral_fraction"].to_numpy())), VIRUS, OTHERS)
    return table.append_column("call", call)


def fit_temperature(log_odds: np.ndarray, viral: np.ndarray) -> float:
    """The temperature at which the rows are likeliest, between `LOWEST` and `HIGHEST`.

    The log-likelihood is concave in the inverse of the temperature, so its slope has at most one root.

    Args:
        log_odds: (n,) natural logarithm of score_virus / score_other, finite.
        viral: (n,) truth, True or 1 for viral.
    """
    margin = np.where(viral, log_odds, -log_odds).astype(np.float64)  # (n,), positive where the call is right

    def slope(sharpness: float) -> float:
        return float(np.mean(margin * expit(-sharpness * margin)))

    if slope(1.0 / HIGHEST) <= 0.0:
        return HIGHEST
    if slope(1.0 / LOWEST) >= 0.0:
        return LOWEST
    return float(1.0 / brentq(slope, 1.0 / HIGHEST, 1.0 / LOWEST, xtol=1e-14, rtol=1e-14))


def calibrated(score_other: np.ndarray, score_virus: np.ndarray, temperature: float | None) -> np.ndarray:
    """Probability of virus (n,) float64 from softmax scores (n,) each, 0 and 1 where a score is 0.

    It is one for as many viral as host rows, as the validation rows are.
    """
    with np.errstate(divide="ignore"):  # the logarithm of 0 is minus infinity, which is meant
        log_odds = np.log(score_virus, dtype=np.float64) - np.log(score_other, dtype=np.float64)
    return np.asarray(expit(log_odds / (temperature or 1.0)), dtype=np.float64)


def calibrated_scores(table: pa.Table, temperature: float | None) -> pa.Table:
    """The table with calibrated probabilities as scores; no call changes."""
    virus = calibrated(table["score_other"].to_numpy(), table["score_virus"].to_numpy(), temperature)
    for name, values in (("score_other", 1.0 - virus), ("score_virus", virus)):
        table = table.set_column(table.column_names.index(name), name, pa.array(values, pa.float64()))
    return table
