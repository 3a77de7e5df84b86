"""Encoders compared in one run: ours, transformers, fair-esm, and DNABERT-S one by one, in each native precision.

Rows are a seeded sample of the bundled genomes' frames (chunks of 500 nt, proteins of about 166 aa). Weights are
random and of true size. The contenders of a comparison are loaded at the same time and take turns, in the reverse
order every other round: a ratio is that of one round, and its median, least and greatest are reported. Rounds go on
until the median is known to 5 %. A share is GFLOP/s over those of plain matrix products right before and after.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import torch
from rich.console import Console

from benchmarks.checkpoints import write_checkpoint
from benchmarks.contenders import COMPARISONS, SCALES
from benchmarks.measuring import ROOT, Figures, Job, WorkerError, worker
from benchmarks.results import Ratios, Round, half_width, speedups, summary, tables
from benchmarks.rows import genome_frames, write_short_frames
from virnuc_assets.cores import usable_cores
from virnuc_assets.encoders.loading import DTYPES
from virnuc_assets.encoders.machine import cpu_name, native_precision
from virnuc_assets.settings import Precision
from virnuc_assets.storage.atomic import atomic_write

TABLES = "frame_tables"
_FEWEST_ROUNDS, _MOST_ROUNDS, _LONGEST_SECONDS = 5, 15, 480
_HALF_WIDTH = 0.05
_ONE_BY_ONE = 8  # share of the rows for what takes equally long per row however many there are


def main() -> int:
    """Run what was asked for, print tables, write the figures; returns how many comparisons failed."""
    given = _arguments()
    console = Console(width=180, highlight=False)
    on_gpu = given.device == "cuda"
    processor = torch.cuda.get_device_name() if on_gpu else f"{cpu_name()}, {usable_cores()} cores"
    native = [precision for precision in DTYPES if on_gpu or native_precision(precision)]
    console.print(f"{processor}; native precisions: {', '.join(native)}")
    figures: Figures = {"cores": usable_cores(), **{f"native_{name}": float(name in native) for name in DTYPES}}
    given.out.parent.mkdir(parents=True, exist_ok=True)
    failures = 0
    with tempfile.TemporaryDirectory(prefix="encoders-", dir=given.out.parent) as folder:
        run = _Run(Path(folder), given, console)
        for name in given.only or (*COMPARISONS, TABLES):
            start = time.perf_counter()
            try:
                figures |= run.frame_tables() if name == TABLES else run.compare(name, native)
            except (WorkerError, subprocess.CalledProcessError) as error:
                failures += 1
                console.print(f"{name} failed: {error}", markup=False)
            console.print(f"{name}: {time.perf_counter() - start:.0f} s")
            with atomic_write(given.out) as temporary:  # after each, so that a run that is cut off keeps what it has
                temporary.write_text(json.dumps(figures, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    console.print(*tables(figures), f"written to {given.out}")
    return failures


class _Run:
    """One run's folder, rows and checkpoints."""

    def __init__(self, folder: Path, given: argparse.Namespace, console: Console) -> None:
        self._folder, self._given, self._console = folder, given, console
        self._scale = SCALES[given.scale]
        self._frames = genome_frames(ROOT / "data" / "genomes")

    def compare(self, name: str, precisions: list[Precision]) -> Figures:
        """Load the contenders of a comparison, let them take turns, and sum up."""
        comparison = COMPARISONS[name]
        ratios = comparison.ratios(precisions)
        rows = max(round(comparison.rows * self._scale.row_share * self._given.rows), 2)
        sequences = self._frames.column(comparison.column).slice(0, rows).to_pylist()
        vectors = self._folder / name
        vectors.mkdir()
        jobs = [
            Job(
                contender,
                self._given.scale,
                self._given.device,
                str(self._checkpoint(contender.model)) if contender.model == comparison.model else "",
                sequences[: max(rows // _ONE_BY_ONE, 1)] if contender.code == "one_by_one" else sequences,
                str(vectors / f"{contender.name}.npy"),
            )
            for contender in dict.fromkeys(contender for pair in ratios.values() for contender in pair)
        ]
        return summary(name, self._rounds(jobs, ratios), ratios, vectors)

    def _rounds(self, jobs: list[Job], ratios: Ratios) -> list[Round]:
        rounds: list[Round] = []
        with ExitStack() as stack:
            workers = {job.contender.name: stack.enter_context(worker(job)) for job in jobs}
            start = time.perf_counter()
            while not self._is_enough(rounds, ratios, time.perf_counter() - start):
                order = list(workers) if len(rounds) % 2 == 0 else list(reversed(workers))
                turns = {name: workers[name]() for name in order}
                rounds.append({name: turns[name] for name in workers})
                rates = ", ".join(f"{name} {turns[name]['sequences_per_s']:.3g}" for name in workers)
                self._console.print(f"  round {len(rounds)}, sequences/s: {rates}")
        return rounds

    def _is_enough(self, rounds: list[Round], ratios: Ratios, seconds: float) -> bool:
        count, fixed = len(rounds), self._given.rounds
        if fixed or count < _FEWEST_ROUNDS:
            return bool(count == fixed)
        if count == _MOST_ROUNDS or seconds * (count + 1) / count > _LONGEST_SECONDS:
            return True
        return max(map(half_width, speedups(rounds, ratios).values())) <= _HALF_WIDTH

    def frame_tables(self) -> Figures:
        """Memory beyond the model for a small and a large frames table, and the ratio of the two."""
        found: Figures = {}
        layers = self._scale.models["650m"].shape.layers  # so often does one batch of the true model pass a layer
        sizes = {"small": (self._scale.tables[0], layers), "large": (self._scale.tables[1], 1)}
        for size, (rows, passes) in sizes.items():
            path = self._folder / f"{size}.parquet"
            write_short_frames(path, self._frames, rows)
            command = ["-m", "benchmarks.table_memory", str(self._checkpoint("one_layer")), str(path)]
            done = subprocess.run(  # noqa: S603
                [sys.executable, *command, self._given.device, str(passes)],
                stdout=subprocess.PIPE,
                text=True,
                check=True,
                cwd=ROOT,
            )
            found |= {f"frame_table_{size}.rows": rows, f"frame_table_{size}.bytes": json.loads(done.stdout)["bytes"]}
        return {
            **found,
            "frame_table_memory_ratio": found["frame_table_large.bytes"] / found["frame_table_small.bytes"],
        }

    def _checkpoint(self, model: str) -> Path:
        folder = self._folder / "checkpoints" / model
        if not folder.is_dir():
            write_checkpoint(folder, self._scale.models[model], self._frames.column("nucleotides")[:4000].to_pylist())
        return folder


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make bench-encoders, or python -m benchmarks.bench_encoders", description=__doc__
    )
    names = (*COMPARISONS, TABLES)
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=names, help=f"run these alone: {', '.join(names)}")
    parser.add_argument("--scale", choices=SCALES, default="true", help="tiny: two narrow layers, to try the benchmark")
    parser.add_argument("--rows", type=float, default=1.0, metavar="FACTOR", help="multiplies the rows of each")
    parser.add_argument("--rounds", type=int, metavar="N", help="exactly so many; by default 5 to 15, by their spread")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where all of them run")
    parser.add_argument("--out", type=Path, default=ROOT / "var" / "bench" / "encoders.json", help="file of figures")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
