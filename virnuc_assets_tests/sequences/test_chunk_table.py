"""Chunks are windows of their records, whatever the shards; a source that changes is refused."""

import gzip
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from virnuc_assets.sequences import chunk_table as chunk_table_module
from virnuc_assets.sequences import planning
from virnuc_assets.sequences.chunk_table import ChunkReader, as_fasta, chunk_tables
from virnuc_assets.sequences.frame_table import open_frames
from virnuc_assets.sequences.ledger import ledger_table, merged_ledger
from virnuc_assets.sequences.opening import SequenceFileError, SourceChanged, SourceFile
from virnuc_assets.sequences.planning import ShardPlan, plan_source
from virnuc_assets.sequences.reading import read_records
from virnuc_assets.sequences.records import Header
from virnuc_assets.storage.tables import write_table

CHUNK_LENGTH = 300
SMALL = b">a\n" + b"ACGTT" * 100 + b"\n>b\n" + b"GGCTA" * 70 + b"\n"
# Longer than every buffer on the way, so that the file is still being read while its first records are handed out.
LARGE = b"".join(b">r%d\n" % number + b"ACGTTGCATT" * 6000 + b"\n" for number in range(60))
MIXED = [1200, 0, 1, 499, 1501, 2, 2500, 0, 300, 0]


def planned_file(folder: Path, content: bytes, shard_chunks: int = 10_000) -> tuple[Path, ShardPlan]:
    path = folder / "source.fa"
    path.write_bytes(content)
    return path, plan_source(path, "source", CHUNK_LENGTH, shard_chunks)


def reader_of(plan: ShardPlan) -> ChunkReader:
    (source,) = plan.sources.values()
    return ChunkReader(Path(source.fasta), source.sha256, plan.chunk_length)


def chunks_of(plan: ShardPlan) -> pa.Table:
    return reader_of(plan).table(plan.table)


def test_a_chunk_row_is_its_window_of_the_record(tmp_path: Path) -> None:
    bases = "ACGTTGCATTNACGGATTAC" * 30
    (tmp_path / "s.fa").write_text(f">x.1 of no use\n{bases[:501].lower()}\n")
    plan = plan_source(tmp_path / "s.fa", "s", 500, 10)
    table = reader_of(plan).table(plan.table)
    row = {"record_id": "x.1"}
    assert table.to_pylist() == [
        {"chunk_id": "x.1_chunk_1", **row, "start_nt": 0, "end_nt": 500, "sequence": bases[:500]},
        {"chunk_id": "x.1_chunk_2", **row, "start_nt": 250, "end_nt": 501, "sequence": bases[250:501]},
    ]
    assert "".join(as_fasta(table, "chunk_id", "sequence")) == (
        f">x.1_chunk_1\n{bases[:500]}\n>x.1_chunk_2\n{bases[250:501]}\n"
    )


def tables(path: Path, shard_chunks: int, chunk_length: int) -> tuple[pa.Table, pa.Table, pa.Table, int]:
    """Chunks and frames of all shards one after the other, their ledger, and the number of shards."""
    plan = plan_source(path, "s", chunk_length, shard_chunks)
    chunks, frames, ledgers = [], [], []
    for segments, table in chunk_tables(plan):
        chunks.append(table)
        found, counts = open_frames(table, None)
        frames.append(found)
        ledgers.append(ledger_table(segments, counts))
    return pa.concat_tables(chunks), pa.concat_tables(frames), merged_ledger(plan.table, ledgers), len(ledgers)


