"""What all benchmarks use: options, figures with their limits, fresh processes. Imports nothing heavy."""

from __future__ import annotations

import argparse
import json
import multiprocessing
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import ParamSpec, TypeVar

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]
GENOMES = ROOT / "data/genomes"
CONSOLE = Console(width=120, highlight=False)

Figures = dict[str, float]
Limits = Mapping[str, tuple[float, float]]
P = ParamSpec("P")
T = TypeVar("T")


def options(target: str, description: str | None) -> argparse.ArgumentParser:
    """A parser for the options of a make target, among them the file of figures."""
    parser = argparse.ArgumentParser(f"make {target}", description=description)
    file = ROOT / f"var/bench/{target.removeprefix('bench-')}.json"
    parser.add_argument("--out", type=Path, default=file, help="file of figures")
    return parser


def write(figures: Figures, out: Path) -> None:
    """One flat JSON object."""
    out.write_text(json.dumps(figures, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def publish(figures: Figures, out: Path, limits: Limits | None = None) -> int:
    """Write all figures; print those without a dot in their name, with their limits; 1 if one misses them."""
    write(figures, out)
    ranges = {name: limit for name, limit in (limits or {}).items() if name in figures}
    table = Table("figure", "value", "at least", "at most")
    for name in sorted(name for name in figures if "." not in name):
        table.add_row(name, f"{figures[name]:.6g}", *(f"{bound:.6g}" for bound in ranges.get(name, ())))
    CONSOLE.print(table, f"written to {out}")
    missed = [name for name, (low, high) in ranges.items() if not low <= figures[name] <= high]
    if missed:
        CONSOLE.print(f"missed: {', '.join(missed)}")
    return int(bool(missed))


def fresh_process() -> ProcessPoolExecutor:
    """An interpreter of its own: its memory, what it loads and its libraries' threads are its own."""
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))


def in_fresh_process(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What a function returns in a process that ends with it."""
    with fresh_process() as process:
        return process.submit(function, *args, **kwargs).result()
