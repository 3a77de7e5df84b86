"""Embeddings of a shard: a vector that is in any table of the encoder is copied, any other sequence embedded once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from virnuc_assets.storage.digests import digest_words, one_array, sequence_digests
from virnuc_assets.storage.merging import ScratchVectors, vector_column, vectors_of
from virnuc_assets.storage.schemas import embeddings_schema
from virnuc_assets.storage.tables import TableMismatch, damage_named, open_table, read_windows

# Rows read and written at a time, whatever the encoder's windows: tables of larger parts are scanned faster.
_WINDOW_ROWS = 256
_UNKNOWN = -1

# From windows with frame_id and sequence to tables with frame_id, digest and vector, row for row.
Embed = Callable[[Iterator[pa.Table]], Generator[pa.Table, None, None]]
Digests = NDArray[np.uint64]  # (n, 2), as of `digest_words`
Numbers = NDArray[np.int64]
Vectors = NDArray[np.float32]


def read_sequences(frames: Path, column: str) -> Iterator[pa.Table]:
    """The columns of a frames table that an encoder reads, in windows; at least one."""
    return read_windows(frames, _WINDOW_ROWS, require={"table": "frames"}, columns=["frame_id", column])


class KnownVectors:
    """Where the vectors of a run's sequences are: number of a table and row in it, -1 and -1 of those in no table.

    They are found by the first half of their digest; all of it is compared before a vector is used.
    """

    def __init__(self, wanted: Digests, encoder: Mapping[str, str], warn: Callable[[str], None]) -> None:
        """Nothing is known before tables are scanned; those of an encoder of another fingerprint are not used.

        Args:
            wanted: (n, 2), all sequences that may be asked for, in any order, each any number of times.
            encoder: its fingerprint.
            warn: called with what is wrong with tables that are skipped because they are damaged.
        """
        import pandas as pd

        self._index = pd.Index(np.unique(wanted[:, 0]))
        self._places = np.full((len(self._index) + 1, 2), _UNKNOWN, np.int64)  # the last is of all others
        self._encoder, self._warn = dict(encoder), warn
        self._tables: list[Path] = []
        self._kept: dict[int, tuple[pq.ParquetFile, dict[str, Any]]] = {}
        self._open_files = contextlib.ExitStack()

    @property
    def unknown(self) -> int:
        """How many of the wanted sequences were found in no table so far."""
        return int((self._places[:-1, 0] == _UNKNOWN).sum())

    def scan(self, paths: Iterable[Path]) -> None:
        """Look for what is still unknown in the digests of one table after the other, until nothing is."""
        for path in paths:
            if not self.unknown:
                return
            with self._damage_reported(), open_table(path) as (parquet, provenance):
                if provenance.get("encoder") == self._encoder:
                    column = parquet.read(["digest"], use_threads=False).column("digest")
                    wanted = self._index.get_indexer(digest_words(one_array(column))[:, 0])
                    (rows,) = np.nonzero((wanted != _UNKNOWN) & (self._places[wanted, 0] == _UNKNOWN))
                    self._places[wanted[rows], 0], self._places[wanted[rows], 1] = len(self._tables), rows
                    self._tables.append(path)

    def keep(self, path: Path) -> None:
        """Hold a table open that is about to be replaced, so that what was found in it stays readable to this run."""
        for number, table in enumerate(self._tables):
            if table == path and number not in self._kept:
                with self._damage_reported():
                    self._kept[number] = self._open_files.enter_context(open_table(path))

    def copies(self, digests: Digests) -> Iterator[tuple[Numbers, Vectors]]:
        """Which of some sequences, (n, 2), are in tables, (m,), and their vectors, (m, dim), table by table.

        What another process replaced since, or is damaged, is not among them.
        """
        places: Numbers = self._places[self._index.get_indexer(digests[:, 0])]
        for number in np.unique(places[places[:, 0] != _UNKNOWN, 0]).tolist():
            mine, path, kept = np.flatnonzero(places[:, 0] == number), self._tables[number], self._kept.get(number)
            opened = contextlib.nullcontext(kept) if kept else open_table(path)
            with self._damage_reported(), damage_named(path), opened as (parquet, provenance):
                if provenance.get("encoder") == self._encoder:
                    for asked, words, vectors in _read_rows(parquet, places[mine, 1]):
                        same = (words == digests[mine[asked]]).all(axis=1)
                        yield mine[asked[same]], vectors[same]

    @contextlib.contextmanager
    def _damage_reported(self) -> Iterator[None]:
        try:
            yield
        except TableMismatch as error:
            self._warn(f"skipped in the search for known vectors: {error}")


def _read_rows(parquet: pq.ParquetFile, rows: Numbers) -> Iterator[tuple[Numbers, Digests, Vectors]]:
    """Some rows of an embeddings table, in parts: which of those asked for, their digests and vectors."""
    groups = [parquet.metadata.row_group(number).num_rows for number in range(parquet.num_row_groups)]
    ends = np.cumsum(groups)
    group_of = np.searchsorted(ends, rows, side="right")
    for group in np.unique(group_of[group_of < len(ends)]).tolist():
        asked = np.flatnonzero(group_of == group)
        part = parquet.read_row_group(group, columns=["digest", "vector"], use_threads=False)
        inside = rows[asked] - (ends[group] - groups[group])
        yield asked, digest_words(one_array(part.column("digest")))[inside], vectors_of(part)[inside]


class ShardVectors:
    """The vectors of one shard, in the order of its frames."""

    def __init__(self, frames: Path, column: str, longest: int | None, known: KnownVectors, embed: Embed) -> None:
        """Read the digests of the sequences in a column of the frames; an encoder reads `longest` of each, None = all.

        The shard's sequences are among those that `known` was made for; `embed` is started if there is any to embed.
        """
        self._frames, self._column, self._known, self._embed = frames, column, known, embed
        ids, digests, self.truncated = [], [], 0  # frames of whose sequence only the beginning is read
        for window in read_sequences(frames, column):
            sequences = window.column(column).to_pylist()
            ids += window.column("frame_id").chunks
            digests.append(sequence_digests(sequences))
            self.truncated += sum(longest is not None and len(each) > longest for each in sequences)
        encoded = pa.concat_arrays(digests).dictionary_encode()
        self._ids, self._digests = pa.chunked_array(ids, pa.string()), encoded.dictionary
        self._number = encoded.indices.to_numpy()  # (n,) of each frame's sequence
        self._first = np.unique(self._number, return_index=True)[1]  # (distinct,)
        self.distinct = len(self._first)  # sequences, numbered as they first occur
        self.embedded = 0  # sequences that were given to the encoder so far

    def tables(self) -> Iterator[pa.Table]:
        """The embeddings table in windows, after all was copied or embedded; at least one."""
        if not self.distinct:
            yield from self._embed(read_sequences(self._frames, self._column))
        words, vectors, missing = digest_words(self._digests), ScratchVectors(), np.ones(self.distinct, bool)
        for rows, copied in self._known.copies(words):
            vectors.write(rows.tolist(), copied)
            missing[rows] = False
        new = np.flatnonzero(missing)
        with contextlib.closing(self._embed(self._sequences(new))) as embedded:
            for table in embedded if len(new) else ():
                rows = new[self.embedded : self.embedded + table.num_rows]
                if one_array(table.column("digest")) != self._digests.take(rows):
                    break
                vectors.write(rows.tolist(), vectors_of(table))
                self.embedded += len(rows)
        if vectors.count < self.distinct:
            raise TableMismatch(f"{self._frames}: replaced while it was embedded; materialize the embeddings again")
        for start in range(0, len(self._number), _WINDOW_ROWS):
            here = self._number[start : start + _WINDOW_ROWS]
            ids = self._ids[start : start + _WINDOW_ROWS].combine_chunks()
            columns = [ids, self._digests.take(here), vector_column(vectors.read(here.tolist()))]
            yield pa.Table.from_arrays(columns, schema=embeddings_schema(vectors.dim))

    def _sequences(self, numbers: Numbers) -> Iterator[pa.Table]:
        """The first frames of some distinct sequences, ascending."""
        rows, start = self._first[numbers], 0
        for window in read_sequences(self._frames, self._column):
            inside = rows[(rows >= start) & (rows < start + window.num_rows)] - start
            if len(inside):
                yield window.take(inside)
            start += window.num_rows
