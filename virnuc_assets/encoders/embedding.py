"""The one embedding loop: sequences in, pooled vectors in the same order out."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from virnuc_assets.encoders.loading import Encoder
from virnuc_assets.encoders.machine import give_freed_memory_back
from virnuc_assets.encoders.registry import check_alphabet
from virnuc_assets.errors import VirnucError
from virnuc_assets.storage.digests import sequence_digests
from virnuc_assets.storage.schemas import embeddings_schema, frames_schema
from virnuc_assets.storage.tables import read_windows

_EXAMPLES = 5

Progress = Callable[[int], None]
Vectors = NDArray[np.float32]


class NonFiniteError(VirnucError):
    """An encoder returned NaN or infinity."""


def embed(
    encoder: Encoder, sequences: Sequence[str], progress: Progress | None = None, ids: Sequence[str] | None = None
) -> Vectors:
    """Embed upper-case sequences in groups of equally many tokens, shortest first: (n, dim) float32, in input order.

    Args:
        encoder: Its token budget bounds a batch, a longer sequence is a batch of its own.
        sequences: Of the encoder's alphabet.
        progress: Called after each batch with the count of sequences done in it.
        ids: Names of the sequences for error messages; their positions without.

    Raises:
        AlphabetError: a sequence is empty, has unknown letters, or is DNA for a protein encoder.
        NonFiniteError: a vector is not finite.
    """
    spec = encoder.spec
    check_alphabet(sequences, spec.alphabet, spec.name, ids)
    token_ids = encoder.tokenize([sequence[: spec.max_length] for sequence in sequences])
    lengths = np.array([len(tokens) for tokens in token_ids], dtype=np.int64)
    order = np.argsort(lengths, kind="stable")
    ends = np.searchsorted(lengths[order], lengths[order], side="right")  # of each row's group of equal lengths
    vectors = np.empty((len(order), encoder.dim), dtype=np.float32)
    row = 0
    while row < len(order):
        length = int(lengths[order[row]])
        rows = order[row : min(int(ends[row]), row + max(encoder.token_budget // max(length, 1), 1))]
        batch = torch.from_numpy(np.stack([token_ids[each] for each in rows])).to(encoder.device)  # (b, l)
        found = _forward(encoder, batch)
        if found is None:
            encoder.halve_budget(batch)
            continue
        vectors[rows] = found
        row += len(rows)
        if progress is not None:
            progress(len(rows))
        if not encoder.on_gpu:
            give_freed_memory_back()
    if len(bad := np.flatnonzero(~np.isfinite(vectors).all(axis=1))):
        names = ", ".join(ids[row] if ids is not None else f"sequence {row}" for row in bad[:_EXAMPLES])
        raise NonFiniteError(
            f"{spec.name}: {len(bad)} of {len(vectors)} vectors hold NaN or infinity: {names}"
            f"{', ...' if len(bad) > _EXAMPLES else ''}; the weights are damaged or the precision is too narrow: run "
            "`virnuc doctor --verify`, or set precision = 'fp32' under [encoding]"
        )
    return vectors


def _forward(encoder: Encoder, batch: Tensor) -> Vectors | None:
    """Vectors (b, d) of a batch; None where memory ran out."""
    try:
        return encoder.forward(batch).cpu().numpy()  # type: ignore[no-any-return]
    except torch.OutOfMemoryError:
        return None  # after which what the traceback refers to on the device is freed


def embed_windows(
    encoder: Encoder, windows: Iterable[pa.Table | pa.RecordBatch], progress: Progress | None = None
) -> Generator[pa.Table, None, None]:
    """Embed the column of frames tables that the encoder reads, one window in memory at a time.

    Yields:
        For each window (with frame_id and `encoder.spec.column`) a table with frame_id, digest (of the whole sequence,
        also where it was cut) and vector fixed_size_list<float32>[dim]; rows in the order of the frames.

    Raises:
        AlphabetError, NonFiniteError: as `embed`, naming frame ids.
    """
    for window in windows:
        ids, sequences = (window.column(name).to_pylist() for name in ("frame_id", encoder.spec.column))
        vectors = pa.array(embed(encoder, sequences, progress, ids).reshape(-1))
        vector = pa.FixedSizeListArray.from_arrays(vectors, encoder.dim)
        columns = [pa.array(ids, pa.string()), sequence_digests(sequences), vector]
        yield pa.Table.from_arrays(columns, schema=embeddings_schema(encoder.dim))


def read_frames(encoder: Encoder, path: Path) -> Iterator[pa.Table]:
    """What `embed_windows` reads of a frames table, in windows of the encoder's size."""
    columns = ["frame_id", encoder.spec.column]
    return read_windows(path, encoder.window_rows, frames_schema(), columns=columns)
