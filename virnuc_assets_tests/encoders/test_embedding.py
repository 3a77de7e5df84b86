"""The embedding loop: batches, windows, pooling, and what is refused."""

from __future__ import annotations

import shutil
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from virnuc_assets.encoders.embedding import NonFiniteError, embed, embed_windows, read_frames
from virnuc_assets.encoders.loading import Encoder, load_encoder, mean_pool
from virnuc_assets.encoders.registry import ENCODERS, AlphabetError
from virnuc_assets.settings import EncodingSettings, Precision
from virnuc_assets.storage.digests import sequence_digest
from virnuc_assets.storage.merging import vectors_of
from virnuc_assets.storage.schemas import embeddings_schema
from virnuc_assets_tests.encoders.drawn import drawn, embed_frames, write_frames

NAMES = ("dnabert_s_miniature", "esm2_3b_miniature", "fastesm2_650_miniature")
NAME = "fastesm2_650_miniature"
LENGTHS = [1, 3, 20, 33, 33, 33, 34, 60, 99, 99, 100, 166]


def loaded(name: str, checkpoints: Path, precision: Precision = "fp32") -> Encoder:
    return load_encoder(ENCODERS[name], checkpoints, EncodingSettings(device="cpu", precision=precision))


@pytest.fixture(scope="module")
def encoders(checkpoints: Path) -> dict[str, Encoder]:
    return {name: loaded(name, checkpoints) for name in NAMES}


@pytest.fixture
def encoder(checkpoints: Path) -> Encoder:
    return loaded(NAME, checkpoints)


class Narrow(Encoder):
    """An encoder into whose memory only so many tokens fit."""

    def __init__(self, wide: Encoder, fits: int) -> None:
        super().__init__(wide.spec, wide._model, wide.tokenize, wide._left_out.tolist())
        self.fits, self.shapes = fits, list[tuple[int, int]]()

    def forward(self, token_ids: torch.Tensor) -> torch.Tensor:
        if token_ids.numel() > self.fits:
            raise torch.OutOfMemoryError(f"{token_ids.numel()} tokens")
        self.shapes.append((token_ids.shape[0], token_ids.shape[1]))
        return super().forward(token_ids)


def windows(count: int, bad: int = -1) -> Iterator[pa.Table]:
    """Windows of four frames; the protein of the window `bad` has a letter that no protein has."""
    for number in range(count):
        proteins = drawn("protein", [30, 33, 30, 20 + number], seed=number)
        if number == bad:
            proteins[2] = "MK1"
        yield pa.table({"frame_id": [f"w{number}_F{i}" for i in range(4)], "protein": proteins})


def test_the_mean_is_over_kept_tokens_in_fp32() -> None:
    hidden = torch.tensor([[[1.0, 2.0], [3.0, 6.0], [100.0, 100.0]], [[9.0, 9.0], [9.0, 9.0], [9.0, 9.0]]])
    keep = torch.tensor([[True, True, False], [False, False, False]])
    pooled = mean_pool(hidden.half(), keep)
    assert pooled.dtype == torch.float32
    assert pooled.tolist() == [[2.0, 4.0], [0.0, 0.0]]


@pytest.mark.parametrize("name", NAMES)
def test_order_batch_size_and_threads_change_nothing(name: str, encoders: dict[str, Encoder]) -> None:
    encoder, usable = encoders[name], torch.get_num_threads()
    sequences = drawn(encoder.spec.alphabet, LENGTHS)
    alone = np.concatenate([embed(encoder, [sequence]) for sequence in sequences])
    assert alone.shape == (len(sequences), encoder.dim) and alone.dtype == np.float32

    @settings(max_examples=8, deadline=None)
    @given(st.permutations(range(len(sequences))), st.sampled_from([1, 70, 333, 100_000]), st.integers(1, 3))
    def check(order: list[int], token_budget: int, threads: int) -> None:
        seen: list[int] = []
        encoder.token_budget = token_budget
        torch.set_num_threads(threads)
        found = embed(encoder, [sequences[i] for i in order], progress=seen.append)
        assert np.abs(found - alone[order]).max() <= 1e-5
        assert sum(seen) == len(sequences)

    try:
        check()
    finally:
        torch.set_num_threads(usable)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("name", NAMES)
def test_half_precision_points_where_fp32_does(name: str, precision: Precision, checkpoints: Path) -> None:
    full = loaded(name, checkpoints)
    sequences = drawn(full.spec.alphabet, [*range(20, 167, 3)])
    expected, half = embed(full, sequences), embed(loaded(name, checkpoints, precision), sequences)
    assert half.dtype == np.float32 and not np.array_equal(expected, half)
    cosine = (expected * half).sum(axis=1) / np.linalg.norm(expected, axis=1) / np.linalg.norm(half, axis=1)
    assert cosine.min() >= 0.9999


def test_a_batch_never_exceeds_the_budget_unless_it_is_one_row(encoders: dict[str, Encoder]) -> None:
    watched = Narrow(encoders[NAME], fits=1000)
    watched.token_budget = 25
    embed(watched, drawn("protein", [8, 28, 8, 8, 98]))
    assert watched.shapes == [(2, 10), (1, 10), (1, 30), (1, 100)]


def test_long_proteins_are_cut(encoder: Encoder) -> None:
    longest = drawn("protein", [1024])[0]
    proteins = [longest, longest + "W", longest + "WWW"]
    found = embed(encoder, proteins)
    assert np.abs(found - found[0]).max() <= 1e-5


