from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from virnuc_assets.encoders.device_memory import fitted_budget
from virnuc_assets.errors import VirnucError

START = 2048
MOST_PROBES = 12


class Device:
    """A device on which a batch takes `taken(tokens)` bytes beside what lies there idle."""

    def __init__(self, total: int, idle: int, taken: Callable[[int], float]) -> None:
        self._total, self._idle, self._taken = total, idle, taken
        self._peak, self.tried = idle, list[int]()

    def total(self) -> int:
        return self._total

    def forget(self) -> None:
        self._peak = self._idle

    def peak(self) -> int:
        return self._peak

    def used(self, tokens: int) -> int:
        return self._idle + int(self._taken(tokens))

    def run(self, tokens: int) -> None:
        self.tried.append(tokens)
        if self.used(tokens) > self._total:
            raise torch.OutOfMemoryError(f"{tokens} tokens")
        self._peak = self.used(tokens)


@settings(deadline=None, max_examples=300)
@given(
    total=st.integers(10**9, 2 * 10**11),
    idle=st.floats(0.0, 0.8),
    first=st.floats(1e-6, 1.5),
    curve=st.floats(0.0, 0.2),
    step=st.sampled_from([1, 1 << 21]),
)
def test_the_budget_takes_85_to_90_percent(total: int, idle: float, first: float, curve: float, step: int) -> None:
    """`first`: share of the free memory that the first probe takes; `curve`: how much more than linear it grows."""
    free = total * (1 - idle)

    def taken(tokens: int) -> float:
        linear = first * free * tokens / START
        return -(-linear * (1 + curve * linear / free) // step) * step

    device = Device(total, int(total * idle), taken)
    budget = fitted_budget(device.run, START, device)
    assert len(device.tried) <= MOST_PROBES and budget in device.tried
    assert 0.85 <= device.used(budget) / total <= 0.90
    assert device.peak() == device.used(0)  # what the probes took is given back


def test_where_memory_runs_out_below_the_aim_the_largest_that_fits_is_taken() -> None:
    # A batch of more than 5000 tokens needs a workspace larger than the device.
    device = Device(10**9, 10**8, lambda tokens: 10_000 * tokens + (10**10 if tokens > 5000 else 0))
    budget = fitted_budget(device.run, START, device)
    assert budget == max(tokens for tokens in device.tried if tokens <= 5000)
    assert budget > 4900 and len(device.tried) <= MOST_PROBES


def test_a_first_probe_that_does_not_fit_is_made_smaller() -> None:
    device = Device(10**9, 10**8, lambda tokens: 10**6 * tokens)
    assert 0.85 <= device.used(fitted_budget(device.run, START, device)) / 10**9 <= 0.90
    assert device.tried[0] == START


def test_where_every_batch_takes_more_the_smallest_that_fits_is_taken() -> None:
    device = Device(10**9, 10**8, lambda tokens: 85 * 10**7 + tokens)
    budget = fitted_budget(device.run, START, device)
    assert budget == min(device.tried) < START


def test_a_device_into_which_nothing_fits_is_refused() -> None:
    device = Device(10**9, 9 * 10**8, lambda tokens: 10**9)
    with pytest.raises(VirnucError, match="not even a batch of 1 tokens fits into the 1,000,000,000 bytes"):
        fitted_budget(device.run, START, device)
    assert len(device.tried) <= MOST_PROBES
