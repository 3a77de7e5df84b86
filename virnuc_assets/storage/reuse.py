"""Embeddings of a shard's frames: a sequence whose vector is known is not embedded, any other once."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from virnuc_assets.storage.digests import digest_words, sequence_digests
from virnuc_assets.storage.known_vectors import UNKNOWN, KnownVectors, Numbers
from virnuc_assets.storage.merging import vectors_of
from virnuc_assets.storage.schemas import embeddings_schema, frames_schema
from virnuc_assets.storage.tables import TableMismatch, read_windows
from virnuc_assets.storage.windows import Rows

# Rows read and written at a time, whatever the encoder's windows: tables of larger parts are scanned faster, and a
# window's vectors are in memory twice.
_WINDOW_ROWS = 256
_TAKEN_ROWS = 128

# From windows with frame_id and sequence to tables with frame_id, digest and vector, row for row.
Embed = Callable[[Iterator[pa.Table]], Generator[pa.Table, None, None]]
Vectors = NDArray[np.float32]


def read_sequences(frames: Path, column: str) -> Iterator[pa.Table]:
    """The columns of a frames table that an encoder reads, in windows; at least one."""
    return read_windows(frames, _WINDOW_ROWS, frames_schema(), columns=["frame_id", column])


class ShardVectors:
    """The vectors of one shard, in the order of its frames.

    Attributes:
        distinct: distinct sequences of the shard.
        embedded: sequences that were given to the encoder so far.
        truncated: frames of whose sequence an encoder reads only the beginning.
    """

    def __init__(self, frames: Path, column: str, longest: int | None, known: KnownVectors, embed: Embed) -> None:
        """Read the frames, for the digests of their sequences.

        Args:
            frames: the shard's frames table.
            column: that the encoder reads.
            longest: letters that the encoder reads of a sequence; None = all.
            known: where vectors lie; the shard's sequences are among those that it was made for.
            embed: started only if there is something to embed.
        """
        self._frames, self._column, self._known, self._embed = frames, column, known, embed
        ids, digests, self.truncated = [], [], 0
        for window in read_sequences(frames, column):
            sequences = window.column(column).to_pylist()
            ids += window.column("frame_id").chunks
            digests.append(sequence_digests(sequences))
            self.truncated += sum(longest is not None and len(each) > longest for each in sequences)
        encoded = pa.concat_arrays(digests).dictionary_encode()
        self._ids = pa.chunked_array(ids, pa.string())
        self._digests = encoded.dictionary  # of the distinct sequences, numbered as they first occur
        self._number = encoded.indices.to_numpy()  # (n,) of each frame's sequence
        self._first = np.unique(self._number, return_index=True)[1]  # (distinct,) row, ascending
        self._last = np.zeros(len(self._first), np.int64)
        self._last[self._number] = np.arange(len(self._number))
        self._places = known.locate(digest_words(self._digests))
        self._again: dict[int, Vectors] = {}  # what was embedded and will occur again
        self.distinct, self.embedded = len(self._first), 0

    def tables(self) -> Iterator[pa.Table]:
        """The embeddings table in windows; at least one.

        Raises:
            TableMismatch: the frames were replaced while they were embedded.
        """
        if not len(self._number):
            yield from self._embed(read_sequences(self._frames, self._column))
        with closing(self._embed(self._sequences(np.flatnonzero(self._unknown(slice(None)))))) as embedded:
            coming = Rows(embedded)
            for start in range(0, len(self._number), _WINDOW_ROWS):
                yield self._window(start, coming)

    def _window(self, start: int, coming: Rows) -> pa.Table:
        """The rows from `start` on; `coming` are the vectors of what is embedded, from the first that is needed on."""
        window = slice(start, start + _WINDOW_ROWS)
        numbers, of = np.unique(self._number[window], return_inverse=True)
        vectors, missing = np.empty((0, 0), np.float32), np.ones(len(numbers), np.bool_)
        for rows, part in self._parts(numbers, start, coming, missing):
            if not vectors.size:
                vectors = np.empty((len(numbers), part.shape[1]), np.float32)
            vectors[rows], missing[rows] = part, False
        self._keep_what_recurs(numbers, vectors, window.stop)
        flat = pa.array((vectors if len(of) == len(numbers) and (np.diff(of) == 1).all() else vectors[of]).reshape(-1))
        column = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
        columns = [self._ids[window].combine_chunks(), self._digests.take(self._number[window]), column]
        return pa.Table.from_arrays(columns, schema=embeddings_schema(vectors.shape[1]))

    def _parts(
        self, numbers: Numbers, start: int, coming: Rows, missing: NDArray[np.bool_]
    ) -> Iterator[tuple[Numbers, Vectors]]:
        """Some of a window's distinct sequences, which are ascending, and their vectors, until none is `missing`."""
        embedded, here = self._unknown(numbers), self._first[numbers] >= start
        yield from self._known.copies(self._places[numbers], digest_words(self._digests)[numbers])
        if len(seen := np.flatnonzero(embedded & ~here)):
            yield seen, np.stack([self._again[number] for number in numbers[seen].tolist()])
        new = np.flatnonzero(embedded & here)
        for rows in np.split(new, range(_TAKEN_ROWS, len(new), _TAKEN_ROWS)) if len(new) else ():
            yield rows, self._checked(coming.take(len(rows)), numbers[rows])
        if len(lost := np.flatnonzero(missing)):  # its table was replaced since it was located
            with closing(self._embed(self._sequences(numbers[lost]))) as tables:
                yield lost, self._checked(pa.concat_tables(tables), numbers[lost])
            self._places[numbers[lost]] = UNKNOWN

    def _keep_what_recurs(self, numbers: Numbers, vectors: Vectors, end: int) -> None:
        for row in np.flatnonzero(self._unknown(numbers) & (self._last[numbers] > self._first[numbers])).tolist():
            number = int(numbers[row])
            if self._last[number] >= end:
                self._again[number] = vectors[row].copy()
            else:
                self._again.pop(number, None)

    def _unknown(self, numbers: Numbers | slice) -> NDArray[np.bool_]:
        unknown: NDArray[np.bool_] = self._places[numbers, 0] == UNKNOWN
        return unknown

    def _sequences(self, numbers: Numbers) -> Iterator[pa.Table]:
        """The first frames of some distinct sequences, ascending."""
        rows, start = self._first[numbers], 0
        for window in read_sequences(self._frames, self._column):
            inside = rows[(rows >= start) & (rows < start + window.num_rows)] - start
            if len(inside):
                yield window.take(inside)
            start += window.num_rows

    def _checked(self, table: pa.Table | None, numbers: Numbers) -> Vectors:
        """Vectors of a table that holds these sequences and no others."""
        if table is None or table.column("digest").combine_chunks() != self._digests.take(numbers):
            raise TableMismatch(f"{self._frames}: replaced while it was embedded; materialize the embeddings again")
        self.embedded += len(numbers)
        return vectors_of(table)
