"""The chunked FASTA of a shard: reads the planned pieces of a source into the chunks table."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from virnuc_assets.sequences.opening import FileState, SourceChanged, file_state, open_source
from virnuc_assets.sequences.planning import Piece, chunk_starts
from virnuc_assets.sequences.reading import read_letters
from virnuc_assets.sequences.records import Header
from virnuc_assets.storage.schemas import chunks_schema

_NONE = np.empty(0, np.int64)


class ChunkReader:
    """Reads the chunks of a source's shards: one pass over the file, as long as they are asked for in its order.

    No more of the file is held than one shard's letters, however long a record is.
    """

    def __init__(self, path: Path, planned_sha256: str, chunk_length: int) -> None:
        """Prepare; nothing is read yet.

        Args:
            path: the source file.
            planned_sha256: digest of the file when it was planned.
            chunk_length: nt.
        """
        self._path, self._sha256, self._chunk_length = path, planned_sha256, chunk_length
        self._state: FileState | None = None
        self._rewind()

    def table(self, pieces: Iterable[Piece]) -> pa.Table:
        """Chunks of one shard, in the order of its pieces.

        Raises:
            SourceChanged: the file is not the one that was planned, or was written to since.
            SequenceFileError: as `read_letters`.
        """
        self._require_planned()
        planned = [piece for piece in pieces if piece.chunks]
        starts = [_starts(piece, self._chunk_length) for piece in planned]
        ends = [np.minimum(s + self._chunk_length, p.length_nt) for s, p in zip(starts, planned, strict=True)]
        windows: list[bytes] = []
        for piece, begins, stops in zip(planned, starts, ends, strict=True):
            first, letters = begins[0], self._region(piece, int(begins[0]), int(stops[-1]))
            pairs = zip((begins - first).tolist(), (stops - first).tolist(), strict=True)
            windows += [letters[begin:stop] for begin, stop in pairs]
        self._require_planned()
        return _table(planned, np.concatenate([_NONE, *starts]), np.concatenate([_NONE, *ends]), b"".join(windows))

    def _require_planned(self) -> None:
        """Digest the file, once as long as its size and time of change stay; the letters are read after that."""
        if self._path.is_file() and file_state(self._path.stat()) == self._state:
            return
        with open_source(self._path) as source:
            self._rewind()
            source.require_digest(self._sha256)
            self._state = source.state

    def _rewind(self) -> None:
        self._events = _events(self._path)
        self._number = 0  # of the record that is being read
        self._start, self._letters = 0, bytearray()  # where the letters that are held begin in it

    def _region(self, piece: Piece, start: int, end: int) -> bytes:
        """Letters `start` to `end` of the piece's record; chunks overlap, so the last region is held until the next."""
        if (piece.number, start) < (self._number, self._start):
            self._rewind()
        while self._number < piece.number or self._start + len(self._letters) < end:
            event = next(self._events, None)
            if event is None or (isinstance(event, Header) and event.number > piece.number):
                raise SourceChanged(
                    f"{self._path}: record {piece.record_id!r}: planned with {piece.length_nt} nt, found fewer; "
                    "the file is not the one that was planned. Materialize shard_plan again."
                )
            if isinstance(event, Header):
                self._number, self._start, self._letters = event.number, 0, bytearray()
            elif self._number == piece.number:
                self._letters += event
                self._forget(start)
        self._forget(start)
        return bytes(memoryview(self._letters)[: end - start])

    def _forget(self, start: int) -> None:
        passed = min(max(start - self._start, 0), len(self._letters))
        del self._letters[:passed]
        self._start += passed


def _starts(piece: Piece, chunk_length: int) -> np.ndarray:
    return chunk_starts(piece.first_chunk, piece.end_chunk, piece.length_nt, chunk_length)


def _table(pieces: Sequence[Piece], starts: np.ndarray, ends: np.ndarray, letters: bytes) -> pa.Table:
    """Rows of all pieces; `letters` are those of all chunks, one after the other."""
    offsets = np.concatenate([[0], np.cumsum(ends - starts)]).astype(np.int32)
    numbers = (range(piece.first_chunk + 1, piece.end_chunk + 1) for piece in pieces)
    prefixes = [f"{piece.record_id}_chunk_" for piece in pieces]
    ids = [f"{prefix}{number}" for prefix, of_piece in zip(prefixes, numbers, strict=True) for number in of_piece]
    rows = np.repeat(np.arange(len(pieces)), [piece.chunks for piece in pieces])
    columns = [
        pa.array(ids, pa.string()),
        pa.array([piece.record_id for piece in pieces], pa.string()).take(pa.array(rows)),
        pa.array(starts),
        pa.array(ends),
        pa.StringArray.from_buffers(len(ids), pa.py_buffer(offsets), pa.py_buffer(letters)),
    ]
    return pa.Table.from_arrays(columns, schema=chunks_schema())


def _events(path: Path) -> Iterator[Header | bytes]:
    with open_source(path) as source:
        yield from read_letters(source)


def chunk_tables(
    path: Path, pieces: Iterable[Piece], chunk_length: int, planned_sha256: str
) -> Iterator[tuple[list[Piece], pa.Table]]:
    """Pieces and chunks of every shard of a plan; arguments and errors as of `ChunkReader`."""
    reader = ChunkReader(path, planned_sha256, chunk_length)
    for _, group in itertools.groupby(sorted(pieces, key=lambda piece: piece.shard), key=lambda piece: piece.shard):
        shard = list(group)
        yield shard, reader.table(shard)


def as_fasta(table: pa.Table, id_column: str, sequence_column: str) -> Iterator[str]:
    """FASTA text of a chunks or frames table, one record at a time."""
    for row_id, sequence in zip(
        table.column(id_column).to_pylist(), table.column(sequence_column).to_pylist(), strict=True
    ):
        yield f">{row_id}\n{sequence}\n"
