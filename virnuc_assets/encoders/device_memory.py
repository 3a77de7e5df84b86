"""A token budget that fills a GPU: grown until 85 to 90 % of its memory is used."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import torch

from virnuc_assets.errors import VirnucError

_LOW, _AIM, _HIGH = 0.85, 0.875, 0.90  # shares of the device's memory
_GROWTH = 8  # at most so much from one probe to the next: a small probe tells little of a large one
_PROBES = 12


class DeviceMemory(Protocol):
    """What is asked of a device."""

    def total(self) -> int:
        """Bytes of the device that this process may use."""
        ...

    def forget(self) -> None:
        """Begin a new peak."""
        ...

    def peak(self) -> int:
        """Most bytes held since `forget`."""
        ...


class CudaMemory:
    """The current CUDA device: what is free for this process, and what its allocator has taken."""

    def total(self) -> int:
        """Bytes that are free, and those that this process holds already."""
        free, _ = torch.cuda.mem_get_info()
        return free + torch.cuda.memory_reserved()

    def forget(self) -> None:
        """Give cached blocks back and begin a new peak."""
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()

    def peak(self) -> int:
        """Most bytes that the allocator has taken from the device."""
        torch.cuda.synchronize()
        return torch.cuda.max_memory_reserved()


def fitted_budget(run: Callable[[int], None], start: int, memory: DeviceMemory) -> int:
    """Tokens a batch that take 85 to 90 % of a device's memory.

    Args:
        run: Encodes one batch of so many tokens; raises torch.OutOfMemoryError where that is too much.
        start: Tokens of the first probe; fewer are tried where they do not fit.
        memory: The device.

    Returns:
        The budget. Where no batch takes 85 to 90 %, the largest that was seen to take less; where all take more, the
        smallest that was seen to fit.

    Raises:
        VirnucError: none of the batches that were tried fits.
    """
    memory.forget()
    idle, total = memory.peak(), memory.total()
    fits, tight, too_many, tokens = 0, 0, 0, start
    for _ in range(_PROBES):
        used = _used(run, tokens, memory)
        if used > _HIGH * total:
            too_many, tight = tokens, tokens if used < math.inf else tight
        else:
            fits = tokens
            if used >= _LOW * total:
                break
            grown = int(tokens * (_AIM * total - idle) / max(used - idle, 1))
            tokens = min(max(grown, tokens + 1), _GROWTH * tokens)
        if too_many and tokens >= too_many:
            tokens = (fits + too_many) // 2
        if tokens == fits:
            break
    memory.forget()
    if not fits and not tight:
        raise VirnucError(
            f"not even a batch of {too_many} tokens fits into the {total:,} bytes of the device, of which the model "
            f"takes {idle:,}; use a larger one, or device = 'cpu'"
        )
    return fits or tight


def _used(run: Callable[[int], None], tokens: int, memory: DeviceMemory) -> float:
    """Most bytes held while a batch is encoded, infinite where memory runs out."""
    memory.forget()
    try:
        run(tokens)
    except torch.OutOfMemoryError:
        return math.inf
    return memory.peak()
