"""Windows: read ahead by one, refused or closed without a thread left; memory that runs out changes no vector."""

import gc
import threading
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from virnuc_assets.encoders.alphabet import AlphabetError
from virnuc_assets.encoders.embedding import embed, embed_frames, embed_windows, read_frames
from virnuc_assets.encoders.loading import Encoder, load_encoder
from virnuc_assets.encoders.registry import ENCODERS
from virnuc_assets.settings import EncodingSettings
from virnuc_assets.storage.schemas import frames_schema
from virnuc_assets.storage.tables import write_table
from virnuc_assets_tests.encoders.drawn import drawn

NAME = "fastesm2_650_miniature"
LENGTHS = [5, 20, 33, 33, 33, 34, 60, 99, 99, 99, 100]


@pytest.fixture
def encoder(checkpoints: Path) -> Encoder:
    return load_encoder(ENCODERS[NAME], checkpoints, EncodingSettings(device="cpu"))


class Narrow(Encoder):
    """An encoder into whose memory only so many tokens fit."""

    def __init__(self, wide: Encoder, fits: int) -> None:
        tuning = replace(wide.tuning, token_budget=wide.token_budget)
        super().__init__(wide.spec, wide._model, wide._tokenization, wide.fingerprint, tuning)
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


@pytest.mark.parametrize(
    ("token_budget", "rows"), [(1, 1), (340, 16), (2048, 128), (2049, 128), (4095, 128), (4096, 256)]
)
def test_a_window_is_some_batches_and_a_power_of_two(checkpoints: Path, token_budget: int, rows: int) -> None:
    encoding = EncodingSettings(device="cpu", token_budget=token_budget, compile="never")
    assert load_encoder(ENCODERS[NAME], checkpoints, encoding).window_rows == rows
    byte_pairs = load_encoder(ENCODERS["dnabert_s_miniature"], checkpoints, encoding).window_rows
    assert byte_pairs == 8 * rows or rows == 1


def test_frames_in_memory_and_frames_on_disk_are_embedded_in_the_same_windows(encoder: Encoder, tmp_path: Path) -> None:
    encoder.window_rows = 4
    rows = {"frame_id": [f"r_chunk_{i}_F1" for i in range(10)], "protein": drawn("protein", [33] * 10)}
    others = [field for field in frames_schema() if field.name not in rows]
    filled = {field.name: ["A" if pa.types.is_string(field.type) else 0] * 10 for field in others}
    columns = {**rows, **filled}
    arrays = [pa.array(columns[field.name]).cast(field.type) for field in frames_schema()]
    frames = pa.Table.from_arrays(arrays, schema=frames_schema())
    write_table(tmp_path / "frames.parquet", frames, {"table": "frames"})
    read = list(read_frames(encoder, tmp_path / "frames.parquet"))
    assert [(window.num_rows, window.column_names) for window in read] == [(n, list(rows)) for n in (4, 4, 2)]
    batches = list[int]()
    found = embed_frames(encoder, frames, batches.append)
    assert batches == [4, 4, 2]
    assert found.equals(pa.concat_tables(embed_windows(encoder, read)))


def test_memory_that_runs_out_halves_the_budget_and_changes_no_vector(encoder: Encoder) -> None:
    sequences = drawn("protein", LENGTHS)
    undisturbed = embed(encoder, sequences)

    @settings(max_examples=15, deadline=None)
    @given(st.permutations(range(len(LENGTHS))), st.integers(1, 2000), st.integers(102, 700))
    def check(order: list[int], token_budget: int, fits: int) -> None:
        narrow, done = Narrow(encoder, fits), list[int]()
        narrow.token_budget = token_budget
        found = embed(narrow, [sequences[i] for i in order], done.append)
        assert np.abs(found - undisturbed[order]).max() <= 1e-5
        assert [rows for rows, _ in narrow.shapes] == done and sum(done) == len(LENGTHS)
        lengths = [length - 2 for rows, length in narrow.shapes for _ in range(rows)]
        assert lengths == sorted(LENGTHS)  # each sequence once
        largest = max(rows * (length) for rows, length in narrow.shapes)
        if narrow.token_budget != token_budget:
            assert fits // 4 < narrow.token_budget <= token_budget // 2
            assert largest <= fits

    check()


