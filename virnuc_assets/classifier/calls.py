"""Calls of frames, chunks and records from scores (upstream: prediction.py), and the table that a sample gets.

Reads tables, needs no model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from virnuc_assets.classifier.calibration import calibrated
from virnuc_assets.errors import VirnucError
from virnuc_assets.storage.layout import RECORDS_FILE
from virnuc_assets.storage.schemas import LEDGER_COUNTS
from virnuc_assets.text import spreadsheet_cell, spreadsheet_text

VIRUS, OTHERS = "virus", "others"
# VirNucPro stops at the chunk; our call of a sequence: virus if at least this share of its scored chunks is.
MIN_VIRAL_FRACTION = 0.5

_CALLED = {"chunks": "chunks_scored", "viral_chunks": "chunks_viral"}
# With those scored, they add up to all chunks, and to six frames a chunk.
_DROPPED = [name for name in LEDGER_COUNTS if "dropped" in name]
_RECORDS_SCHEMA = pa.schema(
    {
        "record_id": pa.string(),
        "length_nt": pa.int64(),
        "call": pa.string(),
        "viral_fraction": pa.float64(),
        "chunks": pa.int64(),
        "chunks_scored": pa.int64(),
        "chunks_viral": pa.int64(),
        "chunks_uncertain": pa.int64(),
        "frames_scored": pa.int64(),
        "disposition": pa.string(),
        "reason": pa.string(),
        **dict.fromkeys(_DROPPED, pa.int64()),
    }
)


def frame_calls(scores: np.ndarray) -> list[str]:
    """Call of each row of (n, 2) scores; VirNucPro's argmax takes the first of equals, so a tie is "others"."""
    return [VIRUS if virus > other else OTHERS for other, virus in scores]


def chunk_calls(predictions: pa.Table) -> pa.Table:
    """VirNucPro's call of a chunk: virus if its highest score_virus is at least its highest score_other.

    Returns:
        chunk_id, record_id, score_other, score_virus (each the highest), call; in order of first appearance.
    """
    # Threads would change the order of the groups.
    grouped = predictions.group_by(["chunk_id", "record_id"], use_threads=False)
    highest = grouped.aggregate([("score_other", "max"), ("score_virus", "max")])
    table = highest.rename_columns({"score_other_max": "score_other", "score_virus_max": "score_virus"})
    call = pc.if_else(pc.greater_equal(table["score_virus"], table["score_other"]), VIRUS, OTHERS)
    return table.select(["chunk_id", "record_id", "score_other", "score_virus"]).append_column("call", call)


def chunk_probability(chunks: pa.Table) -> np.ndarray:
    """(n,) float64: a chunk's highest score_virus over the sum of both its highest scores; 0.5 and more is virus."""
    other, virus = (chunks[name].to_numpy().astype(np.float64) for name in ("score_other", "score_virus"))
    return np.asarray(virus / (other + virus))


def record_calls(chunks: pa.Table) -> pa.Table:
    """Our call of a record from those of its scored chunks (`chunk_calls`), in order of first appearance."""
    viral = pc.cast(pc.equal(chunks["call"], VIRUS), pa.int64())
    counted = chunks.select(["record_id"]).append_column("viral", viral)
    table = counted.group_by("record_id", use_threads=False).aggregate([("viral", "count"), ("viral", "sum")])
    fraction = pc.divide(pc.cast(table["viral_sum"], pa.float64()), pc.cast(table["viral_count"], pa.float64()))
    call = pc.if_else(pc.greater_equal(fraction, MIN_VIRAL_FRACTION), VIRUS, OTHERS)
    return pa.table(
        {
            "record_id": table["record_id"],
            "chunks": table["viral_count"],
            "viral_chunks": table["viral_sum"],
            "viral_fraction": fraction,
            "call": call,
        }
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


def sample_records(chunks: pa.Table, ledger: pa.Table, uncertain: Mapping[str, int]) -> pa.Table:
    """A row for every record of the ledger, in its order: the call of a scored one, the reason of a skipped one.

    `chunks` are of all records (`chunk_calls`), `uncertain` their counts in the abstain band (`uncertain_chunks`).
    """
    calls = record_calls(chunks).rename_columns(_CALLED).to_pandas()
    calls["chunks_uncertain"] = calls["record_id"].map(uncertain).fillna(0)
    calls["disposition"] = "scored"  # a record that was left out may have the id of one that was scored
    lines = ledger.rename_columns({"frames_kept": "frames_scored"}).to_pandas()
    lines = lines.merge(calls, on=["record_id", "disposition"], how="left")
    if len(unscored := lines[(lines["disposition"] == "scored") & lines["call"].isna()]):
        raise VirnucError(
            f"{len(unscored)} records of the ledger are scored, but have no predictions, e.g. "
            f"{unscored['record_id'].iloc[0]}; materialize the predictions again"
        )
    counts = ["chunks_scored", "chunks_viral", "chunks_uncertain"]
    lines[counts] = lines[counts].apply(pd.to_numeric).fillna(0).astype("int64")
    lines[["call", "reason"]] = lines[["call", "reason"]].astype(object).where(lines[["call", "reason"]].notna(), None)
    return pa.Table.from_pandas(lines[_RECORDS_SCHEMA.names], schema=_RECORDS_SCHEMA, preserve_index=False, safe=True)


def write_records(folder: Path, records: pa.Table) -> None:
    """Write `records.tsv` into a folder."""
    cells = records.to_pandas()
    for name in ("record_id", "call", "reason"):
        cells[name] = cells[name].map(spreadsheet_cell, na_action="ignore")
    cells.to_csv(folder / RECORDS_FILE, sep="\t", index=False, lineterminator="\n", encoding="utf-8")


def read_record_ids(folder: Path) -> list[str]:
    """Record ids of a written report, in order."""
    with (folder / RECORDS_FILE).open(encoding="utf-8", newline="") as handle:  # the folder may be in an object store
        ids = pd.read_csv(handle, sep="\t", usecols=["record_id"], dtype=str, keep_default_na=False)
    return [spreadsheet_text(each) for each in ids["record_id"]]
