"""A source file that is replaced, grows or shrinks after or while it is read is refused, and nothing is written."""

import gzip
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from virnuc_assets.sequences import chunk_table as chunk_table_module
from virnuc_assets.sequences import planning
from virnuc_assets.sequences.chunk_table import ChunkReader
from virnuc_assets.sequences.opening import SequenceFileError, SourceChanged, SourceFile, open_source
from virnuc_assets.sequences.planning import Plan, plan_source
from virnuc_assets.sequences.reading import Header, read_letters, read_records
from virnuc_assets.storage.tables import write_table

CHUNK_LENGTH = 300
SMALL = b">a\n" + b"ACGTT" * 100 + b"\n>b\n" + b"GGCTA" * 70 + b"\n"
# Longer than every buffer on the way, so that the file is still being read while its first records are handed out.
LARGE = b"".join(b">r%d\n" % number + b"ACGTTGCATT" * 6000 + b"\n" for number in range(60))
MORE = b">late\n" + b"TTGCA" * 100 + b"\n"


def planned_file(folder: Path, content: bytes, shard_chunks: int = 10_000) -> tuple[Path, Plan]:
    path = folder / "source.fa"
    path.write_bytes(content)
    return path, plan_source(path, "source", CHUNK_LENGTH, shard_chunks)


@pytest.fixture(params=["small", "large", "small gzip", "large gzip"])
def planned(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Plan]:
    content = SMALL if "small" in request.param else LARGE
    return planned_file(tmp_path, gzip.compress(content, 0) if "gzip" in request.param else content)


def compressed_like(path: Path, content: bytes) -> bytes:
    return gzip.compress(content, 0) if path.read_bytes()[:2] == b"\x1f\x8b" else content


def append(path: Path) -> None:
    more = compressed_like(path, MORE)
    with path.open("ab") as handle:
        handle.write(more)


def replace_one_base(path: Path) -> None:
    content = path.read_bytes()
    plain = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    path.write_bytes(compressed_like(path, plain[:-2] + b"C\n"))


def replace_by_other_records(path: Path) -> None:
    path.write_bytes(compressed_like(path, MORE))


def overwrite(path: Path) -> None:
    """Records already handed out are the old ones, those to come are new: a mixture that no file ever held."""
    with path.open("r+b") as handle:
        handle.seek(len(LARGE) - 500)
        handle.write(b"C" * 400)


def cut(path: Path) -> None:
    with path.open("r+b") as handle:
        handle.truncate(len(LARGE) // 2 + 1000)


def chunks_of(path: Path, plan: Plan) -> pa.Table:
    return ChunkReader(path, plan.sha256, CHUNK_LENGTH).table(plan.pieces)


def refused(path: Path, plan: Plan, table: Path) -> None:
    with pytest.raises(SourceChanged) as caught:
        write_table(table, chunks_of(path, plan), {})
    assert str(path) in str(caught.value)
    assert "Materialize shard_plan again" in str(caught.value)
    assert not table.exists()


def test_an_unchanged_source_is_read(planned: tuple[Path, Plan]) -> None:
    path, plan = planned
    assert chunks_of(path, plan).num_rows == sum(piece.chunks for piece in plan.pieces) > 3


@pytest.mark.parametrize("change", [append, replace_one_base, replace_by_other_records])
def test_changed_after_planning(planned: tuple[Path, Plan], change: Callable[[Path], None], tmp_path: Path) -> None:
    path, plan = planned
    change(path)
    refused(path, plan, tmp_path / "chunks.parquet")


@pytest.mark.parametrize(
    ("change", "content"),
    [(append, SMALL), (append, gzip.compress(LARGE, 0)), (overwrite, LARGE), (cut, LARGE)],
    ids=["append", "append to gzip", "overwrite", "cut"],
)
def test_changed_between_two_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None], content: bytes
) -> None:
    path, plan = planned_file(tmp_path, content)

    def changing(source: SourceFile) -> Iterator[Header | bytes]:
        events = read_letters(source)
        yield next(events)
        yield next(events)
        change(path)
        yield from events

    monkeypatch.setattr(chunk_table_module, "read_letters", changing)
    refused(path, plan, tmp_path / "chunks.parquet")


def test_removed_after_planning(planned: tuple[Path, Plan]) -> None:
    path, plan = planned
    path.unlink()
    with pytest.raises(SequenceFileError, match="no such sequence file"):
        chunks_of(path, plan)


def test_records_that_come_between_the_last_one_and_the_digest_are_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is still being copied: planned with a digest of more than was counted, its tail would be lost."""
    path = tmp_path / "source.fa"
    path.write_bytes(SMALL)

    def growing(source: SourceFile) -> Iterator[Header | bytes]:
        yield from read_letters(source)
        append(path)

    monkeypatch.setattr(planning, "read_letters", growing)
    try:
        plan = plan_source(path, "source", CHUNK_LENGTH, 10_000)
    except SourceChanged:
        return
    with open_source(path) as source:
        now = [record.id for record in read_records(source)]
        same_file = source.digest() == plan.sha256
    assert not same_file or [piece.record_id for piece in plan.pieces] == now


def test_a_file_that_is_replaced_between_two_shards_is_refused(tmp_path: Path) -> None:
    """Also where the records of the second shard are as they were: the file is not the one that was planned."""
    path, plan = planned_file(tmp_path, SMALL, 2)
    reader = ChunkReader(path, plan.sha256, CHUNK_LENGTH)
    assert reader.table(plan.pieces[:1]).num_rows == 2
    path.write_bytes(SMALL + b"\n")
    with pytest.raises(SourceChanged, match="Materialize shard_plan again"):
        reader.table(plan.pieces[1:])
    path.write_bytes(SMALL)
    assert reader.table(plan.pieces[1:]).column("record_id").to_pylist() == ["b", "b"]


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 2, 1, 0], [2, 2, 0, 3, 1]])
def test_shards_are_read_in_any_order(tmp_path: Path, order: list[int]) -> None:
    path, plan = planned_file(tmp_path, b">long\n" + b"ACGTTGCATTAC" * 200_000 + b"\n>short\nACGT\n", 2100)
    whole = chunks_of(path, plan)
    shards = [[piece for piece in plan.pieces if piece.shard == shard] for shard in plan.shards]
    assert len(shards) == 4
    reader = ChunkReader(path, plan.sha256, CHUNK_LENGTH)
    for index in order:
        assert reader.table(shards[index]) == whole.slice(2100 * index, 2100)
