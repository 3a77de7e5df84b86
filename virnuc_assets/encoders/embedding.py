"""The one embedding loop: sequences in, pooled vectors in the same order out."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

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
from virnuc_assets.storage.merging import vector_column
from virnuc_assets.storage.schemas import embeddings_schema
from virnuc_assets.storage.tables import read_windows

_EXAMPLES = 5

Progress = Callable[[int], None]
T = TypeVar("T")
Vectors = NDArray[np.float32]
Arriving = Callable[[], Vectors]  # waits for vectors that are on their way from a GPU


class NonFiniteError(VirnucError):
    """An encoder returned NaN or infinity."""


@dataclass(frozen=True)
class _Batches:
    """Tokens of sequences one after the other, shortest first, so that a batch is a slice; page-locked for a GPU."""

    token_ids: Tensor  # (sum of lengths,) int64
    lengths: NDArray[np.int64]  # (n,), tokens of each row, ascending
    order: Tensor  # (n,) int64, place of each row among the sequences as they were given


def embed(encoder: Encoder, sequences: Sequence[str], progress: Progress | None = None) -> NDArray[np.float32]:
    """Embed upper-case sequences in groups of equally many tokens: (n, dim) float32, in input order.

    `progress` gets the count of sequences in each batch; in messages, sequences are named by their positions.

    Raises:
        AlphabetError, NonFiniteError: a sequence is not of the encoder's alphabet, or a vector not finite.
    """
    ids = [f"sequence {position}" for position in range(len(sequences))]
    return _finish(encoder, _launch(encoder, _prepare(encoder, sequences, ids), progress), ids)


def embed_windows(
    encoder: Encoder, windows: Iterable[pa.Table | pa.RecordBatch], progress: Progress | None = None
) -> Generator[pa.Table, None, None]:
    """Embeddings table of each window of frames; digests are of whole sequences, also where they were cut.

    Two windows are in memory at once: the next is read and tokenized in a thread while one is computed, and on a GPU a
    window's vectors are checked and converted while the next is computed.

    Raises:
        AlphabetError, NonFiniteError: as `embed`, naming frame ids.
    """

    def prepared() -> Iterator[tuple[_Batches, list[str], pa.Array]]:
        for window in windows:
            ids = window.column("frame_id").to_pylist()
            sequences = window.column(encoder.spec.column).to_pylist()
            yield _prepare(encoder, sequences, ids), ids, sequence_digests(sequences)

    launched: tuple[Arriving, list[str], pa.Array] | None = None
    with closing(_read_ahead(prepared())) as windows_ahead:
        for batches, ids, digests in windows_ahead:
            vectors = _launch(encoder, batches, progress)
            if launched is not None:
                yield _table(encoder, *launched)
            launched = (vectors, ids, digests)
    if launched is not None:
        yield _table(encoder, *launched)


def read_frames(encoder: Encoder, path: Path) -> Iterator[pa.Table]:
    """What `embed_windows` reads of a frames table, in windows of the encoder's size."""
    columns = ["frame_id", encoder.spec.column]
    return read_windows(path, encoder.window_rows, require={"table": "frames"}, columns=columns)


def _prepare(encoder: Encoder, sequences: Sequence[str], ids: Sequence[str]) -> _Batches:
    spec = encoder.spec
    check_alphabet(sequences, spec.alphabet, spec.name, ids)
    token_ids = encoder.tokenize([sequence[: spec.max_length] for sequence in sequences])
    lengths = np.array([len(tokens) for tokens in token_ids], dtype=np.int64)
    order = np.argsort(lengths, kind="stable")
    flat = np.concatenate([token_ids[row] for row in order]) if len(order) else np.empty(0, dtype=np.int64)
    on_host = (torch.from_numpy(flat), torch.from_numpy(order))
    tokens, places = (tensor.pin_memory() for tensor in on_host) if encoder.on_gpu else on_host
    return _Batches(tokens, lengths[order], places)


def _launch(encoder: Encoder, batches: _Batches, progress: Progress | None) -> Arriving:
    """Run every batch; returns what waits for the (n, dim) vectors. Nothing here waits for a GPU."""
    token_ids = batches.token_ids.to(encoder.device, non_blocking=True)
    order = batches.order.to(encoder.device, non_blocking=True)
    rows = len(batches.lengths)
    vectors = torch.empty((rows, encoder.dim), dtype=torch.float32, device=encoder.device)
    ends = np.searchsorted(batches.lengths, batches.lengths, side="right")  # of each row's group of equal lengths
    row = token = 0
    while row < rows:
        length = int(batches.lengths[row])
        stop = min(int(ends[row]), row + max(encoder.token_budget // max(length, 1), 1))
        batch = token_ids[token : token + (stop - row) * length].view(stop - row, length)  # (b, l)
        if not _embedded(encoder, batch, vectors, order[row:stop]):
            encoder.halve_budget(batch)
            continue
        if progress is not None:
            progress(stop - row)
        if not encoder.on_gpu:
            give_freed_memory_back()
        token += (stop - row) * length
        row = stop
    if not encoder.on_gpu:
        return vectors.numpy
    host = torch.empty(vectors.shape, dtype=torch.float32, pin_memory=True).copy_(vectors, non_blocking=True)
    ready = torch.cuda.Event()  # type: ignore[no-untyped-call]
    ready.record()

    def arrived() -> Vectors:
        ready.synchronize()
        return host.numpy()  # type: ignore[no-any-return]

    return arrived


def _embedded(encoder: Encoder, batch: Tensor, vectors: Tensor, places: Tensor) -> bool:
    """Put a batch's vectors into their places; False where memory ran out."""
    try:
        vectors[places] = encoder.forward(batch)  # (b, d)
    except torch.OutOfMemoryError:
        return False  # after which what the traceback refers to on the device is freed
    return True


def _finish(encoder: Encoder, vectors: Arriving, ids: Sequence[str]) -> Vectors:
    found = vectors()
    bad = np.flatnonzero(~np.isfinite(found).all(axis=1))
    if len(bad):
        names = ", ".join(ids[row] for row in bad[:_EXAMPLES])
        raise NonFiniteError(
            f"{encoder.spec.name}: {len(bad)} of {len(found)} vectors hold NaN or infinity: {names}"
            f"{', ...' if len(bad) > _EXAMPLES else ''}; the weights are damaged or the precision is too narrow: run "
            "`virnuc doctor --verify`, or set precision = 'fp32' under [encoding]"
        )
    return found


def _table(encoder: Encoder, vectors: Arriving, ids: list[str], digests: pa.Array) -> pa.Table:
    columns = [pa.array(ids, pa.string()), digests, vector_column(_finish(encoder, vectors, ids))]
    return pa.Table.from_arrays(columns, schema=embeddings_schema(encoder.dim))


def _read_ahead(items: Iterator[T]) -> Generator[T, None, None]:
    """The items, each made in a thread while the one before it is used."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        upcoming = pool.submit(next, items, None)
        while (item := upcoming.result()) is not None:
            upcoming = pool.submit(next, items, None)
            yield item
