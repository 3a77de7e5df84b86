"""Known vectors are those of any whole table of the same encoder; a shard's are the same, copied or embedded once."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from virnuc_assets.storage import reuse
from virnuc_assets.storage.digests import digest_words, sequence_digests
from virnuc_assets.storage.reuse import Digests, KnownVectors, ShardVectors
from virnuc_assets.storage.schemas import embeddings_schema
from virnuc_assets.storage.tables import TableMismatch, TableWriter, in_windows
from virnuc_assets_tests.encoders.drawn import write_frames
from virnuc_assets_tests.storage.examples import rot

ENCODER = {"name": "esm2_3b", "precision": "fp32"}


def words(sequences: Sequence[str]) -> Digests:
    return digest_words(sequence_digests(sequences))


def value(sequence: str, table: int = 0) -> list[float]:
    """A vector that shows the sequence and the table that it came from."""
    return [float(table), float(len(sequence)), float(int.from_bytes(sequence.encode()) % 1009)]


def write(
    path: Path,
    sequences: Sequence[str],
    table: int = 0,
    part: int = 1000,
    vectors: np.ndarray | None = None,
    encoder: dict[str, str] = ENCODER,
) -> Path:
    """A table of these sequences, with vectors that tell it or others, written in parts."""
    if vectors is None:
        vectors = np.array([value(sequence, table) for sequence in sequences], np.float32).reshape(-1, 3)
    schema = embeddings_schema(vectors.shape[1])
    with TableWriter(path, schema, {"table": "embeddings", "encoder": encoder}) as writer:
        for start in range(0, max(len(sequences), 1), part):
            here, flat = sequences[start : start + part], pa.array(vectors[start : start + part].reshape(-1))
            vector = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
            writer.write(pa.table([pa.array(here, pa.string()), sequence_digests(here), vector], schema=schema))
    return path


def known(wanted: Sequence[str], paths: Sequence[Path], shown: list[str] | None = None) -> KnownVectors:
    found = KnownVectors(words(wanted), ENCODER, [].append if shown is None else shown.append)
    found.scan(paths)
    return found


def copied(vectors: KnownVectors, sequences: Sequence[str]) -> dict[str, list[float]]:
    """The vectors that can be copied, by sequence; each is shown once."""
    parts = [*vectors.copies(words(sequences))]
    rows = [row for rows, _ in parts for row in rows.tolist()]
    assert sorted(rows) == sorted(set(rows))
    flat = [vector for _, vectors in parts for vector in vectors.tolist()]
    return dict(zip([sequences[row] for row in rows], flat, strict=True))


ALPHABET = st.lists(st.text("ACGT", min_size=1, max_size=2), max_size=12)


@settings(max_examples=60, deadline=None)
@given(tables=st.lists(ALPHABET, max_size=4), wanted=ALPHABET, part=st.integers(1, 5))
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


def test_only_tables_of_the_very_fingerprint_are_used(tmp_path: Path) -> None:
    others = [{**ENCODER, "precision": "bf16"}, {"name": "esm2_3b"}, {**ENCODER, "more": "x"}]
    paths = [write(tmp_path / f"{n}.parquet", ["MKV"], encoder=other) for n, other in enumerate(others)]
    assert known(["MKV"], paths).unknown == 1


def test_damaged_tables_are_passed_over_and_named(tmp_path: Path) -> None:
    shown: list[str] = []
    cut, whole = write(tmp_path / "cut.parquet", ["MKV"]), write(tmp_path / "whole.parquet", ["MKV"], table=2)
    cut.write_bytes(cut.read_bytes()[:-20])
    (foreign := tmp_path / "foreign.parquet").write_text("no table")
    found = known(["MKV"], [cut, foreign, tmp_path / "gone.parquet", whole], shown)
    assert copied(found, ["MKV"]) == {"MKV": value("MKV", 2)}
    assert [path for path in (cut, foreign, tmp_path / "gone.parquet") if str(path) not in "\n".join(shown)] == []
    assert len(shown) == 3


@pytest.mark.parametrize("kept", [False, True])
def test_what_is_corrupted_is_not_copied_and_the_parts_before_it_are(tmp_path: Path, kept: bool) -> None:
    shown, sequences = list[str](), [f"MKV{n}" for n in range(30)]
    vectors = np.random.default_rng(2).standard_normal((30, 16), np.float32)
    path = write(tmp_path / "table.parquet", sequences, part=10, vectors=vectors)
    found = known(sequences, [path], shown)
    if kept:
        found.keep(path)
    rot(path, vectors[14])
    assert copied(found, sequences) == dict(zip(sequences[:10], vectors[:10].tolist(), strict=True))
    assert len(shown) == 1 and f"{path}: damaged" in shown[0]


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


def test_a_sequence_that_shares_half_its_digest_with_another_has_not_its_vector(tmp_path: Path) -> None:
    twins = words(["MKV", "LLL"]).copy()
    twins[1, 0] = twins[0, 0]
    found = KnownVectors(twins, ENCODER, [].append)
    found.scan([write(tmp_path / "table.parquet", ["MKV"])])
    assert [rows.tolist() for rows, _ in found.copies(twins)] == [[0]]


@pytest.fixture(autouse=True)
def _small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reuse, "_WINDOW_ROWS", 4)


class Shards:
    """Frames tables in a folder, and what of them went through an encoder, whose windows have three rows."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.embedded = folder, list[str]()

    def vectors(self, proteins: list[str], there: list[str], longest: int | None = None) -> ShardVectors:
        """Of a shard of these proteins, with a table of others."""
        found = known(proteins, [write(self.folder / "there.parquet", there)])
        write_frames(self.folder / "a.frames", proteins)
        return ShardVectors(self.folder / "a.frames", "protein", longest, found, self.embed)

    def embed(self, windows: Iterator[pa.Table]) -> Generator[pa.Table, None, None]:
        for window in in_windows(windows, 3):
            proteins = window["protein"].to_pylist()
            self.embedded += proteins
            vectors = pa.array([value(protein) for protein in proteins], pa.list_(pa.float32(), 3))
            columns = [window["frame_id"], sequence_digests(proteins), vectors]
            yield pa.table(columns, schema=embeddings_schema(3))


