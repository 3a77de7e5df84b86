"""The rate of plain matrix products on this machine."""

from __future__ import annotations

import math
import mmap
import statistics
import time

import torch
from torch import Tensor

_LONGEST_SECONDS = 1.0  # a product that takes longer is left out
_RUNS, _ENOUGH_SECONDS = 7, 0.5


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
