"""Open frames of a chunks table, with the evidence that training rows need and a count of all that is dropped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from virnuc_assets.sequences.catalogue import Label
from virnuc_assets.sequences.cds import occur_inside
from virnuc_assets.sequences.frame_rule import STOP_FREE, FrameRule
from virnuc_assets.sequences.translation import (
    CODON_NT,
    EMPTY,
    FRAME_NAMES,
    FRAMES_PER_CHUNK,
    OPEN,
    STOPPED,
    STRANDS,
    SixFrames,
)
from virnuc_assets.storage.digests import one_array
from virnuc_assets.storage.schemas import STATUSES

# What becomes of a frame beyond what its own bases decide.
_AMBIGUOUS, _NO_CDS = EMPTY + 1, EMPTY + 2
_NAMES = dict(zip((OPEN, STOPPED, EMPTY, _AMBIGUOUS, _NO_CDS), STATUSES, strict=True))
# The reason for a chunk without a kept frame: the first of these that one of its frames has.
_CHUNK_STATUS = (OPEN, _NO_CDS, _AMBIGUOUS, STOPPED, EMPTY)
_WINDOW = 1024  # chunks whose arrays stay in the processor's cache


@dataclass(frozen=True)
class Truth:
    """What is known of reference records: one label, and by record id the group and, if annotated, the CDS proteins."""

    label: Label
    groups: Mapping[str, str]
    proteins: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def open_frames(chunks: pa.Table, truth: Truth | None, rule: FrameRule = STOP_FREE) -> tuple[pa.Table, pa.Table]:
    """Frames table of a shard, and for each of its records chunks and frames counted by what became of them.

    Kept are the open frames of every chunk by the rule, in chunk order, F1 to F3 before R1 to R3; a frame whose longest
    stretch is shorter than the rule asks for is counted as dropped for its stops. For reference data (`truth` given)
    chunks with an ambiguity code are left out, and a frame of an annotated record is kept only if its protein occurs
    inside one of the record's CDS translations.
    """
    status = np.empty((chunks.num_rows, FRAMES_PER_CHUNK), np.uint8)
    # Of some open frames: 6 · the chunk's row + the frame's index, and where in the chunk their codons are.
    places = [np.empty((3, 0), np.int64)]
    sequences = {name: [pa.array([], pa.string())] for name in ("nucleotides", "protein")}
    for start in range(0, chunks.num_rows, _WINDOW):
        of_window = status[start : start + _WINDOW]
        frames = SixFrames(chunks["sequence"][start : start + _WINDOW])
        found = frames.longest(rule.min_orf_aa) if rule.finds_stretches else frames.whole()
        of_window[:] = found.status
        if truth is not None:
            of_window[frames.ambiguous] = _AMBIGUOUS
        kept = np.flatnonzero(of_window == OPEN)
        begins, codons = found.begins.reshape(-1)[kept], found.codons.reshape(-1)[kept]
        places.append(np.stack([FRAMES_PER_CHUNK * start + kept, begins, begins + CODON_NT * codons]))
        for strings, cut in zip(sequences.values(), frames.cut(found, kept), strict=True):
            strings.append(cut)
    at, *span = np.concatenate(places, axis=1)
    table = _table(at, span, sequences, chunks, truth).select(rule.schema.names).cast(rule.schema)
    if truth is not None:
        supported = _supported(table, truth)
        status.reshape(-1)[at[~supported]] = _NO_CDS
        table = table.filter(pa.array(supported))
    return table, _counts(chunks["record_id"], status)


def _table(
    at: np.ndarray,
    span: Sequence[np.ndarray],
    sequences: Mapping[str, list[pa.Array]],
    chunks: pa.Table,
    truth: Truth | None,
) -> pa.Table:
    """Rows of all open frames, with the columns of either rule; without nulls where the truth is known."""
    chunk, frame = np.divmod(at, FRAMES_PER_CHUNK)
    of_chunk = chunks.select(["chunk_id", "record_id", "start_nt"]).take(pa.array(chunk))
    records = of_chunk["record_id"]
    names = pa.array(FRAME_NAMES).take(pa.array(frame))
    columns = {
        "frame_id": pc.binary_join_element_wise(of_chunk["chunk_id"], names, ""),
        "chunk_id": of_chunk["chunk_id"],
        "record_id": records,
        "strand": pa.array(STRANDS).take(pa.array(frame // CODON_NT)),
        "frame": pa.array((frame % CODON_NT + 1).astype(np.int8)),
        **{name: pc.add(of_chunk["start_nt"], nt) for name, nt in zip(("start_nt", "end_nt"), span, strict=True)},
        **{name: pa.chunked_array(parts) for name, parts in sequences.items()},
        **dict.fromkeys(("label", "group", "annotated"), pa.nulls(len(chunk))),
    }
    if truth is not None:
        codes, ids = _codes(records)
        columns["label"] = pa.repeat(truth.label, len(chunk))
        columns["group"] = pa.array([truth.groups[name] for name in ids], pa.string()).take(pa.array(codes))
        columns["annotated"] = pc.is_in(records, pa.array(list(truth.proteins), pa.string()))
    return pa.table(columns)


def _supported(table: pa.Table, truth: Truth) -> np.ndarray:
    """Which frames have CDS evidence, or belong to a record that cannot give any; (frames,) bool."""
    supported = np.ones(table.num_rows, bool)
    codes, record_ids = _codes(table["record_id"])
    proteins = one_array(table["protein"])
    for code, record_id in enumerate(record_ids):
        if record_id in truth.proteins:
            rows = np.flatnonzero(codes == code)
            queries = proteins.take(pa.array(rows)).cast(pa.binary()).to_pylist()
            supported[rows] = occur_inside(queries, truth.proteins[record_id])
    return supported


def _codes(strings: pa.ChunkedArray) -> tuple[np.ndarray, list[str]]:
    encoded = one_array(strings).dictionary_encode()
    return encoded.indices.to_numpy(), encoded.dictionary.to_pylist()


def _counts(record_ids: pa.ChunkedArray, status: np.ndarray) -> pa.Table:
    """For each record, chunks and frames by what became of them."""
    codes, names = _codes(record_ids)
    columns: dict[str, object] = {"record_id": pa.array(names, pa.string())}
    of_chunk = np.array(_CHUNK_STATUS)[np.argsort(_CHUNK_STATUS)[status].min(axis=1)]
    chunks, frames = (
        np.bincount(at.reshape(-1), minlength=len(names) * len(_NAMES)).reshape(-1, len(_NAMES))
        for at in (len(_NAMES) * codes + of_chunk, len(_NAMES) * codes[:, None] + status)
    )
    for one, word in _NAMES.items():
        columns[f"chunks_{word}"], columns[f"frames_{word}"] = chunks[:, one], frames[:, one]
    return pa.table(columns)
