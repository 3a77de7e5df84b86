"""Vectors that are known already: a run's sequences, looked up by digest in the embedding tables that lie on disk."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from virnuc_assets.storage.digests import digest_words, one_array
from virnuc_assets.storage.merging import vectors_of
from virnuc_assets.storage.schemas import embeddings_schema, vector_dim
from virnuc_assets.storage.tables import TableMismatch, damage_named, open_table

Digests = NDArray[np.uint64]  # (n, 2), as of `digest_words`
Numbers = NDArray[np.int64]
UNKNOWN = -1
_SLOTS = 16  # of the filter, for each sequence: one in so many of all others passes it
_OpenTable = tuple[pq.ParquetFile, dict[str, Any]]


class KnownVectors:
    """Where the vectors of a run's sequences lie.

    Sequences are told apart by the first half of their digest, and held to all of it before a vector is used: of two
    that share a half the second stays unknown.

    Attributes:
        unknown: how many of the wanted sequences were found in no table so far.
    """

    def __init__(self, wanted: Digests, encoder: Mapping[str, str], warn: Callable[[str], None]) -> None:
        """Nothing is known before tables are scanned.

        Args:
            wanted: (n, 2), all sequences that may be asked for, in any order, each any number of times.
            encoder: fingerprint of the encoder; tables of another are not used.
            warn: told of tables that are passed over because they are damaged.
        """
        self._keys, first = np.unique(wanted[:, 0], return_index=True)  # (k,) ascending
        self._rest = wanted[first, 1]  # (k,)
        self._places = np.full((len(self._keys), 2), UNKNOWN, np.int64)
        self.unknown = len(self._keys)
        bits = math.ceil(math.log2(max(_SLOTS * len(self._keys), 2)))
        self._shift = np.uint64(64 - bits)
        self._filter = np.zeros(1 << bits, np.bool_)
        self._filter[self._keys >> self._shift] = True
        self._encoder, self._warn = dict(encoder), warn
        self._tables: list[Path] = []
        self._kept: dict[int, _OpenTable] = {}
        self._open_files = contextlib.ExitStack()

    def scan(self, paths: Iterable[Path]) -> None:
        """Look for what is still unknown in one table after the other, until nothing is."""
        for path in paths:
            if not self.unknown:
                return
            with self._damage_told(), open_table(path) as (parquet, recipe):
                if self._is_of_the_encoder(parquet, recipe):
                    column = parquet.read(["digest"], use_threads=False).column("digest")
                    self._note(path, digest_words(one_array(column)))

    def keep(self, path: Path) -> None:
        """Hold a table open that is about to be replaced, so that what was found in it stays readable to this run."""
        for number, table in enumerate(self._tables):
            if table == path and number not in self._kept:
                with self._damage_told():
                    self._kept[number] = self._open_files.enter_context(open_table(path))

    def locate(self, digests: Digests) -> Numbers:
        """Number of a table and row in it for each sequence, (n, 2); `UNKNOWN` twice where no table holds it."""
        keys, rows = self._matches(digests)
        places = np.full((len(digests), 2), UNKNOWN, np.int64)
        places[rows] = self._places[keys]
        return places

    def copies(self, places: Numbers, digests: Digests) -> Iterator[tuple[Numbers, NDArray[np.float32]]]:
        """Vectors from the tables that hold them; of each only the parts are read that are needed.

        Args:
            places: (n, 2), as `locate` told them; the unknown are passed over.
            digests: (n, 2), of the same sequences.

        Yields:
            Some of the n, (m,), and their vectors, (m, dim), all finite. A row that is not there any more, since
            another process replaced the table, or that cannot be read, since it is damaged, is among none of them.
        """
        for number in np.unique(places[places[:, 0] != UNKNOWN, 0]).tolist():
            mine = np.flatnonzero(places[:, 0] == number)
            kept = number in self._kept
            opened = contextlib.nullcontext(self._kept[number]) if kept else open_table(self._tables[number])
            with self._damage_told(), damage_named(self._tables[number]), opened as (parquet, recipe):
                if self._is_of_the_encoder(parquet, recipe):
                    for asked, words, vectors in _read_rows(parquet, places[mine, 1]):
                        good = (words == digests[mine[asked]]).all(axis=1) & np.isfinite(vectors).all(axis=1)
                        yield mine[asked[good]], vectors[good]

    def _note(self, path: Path, digests: Digests) -> None:
        keys, rows = self._matches(digests)
        keys, first = np.unique(keys, return_index=True)
        new = self._places[keys, 0] == UNKNOWN
        if new.any():
            self._places[keys[new], 0] = len(self._tables)
            self._places[keys[new], 1] = rows[first[new]]
            self._tables.append(path)
            self.unknown -= int(new.sum())

    def _matches(self, digests: Digests) -> tuple[Numbers, Numbers]:
        """Keys of the wanted among the digests, and in which rows these stand."""
        rows = np.flatnonzero(self._filter[digests[:, 0] >> self._shift])
        keys = np.searchsorted(self._keys, digests[rows, 0])
        keys[keys == len(self._keys)] = 0
        same = (self._keys[keys] == digests[rows, 0]) & (self._rest[keys] == digests[rows, 1])
        return keys[same], rows[same]

    def _is_of_the_encoder(self, parquet: pq.ParquetFile, recipe: Mapping[str, Any]) -> bool:
        if recipe.get("encoder") != self._encoder:
            return False
        schema = parquet.schema_arrow.remove_metadata()
        return "vector" in schema.names and bool(schema == embeddings_schema(vector_dim(schema)))

    @contextlib.contextmanager
    def _damage_told(self) -> Iterator[None]:
        try:
            yield
        except TableMismatch as error:
            self._warn(f"passed over in the search for known vectors: {error}")


def _read_rows(parquet: pq.ParquetFile, rows: Numbers) -> Iterator[tuple[Numbers, Digests, NDArray[np.float32]]]:
    """Some rows of an embeddings table, in parts: which of those asked for, their digests and vectors."""
    groups = [parquet.metadata.row_group(number).num_rows for number in range(parquet.num_row_groups)]
    ends = np.cumsum(groups)
    group_of = np.searchsorted(ends, rows, side="right")
    for group in np.unique(group_of[group_of < len(ends)]).tolist():
        asked = np.flatnonzero(group_of == group)
        part = parquet.read_row_group(group, columns=["digest", "vector"], use_threads=False)
        inside = rows[asked] - (ends[group] - groups[group])
        words = digest_words(one_array(part.column("digest")))
        yield asked, words[inside], vectors_of(part)[inside]
