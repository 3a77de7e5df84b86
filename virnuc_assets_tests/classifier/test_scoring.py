"""Scores stand by themselves; calls follow VirNucPro's rules at frame and chunk, ours at the record, uncalibrated."""

from __future__ import annotations

import math
import warnings
from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from virnuc_assets.classifier.calls import (
    HIGHEST,
    LOWEST,
    calibrated,
    chunk_calls,
    fit_temperature,
    frame_calls,
    record_calls,
)
from virnuc_assets.classifier.checkpoint import LinearModel, Mlp, score
from virnuc_assets.errors import VirnucError
from virnuc_assets.storage.schemas import predictions_schema
from virnuc_assets.virnucpro.results import CHUNKS_FILE, FRAMES_FILE, write_chunks, written_frames
from virnuc_assets_tests.classifier.sample_fakes import FakeRecord, fake_calls


@pytest.fixture
def model() -> Mlp:
    torch.manual_seed(0)
    fresh = Mlp(20, 16, 0.5)
    fresh(torch.randn(64, 20) * 3 + 1)
    nn.init.normal_(fresh.output_layer.weight, std=3.0)
    return fresh.train()


@pytest.fixture
def features() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(301, 20)).astype(np.float32)


def frames(*rows: tuple[str, float, float]) -> pa.Table:
    """A predictions table from (frame id, score_other, score_virus)."""
    scores = np.array([row[1:] for row in rows], dtype=np.float32)
    ids = ((frame, frame[:-2], frame.rpartition("_chunk_")[0]) for frame, _, _ in rows)
    columns = [*map(list, zip(*ids, strict=True)), scores[:, 0], scores[:, 1], frame_calls(scores)]
    return pa.table(columns, schema=predictions_schema())


def test_scores_are_probabilities_of_other_and_virus(model: Mlp, features: np.ndarray) -> None:
    scores = score(model, features)
    assert scores.shape == (301, 2)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-6)
    with torch.no_grad():
        expected = torch.softmax(model.eval()(torch.tensor(features)), dim=1)
    np.testing.assert_allclose(scores, expected.numpy(), atol=1e-6)


@pytest.mark.parametrize("rows", [1, 7, 33, 300])
@pytest.mark.parametrize("kind", ["mlp", "linear"])
def test_a_score_does_not_depend_on_the_rows_next_to_it(kind: str, rows: int) -> None:
    """To the last bit: a sample that continues its plan has other shards than one that is planned at once."""
    generator = np.random.default_rng(0)
    model = Mlp(80, 512, 0.5) if kind == "mlp" else LinearModel.of(generator.normal(size=623) / 25, 0.1)
    features = generator.normal(size=(301, 80 if kind == "mlp" else 623)).astype(np.float32)
    whole = score(model, features)
    assert whole[:, 1].std() > 0.1  # on equal scores the test would be empty
    np.testing.assert_array_equal(score(model, features, rows), whole)
    np.testing.assert_array_equal(score(model, features[rows:]), whole[rows:])
    np.testing.assert_array_equal(score(model, np.ascontiguousarray(features[::-1]), rows)[::-1], whole)


def test_read_only_and_empty_features_are_scored(model: Mlp, features: np.ndarray) -> None:
    features.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(score(model, features)) == 301
    assert score(model, features[:0]).shape == (0, 2)


def test_scores_that_are_not_finite_are_refused(model: Mlp, features: np.ndarray) -> None:
    features[4] = np.nan
    with pytest.raises(VirnucError, match=r"1 of 301 scores are not finite, e.g. of rows \[4\]"):
        score(model, features)


def test_a_tie_is_others_for_a_frame_and_virus_for_a_chunk() -> None:
    table = frames(("a_chunk_1F1", 0.5, 0.5), ("a_chunk_2F1", 0.9, 0.1), ("a_chunk_2R1", 0.1, 0.9))
    assert table["call"].to_pylist() == ["others", "others", "virus"]
    chunks = chunk_calls(table)
    assert chunks["call"].to_pylist() == ["virus", "virus"]
    assert chunks.schema.names == ["chunk_id", "record_id", "score_other", "score_virus", "call"]
    assert chunks["score_other"].to_pylist() == pytest.approx([0.5, 0.9])


def test_order_of_first_appearance_is_kept_and_rows_need_not_be_neighbours() -> None:
    """Of more groups than Arrow keeps it of: the probabilities of a sample's chunks are put in place by this order."""
    ids = [f"r{number // 4}_chunk_{number % 4 + 1}" for number in range(4000)]
    chunks = chunk_calls(frames(*((f"{each}F{frame}", 0.4, 0.6) for frame in (1, 2) for each in ids)))
    assert chunks["chunk_id"].to_pylist() == ids
    assert record_calls(chunks)["record_id"].to_pylist() == [f"r{number}" for number in range(1000)]


def test_a_record_is_virus_from_half_of_its_chunks_on() -> None:
    virus, other = (0.2, 0.8), (0.8, 0.2)
    calls = {"half": [virus, other], "less": [virus, other, other], "all": [virus, virus]}
    table = frames(
        *((f"{name}_chunk_{i}F1", *pair) for name, pairs in calls.items() for i, pair in enumerate(pairs, 1))
    )
    assert record_calls(chunk_calls(table)).to_pydict() == {
        "record_id": ["half", "less", "all"],
        "viral_fraction": [0.5, pytest.approx(1 / 3), 1.0],
        "call": ["virus", "others", "virus"],
    }


