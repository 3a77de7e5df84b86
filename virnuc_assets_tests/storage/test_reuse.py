"""A shard's vectors are the same whether they were copied or embedded, and each distinct sequence is embedded once."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path

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
from virnuc_assets.storage.known_vectors import KnownVectors
from virnuc_assets.storage.merging import vectors_of
from virnuc_assets.storage.reuse import ShardVectors
from virnuc_assets.storage.tables import TableMismatch, TableWriter, content_digest, read_table
from virnuc_assets.storage.windows import in_windows
from virnuc_assets_tests.encoders.drawn import drawn, write_frames
from virnuc_assets_tests.storage.examples import rot

WINDOW = 4  # rows, instead of a thousand
# Of some thirty residues, as chunks give them: of a handful, a vector's last bit depends on the batch.
PROTEINS = [
    protein + letter for letter, protein in zip("MGLAWYC", drawn("protein", [29, 33, 33, 29, 40, 33, 30]), strict=True)
]
M, G, L, A, W, Y, C = PROTEINS


def loaded(name: str, checkpoints: Path) -> Encoder:
    encoder = load_encoder(ENCODERS[name], checkpoints, EncodingSettings(device="cpu"))
    encoder.window_rows = 3
    return encoder


@pytest.fixture(scope="module")
def encoder(checkpoints: Path) -> Encoder:
    return loaded("kmer_protein", checkpoints)


@pytest.fixture(autouse=True)
def _small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reuse, "_WINDOW_ROWS", WINDOW)


class Shards:
    """Frames tables and their embeddings in a folder, and what went through the encoder."""

    def __init__(self, folder: Path, encoder: Encoder) -> None:
        self.folder, self.encoder, self.embedded, self.logged = folder, encoder, list[str](), list[str]()
        self.recipe = {"table": "embeddings", "encoder": encoder.fingerprint}

    def frames(self, name: str, proteins: list[str]) -> Path:
        write_frames(path := self.folder / f"{name}.frames", proteins)
        return path

    def plainly(self, name: str, proteins: list[str]) -> Path:
        """The embeddings of a shard as the loop alone makes them."""
        frames = self.frames(name, proteins)
        path = self.folder / f"{name}.parquet"
        windows = list(embed_windows(self.encoder, read_frames(self.encoder, frames)))
        with TableWriter(path, windows[0].schema, self.recipe) as writer:
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
        with TableWriter(path, first.schema, self.recipe) as writer:
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
    assert vectors._again == {}  # what recurs is kept until its last window only


def test_no_encoder_is_loaded_where_all_is_known(encoder: Encoder, tmp_path: Path) -> None:
    shards = Shards(tmp_path, encoder)

    def refuse(windows: Iterator[pa.Table]) -> Generator[pa.Table, None, None]:
        raise AssertionError("embedded")
        yield

    known = shards.known(PROTEINS, [shards.plainly("there", PROTEINS[::-1])])
    made = shards.made(
        "a", ShardVectors(shards.frames("a", PROTEINS), "protein", encoder.spec.max_length, known, refuse)
    )
    assert content_digest(made) == content_digest(shards.plainly("a", PROTEINS))


def test_what_vanishes_while_a_shard_is_made_is_embedded(encoder: Encoder, tmp_path: Path) -> None:
    """Another process replaces the table between two windows; some of what it held recurs later."""
    shards = Shards(tmp_path, encoder)
    proteins = [M, G, L, W, M, L, A, L, M, W, A, M]
    there = shards.plainly("there", [M, L, A])
    vectors = shards.vectors("a", proteins, shards.known(proteins, [there]))
    tables = vectors.tables()
    windows = [next(tables)]
    shards.plainly("there", [G, Y, C])
    windows += tables
    expected = list(embed_windows(encoder, read_frames(encoder, tmp_path / "a.frames")))
    assert pa.concat_tables(windows).combine_chunks() == pa.concat_tables(expected).combine_chunks()
    assert sorted(shards.embedded) == sorted([G, W, M, L, A])
    assert vectors.embedded == 5


def test_what_was_damaged_on_the_disk_is_embedded_again(checkpoints: Path, tmp_path: Path) -> None:
    """Three rows are written at a time: the parts before the damage are copied, it and what follows is not."""
    shards = Shards(tmp_path, loaded("fastesm2_650_miniature", checkpoints))
    there = shards.plainly("there", PROTEINS)
    known = shards.known(PROTEINS, [there])
    rot(there, vectors_of(read_table(there))[4])
    vectors = shards.vectors("a", PROTEINS, known)
    made = shards.made("a", vectors)
    assert content_digest(made) == content_digest(shards.plainly("a", PROTEINS))
    assert shards.embedded == PROTEINS[3:]
    assert vectors.embedded == 4
    assert [str(there) in logged for logged in shards.logged] == [True, True]  # a window of four rows, then the next


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
