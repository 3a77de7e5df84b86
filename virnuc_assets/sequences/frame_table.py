"""Open frames of a chunks table, with the evidence that training rows need and a count of all that is dropped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from virnuc_assets.sequences.catalogue import Label
from virnuc_assets.sequences.cds import occur_inside
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
from virnuc_assets.storage.schemas import STATUSES, frames_schema

# What becomes of a frame beyond what its own bases decide.
_AMBIGUOUS, _NO_CDS = EMPTY + 1, EMPTY + 2
_NAMES = dict(zip((OPEN, STOPPED, EMPTY, _AMBIGUOUS, _NO_CDS), STATUSES, strict=True))
# The reason for a chunk without a kept frame: the first of these that one of its frames has.
_CHUNK_STATUS = (OPEN, _NO_CDS, _AMBIGUOUS, STOPPED, EMPTY)
_WINDOW = 1024  # chunks whose arrays stay in the processor's cache
_NONE, _NO_BASES = np.empty(0, np.int64), np.empty(0, np.uint8)


@dataclass(frozen=True)
class Truth:
    """What is known of reference records: one label, and by record id the group and, if annotated, the CDS proteins."""

    label: Label
    groups: Mapping[str, str]
    proteins: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def open_frames(chunks: pa.Table, truth: Truth | None) -> tuple[pa.Table, pa.Table]:
    """Frames table of a shard, and for each of its records chunks and frames counted by what became of them.

    Kept are stop-free, non-empty frames of every chunk, in chunk order, F1 to F3 before R1 to R3. For reference data
    (`truth` given) chunks with an ambiguity code are left out, and a frame of an annotated record is kept only if its
    protein occurs inside one of the record's CDS translations.
    """
    status = np.empty((chunks.num_rows, FRAMES_PER_CHUNK), np.uint8)
    # Of some open frames: 6 · the chunk's row + the frame's index; codes and lengths of nucleotides and of proteins.
    parts = [(_NONE, _NO_BASES, _NONE, _NO_BASES, _NONE)]
    for rows, symbols, lengths in _windows(chunks["sequence"]):
        frames = SixFrames(symbols, lengths)
        status[rows] = frames.status
        if truth is not None:
            status[rows[frames.ambiguous]] = _AMBIGUOUS
        for frame in range(FRAMES_PER_CHUNK):
            kept = np.flatnonzero(status[rows, frame] == OPEN)
            residues, lengths_aa = frames.proteins(frame, kept)
            bases, lengths_nt = frames.nucleotides(frame, kept, lengths_aa)
            parts.append((rows[kept] * FRAMES_PER_CHUNK + frame, bases, lengths_nt, residues, lengths_aa))
    at, bases, lengths_nt, residues, lengths_aa = (np.concatenate(values) for values in zip(*parts, strict=True))
    order = np.argsort(at)
    nucleotides, proteins = _strings(bases, lengths_nt).take(order), _strings(residues, lengths_aa).take(order)
    table = _table(at := at[order], nucleotides, proteins, chunks, truth)
    if truth is not None:
        supported = _supported(table, truth)
        status.reshape(-1)[at[~supported]] = _NO_CDS
        table = table.filter(pa.array(supported))
    return table, _counts(chunks["record_id"], status)


def _windows(sequences: pa.ChunkedArray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Windows of chunks as `SixFrames` takes them: row numbers (k,), bases (k, longest) uint8, lengths in nt (k,)."""
    all_lengths = pc.binary_length(sequences).to_numpy()
    for rest in range(CODON_NT):
        of_rest = np.flatnonzero(all_lengths % CODON_NT == rest)
        of_rest = of_rest[np.argsort(all_lengths[of_rest], kind="stable")]  # so that hardly anything is filled up
        for start in range(0, len(of_rest), _WINDOW):
            rows = of_rest[start : start + _WINDOW]
            lengths = all_lengths[rows]
            bases = np.frombuffer(one_array(sequences.take(pa.array(rows))).buffers()[2] or b"", np.uint8)
            bases, longest = bases[: lengths.sum()], int(lengths[-1])
            if lengths[0] < longest:
                filled = np.zeros((len(rows), longest), np.uint8)
                filled[np.arange(longest) < lengths[:, None]] = bases
                bases = filled
            yield rows, bases.reshape(len(rows), longest), lengths


def _strings(symbols: np.ndarray, lengths: np.ndarray) -> pa.StringArray:
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.StringArray.from_buffers(len(lengths), pa.py_buffer(offsets), pa.py_buffer(symbols))


def _table(
    at: np.ndarray, nucleotides: pa.Array, proteins: pa.Array, chunks: pa.Table, truth: Truth | None
) -> pa.Table:
    """Rows of all open frames; without nulls where the truth is known."""
    chunk, frame = np.divmod(at, FRAMES_PER_CHUNK)
    of_chunk = chunks.select(["chunk_id", "record_id"]).take(pa.array(chunk))
    records = of_chunk["record_id"]
    names = pa.array(FRAME_NAMES).take(pa.array(frame))
    columns = {
        "frame_id": pc.binary_join_element_wise(of_chunk["chunk_id"], names, ""),
        "chunk_id": of_chunk["chunk_id"],
        "record_id": records,
        "strand": pa.array(STRANDS).take(pa.array(frame // CODON_NT)),
        "frame": pa.array((frame % CODON_NT + 1).astype(np.int8)),
        "nucleotides": nucleotides,
        "protein": proteins,
        **dict.fromkeys(("label", "group", "annotated"), pa.nulls(len(chunk))),
    }
    if truth is not None:
        codes, ids = _codes(records)
        columns["label"] = pa.repeat(truth.label, len(chunk))
        columns["group"] = pa.array([truth.groups[name] for name in ids], pa.string()).take(pa.array(codes))
        columns["annotated"] = pc.is_in(records, pa.array(list(truth.proteins), pa.string()))
    return pa.table(columns).cast(frames_schema())


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
    of_chunk = np.select([(status == one).any(axis=1) for one in _CHUNK_STATUS], _CHUNK_STATUS)
    for one, word in _NAMES.items():
        for what, found in (("chunks", of_chunk == one), ("frames", (status == one).sum(axis=1))):
            columns[f"{what}_{word}"] = np.bincount(codes, weights=found, minlength=len(names)).astype(np.int64)
    return pa.table(columns)
