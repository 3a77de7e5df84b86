"""How much memory this process, or a GPU's allocator, held at the highest."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import torch

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class PeakMemory:
    """Bytes now, and at the highest since the last reset: resident memory of this process, or of a GPU's tensors.

    Where the system cannot begin a peak anew (no Linux), the highest is that since the process began, and so is now.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"

    def reset(self) -> None:
        """Begin anew from what is in use now."""
        if self._on_gpu:
            torch.cuda.reset_peak_memory_stats()
        elif _CLEAR.exists():
            _CLEAR.write_text("5", encoding="ascii")

    def highest(self) -> int:
        """Bytes at the highest."""
        return torch.cuda.max_memory_allocated() if self._on_gpu else _resident("VmHWM")

    def now(self) -> int:
        """Bytes in use."""
        return torch.cuda.memory_allocated() if self._on_gpu else _resident("VmRSS")


def _resident(field: str) -> int:
    # Not ru_maxrss on Linux: a child begins with its parent's peak there.
    if _STATUS.is_file():
        lines = _STATUS.read_text(encoding="ascii").splitlines()
        return int(next(line for line in lines if line.startswith(field)).split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
