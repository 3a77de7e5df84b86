"""From FASTA to frames, side by side in one run: ours, and a plain statement of VirNucPro's way, on one core each.

Ours plans a file, cuts it into chunks, translates and filters them and writes chunks, frames and ledger; the plain way
does the same with FASTA files in between. Every figure is of a process of its own, held to one core, after a first
small file that loads the libraries. Rounds take turns;
a rate is the median over rounds, a speedup the median of the ratios within a round. The plain way goes over a share of
the same file, because its rate does not depend on the length. Peak memory is all that the process held at the highest,
libraries included, for one record as long as a chromosome, and for shorter ones beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import plain_framing
from benchmarks.genome_data import MB, write_bacterium, write_chromosome, write_repeated

ROOT = Path(__file__).parents[1]
ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "ARROW_IO_THREADS")}
# A tenth of the long chromosome; memory that grew with a record's length would show between them.
SHORT, LONG_MB = 0.1, 1000.0


def main() -> int:
    """Measure, print a table, write the figures."""
    given = _arguments()
    console = Console(width=120, highlight=False)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="sequences-", dir=given.out.parent) as scratch:
        folder = Path(scratch)
        figures = _frames(folder, given)
        figures |= _cds(folder, given)
        figures |= _memory(folder, given)
    given.out.write_text(json.dumps(figures, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    table = Table("metric", "value", title=f"one core, chunks of {given.chunk_length} nt")
    for name in sorted(figures):
        table.add_row(name, f"{figures[name]:.6g}")
    console.print(table, f"written to {given.out}")
    return 0


def run_job(**job: Any) -> dict[str, float]:  # noqa: ANN401
    """Figures of one job in a fresh process.

    Raises:
        SystemExit: it failed; its last words are told.
    """
    done = subprocess.run(  # noqa: S603 - a module of this package
        [sys.executable, "-m", "benchmarks.framing_job"],
        input=json.dumps(job),
        cwd=ROOT,
        env={**os.environ, **ONE_THREAD},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{job}: {done.stderr[-2000:]}")
    return {name: float(value) for name, value in json.loads(done.stdout).items()}


def _frames(folder: Path, given: argparse.Namespace) -> dict[str, float]:
    whole, share = folder / "whole.fa", folder / "share.fa"
    length_nt = write_repeated(ROOT / "data" / "genomes", whole, int(given.mb * MB))
    share_nt = write_repeated(ROOT / "data" / "genomes", share, int(given.plain_mb * MB))
    work: dict[str, Any] = {"folder": str(folder), "chunk_length": given.chunk_length}
    plain_rates, rates, ours = [], [], {}
    for _ in range(given.rounds):
        plain = run_job(way="plain", fasta=str(share), **work)
        ours = run_job(way="ours", fasta=str(whole), **work)
        plain_rates.append(share_nt / MB / plain["seconds"])
        rates.append(length_nt / MB / ours["seconds"])
    on_share = run_job(way="ours", fasta=str(share), **work)
    if any(on_share[name] != plain[name] for name in ("chunks", "frames")):
        raise SystemExit(f"both ways must count the same: ours {on_share}, plain {plain}")
    whole.unlink()
    return {
        "mb": length_nt / MB,
        "plain_mb": share_nt / MB,
        "chunks": ours["chunks"],
        "frames": ours["frames"],
        "frames_mb_per_s": statistics.median(rates),
        "plain_mb_per_s": statistics.median(plain_rates),
        "frames_speedup": statistics.median(rate / base for rate, base in zip(rates, plain_rates, strict=True)),
        "frames_peak_mb": ours["peak_mb"],
    }


def _cds(folder: Path, given: argparse.Namespace) -> dict[str, float]:
    """Which open frames of a bacterium lie inside of its proteins: the labelling alone, without translation."""
    fasta = folder / "bacterium.fa"
    proteins = write_bacterium(fasta, given.proteins)
    letters = "".join(fasta.read_text(encoding="ascii").split("\n")[1:])
    chunks = (letters[start : start + given.chunk_length] for start in range(0, len(letters), given.chunk_length))
    frames = [protein for chunk in chunks for _, _, protein in plain_framing.open_frames(chunk)]
    for name, values in (("proteins", proteins), ("frames", frames)):
        (folder / f"{name}.json").write_text(json.dumps(values), encoding="utf-8")
    files = {name: str(folder / f"{name}.json") for name in ("proteins", "frames")}
    seconds, plain_seconds = [], []
    for _ in range(given.rounds):
        plain, ours = run_job(way="plain", **files), run_job(way="ours", **files)
        if plain["supported"] != ours["supported"]:
            raise SystemExit(f"both ways must find the same: ours {ours}, plain {plain}")
        seconds.append(ours["seconds"])
        plain_seconds.append(plain["seconds"])
    return {
        "cds_genome_mb": len(letters) / MB,
        "cds_proteins": float(len(proteins)),
        "cds_frames": float(len(frames)),
        "cds_frames_supported": ours["supported"],
        "cds_seconds": statistics.median(seconds),
        "plain_cds_seconds": statistics.median(plain_seconds),
        "cds_speedup": statistics.median(base / mine for base, mine in zip(plain_seconds, seconds, strict=True)),
    }


def _memory(folder: Path, given: argparse.Namespace) -> dict[str, float]:
    figures = {}
    lengths = {
        "short": SHORT * given.chromosome_mb,
        "": given.chromosome_mb,
        **({"long": LONG_MB} if given.long else {}),
    }
    for name, length_mb in lengths.items():
        fasta, prefix = folder / "chromosome.fa", f"{name}_" if name else ""
        write_chromosome(fasta, int(length_mb * MB))
        found = run_job(way="ours", fasta=str(fasta), folder=str(folder), chunk_length=given.chunk_length)
        figures[f"{prefix}chromosome_mb"] = length_mb
        figures[f"{prefix}chromosome_mb_per_s"] = length_mb / found["seconds"]
        figures[f"{prefix}peak_mb"] = found["peak_mb"]
    return {**figures, "peak_growth": figures["peak_mb"] / figures["short_peak_mb"]}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make bench-sequences, or python -m benchmarks.bench_sequences", description=__doc__
    )
    parser.add_argument("--mb", type=float, default=100, help="Mb of bundled genomes for our way (default 100)")
    parser.add_argument("--plain-mb", type=float, default=3, help="Mb of them for the plain way (default 3)")
    parser.add_argument("--proteins", type=int, default=4000, help="genes of the bacterium (default 4000: 4 Mb)")
    parser.add_argument("--chromosome-mb", type=float, default=250, help="Mb of the long record (default 250)")
    parser.add_argument("--long", action="store_true", help="also a record of 1 Gb")
    parser.add_argument("--chunk-length", type=int, default=500, choices=[300, 500], help="nt (default 500)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of both ways (default 3)")
    parser.add_argument("--out", type=Path, default=ROOT / "var" / "bench" / "sequences.json", help="file of figures")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
