"""What benchmarks share: alternate rounds, fresh processes, and figures of rounds."""

from __future__ import annotations

import gzip
import multiprocessing
import random
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TypeVar

from Bio import SeqIO
from Bio.Data.CodonTable import standard_dna_table
from Bio.SeqRecord import SeqRecord
from rich.console import Console

ROOT = Path(__file__).parents[1]
GENOMES = ROOT / "data/genomes"
CONSOLE = Console(width=120, highlight=False)
MB = 1_000_000

Figures = dict[str, float]
Limits = Mapping[str, tuple[float, float]]  # least and largest accepted
CODONS = sorted(standard_dna_table.forward_table)  # without stops
T = TypeVar("T")


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


def median(rounds: Sequence[Figures]) -> float:
    """Of the rounds' rates."""
    return statistics.median(one["per_s"] for one in rounds)


def spread(name: str, values: Sequence[float]) -> Figures:
    """Median, least and largest of the rounds' values, and how many there were."""
    ends = {"": statistics.median(values), "_min": min(values), "_max": max(values), "_rounds": len(values)}
    return {name + end: value for end, value in ends.items()}


def speedup(name: str, ours: Sequence[Figures], other: Sequence[Figures]) -> Figures:
    """Spread of the ratios of rates within a round."""
    return spread(name, [one["per_s"] / two["per_s"] for one, two in zip(ours, other, strict=True)])


def parsed(path: Path, kind: str) -> list[SeqRecord]:
    """Records of a compressed file."""
    with gzip.open(path, "rt") as handle:
        return list(SeqIO.parse(handle, kind))


def coding(chance: random.Random, codons: int) -> str:
    """Random codons without stops, so that a chunk has an open frame, as hardly one in a hundred random ones has."""
    return "".join(chance.choices(CODONS, k=codons))


def fresh_process() -> ProcessPoolExecutor:
    """An interpreter of its own: its memory, what it loads and its libraries' threads are its own."""
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))


def in_fresh_process(function: Callable[..., T], *given: object) -> T:
    """What a function returns in a process that ends with it."""
    with fresh_process() as process:
        return process.submit(function, *given).result()


def peak_bytes() -> int:
    """Resident memory of this process at its highest; not ru_maxrss, where a child starts with its parent's."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(re.findall(r"VmHWM:\s*(\d+)", status)[0]) * 1024
