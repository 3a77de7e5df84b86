"""The chunked FASTA of a shard: reads the planned segments of a source into the chunks table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from virnuc_assets.sequences.opening import SourceChanged, open_source
from virnuc_assets.sequences.planning import ShardPlan, rows_at, starts_of
from virnuc_assets.sequences.reading import read_records
from virnuc_assets.storage.places import file_state
from virnuc_assets.storage.schemas import chunks_schema


class ChunkReader:
    """Reads the chunks of a source's shards: one pass over the file, as long as they are asked for in its order.

    No more of the file is in memory than one shard's bases, however long a record is.
    """

    def __init__(self, path: Path, planned_sha256: str, chunk_length: int) -> None:
        self._path, self._sha256, self._chunk_length = path, planned_sha256, chunk_length
        self._state: tuple[int, ...] | None = None
        self._rewind()

    def table(self, segments: pa.Table) -> pa.Table:
        """Chunks of one shard, in the order of its segments, which are rows of a plan.

        Raises:
            SourceChanged: the file is not the one that was planned, or was written to since.
        """
        self._require_planned()
        segments = segments.filter(pc.greater(segments["end_chunk"], segments["first_chunk"]))
        lengths, first, end = (segments[name].to_numpy() for name in ("length_nt", "first_chunk", "end_chunk"))
        segment = np.repeat(np.arange(len(first)), end - first)  # (chunks,) and so what follows
        last = np.cumsum(end - first) - 1  # (segments,)
        index = np.arange(len(segment)) - (last - end + 1)[segment]  # 0-based, in the record
        starts = starts_of(index, lengths[segment], self._chunk_length)
        ends = np.minimum(starts + self._chunk_length, lengths[segment])
        begins, stops = starts[last - (end - first) + 1], ends[last]
        asked = zip(segments["number"].to_pylist(), begins.tolist(), stops.tolist(), strict=True)
        symbols = b"".join([self._region(*region) for region in asked])
        self._require_planned()
        moved = (np.cumsum(stops - begins) - stops)[segment]  # from places in the record to places in the symbols
        places = zip((starts + moved).tolist(), (ends + moved).tolist(), strict=True)
        offsets = pa.py_buffer(np.append(0, np.cumsum(ends - starts)).astype(np.int32))
        together = pa.py_buffer(b"".join([symbols[start:stop] for start, stop in places]))
        sequences = pa.StringArray.from_buffers(len(segment), offsets, together)
        record_ids = segments["record_id"].take(pa.array(segment))
        numbers = pa.array(index + 1).cast(pa.string())
        ids = pc.binary_join_element_wise(record_ids, numbers, "_chunk_")
        return pa.table([ids, record_ids, starts, ends, sequences], schema=chunks_schema())

    def _require_planned(self) -> None:
        """Digest the file, once as long as its size and time of change stay; the bases are read after that."""
        if self._path.is_file() and file_state(self._path.stat()) == self._state:
            return
        with open_source(self._path) as source:
            self._rewind()
            source.require_digest(self._sha256)
            self._state = source.state

    def _rewind(self) -> None:
        self._records = _records(self._path)
        self._number = 0  # of the record that is being read
        self._blocks: Iterator[bytes] = iter(())  # its bases that were not read yet
        self._start, self._bases = 0, bytearray()  # those in memory, and where in the record they begin

    def _region(self, number: int, start: int, end: int) -> bytes:
        """Bases `start` to `end` of a record; chunks overlap, so the last region is kept until the next."""
        if (number, start) < (self._number, self._start):
            self._rewind()
        while self._number < number:
            self._number, self._blocks = next(self._records, (number, iter(())))
            self._start, self._bases = 0, bytearray()
        self._forget(start)
        while self._start + len(self._bases) < end:
            block = next(self._blocks, None)
            if block is None:
                raise SourceChanged(
                    f"{self._path}: record {number}: expected at least {end} nt, as planned, found fewer; "
                    "the file is not the one that was planned. Materialize shard_plan again."
                )
            self._bases += block
            self._forget(start)
        return bytes(memoryview(self._bases)[: end - start])

    def _forget(self, start: int) -> None:
        passed = min(max(start - self._start, 0), len(self._bases))
        del self._bases[:passed]
        self._start += passed


def _records(path: Path) -> Iterator[tuple[int, Iterator[bytes]]]:
    with open_source(path) as source:
        for number, (_, blocks) in enumerate(read_records(source), start=1):
            yield number, blocks


def chunk_tables(plan: ShardPlan, shards: Iterable[str] | None = None) -> Iterator[tuple[pa.Table, pa.Table]]:
    """Segments and chunks of every shard, or of some, of a plan of one file."""
    (source,) = plan.sources.values()
    reader = ChunkReader(Path(source.fasta), source.sha256, plan.chunk_length)
    for shard in plan.shards if shards is None else shards:
        segments = rows_at(plan.table, plan.rows_by_shard[shard])
        yield segments, reader.table(segments)


def as_fasta(table: pa.Table, id_column: str, sequence_column: str) -> Iterator[str]:
    """FASTA text of a chunks or frames table, one record at a time."""
    for row_id, sequence in zip(table[id_column].to_pylist(), table[sequence_column].to_pylist(), strict=True):
        yield f">{row_id}\n{sequence}\n"