def test_memory_that_runs_out_makes_later_batches_smaller_too(encoder: Encoder) -> None:
    narrow = Narrow(encoder, fits=140)
    narrow.token_budget = 560
    embed(narrow, drawn("protein", [33] * 16))
    assert narrow.token_budget == 140
    embed(narrow, drawn("protein", [33] * 8))
    assert narrow.shapes == [(4, 35)] * 6


def test_one_sequence_that_does_not_fit_is_named_by_its_length(encoder: Encoder) -> None:
    narrow = Narrow(encoder, fits=100)
    with pytest.raises(torch.OutOfMemoryError, match=f"{NAME}: not even one sequence of 101 tokens fits .* cpu"):
        embed(narrow, drawn("protein", [20, 99, 99]))


def test_what_a_failed_batch_held_is_let_go_of_before_the_budget_is_halved(encoder: Encoder) -> None:
    held: list[weakref.ref[torch.Tensor]] = []
    alive: list[bool] = []

    class Holding(Narrow):
        def forward(self, token_ids: torch.Tensor) -> torch.Tensor:
            hidden = torch.zeros(token_ids.shape)
            if token_ids.numel() > self.fits:
                held.append(weakref.ref(hidden))
            return super().forward(token_ids)

        def halve_budget(self, token_ids: torch.Tensor) -> None:
            alive.append(held[-1]() is not None)
            super().halve_budget(token_ids)

    embed(Holding(encoder, fits=140), drawn("protein", [33] * 16))
    assert alive == [False] * 2


def test_windows_are_embedded_as_each_would_be_alone(encoder: Encoder) -> None:
    done: list[int] = []
    found = list(embed_windows(encoder, windows(5), done.append))
    assert sum(done) == 20
    for table, window in zip(found, windows(5), strict=True):
        assert table.equals(embed_frames(encoder, window))
    assert list(embed_windows(encoder, [])) == []


def test_windows_are_read_one_ahead_and_no_farther(encoder: Encoder) -> None:
    pulled, made, most_alive = 0, list[weakref.ref[pa.Table]](), 0

    def watched() -> Iterator[pa.Table]:
        nonlocal pulled, most_alive
        source = windows(12)
        while (window := next(source, None)) is not None:
            made.append(weakref.ref(window))
            pulled += 1
            most_alive = max(most_alive, sum(window() is not None for window in made))
            yield window
            del window

    gc.freeze()  # what other tests left need not be looked through each time
    try:
        for yielded, _ in enumerate(embed_windows(encoder, watched())):
            gc.collect()
            # One window's vectors are launched when those before it are handed over, and one more is read ahead.
            assert pulled <= yielded + 3
    finally:
        gc.unfreeze()
    assert pulled == 12 and most_alive <= 2


def test_what_the_reading_thread_refuses_reaches_the_caller(encoder: Encoder) -> None:
    threads, found = threading.active_count(), []
    with pytest.raises(AlphabetError, match="w3_F2: has letters outside the alphabet: '1'"):
        for table in embed_windows(encoder, windows(9, bad=3)):
            found.append(table["frame_id"][0].as_py())
    assert found == ["w0_F0", "w1_F0", "w2_F0"][: len(found)] and len(found) >= 2
    assert threading.active_count() == threads


def test_an_error_in_the_computation_ends_the_thread(encoder: Encoder) -> None:
    threads = threading.active_count()
    with pytest.raises(torch.OutOfMemoryError) as caught:
        list(embed_windows(Narrow(encoder, fits=10), windows(9)))
    assert threading.active_count() == threads, caught


def test_closing_early_ends_the_thread(encoder: Encoder) -> None:
    threads, pulled = threading.active_count(), 0

    def counted() -> Iterator[pa.Table]:
        nonlocal pulled
        for window in windows(100):
            pulled += 1
            yield window

    embedding = embed_windows(encoder, counted())
    next(embedding)
    assert threading.active_count() == threads + 1
    embedding.close()  # type: ignore[attr-defined]
    assert threading.active_count() == threads and pulled <= 3
