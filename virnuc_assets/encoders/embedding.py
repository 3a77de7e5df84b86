"""The one embedding loop: sequences in, pooled vectors in the same order out."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from virnuc_assets.encoders.loading import Encoder, TokenIds
from virnuc_assets.encoders.machine import give_freed_memory_back
from virnuc_assets.encoders.registry import check_alphabet
from virnuc_assets.errors import VirnucError
from virnuc_assets.storage.digests import sequence_digests
from virnuc_assets.storage.schemas import embeddings_schema, frames_schema
from virnuc_assets.storage.tables import read_windows

_EXAMPLES = 5

Progress = Callable[[int], None]
Vectors = NDArray[np.float32]
T = TypeVar("T")


class NonFiniteError(VirnucError):
    """An encoder returned NaN or infinity."""


def embed(
    encoder: Encoder, sequences: Sequence[str], progress: Progress | None = None, ids: Sequence[str] | None = None
) -> Vectors:
    """Embed upper-case sequences in groups of equally many tokens: (n, dim) float32, in input order.

    Args:
        encoder: Its token budget bounds a batch, a longer sequence is a batch of its own.
        sequences: Of the encoder's alphabet.
        progress: Called after each batch with the count of sequences done in it.
        ids: Names of the sequences for error messages; their positions without.

    Raises:
        AlphabetError: a sequence is empty, has unknown letters, or is DNA for a protein encoder.
        NonFiniteError: a vector is not finite.
    """
    return _embed_tokens(encoder, _tokenize(encoder, sequences, ids), progress, ids)


def embed_windows(
    encoder: Encoder, windows: Iterable[pa.Table | pa.RecordBatch], progress: Progress | None = None
) -> Generator[pa.Table, None, None]:
    """Embed the column of frames tables that the encoder reads; the next window is read and tokenized meanwhile.

    Yields:
        For each window (with frame_id and `encoder.spec.column`) a table with frame_id, digest (of the whole sequence,
        also where it was cut) and vector fixed_size_list<float32>[dim]; rows in the order of the frames.

    Raises:
        AlphabetError, NonFiniteError: as `embed`, naming frame ids.
    """

    def prepared() -> Iterator[tuple[list[TokenIds], list[str], pa.Array]]:
        for window in windows:
            ids = window.column("frame_id").to_pylist()
            sequences = window.column(encoder.spec.column).to_pylist()
            yield _tokenize(encoder, sequences, ids), ids, sequence_digests(sequences)

    with closing(_read_ahead(prepared())) as windows_ahead:
        for token_ids, ids, digests in windows_ahead:
            found = _embed_tokens(encoder, token_ids, progress, ids)
            vector = pa.FixedSizeListArray.from_arrays(pa.array(found.reshape(-1)), encoder.dim)
            columns = [pa.array(ids, pa.string()), digests, vector]
            yield pa.Table.from_arrays(columns, schema=embeddings_schema(encoder.dim))


def read_frames(encoder: Encoder, path: Path) -> Iterator[pa.Table]:
    """What `embed_windows` reads of a frames table, in windows of the encoder's size."""
    columns = ["frame_id", encoder.spec.column]
    return read_windows(path, encoder.window_rows, frames_schema(), columns=columns)


def _tokenize(encoder: Encoder, sequences: Sequence[str], ids: Sequence[str] | None) -> list[TokenIds]:
    spec = encoder.spec
    check_alphabet(sequences, spec.alphabet, spec.name, ids)
    return encoder.tokenize([sequence[: spec.max_length] for sequence in sequences])


def _embed_tokens(
    encoder: Encoder, token_ids: list[TokenIds], progress: Progress | None, ids: Sequence[str] | None
) -> Vectors:
    """Run batches of equally many tokens, shortest first."""
    lengths = np.array([len(tokens) for tokens in token_ids], dtype=np.int64)
    order = np.argsort(lengths, kind="stable")
    ends = np.searchsorted(lengths[order], lengths[order], side="right")  # of each row's group of equal lengths
    vectors = np.empty((len(order), encoder.dim), dtype=np.float32)
    row = 0
    while row < len(order):
        length = int(lengths[order[row]])
        stop = min(int(ends[row]), row + max(encoder.token_budget // max(length, 1), 1))
        rows = order[row:stop]
        batch = torch.from_numpy(np.stack([token_ids[each] for each in rows])).to(encoder.device)  # (b, l)
        found = _forward(encoder, batch)
        if found is None:
            encoder.halve_budget(batch)
            continue
        vectors[rows] = found
        row = stop
        if progress is not None:
            progress(len(rows))
        if not encoder.on_gpu:
            give_freed_memory_back()
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        names = ", ".join(ids[row] if ids is not None else f"sequence {row}" for row in bad[:_EXAMPLES])
        raise NonFiniteError(
            f"{encoder.spec.name}: {len(bad)} of {len(vectors)} vectors hold NaN or infinity: {names}"
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


def _read_ahead(items: Iterator[T]) -> Generator[T, None, None]:
    """The items, each made in a thread while the one before it is used."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        upcoming = pool.submit(next, items, None)
        while (item := upcoming.result()) is not None:
            upcoming = pool.submit(next, items, None)
            yield item
