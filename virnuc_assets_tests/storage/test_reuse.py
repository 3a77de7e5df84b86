"""Known vectors are those of any whole table of the same encoder; a shard's are the same, copied or embedded once."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from virnuc_assets.encoders.embedding import embed_windows, read_frames
from virnuc_assets.encoders.loading import Encoder, load_encoder
from virnuc_assets.encoders.registry import ENCODERS
from virnuc_assets.settings import EncodingSettings
from virnuc_assets.storage import reuse
from virnuc_assets.storage.digests import digest_words, sequence_digests
from virnuc_assets.storage.reuse import Digests, KnownVectors, ShardVectors
from virnuc_assets.storage.schemas import embeddings_schema
from virnuc_assets.storage.tables import TableMismatch, TableWriter, content_digest, in_windows
from virnuc_assets_tests.encoders.drawn import drawn, write_frames
from virnuc_assets_tests.storage.examples import rot

ENCODER = {"name": "esm2_3b", "precision": "fp32"}
WINDOW = 4  # rows, instead of a thousand
# Of some thirty residues, as chunks give them: of a handful, a vector's last bit depends on the batch.
PROTEINS = [
    protein + letter for letter, protein in zip("MGLAWYC", drawn("protein", [29, 33, 33, 29, 40, 33, 30]), strict=True)
]
M, G, L, A, W, Y, C = PROTEINS


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


def loaded(name: str, checkpoints: Path) -> Encoder:
    encoder = load_encoder(ENCODERS[name], checkpoints, EncodingSettings(device="cpu"))
    encoder.window_rows = 3
    return encoder


@pytest.fixture(scope="module")
def encoder(checkpoints: Path) -> Encoder:
    return loaded("esm2_8m_miniature", checkpoints)


@pytest.fixture(autouse=True)
def _small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reuse, "_WINDOW_ROWS", WINDOW)


class Shards:
    """Frames tables and their embeddings in a folder, and what went through the encoder."""

    def __init__(self, folder: Path, encoder: Encoder) -> None:
        self.folder, self.encoder, self.embedded, self.logged = folder, encoder, list[str](), list[str]()
        self.provenance = {"table": "embeddings", "encoder": encoder.fingerprint}

    def frames(self, name: str, proteins: list[str]) -> Path:
        write_frames(path := self.folder / f"{name}.frames", proteins)
        return path

    def plainly(self, name: str, proteins: list[str]) -> Path:
        """The embeddings of a shard as the loop alone makes them."""
        frames = self.frames(name, proteins)
        path = self.folder / f"{name}.parquet"
        windows = list(embed_windows(self.encoder, read_frames(self.encoder, frames)))
        with TableWriter(path, windows[0].schema, self.provenance) as writer:
            for window in windows:
                writer.write(window)
        return path

    def known(self, wanted: list[str], paths: list[Path]) -> KnownVectors:
        found = KnownVectors(digest_words(sequence_digests(wanted)), self.encoder.fingerprint, self.logged.append)
        found.scan(paths)
        return found

    def vectors(self, name: str, proteins: list[str], known: KnownVectors) -> ShardVectors:
        return ShardVectors(self.frames(name, proteins), "protein", self.encoder.spec.max_length, known, self.embed)

    def made(self, name: str, vectors: ShardVectors) -> Path:
        path, tables = self.folder / f"{name}.made.parquet", vectors.tables()
        first = next(tables)
        with TableWriter(path, first.schema, self.provenance) as writer:
            for table in (first, *tables):
                writer.write(table)
        return path

    def embed(self, windows: Iterator[pa.Table]) -> Generator[pa.Table, None, None]:
        def noted() -> Iterator[pa.Table]:
            for window in windows:
                self.embedded += window.column("protein").to_pylist()
                yield window

        yield from embed_windows(self.encoder, in_windows(noted(), self.encoder.window_rows))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(PROTEINS), max_size=20), st.lists(st.sampled_from(PROTEINS), max_size=6))
def test_a_table_is_the_same_with_and_without_reuse(
    encoder: Encoder, tmp_path_factory: pytest.TempPathFactory, proteins: list[str], there: list[str]
) -> None:
    """Duplicates within a window, windows apart, and of known sequences; empty shards included."""
    shards = Shards(tmp_path_factory.mktemp("shards"), encoder)
    vectors = shards.vectors("a", proteins, shards.known(proteins, [shards.plainly("there", there)]))
    made = shards.made("a", vectors)
    assert content_digest(made) == content_digest(shards.plainly("a", proteins))
    assert shards.embedded == [p for n, p in enumerate(proteins) if p not in there and p not in proteins[:n]]
    assert (vectors.embedded, vectors.distinct) == (len(shards.embedded), len(set(proteins)))


def test_what_another_process_replaced_since_it_was_found_is_embedded(encoder: Encoder, tmp_path: Path) -> None:
    shards = Shards(tmp_path, encoder)
    proteins = [M, G, L, W, M, L, A, L, M, W, A, M]
    there = shards.plainly("there", [M, L, A])
    vectors = shards.vectors("a", proteins, shards.known(proteins, [there]))
    shards.plainly("there", [G, Y, C])
    assert content_digest(shards.made("a", vectors)) == content_digest(shards.plainly("a", proteins))
    assert shards.embedded == [M, G, L, W, A]
    assert vectors.embedded == 5


def test_frames_that_are_replaced_meanwhile_are_refused(encoder: Encoder, tmp_path: Path) -> None:
    shards = Shards(tmp_path, encoder)
    for other in (PROTEINS[::-1], PROTEINS[:2]):
        vectors = shards.vectors("a", PROTEINS, shards.known(PROTEINS, []))
        shards.frames("a", other)
        with pytest.raises(TableMismatch, match=r"a\.frames: replaced while it was embedded"):
            list(vectors.tables())


def test_the_letters_that_an_encoder_cuts_are_counted_for_all_frames(checkpoints: Path, tmp_path: Path) -> None:
    encoder = loaded("fastesm2_650_miniature", checkpoints)
    assert encoder.spec.max_length is not None
    longest = "MKVL" * (encoder.spec.max_length // 4)
    proteins = [longest, longest + "G", M, longest + "G", longest + "GG"]
    shards = Shards(tmp_path, encoder)
    vectors = shards.vectors("a", proteins, shards.known(proteins, [shards.plainly("there", [longest + "G"])]))
    made = shards.made("a", vectors)
    assert (vectors.truncated, vectors.embedded, vectors.distinct) == (3, 3, 4)
    assert content_digest(made) == content_digest(shards.plainly("a", proteins))
