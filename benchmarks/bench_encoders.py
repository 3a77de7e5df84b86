"""Encoders side by side in one run: the originals, transformers, and ours in each precision.

Rows are a seeded sample of the bundled genomes' frames (chunks of 500 nt, proteins of about 166 aa). Weights are
random and of true size. Each contender has a process of its own, one after the other, with all usable cores; the
rate of plain matrix products in its precision is measured there before and after each pass, and a share is its
GFLOP/s over the median of those. GFLOP are 2 * tokens * weights of the products + 4 * l * tokens * d a layer.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks.checkpoints import write_checkpoint
from benchmarks.contenders import NAMES, SCALES, Contender, Scale, planned
from benchmarks.results import Figures, compare_vectors, contender_table, metric_table, name_metrics
from benchmarks.rows import genome_frames, write_short_frames
from virnuc_assets.cores import usable_cores
from virnuc_assets.encoders.loading import DTYPES
from virnuc_assets.encoders.machine import cpu_name, has_units
from virnuc_assets.storage.aside import written_aside

TABLES = "frame_tables"
ROOT = Path(__file__).parents[1]


def main() -> int:
    """Run what was asked for, print tables, write the figures."""
    given = _arguments()
    console = Console(width=180, highlight=False)
    scale, on_gpu = SCALES[given.scale], given.device == "cuda"
    units = {precision: on_gpu or has_units(precision) for precision in DTYPES}
    headline = "bf16" if units["bf16"] else "fp32"
    wanted = set(given.only or (*NAMES, TABLES))
    contenders = [c for c in planned(scale, units, given.rows, given.repeats) if c.name in wanted]
    processor = torch.cuda.get_device_name() if on_gpu else f"{cpu_name()}, {usable_cores()} cores"
    console.print(f"{processor}; headline precision: {headline}")
    if on_gpu:
        contenders = [c for c in contenders if c.embedder != "ours_int8"]
        console.print("torch quantizes dynamically on CPUs only: int8 is left out")
    if any(c.embedder == "sentence_transformers" for c in contenders) and not find_spec("sentence_transformers"):
        contenders = [c for c in contenders if c.embedder != "sentence_transformers"]
        console.print("sentence-transformers is not installed and left out; the extra `bench` installs it")
    if lacking := ", ".join(precision for precision, present in units.items() if not present):
        console.print(f"This processor has no units for {lacking}: emulated, on few rows, in fixed batches.")
    given.out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="encoders-", dir=given.out.parent))
    context = {"cores": float(usable_cores()), **{f"units_{name}": float(there) for name, there in units.items()}}
    run = _Run(folder, scale, given.device, console)
    figures: Figures = {}
    try:
        for _ in run.contenders(contenders, tables=TABLES in wanted):
            figures = _finished(run.figures, folder, headline)
            with written_aside(given.out) as aside:  # after each, so that a run that is cut off leaves what it has
                aside.write_text(json.dumps({**context, **figures}, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    finally:
        shutil.rmtree(folder)
    console.print(contender_table(figures, [c.name for c in contenders], run.told), metric_table(figures))
    console.print(f"written to {given.out}")
    return run.failures


def _finished(raw: Figures, folder: Path, headline: str) -> Figures:
    """The figures with the comparisons and the named metrics that they suffice for."""
    figures = dict(raw)
    compare_vectors(figures, folder)
    name_metrics(figures, headline)
    return figures


class _Run:
    """One run's folder, rows and figures."""

    def __init__(self, folder: Path, scale: Scale, device: str, console: Console) -> None:
        self._folder, self._scale, self._device, self._console = folder, scale, device, console
        self._frames = genome_frames(ROOT / "data" / "genomes")
        self.figures: Figures = {}
        self.told: dict[str, str] = {}
        self.failures = 0

    def contenders(self, contenders: list[Contender], tables: bool) -> Iterator[str]:
        """Measure one after the other and yield its name, then the frame tables; one that fails leaves no figures."""
        for contender in contenders:
            job = {
                "contender": asdict(contender),
                "model": asdict(self._scale.models[contender.model]),
                "folder": str(self._checkpoint(contender.model)),
                "device": self._device,
                "sequences": self._frames.column(contender.column).slice(0, contender.rows).to_pylist(),
                "vectors": str(self._folder / f"{contender.name}.npy"),
            }
            start = time.perf_counter()
            if contender.tuned:
                self._child(f"tuning of {contender.name}", ["measuring"], {**job, "only_load": True})
            found = self._child(contender.name, ["measuring"], {**job, "only_load": False})
            self.told[contender.name] = found.pop("told", "")
            self.figures.update({f"{contender.name}.{figure}": value for figure, value in found.items()})
            rate = f"{found['sequences_per_s']:.3g} sequences/s" if found else "failed"
            self._console.print(f"{contender.name}: {rate} ({time.perf_counter() - start:.0f} s)")
            yield contender.name
        if tables:
            self._frame_tables()
            yield TABLES

    def _frame_tables(self) -> None:
        """Memory beyond the model for a small and a large frames table."""
        small, large = self._scale.tables
        layers = self._scale.models["650m"].shape.layers  # so often does one batch of the true model go through a layer
        for name, rows, passes in (("frame_table_small", small, layers), ("frame_table_large", large, 1)):
            path = self._folder / f"{name}.parquet"
            write_short_frames(path, self._frames, rows)
            arguments = ["table_memory", str(self._checkpoint("one_layer")), str(path), self._device, str(passes)]
            found = self._child(name, arguments, {})
            self.figures.update({f"{name}.{figure}": value for figure, value in found.items()})
            self.figures[f"{name}.rows"] = rows

    def _checkpoint(self, model: str) -> Path:
        folder = self._folder / "checkpoints" / model
        if not folder.is_dir():
            corpus = self._frames.column("nucleotides").slice(0, 4000).to_pylist()
            write_checkpoint(folder, self._scale.models[model], corpus)  # type: ignore[index]
        return folder

    def _child(self, name: str, arguments: list[str], job: dict[str, Any]) -> dict[str, Any]:
        command = [sys.executable, "-m", f"benchmarks.{arguments[0]}", *arguments[1:]]
        done = subprocess.run(  # noqa: S603
            command, input=json.dumps(job), capture_output=True, text=True, check=False, cwd=ROOT
        )
        if done.returncode:
            self.failures += 1
            self._console.print(f"{name} failed ({done.returncode}):\n{done.stderr.strip()[-3000:]}", markup=False)
            return {}
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make bench-encoders, or python -m benchmarks.bench_encoders",
        description=__doc__,
        epilog=f"NAME is one of: {', '.join((*NAMES, TABLES))}. Metrics that need a contender left out are left out.",
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=(*NAMES, TABLES), help="run these alone")
    parser.add_argument("--scale", choices=SCALES, default="true", help="tiny: two narrow layers, to try the benchmark")
    parser.add_argument("--rows", type=float, default=1.0, metavar="FACTOR", help="multiplies the rows of each")
    parser.add_argument("--repeats", type=int, metavar="N", help="timed passes of each; by default 1 to 3, by cost")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where all of them run")
    parser.add_argument("--out", type=Path, default=ROOT / "var" / "bench" / "encoders.json", help="file of figures")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
