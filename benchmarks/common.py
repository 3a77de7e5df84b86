"""What all benchmarks use: options, a scratch folder, alternate rounds, fresh processes, figures with their limits."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import re
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from Bio.Data.CodonTable import standard_dna_table
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]
GENOMES = ROOT / "data/genomes"
CONSOLE = Console(width=120, highlight=False)
MB = 1_000_000

Figures = dict[str, float]
Limits = Mapping[str, tuple[float, float]]  # least and largest accepted
CODONS = sorted(standard_dna_table.forward_table)  # without stops
P = ParamSpec("P")
T = TypeVar("T")


def run(
    target: str,
    description: str | None,
    options: Mapping[str, tuple[Any, str]],
    measure: Callable[[argparse.Namespace, Path], tuple[Figures, Limits]],
) -> int:
    """A make target: parse, measure in a scratch folder, publish.

    Options are a default and a help each. A default of several words is a choice of them, of which some may be given;
    of False, a flag.
    """
    parser = argparse.ArgumentParser(f"make {target}", description=description)
    file = ROOT / f"var/bench/{target.removeprefix('bench-')}.json"
    parser.add_argument("--out", type=Path, default=file, help="file of figures")
    for name, (default, text) in options.items():
        kind: dict[str, Any] = {"type": type(default)}
        if default is False:
            kind = {"action": "store_true"}
        elif isinstance(default, tuple):
            kind = {"nargs": "*", "choices": default}
        text = f"{text} (default {' '.join(default) if isinstance(default, tuple) else default})"
        parser.add_argument(f"--{name}", default=default, help=text, **kind)
    given = parser.parse_args()
    given.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{target}-", dir=given.out.parent, ignore_cleanup_errors=True) as scratch:
        figures, limits = measure(given, Path(scratch))
        return publish(figures, given.out, limits)


def publish(figures: Figures, out: Path, limits: Limits) -> int:
    """Write all figures as one flat JSON object, print them with their limits; 1 if one misses them."""
    out.write_text(json.dumps(figures, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    ranges = {name: limit for name, limit in limits.items() if name in figures}
    table = Table("figure", "value", "at least", "at most")
    for name in sorted(figures):
        table.add_row(name, f"{figures[name]:.6g}", *(f"{bound:.6g}" for bound in ranges.get(name, ())))
    CONSOLE.print(table, f"written to {out}")
    missed = [name for name, (low, high) in ranges.items() if not low <= figures[name] <= high]
    if missed:
        CONSOLE.print(f"missed: {', '.join(missed)}")
    return int(bool(missed))


def alternate(rounds: int, ways: Mapping[str, Callable[[], Figures]]) -> dict[str, list[Figures]]:
    """Figures, among them `per_s`, of ways that take turns, in every other round from the last to the first.

    So whatever else the machine does slows all of them: compare figures of one round.
    """
    found: dict[str, list[Figures]] = {name: [] for name in ways}
    for number in range(rounds):
        for name in list(ways)[:: -1 if number % 2 else 1]:
            found[name].append(ways[name]())
        rates = {name: float(f"{figures[-1]['per_s']:.3g}") for name, figures in found.items()}
        CONSOLE.log(f"round {number + 1} of {rounds}, per second: {rates}")
    return found


def median(rounds: Sequence[Figures], name: str = "per_s") -> float:
    """Of a figure over rounds."""
    return statistics.median(one[name] for one in rounds)


def spread(name: str, values: Sequence[float]) -> Figures:
    """Median, least and largest of the rounds' values, and how many there were."""
    ends = {"": statistics.median(values), "_min": min(values), "_max": max(values), "_rounds": len(values)}
    return {name + end: value for end, value in ends.items()}


def speedup(name: str, ours: Sequence[Figures], other: Sequence[Figures]) -> Figures:
    """Spread of the ratios of rates within a round."""
    return spread(name, [one["per_s"] / two["per_s"] for one, two in zip(ours, other, strict=True)])


def coding(chance: random.Random, codons: int) -> str:
    """Random codons without stops, so that a chunk has an open frame, as hardly one in a hundred random ones has."""
    return "".join(chance.choices(CODONS, k=codons))


def fresh_process() -> ProcessPoolExecutor:
    """An interpreter of its own: its memory, what it loads and its libraries' threads are its own."""
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))


def in_fresh_process(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What a function returns in a process that ends with it."""
    with fresh_process() as process:
        return process.submit(function, *args, **kwargs).result()


def peak_bytes() -> int:
    """Resident memory of this process at its highest; not ru_maxrss, where a child starts with its parent's."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(re.findall(r"VmHWM:\s*(\d+)", status)[0]) * 1024
