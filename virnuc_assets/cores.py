"""How many cores this process may use."""

from __future__ import annotations

import math
import os
from pathlib import Path

QUOTA_FILE = Path("/sys/fs/cgroup/cpu.max")


def usable_cores() -> int:
    """Cores that this process may use: its affinity, and the quota of its control group where there is one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if QUOTA_FILE.is_file():
        cores = int(min(cores, quota_cores(QUOTA_FILE.read_text(encoding="ascii"))))
    return cores


def quota_cores(line: str) -> float:
    """Whole cores that a control group's `cpu.max` grants, at least one; infinite for "max".

    Args:
        line: Microseconds of CPU time in each period of so many: "max 100000" or "200000 100000".
    """
    quota, period = line.split()
    return math.inf if quota == "max" else max(int(quota) // int(period), 1)