def test_sequences_of_the_other_alphabet_are_refused(encoders: dict[str, Encoder]) -> None:
    with pytest.raises(AlphabetError, match=f"{NAME} reads protein[^$]*sequence 1: this looks like DNA"):
        embed(encoders[NAME], ["MKV", *drawn("dna", [99])])
    with pytest.raises(AlphabetError, match="dnabert_s_miniature reads dna"):
        embed(encoders["dnabert_s_miniature"], drawn("protein", [50]))


def test_damaged_weights_are_refused_with_the_ids(checkpoints: Path, tmp_path: Path) -> None:
    weights = load_file(shutil.copytree(checkpoints / NAME, tmp_path / NAME) / "model.safetensors")
    weights["esm.embeddings.word_embeddings.weight"][20] = torch.nan  # M
    save_file(weights, tmp_path / NAME / "model.safetensors", metadata={"format": "pt"})
    frames = pa.table({"frame_id": ["a", "b", "c"], "protein": ["KVL", "MKV", "KVLM"]})
    with pytest.raises(NonFiniteError, match=f"{NAME}: 2 of 3 vectors hold NaN or infinity: b, c; .*fp32"):
        list(embed_windows(loaded(NAME, tmp_path), [frames]))


@pytest.mark.parametrize("name", ["dnabert_s_miniature", NAME])
def test_frames_are_embedded_from_the_encoders_column_in_row_order(
    name: str, encoders: dict[str, Encoder], tmp_path: Path
) -> None:
    encoder = encoders[name]
    encoder.window_rows = 4
    sequences = drawn(encoder.spec.alphabet, [30, 28, 31, 100, 30, 30, 30, 31, 33, 5])
    frames = write_frames(tmp_path / "frames.parquet", sequences, encoder.spec.column)
    batches = list[int]()
    table = embed_frames(encoder, frames, batches.append)
    assert table.schema.equals(embeddings_schema(encoder.dim))
    assert table["frame_id"].equals(frames["frame_id"])
    assert table["digest"].to_pylist() == [sequence_digest(sequence) for sequence in sequences]
    assert np.abs(vectors_of(table) - embed(encoder, sequences)).max() <= 1e-5
    read = list(read_frames(encoder, tmp_path / "frames.parquet"))
    assert [window.num_rows for window in read] == [4, 4, 2] and sum(batches) == 10
    assert table.equals(pa.concat_tables(embed_windows(encoder, read)))
    assert embed_frames(encoder, frames.slice(0, 0)).schema.equals(table.schema)
    assert list(embed_windows(encoder, [])) == []


def test_memory_that_runs_out_halves_the_budget_and_changes_no_vector(encoder: Encoder) -> None:
    sequences = drawn("protein", LENGTHS)
    undisturbed = embed(encoder, sequences)

    @settings(max_examples=15, deadline=None)
    @given(st.permutations(range(len(LENGTHS))), st.integers(1, 2000), st.integers(168, 700))
    def check(order: list[int], token_budget: int, fits: int) -> None:
        narrow, done = Narrow(encoder, fits), list[int]()
        narrow.token_budget = token_budget
        found = embed(narrow, [sequences[i] for i in order], done.append)
        assert np.abs(found - undisturbed[order]).max() <= 1e-5
        assert [rows for rows, _ in narrow.shapes] == done and sum(done) == len(LENGTHS)
        lengths = [length - 2 for rows, length in narrow.shapes for _ in range(rows)]
        assert lengths == sorted(LENGTHS)  # each sequence once
        if narrow.token_budget != token_budget:
            assert fits // 4 < narrow.token_budget <= token_budget // 2

    check()


def test_one_sequence_that_does_not_fit_is_named_by_its_length(encoder: Encoder) -> None:
    narrow = Narrow(encoder, fits=100)
    with pytest.raises(torch.OutOfMemoryError, match=f"{NAME}: not even one sequence of 101 tokens fits .* cpu"):
        embed(narrow, drawn("protein", [20, 99, 99]))


def test_windows_are_read_one_ahead_and_no_farther(encoder: Encoder) -> None:
    made, most_alive = list[weakref.ref[pa.Table]](), 0

    def watched() -> Iterator[pa.Table]:
        nonlocal most_alive
        source = windows(12)
        while (window := next(source, None)) is not None:
            made.append(weakref.ref(window))
            most_alive = max(most_alive, sum(window() is not None for window in made))
            yield window
            del window

    for yielded, table in enumerate(embed_windows(encoder, watched())):
        # One window's vectors are launched when those before it are handed over, and one more is read ahead.
        assert len(made) <= yielded + 3
        assert table["frame_id"].to_pylist() == [f"w{yielded}_F{i}" for i in range(4)]
    assert len(made) == 12 and most_alive <= 2


def test_the_reading_thread_ends_with_the_loop_however_that_ends(encoder: Encoder) -> None:
    threads, found = threading.active_count(), []
    with pytest.raises(AlphabetError, match="w3_F2: has letters outside the alphabet: '1'"):
        for table in embed_windows(encoder, windows(9, bad=3)):
            found.append(table["frame_id"][0].as_py())
    assert found == ["w0_F0", "w1_F0", "w2_F0"][: len(found)] and len(found) >= 2
    assert threading.active_count() == threads
    with pytest.raises(torch.OutOfMemoryError):
        list(embed_windows(Narrow(encoder, fits=10), windows(9)))
    assert threading.active_count() == threads
    embedding = embed_windows(encoder, windows(100))
    next(embedding)
    assert threading.active_count() == threads + 1
    embedding.close()
    assert threading.active_count() == threads
