"""Records come back from their chunks letter by letter, and whatever crosses the splits is named."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from virnuc_assets.sequences.chunk_table import chunk_tables
from virnuc_assets.sequences.planning import plan_source
from virnuc_assets.settings import SplitSettings
from virnuc_assets.split.leaks import (
    miscounted,
    proteins_in_train_and_test,
    rebuilt_records,
    relatives_apart,
)
from virnuc_assets.storage.schemas import chunks_schema, frames_schema
from virnuc_assets.storage.tables import TableMismatch, read_table, write_table
from virnuc_assets_tests.split.planted import gene

SETTINGS = SplitSettings()


def bases(length: int, seed: int) -> str:
    generator = random.Random(seed)
    return "".join(generator.choice("ACGTN") for _ in range(length))


def chunked(folder: Path, name: str, records: dict[str, str], chunk_length: int, shard_chunks: int) -> dict[str, Path]:
    """Chunks tables of a FASTA file, by shard."""
    fasta = folder / f"{name}.fasta"
    fasta.write_text("".join(f">{record} x\n{sequence}\n" for record, sequence in records.items()))
    plan = plan_source(fasta, name, chunk_length, shard_chunks)
    tables = {}
    for segments, table in chunk_tables(plan):
        shard = segments["shard"][0].as_py()
        tables[shard] = folder / f"{shard}.parquet"
        write_table(tables[shard], table, {"table": "chunks"})
    return tables


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lengths=st.lists(st.integers(1, 2200), min_size=1, max_size=4),
    chunk_length=st.sampled_from([300, 500]),
    shard_chunks=st.integers(1, 4),
)
def test_records_come_back_letter_by_letter(
    tmp_path: Path, lengths: list[int], chunk_length: int, shard_chunks: int
) -> None:
    records = {f"r{number}": bases(length, number) for number, length in enumerate([*lengths, 700])}
    first, second = dict(list(records.items())[:-1]), dict(list(records.items())[-1:])
    # A source whose name is like the key of another's shard comes between its shards, and so between a record's.
    tables = chunked(tmp_path, "a", first, chunk_length, shard_chunks)
    tables |= chunked(tmp_path, "a-000001", second, chunk_length, shard_chunks)
    paths = [tables[shard] for shard in sorted(tables)]
    rebuilt = list(rebuilt_records(paths, {record: len(sequence) for record, sequence in records.items()}))
    assert sorted((record, sequence.decode()) for record, sequence in rebuilt) == sorted(records.items())


def altered(folder: Path, change: Callable[[list[dict[str, Any]]], object]) -> list[tuple[str, bytes]]:
    """What is rebuilt of a record of four chunks whose rows were changed."""
    (path,) = chunked(folder, "a", {"r": bases(1700, 1)}, 500, 10).values()
    change(rows := read_table(path).to_pylist())
    write_table(path, pa.Table.from_pylist(rows, schema=chunks_schema()), {"table": "chunks"})
    return list(rebuilt_records([path], {"r": 1700}))


def test_a_record_of_which_a_chunk_is_missing_does_not_come_back(tmp_path: Path) -> None:
    assert altered(tmp_path, lambda rows: rows.pop(1)) == altered(tmp_path, lambda rows: rows.pop()) == []


def test_chunks_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    other = str.maketrans("ACGT", "CGTA")
    with pytest.raises(TableMismatch, match="chunk at .* of record 'r' contradicts the one before it"):
        altered(tmp_path, lambda rows: rows[1].update(sequence=rows[1]["sequence"].translate(other)))


def row(record: str, split: str, cluster: str = "") -> dict[str, Any]:
    return {"record_id": record, "cluster": cluster or record, "split": split}


def test_what_is_apart_is_named_with_both_splits_and_what_is_missing_too() -> None:
    rows = [row("a", "train", "a"), row("b", "test", "a"), row("c", "validation"), row("d", "left_out", "a")]
    rows += [row("e", "tset"), row("f", "test")]
    sequences = [(name, gene(ord(name))) for name in "abcde"]
    named = {"organism X": {"a", "c", "d"}, "relatives y": {"b", "d"}}
    similar = {("b", "c"): 3, ("a", "d"): 1}
    assert relatives_apart(rows, sequences, named, SETTINGS, similar) == {
        "cluster a": ["has records in test and train"],
        "organism X": ["has records in train and validation"],
        "b": ["(test) is a relative of c (validation): 3 pairs of similar proteins"],
        "e": ["is in no split, and not left out"],
        "f": ["not all of its chunks are on disk"],
    }


def test_rows_must_be_those_of_the_frames() -> None:
    kept = {"label": "viral", "group": "g", "rows": 3}
    counted = [{"record_id": name, **kept} for name in "abc"]
    assert miscounted(counted, counted) == {}
    table = [counted[0], counted[1], counted[1], {**counted[2], "rows": 2}]
    assert {name: len(found) for name, found in miscounted(table, counted).items()} == {"b": 1, "c": 1}


def test_equal_proteins_of_train_and_test_are_counted_once(tmp_path: Path) -> None:
    proteins = {"a": ["MKV", "MKV", "LLL"], "b": ["MKV", "PPP"], "c": ["LLL", "PPP"], "d": ["LLL"]}
    rows = [
        {"frame_id": f"{record}{number}", "record_id": record, "protein": protein}
        for record, found in proteins.items()
        for number, protein in enumerate(found)
    ]
    for shard, part in enumerate((rows[::2], [], rows[1::2])):
        table = pa.Table.from_pylist(part, schema=frames_schema())
        write_table(tmp_path / f"{shard}.parquet", table, {"table": "frames"})
    frames = sorted(tmp_path.glob("*.parquet"))
    assert proteins_in_train_and_test(frames, {"a": "train", "b": "test", "c": "validation"}) == 1
    assert proteins_in_train_and_test(frames, {"a": "train", "b": "test", "c": "test"}) == 2
    assert proteins_in_train_and_test(frames, {}) == 0
