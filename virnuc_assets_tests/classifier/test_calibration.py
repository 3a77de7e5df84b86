"""The temperature is the likeliest one, within its bounds, and moves no call."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from virnuc_assets.classifier.calls import HIGHEST, LOWEST, calibrated, chunk_calls, fit_temperature
from virnuc_assets.storage.schemas import predictions_schema


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
