"""From FASTA to frames, as `virnuc frames` does it, and by a plain statement of VirNucPro's way, on one core each.

Every figure is of a process of its own, after a first small file that loads the libraries. Rounds alternate; a rate is
by processor time, the median over rounds; a speedup is the median of the ratios within a round. The plain way reads a
share of the same file, because its rate does not depend on the length. Peak memory is all that the process held at the
highest, libraries included; the memory of a contig is what a file takes beyond one of a tenth.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import os
import re
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from Bio import SeqIO
from Bio.Data.CodonTable import standard_dna_table
from Bio.Seq import Seq
from Bio.SeqRecord import SeqRecord

from benchmarks.common import GENOMES, Figures, in_fresh_process, options, publish
from virnuc_assets.cli.single_file import frame_file

FrameSource = Callable[[Path, Path], float]  # a file and a folder to the count of frames
MB = 1_000_000
CHUNK_LENGTH = 500
LONG_MB = 1000.0
ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "ARROW_IO_THREADS")
_COMPLEMENT = {"A": "T", "T": "A", "C": "G", "G": "C"}
_CODONS = {**standard_dna_table.forward_table, **dict.fromkeys(standard_dna_table.stop_codons, "*")}
_BASES = np.frombuffer(b"ACGT", dtype=np.uint8)


def main() -> int:
    """Measure, print a table, write the figures."""
    given = _arguments()
    given.out.parent.mkdir(parents=True, exist_ok=True)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # of the measured processes, too
    os.environ |= dict.fromkeys(ONE_THREAD, "1")
    with tempfile.TemporaryDirectory(prefix="sequences-", dir=given.out.parent) as scratch:
        folder = Path(scratch)
        return publish(_genomes(folder, given) | _contigs(folder, given) | _chromosomes(folder, given), given.out)


def _arguments() -> argparse.Namespace:
    parser = options("bench-sequences", __doc__)
    parser.add_argument("--mb", type=float, default=100, help="Mb of bundled genomes for our way (default 100)")
    parser.add_argument("--plain-mb", type=float, default=3, help="Mb of them for the plain way (default 3)")
    parser.add_argument("--contigs", type=int, default=200_000, help="contigs of 300 to 600 nt (default 200000)")
    parser.add_argument("--chromosome-mb", type=float, default=250, help="Mb of the long record (default 250)")
    parser.add_argument("--long", action="store_true", help="also a record of 1 Gb")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of both ways (default 3)")
    return parser.parse_args()


def _genomes(folder: Path, given: argparse.Namespace) -> Figures:
    """Both ways with bundled genomes."""
    whole, share = folder / "whole.fa", folder / "share.fa"
    write_repeated(whole, given.mb)
    write_repeated(share, given.plain_mb)
    rounds = [
        (in_fresh_process(measured, plain_frames, share), in_fresh_process(measured, our_frames, whole))
        for _ in range(given.rounds)
    ]
    ours, plain = in_fresh_process(measured, our_frames, share), rounds[0][0]
    if ours["frames"] != plain["frames"]:
        raise SystemExit(f"both ways must count the same: ours {ours}, plain {plain}")
    return {
        **{name: rounds[0][1][name] for name in ("mb", "frames")},
        "plain_mb": plain["mb"],
        "frames_mb_per_s": statistics.median(ours["mb_per_s"] for _, ours in rounds),
        "plain_mb_per_s": statistics.median(plain["mb_per_s"] for plain, _ in rounds),
        "frames_speedup": statistics.median(ours["mb_per_s"] / plain["mb_per_s"] for plain, ours in rounds),
    }


def _contigs(folder: Path, given: argparse.Namespace) -> Figures:
    """Bundled genomes, cut into contigs of any length from 300 to 600 nt."""
    genomes, generator = "".join(str(record.seq) for record in _bundled()), np.random.default_rng(0)
    lengths = generator.integers(300, 601, given.contigs)
    begins = generator.integers(0, len(genomes) - 600, given.contigs)
    cut = zip(begins.tolist(), (begins + lengths).tolist(), strict=True)
    lines = [f">contig_{number:08d}\n{genomes[begin:end]}\n" for number, (begin, end) in enumerate(cut)]
    found = []
    for count in (given.contigs // 10, given.contigs):
        (fasta := folder / "contigs.fa").write_text("".join(lines[:count]), encoding="ascii")
        found.append(in_fresh_process(measured, our_frames, fasta))
    few, many = found
    return {
        "short_contigs": given.contigs,
        "mb_per_s_short_contigs": many["mb_per_s"],
        "short_contigs_peak_mb": many["peak_mb"],
        "bytes_per_short_contig": (many["peak_mb"] - few["peak_mb"]) * MB / (given.contigs - given.contigs // 10),
    }


def _chromosomes(folder: Path, given: argparse.Namespace) -> Figures:
    figures: Figures = {}
    lengths_mb = {"short_": given.chromosome_mb / 10, "": given.chromosome_mb}
    for prefix, length_mb in (lengths_mb | ({"long_": LONG_MB} if given.long else {})).items():
        fasta = folder / "chromosome.fa"
        write_chromosome(fasta, int(length_mb * MB))
        found = in_fresh_process(measured, our_frames, fasta)
        figures |= {f"{prefix}chromosome_{name}": found[name] for name in ("mb", "mb_per_s", "peak_mb")}
    return {**figures, "peak_growth": figures["chromosome_peak_mb"] / figures["short_chromosome_peak_mb"]}


def measured(frame_source: FrameSource, fasta: Path) -> Figures:
    """Rate by processor time, peak memory and frames of one way; libraries load at the first, small file."""
    with fasta.open("rb") as lines:
        mb = sum(len(line) - 1 for line in lines if not line.startswith(b">")) / MB
    with tempfile.TemporaryDirectory(dir=fasta.parent) as scratch:
        first = Path(scratch, "first.fa")
        first.write_text(f">r\n{'ACG' * 1000}\n", encoding="ascii")
        frame_source(first, Path(scratch))
        start = time.process_time()
        frames = frame_source(fasta, Path(scratch))
        seconds = time.process_time() - start  # other processes on this core do not count
    # Not ru_maxrss: a child starts with its parent's peak there.
    peak_kib = int(re.findall(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text(encoding="ascii"))[0])
    return {"mb": mb, "mb_per_s": mb / seconds, "frames": frames, "peak_mb": peak_kib * 1024 / MB}


def our_frames(fasta: Path, folder: Path) -> float:
    """`virnuc frames`."""
    counts = frame_file(fasta, folder / "frames.parquet", CHUNK_LENGTH, lambda _done, _total: None)
    return float(counts.get("frames_kept", 0))


def plain_frames(fasta: Path, folder: Path) -> float:
    """VirNucPro's way, stated plainly (upstream: units.py), by Biopython and a dictionary of codons.

    Chunks go into a FASTA file (`split_fasta_chunk`), which is read again; each chunk is translated in six frames codon
    by codon, and nucleotides and proteins of the open ones go into two FASTA files (`identify_seq`).
    """
    SeqIO.write(_plain_chunks(fasta), folder / "chunks.fa", "fasta")
    nucleotides, proteins = [], []
    for record in SeqIO.parse(folder / "chunks.fa", "fasta"):
        forward = str(record.seq).upper()
        backward = "".join(_COMPLEMENT.get(base, base) for base in reversed(forward))
        for name, strand in (("F", forward), ("R", backward)):
            for frame in range(3):
                protein = ""
                for start in range(frame, len(strand) - 2, 3):
                    protein += _CODONS.get(strand[start : start + 3], "")
                if protein and "*" not in protein:
                    part, frame_id = strand[frame : frame + 3 * len(protein) + 1], f"{record.id}{name}{frame + 1}"
                    nucleotides.append(SeqRecord(Seq(part), frame_id, description=""))
                    proteins.append(SeqRecord(Seq(protein), frame_id, description=""))
    SeqIO.write(nucleotides, folder / "nucleotides.fa", "fasta")
    return float(SeqIO.write(proteins, folder / "proteins.fa", "fasta"))


def _plain_chunks(fasta: Path) -> list[SeqRecord]:
    chunks = []
    for record in SeqIO.parse(fasta, "fasta"):
        sequence, start = str(record.seq), 0
        count = -(-len(sequence) // CHUNK_LENGTH)
        surplus = count * CHUNK_LENGTH - len(sequence)
        back, longer = (surplus // count, surplus - (count - 1) * (surplus // count)) if count else (0, 0)
        for number in range(count):
            part = Seq(sequence[start : start + CHUNK_LENGTH])
            chunks.append(SeqRecord(part, f"{record.id}_chunk_{number + 1}", description=""))
            start += CHUNK_LENGTH - back - (number < longer)
    return chunks


def _bundled() -> list[SeqRecord]:
    records: list[SeqRecord] = []
    for path in sorted(GENOMES.glob("*/*.fna.gz")):
        with gzip.open(path, "rt") as handle:
            records += SeqIO.parse(handle, "fasta")
    return records


def write_repeated(to: Path, mb: float) -> None:
    """Bundled genomes, again and again under new ids, at least so many Mb."""
    written_nt = 0
    with to.open("w", encoding="ascii") as out:
        for number, record in enumerate(itertools.cycle(_bundled())):
            out.write(SeqRecord(record.seq, f"{record.id}_copy{number}", description="").format("fasta"))
            written_nt += len(record)
            if written_nt >= mb * MB:
                return


def write_chromosome(to: Path, length_nt: int) -> None:
    """One record of random bases in whole lines of 80."""
    generator = np.random.default_rng(0)
    with to.open("wb") as out:
        out.write(b">chromosome of random bases\n")
        for start in range(0, length_nt // 80, 10_000):
            lines = np.full((min(10_000, length_nt // 80 - start), 81), ord("\n"), dtype=np.uint8)
            lines[:, :80] = _BASES[generator.integers(0, 4, (len(lines), 80), dtype=np.uint8)]
            out.write(lines.tobytes())


if __name__ == "__main__":
    raise SystemExit(main())
