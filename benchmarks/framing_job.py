"""One way of framing in a process of its own, on one core: seconds, peak memory, and what it counted.

Started by `bench_sequences` as `python -m benchmarks.framing_job`; a job comes in as JSON, its figures go out as JSON.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

STATUS = Path("/proc/self/status")


def main() -> None:
    """Run one job."""
    job = json.load(sys.stdin)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    # Libraries count the cores when they are loaded.
    from benchmarks import framing, plain_framing

    way = {"ours": framing, "plain": plain_framing}[job["way"]]
    figures: dict[str, Any]
    if "proteins" in job:
        frames = json.loads(Path(job["frames"]).read_text(encoding="utf-8"))
        proteins = json.loads(Path(job["proteins"]).read_text(encoding="utf-8"))
        start = time.perf_counter()
        supported = way.with_evidence(frames, proteins)
        figures = {"seconds": time.perf_counter() - start, "supported": int(sum(supported))}
    else:
        with tempfile.TemporaryDirectory(dir=job["folder"]) as folder:
            first = Path(folder, "first.fa")
            first.write_text(">r\n" + "ACG" * 1000 + "\n", encoding="ascii")
            way.frame_source(first, Path(folder), job["chunk_length"])  # libraries load at the first call
            start = time.perf_counter()
            counted = way.frame_source(Path(job["fasta"]), Path(folder), job["chunk_length"])
            figures = {"seconds": time.perf_counter() - start, **counted}
    sys.stdout.write(json.dumps({**figures, "peak_mb": _peak_bytes() / 1e6}) + "\n")


def _peak_bytes() -> int:
    if STATUS.is_file():  # not ru_maxrss: a child begins with its parent's peak there
        lines = STATUS.read_text(encoding="ascii").splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    main()