@pytest.mark.parametrize("chunk_length", [300, 500])
@pytest.mark.parametrize("shard_chunks", [1, 2, 7, 20])
def test_rows_do_not_depend_on_the_shard_size(tmp_path: Path, shard_chunks: int, chunk_length: int) -> None:
    path = tmp_path / "s.fa"
    path.write_text("".join(f">r{number}\n{'ACGTN' * 500:.{length}}\n" for number, length in enumerate(MIXED)))
    *whole, one = tables(path, 10_000, chunk_length)
    *parts, shards = tables(path, shard_chunks, chunk_length)
    assert (one, shards) == (1, -(-whole[0].num_rows // shard_chunks))
    assert [table.to_pylist() for table in parts] == [table.to_pylist() for table in whole]
    assert whole[2].column("record_id").to_pylist() == [f"r{number}" for number in range(len(MIXED))]


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 2, 1, 0], [2, 2, 0, 3, 1]])
def test_shards_are_read_in_any_order(tmp_path: Path, order: list[int]) -> None:
    path, plan = planned_file(tmp_path, b">long\n" + b"ACGTTGCATTAC" * 200_000 + b"\n>short\nACGT\n", 2100)
    whole = chunks_of(plan)
    shards = [plan.table.filter(pc.equal(plan.table["shard"], shard)) for shard in plan.shards]
    assert len(shards) == 4
    reader = reader_of(plan)
    for index in order:
        assert reader.table(shards[index]) == whole.slice(2100 * index, 2100)


def append(path: Path) -> None:
    more = b">late\n" + b"TTGCA" * 100 + b"\n"
    is_packed = path.read_bytes()[:2] == b"\x1f\x8b"
    with path.open("ab") as handle:
        handle.write(gzip.compress(more) if is_packed else more)


def replace_one_base(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-2] + b"C\n")


def overwrite(path: Path) -> None:
    """Records already handed out are the old ones, those to come are new: a mixture that no file ever held."""
    with path.open("r+b") as handle:
        handle.seek(len(LARGE) - 500)
        handle.write(b"C" * 400)


def cut(path: Path) -> None:
    with path.open("r+b") as handle:
        handle.truncate(len(LARGE) // 2 + 1000)


def refused(plan: ShardPlan, table: Path) -> None:
    with pytest.raises(SourceChanged, match="/source.fa: .*Materialize shard_plan again"):
        write_table(table, chunks_of(plan), {})
    assert not table.exists()


@pytest.mark.parametrize("change", [append, replace_one_base])
def test_changed_after_planning(tmp_path: Path, change: Callable[[Path], None]) -> None:
    path, plan = planned_file(tmp_path, LARGE)
    assert chunks_of(plan).num_rows == sum(segment.chunks for segment in plan.segments) > 3
    change(path)
    refused(plan, tmp_path / "chunks.parquet")
    path.unlink()
    with pytest.raises(SequenceFileError, match="no such sequence file"):
        chunks_of(plan)


@pytest.mark.parametrize(
    ("change", "content"),
    [(append, gzip.compress(LARGE, 0)), (overwrite, LARGE), (cut, LARGE)],
    ids=["append", "overwrite", "cut"],
)
def test_changed_between_two_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None], content: bytes
) -> None:
    path, plan = planned_file(tmp_path, content)

    def changing(source: SourceFile) -> Iterator[tuple[Header, Iterator[bytes]]]:
        for number, record in enumerate(read_records(source)):
            if number == 1:
                change(path)
            yield record

    monkeypatch.setattr(chunk_table_module, "read_records", changing)
    refused(plan, tmp_path / "chunks.parquet")


def test_a_file_that_grows_while_it_is_planned_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is still being copied: planned with a digest of more than was counted, its tail would be lost."""

    def growing(source: SourceFile) -> Iterator[tuple[Header, Iterator[bytes]]]:
        yield from read_records(source)
        append(Path(source.name))

    monkeypatch.setattr(planning, "read_records", growing)
    with pytest.raises(SourceChanged, match="was written to while it was read"):
        planned_file(tmp_path, SMALL)


def test_a_file_that_is_replaced_between_two_shards_is_refused(tmp_path: Path) -> None:
    """Also where the records of the second shard are as they were: the file is not the one that was planned."""
    path, plan = planned_file(tmp_path, SMALL, 2)
    reader = reader_of(plan)
    assert reader.table(plan.table.slice(0, 1)).num_rows == 2
    path.write_bytes(SMALL + b"\n")
    with pytest.raises(SourceChanged, match="Materialize shard_plan again"):
        reader.table(plan.table.slice(1))
    path.write_bytes(SMALL)
    assert reader.table(plan.table.slice(1)).column("record_id").to_pylist() == ["b", "b"]
