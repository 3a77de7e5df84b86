"""The search for known vectors: what any whole table of the same encoder holds is found, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from virnuc_assets.storage.digests import digest_words, sequence_digests
from virnuc_assets.storage.known_vectors import UNKNOWN, Digests, KnownVectors
from virnuc_assets.storage.schemas import embeddings_schema
from virnuc_assets.storage.tables import TableWriter

from .examples import rot

ENCODER = {"name": "esm2_3b", "precision": "fp32"}
DIM = 3


def words(sequences: Sequence[str]) -> Digests:
    return digest_words(sequence_digests(sequences))


def value(sequence: str, table: int = 0) -> list[float]:
    """A vector that tells the sequence and the table that it came from."""
    return [float(table), float(len(sequence)), float(int.from_bytes(sequence.encode()) % 1009)]


def write(
    path: Path, sequences: Sequence[str], table: int = 0, part: int = 1000, encoder: dict[str, str] = ENCODER
) -> Path:
    schema = embeddings_schema(DIM)
    with TableWriter(path, schema, {"table": "embeddings", "encoder": encoder}) as writer:
        for start in range(0, max(len(sequences), 1), part):
            here = sequences[start : start + part]
            flat = pa.array([number for sequence in here for number in value(sequence, table)], pa.float32())
            columns = [
                pa.array(here, pa.string()),
                sequence_digests(here),
                pa.FixedSizeListArray.from_arrays(flat, DIM),
            ]
            writer.write(pa.Table.from_arrays(columns, schema=schema))
    return path


def write_vectors(path: Path, sequences: Sequence[str], vectors: np.ndarray, part: int) -> Path:
    """As `write`, any vectors."""
    schema = embeddings_schema(vectors.shape[1])
    with TableWriter(path, schema, {"table": "embeddings", "encoder": ENCODER}) as writer:
        for start in range(0, len(sequences), part):
            here = sequences[start : start + part]
            column = pa.FixedSizeListArray.from_arrays(
                pa.array(vectors[start : start + part].reshape(-1)), vectors.shape[1]
            )
            writer.write(pa.Table.from_arrays([pa.array(here), sequence_digests(here), column], schema=schema))
    return path


def known(wanted: Sequence[str], paths: Sequence[Path], told: list[str] | None = None) -> KnownVectors:
    found = KnownVectors(words(wanted), ENCODER, [].append if told is None else told.append)
    found.scan(paths)
    return found


def copied(vectors: KnownVectors, sequences: Sequence[str]) -> dict[str, list[float]]:
    """The vectors that can be copied, by sequence; each is told once."""
    asked = words(sequences)
    parts = [*vectors.copies(vectors.locate(asked), asked)]
    rows = [row for rows, _ in parts for row in rows.tolist()]
    assert sorted(rows) == sorted(set(rows))
    flat = [vector for _, vectors in parts for vector in vectors.tolist()]
    return dict(zip([sequences[row] for row in rows], flat, strict=True))


LETTERS = st.lists(st.text("ACGT", min_size=1, max_size=2), max_size=12)


@settings(max_examples=60, deadline=None)
@given(tables=st.lists(LETTERS, max_size=4), wanted=LETTERS, part=st.integers(1, 5))
def test_what_lies_in_any_table_is_copied_and_the_rest_is_unknown(
    tmp_path_factory: pytest.TempPathFactory, tables: list[list[str]], wanted: list[str], part: int
) -> None:
    """Duplicates, empty tables, tables of many parts and sequences that nobody asked for included."""
    folder = tmp_path_factory.mktemp("tables")
    paths = [write(folder / f"{number}.parquet", rows, part=part) for number, rows in enumerate(tables)]
    found = known(wanted, paths)
    there = {sequence for rows in tables for sequence in rows}
    assert copied(found, wanted) == {sequence: value(sequence) for sequence in wanted if sequence in there}
    assert found.unknown == len(set(wanted) - there)
    assert copied(found, ["NEVER", "ASKED"]) == {}


def test_only_tables_of_the_very_fingerprint_and_of_todays_columns_are_used(tmp_path: Path) -> None:
    told: list[str] = []
    others = [{**ENCODER, "precision": "bf16"}, {"name": "esm2_3b"}, {**ENCODER, "more": "x"}]
    paths = [write(tmp_path / f"{n}.parquet", ["MKV"], encoder=other) for n, other in enumerate(others)]
    schema = pa.schema([("frame_id", pa.string()), ("digest", pa.string()), ("vector", pa.list_(pa.float32(), DIM))])
    with TableWriter(older := tmp_path / "older.parquet", schema, {"encoder": ENCODER}) as writer:
        writer.write(pa.table({"frame_id": ["a"], "digest": ["d"], "vector": [[1.0, 2.0, 3.0]]}, schema=schema))
    assert known(["MKV"], [*paths, older], told).unknown == 1
    assert told == []


def test_damaged_tables_are_passed_over_and_named(tmp_path: Path) -> None:
    told: list[str] = []
    cut, whole = write(tmp_path / "cut.parquet", ["MKV"]), write(tmp_path / "whole.parquet", ["MKV"], table=2)
    cut.write_bytes(cut.read_bytes()[:-20])
    (foreign := tmp_path / "foreign.parquet").write_text("no table")
    found = known(["MKV"], [cut, foreign, tmp_path / "gone.parquet", whole], told)
    assert copied(found, ["MKV"]) == {"MKV": value("MKV", 2)}
    assert [path for path in (cut, foreign, tmp_path / "gone.parquet") if str(path) not in "\n".join(told)] == []
    assert len(told) == 3


def test_pages_that_are_damaged_are_noticed_when_they_are_copied(tmp_path: Path) -> None:
    told: list[str] = []
    path = write(tmp_path / "table.parquet", [f"{'MKV' * 20}{n}" for n in range(40)])
    found = known([f"{'MKV' * 20}{n}" for n in range(40)], [path], told)
    content = path.read_bytes()
    path.write_bytes(content[:4] + bytes(len(content) - 2000) + content[-1996:])
    assert copied(found, [f"{'MKV' * 20}7"]) == {}
    assert len(told) == 1 and str(path) in told[0]


@pytest.mark.parametrize("kept", [False, True])
def test_what_rotted_is_not_copied_and_the_parts_before_it_are(tmp_path: Path, kept: bool) -> None:
    told, sequences = list[str](), [f"MKV{n}" for n in range(30)]
    vectors = np.random.default_rng(2).standard_normal((30, 16), np.float32)
    path = write_vectors(tmp_path / "table.parquet", sequences, vectors, part=10)
    found = known(sequences, [path], told)
    if kept:
        found.keep(path)
    rot(path, vectors[14])
    assert copied(found, sequences) == dict(zip(sequences[:10], vectors[:10].tolist(), strict=True))
    assert len(told) == 1 and f"{path}: damaged" in told[0]


def test_a_vector_that_is_not_finite_is_not_copied(tmp_path: Path) -> None:
    vectors = np.arange(12, dtype=np.float32).reshape(4, 3)
    vectors[1, 2], vectors[3, 0] = np.nan, np.inf
    found = known(list("ABCD"), [write_vectors(tmp_path / "table.parquet", list("ABCD"), vectors, part=4)])
    assert copied(found, list("ABCD")) == {"A": [0, 1, 2], "C": [6, 7, 8]}


@pytest.mark.parametrize("rows", [[], ["LLL"], ["LLL", "LLV", "LLI", "MKV"], None])
def test_a_row_of_a_table_that_was_replaced_is_not_used(tmp_path: Path, rows: list[str] | None) -> None:
    path = write(tmp_path / "table.parquet", ["MKV", "LLL"])
    found = known(["MKV", "LLL"], [path])
    if rows is None:
        write(path, ["MKV", "LLL"], table=9, encoder={**ENCODER, "precision": "bf16"})
    else:
        write(path, rows, table=9)
    assert copied(found, ["MKV"]) == {}


def test_a_table_that_the_run_replaces_itself_stays_readable_to_it(tmp_path: Path) -> None:
    path = write(tmp_path / "table.parquet", ["MKV", "LLL", "GGG"], table=1)
    found = known(["MKV", "LLL", "AAA"], [path])
    found.keep(path)
    write(path, ["AAA", "MKV"], table=2)
    found.scan([path])
    expected = {"MKV": value("MKV", 1), "LLL": value("LLL", 1), "AAA": value("AAA", 2)}
    assert copied(found, ["AAA", "LLL", "MKV"]) == expected
    found.keep(path)
    path.unlink()
    assert copied(found, ["AAA", "LLL", "MKV"]) == expected


def test_no_table_is_opened_when_nothing_is_unknown(tmp_path: Path) -> None:
    told: list[str] = []
    paths = [write(tmp_path / "a.parquet", ["MKV"]), tmp_path / "missing.parquet"]
    assert known(["MKV"], paths, told).unknown == known([], paths, told).unknown == 0
    assert told == []


def test_a_sequence_that_shares_half_its_digest_with_another_has_not_its_vector(tmp_path: Path) -> None:
    twins = words(["MKV", "LLL"]).copy()
    twins[1, 0] = twins[0, 0]
    for wanted in (twins, twins[::-1]):
        found = KnownVectors(wanted, ENCODER, [].append)
        found.scan([write(tmp_path / "table.parquet", ["MKV"])])
        places = found.locate(twins)
        assert (places[1] == UNKNOWN).all()
        assert [rows.tolist() for rows, _ in found.copies(places, twins)] in ([[0]], [])


def test_many_sequences_in_many_tables_are_each_found_where_they_lie(tmp_path: Path) -> None:
    draw = np.random.default_rng(7)
    sequences = ["".join(draw.choice(list("ACDEFGHIKL"), 12)) for _ in range(5000)]
    paths = [write(tmp_path / f"{n}.parquet", sequences[n::20], table=n, part=64) for n in range(20) if n != 13]
    found = known(sequences, paths)
    taken = copied(found, sequences)
    assert taken == {s: value(s, n % 20) for n, s in enumerate(sequences) if n % 20 != 13}
    assert found.unknown == 250
