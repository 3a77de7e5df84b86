"""What a process can tell of the machine under it: memory at its highest, and the rate of plain matrix products."""

from __future__ import annotations

import math
import mmap
import statistics
import time
from pathlib import Path

import torch
from torch import Tensor

_LONGEST_SECONDS = 1.0  # a product that takes longer is left out
_RUNS, _ENOUGH_SECONDS = 7, 0.5


class PeakMemory:
    """Bytes at the highest since the last reset: resident memory of this process (Linux), or of the GPU's tensors."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"

    def reset(self) -> None:
        """Begin anew from what is in use now."""
        if self._on_gpu:
            torch.cuda.reset_peak_memory_stats()
        else:
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")

    def highest(self) -> int:
        """Bytes at the highest."""
        return torch.cuda.max_memory_allocated() if self._on_gpu else _status("VmHWM")

    def now(self) -> int:
        """Bytes in use."""
        return torch.cuda.memory_allocated() if self._on_gpu else _status("VmRSS")


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) * 1024


def gemm_gflops(dtype: torch.dtype, device: torch.device, width: int) -> float:
    """Rate of torch's matrix product at the best of some shapes: squares, and those of a layer of this width.

    Operands lie in mappings of their own, so that they leave the memory of the process with this call.
    """
    squares = [(size, size, size) for size in (1024, 2048, 4096)]
    layers = [(rows, *sides) for rows in (1024, 2048) for sides in ((width, 4 * width), (4 * width, width))]
    best = 0.0
    for shape in (*squares, *layers):
        if not best or 2e-9 * math.prod(shape) / best < _LONGEST_SECONDS:
            best = max(best, _rate(shape, dtype, device))
    return best


def _rate(shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device) -> float:
    rows, inner, columns = shape
    left, right = _operand((rows, inner), dtype, device), _operand((columns, inner), dtype, device)
    product = _operand((rows, columns), dtype, device)
    seconds: list[float] = []
    while len(seconds) < _RUNS and (len(seconds) < 2 or sum(seconds) < _ENOUGH_SECONDS):
        start = time.perf_counter()
        torch.mm(left, right.t(), out=product)
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return 2e-9 * math.prod(shape) / statistics.median(seconds[1:])


def _operand(shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> Tensor:
    if device.type == "cuda":
        return torch.ones(shape, dtype=dtype, device=device)
    memory = mmap.mmap(-1, math.prod(shape) * dtype.itemsize)
    return torch.frombuffer(memory, dtype=dtype).view(shape).fill_(1.0)
