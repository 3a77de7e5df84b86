"""What this machine does: the rate of plain matrix products, and the memory of this process (Linux's /proc)."""

from __future__ import annotations

import math
import mmap
import statistics
import time
from pathlib import Path

import torch
from torch import Tensor

_TRIES, _ENOUGH_SECONDS = 3, 1.0
_PROCESS = Path("/proc/self")


class Gemm:
    """torch's matrix product at the fastest of the shapes of a feed-forward network of this width."""

    def __init__(self, dtype: torch.dtype, device: torch.device, width: int) -> None:
        self._dtype, self._device = dtype, device
        shapes = [(rows, *sides) for rows in (1024, 2048) for sides in ((width, 4 * width), (4 * width, width))]
        self._shape = max((max(self._rates(shape, 0.0)), shape) for _ in range(_TRIES) for shape in shapes)[1]

    def gflops(self) -> float:
        """Its rate now."""
        return statistics.median(self._rates(self._shape, _ENOUGH_SECONDS))

    def _rates(self, shape: tuple[int, ...], enough_seconds: float) -> list[float]:
        rows, inner, columns = shape
        left, right, product = self._operand(rows, inner), self._operand(columns, inner), self._operand(rows, columns)
        seconds: list[float] = []
        while len(seconds) < 2 or sum(seconds) < enough_seconds:
            start = time.perf_counter()
            torch.mm(left, right.t(), out=product)
            if self._device.type == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
        return [2e-9 * math.prod(shape) / taken for taken in seconds[1:]]  # the first one sets up

    def _operand(self, rows: int, columns: int) -> Tensor:
        """In a mapping of its own, which leaves the memory of the process with the operand."""
        if self._device.type == "cuda":
            return torch.ones(rows, columns, dtype=self._dtype, device=self._device)
        memory = mmap.mmap(-1, rows * columns * self._dtype.itemsize)
        return torch.frombuffer(memory, dtype=self._dtype).view(rows, columns).fill_(1.0)


def reset_peak(device: torch.device) -> None:
    """Let the highest begin at what is in use now."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        (_PROCESS / "clear_refs").write_text("5", encoding="ascii")


def peak_bytes(device: torch.device) -> int:
    """The most resident memory of this process, or memory of a GPU's tensors, since the last reset."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    status = (_PROCESS / "status").read_text(encoding="ascii")
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])
