"""Tables on disk: whole or absent, with their provenance, and refused where they are not what is required."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from virnuc_assets.storage.layout import Layout
from virnuc_assets.storage.merging import vectors_of
from virnuc_assets.storage.schemas import embeddings_schema, features_schema, frames_schema
from virnuc_assets.storage.tables import (
    TableMismatch,
    TableWriter,
    asset_of,
    content_digest,
    in_windows,
    is_made_by,
    open_table,
    read_provenance,
    read_rows,
    read_schema,
    read_table,
    read_windows,
    require_content,
    require_table,
    write_table,
)

from .examples import PROVENANCE, embeddings, files, rot


@pytest.mark.parametrize("rows", [0, 1, 7])
def test_round_trip(path: Path, rows: int) -> None:
    write_table(path, embeddings(rows), PROVENANCE)
    table = read_table(path, embeddings_schema(4), PROVENANCE)
    assert table.equals(embeddings(rows))
    assert table.schema == embeddings_schema(4)
    assert table.schema.metadata is None
    assert read_provenance(path) == PROVENANCE
    assert read_rows(path) == rows
    assert read_schema(path) == embeddings_schema(4)
    assert read_schema(path).metadata is None
    assert files(path) == [path.name]


def test_a_table_of_other_columns_is_not_appended(path: Path) -> None:
    with pytest.raises((pa.ArrowException, ValueError)), TableWriter(path, embeddings_schema(4), PROVENANCE) as writer:
        writer.write(embeddings(3))
        writer.write(embeddings(3, dim=5))
    assert files(path) == []


def test_every_mismatch_is_listed_with_the_remedy(path: Path) -> None:
    write_table(path, embeddings(2), PROVENANCE)
    fingerprint = {"encoder": "esm2_3b", "dim": 4, "versions": {"torch": "2.14.0"}, "precision": "fp32"}
    required = {**PROVENANCE, "fingerprint": fingerprint, "inputs": {"frames": "beef"}, "note": "new"}
    with pytest.raises(TableMismatch) as caught:
        read_table(path, features_schema(8), required)
    message = re.sub("<(item|element):", "<VALUE:", str(caught.value))
    expected = [
        "column chunk_id: expected string, found no such column",
        "column record_id: expected string, found no such column",
        "column label: expected string, found no such column",
        "column group: expected string, found no such column",
        "column digest: expected no such column, found fixed_size_binary[16]",
        "column vector: expected fixed_size_list<VALUE: float>[8], found fixed_size_list<VALUE: float>[4]",
        "inputs.frames: expected beef, found f00d",
        "fingerprint.encoder: expected esm2_3b, found fastesm2",
        "fingerprint.versions.torch: expected 2.14.0, found 2.13.0",
        "fingerprint.precision: expected fp32, found nothing",
        "note: expected new, found None",
    ]
    assert [line for line in expected if line not in message] == []
    assert message.count("expected ") == len(expected), "something equal is listed as a mismatch"
    assert "Materialize reference/fastesm2_650_embeddings (partition lambda-000001) again" in message


def test_only_what_is_required_is_compared(path: Path) -> None:
    write_table(path, embeddings(2), PROVENANCE)
    require_table(path, require={"fingerprint": {"versions": {"torch": "2.13.0"}}})
    require_table(path, require={})
    require_table(
        path, embeddings_schema(4), {**PROVENANCE, "lengths": (300, 500)}
    )  # compared as the JSON that it became
    write_table(path, embeddings(2).select(["digest", "frame_id", "vector"]), PROVENANCE)
    with pytest.raises(TableMismatch, match="order of columns: expected frame_id, digest, vector, found digest"):
        require_table(path, embeddings_schema(4))


def test_a_missing_table_names_the_asset_to_materialize(path: Path) -> None:
    for reading in (read_table, require_table, read_provenance, content_digest, read_schema):
        with pytest.raises(TableMismatch, match=r"materialize reference/fastesm2_650_embeddings \(partition lam"):
            reading(path)
    assert asset_of(path) == "reference/fastesm2_650_embeddings (partition lambda-000001)"


def test_a_parquet_file_of_someone_else_is_refused(path: Path) -> None:
    path.parent.mkdir(parents=True)
    pq.write_table(embeddings(2), path)
    for reading in (read_provenance, content_digest):
        with pytest.raises(TableMismatch, match="virnuc_assets"):
            reading(path)


@pytest.mark.parametrize("content", [b"", b"PAR1 and no more", b"nothing like a table, but long enough for a footer"])
def test_a_damaged_file_is_refused_with_a_remedy(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(TableMismatch, match="again"):
        read_table(path, embeddings_schema(4), PROVENANCE)
    assert not is_made_by(path, PROVENANCE)  # so that it is made again, and does not stop its shard for good


def test_a_bit_that_flipped_is_noticed_by_whatever_reads_it(path: Path) -> None:
    vectors = np.random.default_rng(1).standard_normal((40, 16), np.float32)
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), 16)
    table = embeddings(40, dim=16).set_column(2, embeddings_schema(16).field("vector"), column)
    write_table(path, table, PROVENANCE)
    assert read_table(path) == table
    rot(path, vectors[25])
    unpacked = vectors_of(pq.read_table(path))
    assert np.flatnonzero((unpacked != vectors).any(axis=1)).tolist() == [25]  # without a checksum it is a number

    def read_group(path: Path) -> None:
        with open_table(path) as (parquet, _):
            parquet.read_row_group(0, columns=["vector"])

    def read_batches(path: Path) -> None:
        with open_table(path) as (parquet, _):
            list(parquet.iter_batches(10))

    for reading in (read_table, lambda path: list(read_windows(path, 10)), read_group, read_batches, require_content):
        with pytest.raises(TableMismatch) as caught:
            reading(path)
        assert str(caught.value).startswith(f"{path}: damaged")
        assert "remove it, and materialize reference/fastesm2_650_embeddings (partition lam" in str(caught.value)
    assert [*read_windows(path, 40, columns=["frame_id"])] == [table.select(["frame_id"])]


def test_columns_are_stored_as_they_are_read_fastest(path: Path) -> None:
    schema = frames_schema(located=True)
    numbers = {"frame": 1, "start_nt": 0, "end_nt": 9, "annotated": None}
    rows = [{name: numbers.get(name, "x") for name in schema.names}] * 3
    found = {}
    for table in (pa.Table.from_pylist(rows, schema=schema), embeddings(3)):
        write_table(path, table, PROVENANCE)
        group = pq.read_metadata(path).row_group(0)
        found |= {column.path_in_schema: column for column in map(group.column, range(group.num_columns))}
    unpacked = {name for name, column in found.items() if column.compression == "UNCOMPRESSED"}
    assert unpacked == {"nucleotides", "protein"}
    assert {found[name].compression for name in set(found) - unpacked} == {"LZ4"}
    counts = {name for name, column in found.items() if "DELTA_BINARY_PACKED" in column.encodings}
    assert counts == {"start_nt", "end_nt"}
    repeated = {name for name, column in found.items() if column.has_dictionary_page}
    assert repeated == {"record_id", "strand", "frame", "label", "group"}


def test_is_made_by_exactly_this_provenance(path: Path) -> None:
    assert not is_made_by(path, PROVENANCE)
    write_table(path, embeddings(2), PROVENANCE)
    assert is_made_by(path, PROVENANCE)
    assert is_made_by(path, dict(reversed(PROVENANCE.items())))
    assert not is_made_by(path, {**PROVENANCE, "more": 1})
    assert not is_made_by(path, {name: value for name, value in PROVENANCE.items() if name != "note"})
    assert not is_made_by(path, {**PROVENANCE, "fingerprint": {**PROVENANCE["fingerprint"], "dim": 5}})  # type: ignore[dict-item]
    assert not is_made_by(path, {**PROVENANCE, "lengths": [500, 300]})


def test_a_table_written_in_batches_is_read_in_windows_of_some_columns(path: Path) -> None:
    with TableWriter(path, embeddings_schema(4), PROVENANCE) as writer:
        for start in range(0, 42, 7):
            writer.write(embeddings(7, start=start))
        assert not path.exists()
    assert writer.rows == 42
    found = list(read_windows(path, 10, embeddings_schema(4), PROVENANCE, columns=["frame_id", "vector"]))
    assert max(table.num_rows for table in found) <= 10
    assert all(table.schema.metadata is None for table in found)
    assert pa.concat_tables(found).equals(embeddings(42).select(["frame_id", "vector"]))
    write_table(path, embeddings(0), PROVENANCE)
    assert [table.num_rows for table in read_windows(path, 10, columns=["frame_id"])] == [0]
    with pytest.raises(TableMismatch):
        next(read_windows(path, 2, frames_schema()))


def tables(sizes: list[int], asked: list[int] | None = None) -> Iterator[pa.Table]:
    start = 0
    for number, size in enumerate(sizes):
        if asked is not None:
            asked.append(number)
        yield pa.table({"n": pa.array(range(start, start + size), pa.int64())})
        start += size


@given(st.lists(st.integers(0, 7), max_size=6), st.integers(1, 9))
def test_the_rows_are_the_same_in_windows_of_one_size(sizes: list[int], rows: int) -> None:
    found = [window.column("n").to_pylist() for window in in_windows(tables(sizes), rows)]
    whole = list(range(sum(sizes)))
    expected = [whole[start : start + rows] for start in range(0, len(whole), rows)]
    assert found == (expected or [[]] * bool(sizes))


@pytest.mark.parametrize(("rows", "needed"), [(3, [0]), (4, [0, 1]), (9, [0, 1, 2])])
def test_tables_are_asked_for_when_their_rows_are_needed(rows: int, needed: list[int]) -> None:
    asked: list[int] = []
    assert next(in_windows(tables([3, 3, 3], asked), rows)).num_rows == rows
    assert asked == needed


def test_a_window_keeps_no_table_that_was_used_up() -> None:
    rows, before = 100_000, pa.total_allocated_bytes()
    held = [pa.total_allocated_bytes() - before for _ in in_windows(tables([rows] * 4), rows)]
    assert max(held) < 1.5 * 8 * rows


def test_a_shard_is_a_file_in_its_assets_folder() -> None:
    layout = Layout(Path("/project/var"), "miniature")
    path = layout.table("reference", "fastesm2_650_embeddings", "viral-0007")
    assert path == Path("/project/var") / "miniature/reference/fastesm2_650_embeddings/viral-0007.parquet"
    assert asset_of(path) == "reference/fastesm2_650_embeddings (partition viral-0007)"
    assert asset_of(layout.table("samples", "ledger", "a-b-000007")) == "samples/translated_proteins (partition a-b)"
    assert [asset_of(layout.plan("reference")), asset_of(layout.plan("samples", "a-b"))] == [
        *("reference/shard_plan", "samples/shard_plan")
    ]