def written(folder: Path, table: pa.Table) -> tuple[Path, Path]:
    """VirNucPro's two files of some predictions."""
    assert pa.concat_tables(written_frames(folder, [table.slice(0, 1), table.slice(1)])) == table
    chunks: dict[str, dict[int, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    for row in table.to_pylist():
        number = int(row["chunk_id"].rpartition("_")[2])
        chunks[row["record_id"]][number][row["frame_id"][-2:]] = row["score_virus"]
    records = [
        FakeRecord(name, 500 * max(of), [of.get(number, {}) for number in range(1, max(of) + 1)])
        for name, of in chunks.items()
    ]
    write_chunks(folder, fake_calls(records), pa.chunked_array([list(chunks)]))
    return folder / FRAMES_FILE, folder / CHUNKS_FILE


def test_virnucpros_files_to_the_byte(tmp_path: Path) -> None:
    table = frames(
        ("b_chunk_10F1", 0.1, 0.9),
        ("b_chunk_2R3", 0.75, 0.25),
        ("b_chunk_3F1", 0.5, 0.5),
        ("a_chunk_1F2", 0.5, 0.5),
        ("a_chunk_1R1", 0.99999, 1e-5),
    )
    paths = written(tmp_path, table)
    assert [path.name for path in paths] == ["prediction_results.txt", "prediction_results_highestscore.csv"]
    assert paths[0].read_text() == (
        "Sequence_ID\tPrediction\tscore1\tscore2\n"
        "b_chunk_10F1\tvirus\t0.1\t0.9\n"
        "b_chunk_2R3\tothers\t0.75\t0.25\n"
        "b_chunk_3F1\tothers\t0.5\t0.5\n"
        "a_chunk_1F2\tothers\t0.5\t0.5\n"
        "a_chunk_1R1\tothers\t0.99999\t1e-05\n"
    )
    assert paths[1].read_text() == (
        "Modified_ID\tIs_Virus\na_chunk_1\tFalse\nb_chunk_10\tTrue\nb_chunk_2\tFalse\nb_chunk_3\tTrue\n"
    )


def test_chunks_are_in_the_order_of_their_ids_whatever_records_are_called(tmp_path: Path) -> None:
    """Also where one record is called as the chunk of another, between whose chunks its own belong."""
    names = ["a_chunk_1", "a", "a!b", "aß", "a_chunk_", "A", "a_chunk_10_chunk_2", "ab", "a_chunk_2"]
    ids = [f"{name}_chunk_{number}" for name in names for number in range(1, 13)]
    _, path = written(tmp_path, frames(*((f"{each}F1", 0.25, 0.75) for each in ids)))
    assert [line.split("\t")[0] for line in path.read_text().splitlines()[1:]] == sorted(ids)


@pytest.mark.parametrize("planted", [0.25, 1.0, 3.5])
def test_finds_the_temperature_that_was_planted(planted: float) -> None:
    """Truth drawn by the probabilities at that temperature."""
    generator = np.random.default_rng(0)
    honest = generator.normal(scale=2.0, size=200_000)
    viral = generator.random(200_000) < 1 / (1 + np.exp(-honest))
    assert fit_temperature(planted * honest, viral) == pytest.approx(planted, rel=0.02)


def test_two_kinds_of_rows_have_a_closed_form() -> None:
    """Log-odds of 2 in all rows, right in three of four: the honest log-odds are log 3."""
    viral = np.array([1, 1, 1, 0] * 5)
    assert fit_temperature(np.full(20, 2.0), viral) == pytest.approx(2 / math.log(3), rel=1e-12)


def test_rows_that_are_all_right_or_all_wrong_stay_in_bounds() -> None:
    odds, viral = np.array([3.0, -2.0, 5.0]), np.array([1, 0, 1])
    assert fit_temperature(odds, viral) == LOWEST
    assert fit_temperature(-odds, viral) == HIGHEST
    assert fit_temperature(np.zeros(4), np.array([0, 1, 0, 1])) == HIGHEST


def test_probabilities_are_exact_and_sound_at_the_ends() -> None:
    other = np.array([0.8, 0.5, 0.0, 1.0, 1.0], dtype=np.float32)
    virus = np.array([0.2, 0.5, 1.0, 0.0, 1e-30], dtype=np.float32)
    found = calibrated(other, virus, 2.0)
    assert found.dtype == np.float64
    assert found.tolist() == pytest.approx([1 / 3, 0.5, 1.0, 0.0, 1e-15], rel=1e-6)
    np.testing.assert_allclose(calibrated(other, virus, 1.0), virus, rtol=1e-6)


@settings(deadline=None)
@given(halves=st.lists(st.integers(-16, 16), min_size=1, max_size=12), temperature=st.floats(0.5, HIGHEST))
def test_no_call_follows_from_the_temperature(halves: list[int], temperature: float) -> None:
    """Neither of a frame nor of a chunk, which goes by the highest score of each kind.

    Log-odds that differ by half at least, and stay where neither scores nor probabilities round to one.
    """
    odds = np.array(halves) / 2
    virus = (1 / (1 + np.exp(-odds))).astype(np.float32)
    other = (1 / (1 + np.exp(odds))).astype(np.float32)
    p_virus, p_other = calibrated(other, virus, temperature), calibrated(virus, other, temperature)
    assert ((p_virus > 0.5) == (virus > other)).all()
    assert chunk_call(p_virus, p_other) == chunk_call(virus, other)


def chunk_call(virus: np.ndarray, other: np.ndarray) -> list[str]:
    names = [["c"] * len(virus)] * 3
    columns = [*names, other, virus, ["others"] * len(virus)]
    table = pa.table(dict(zip(predictions_schema().names, columns, strict=True)))
    calls: list[str] = chunk_calls(table)["call"].to_pylist()
    return calls