def require_embeddings(vectors: ShardVectors, proteins: list[str]) -> None:
    table = pa.concat_tables(vectors.tables())
    assert table["frame_id"].to_pylist() == [f"a_{row}_F1" for row in range(len(proteins))]
    assert table["digest"].combine_chunks() == sequence_digests(proteins)
    assert table["vector"].to_pylist() == [value(protein) for protein in proteins]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from("MGLAWYC"), max_size=20), st.lists(st.sampled_from("MGLAWYC"), max_size=6))
def test_what_is_known_is_copied_and_the_rest_embedded_once(
    tmp_path_factory: pytest.TempPathFactory, proteins: list[str], there: list[str]
) -> None:
    """Duplicates within a window, windows apart, and of known sequences; empty shards included."""
    shards = Shards(tmp_path_factory.mktemp("shards"))
    vectors = shards.vectors(proteins, there)
    require_embeddings(vectors, proteins)
    assert shards.embedded == [p for n, p in enumerate(proteins) if p not in there and p not in proteins[:n]]
    assert (vectors.embedded, vectors.distinct) == (len(shards.embedded), len(set(proteins)))


def test_what_another_process_replaced_since_it_was_found_is_embedded(tmp_path: Path) -> None:
    shards, proteins = Shards(tmp_path), list("MGLWMLALMWAM")
    vectors = shards.vectors(proteins, list("MLA"))
    write(tmp_path / "there.parquet", list("GYC"))
    require_embeddings(vectors, proteins)
    assert shards.embedded == list("MGLWA")


def test_frames_that_are_replaced_meanwhile_are_refused(tmp_path: Path) -> None:
    for other in ("CYWALGM", "MG"):
        vectors = Shards(tmp_path).vectors(list("MGLAWYC"), [])
        write_frames(tmp_path / "a.frames", list(other))
        with pytest.raises(TableMismatch, match=r"a\.frames: replaced while it was embedded"):
            list(vectors.tables())


def test_frames_of_which_an_encoder_reads_only_the_beginning_are_counted(tmp_path: Path) -> None:
    vectors = Shards(tmp_path).vectors(["MKVL", "MKVLG", "M", "MKVLG", "MKVLGG"], ["MKVLG"], longest=4)
    list(vectors.tables())
    assert (vectors.truncated, vectors.embedded, vectors.distinct) == (3, 3, 4)
