"""What this machine offers torch: cores, an allocator that keeps its pages, half precision."""

from __future__ import annotations

import ctypes
import functools
import platform
import sys
from pathlib import Path

import pyarrow as pa
import torch
from joblib import cpu_count

from virnuc_assets.errors import VirnucError

# Names and numbers of glibc's malloc.h.
_M_MXFAST, _M_TRIM_THRESHOLD, _M_MMAP_MAX = 1, -1, -4
_NEVER = 2**31 - 1


def prepare_cpu() -> int:
    """Set torch's threads to the usable cores, tell glibc to keep freed memory, and have Arrow use glibc.

    A hidden state is tens of megabytes. glibc hands such blocks back to the kernel when they are freed, and each next
    layer pays thousands of page faults to get them again. Small freed blocks are joined with their neighbours at once:
    otherwise those that glibc before 2.38 cuts from aligned ones would keep the larger ones apart.
    """
    threads = int(cpu_count())
    torch.set_num_threads(threads)
    # Arrow's own pool keeps what was freed: 20 MB while a table of 10,000 frames is embedded.
    pa.set_memory_pool(pa.system_memory_pool())
    if (libc := _glibc()) is not None:
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, _NEVER)
        libc.mallopt(_M_MXFAST, 0)
    return threads


def give_freed_memory_back() -> None:
    """Hand the freed blocks that glibc keeps back to the kernel; once a batch, this costs nothing that shows."""
    if (libc := _glibc()) is not None:
        libc.malloc_trim(0)


@functools.cache
def _glibc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if sys.platform == "linux" and platform.libc_ver()[0] == "glibc" else None


def cpu_name() -> str:
    """The processor's model name, as the kernel reports it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def native_precision(precision: str) -> bool:
    """Whether this CPU multiplies in a precision by itself; otherwise it is emulated, slower than fp32."""
    return precision == "fp32" or bool(getattr(torch.ops.mkldnn, f"_is_mkldnn_{precision}_supported")())


def resolve_device(requested: str) -> torch.device:
    """The device to use: `auto` is a GPU where there is one; `cuda` without one is refused."""
    present = torch.cuda.is_available()
    if requested == "cuda" and not present:
        raise VirnucError("device = 'cuda' is set, but torch finds no GPU; set device to 'auto' or 'cpu'")
    return torch.device("cuda" if present and requested != "cpu" else "cpu")
