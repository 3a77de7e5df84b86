"""From FASTA to frames: ours, and a plain statement of VirNucPro's way, on one core each.

Ours plans a file, cuts it into chunks, translates and filters them and writes chunks, frames and ledger; the plain way
does the same with FASTA files in between. Every figure is of a process of its own, after a first small file that loads
the libraries. Rounds alternate; a rate is the median over rounds, a speedup the median of the ratios within a round.
The plain way reads a share of the same file, because its rate does not depend on the length. Peak memory is all that
the process held at the highest, libraries included, for one record as long as a chromosome and for one of a tenth;
the memory of a contig is what a file of many takes beyond one of a tenth. `longest_orf_speed` is our rate
with frame_rule = "longest_orf", which writes some 13 times as many frames, over that with "stop_free".
"""

from __future__ import annotations

import argparse
import gzip
import os
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from Bio import SeqIO
from Bio.Data.CodonTable import standard_dna_table
from Bio.Seq import Seq
from Bio.SeqRecord import SeqRecord

from benchmarks.common import GENOMES, Figures, in_fresh_process, options, publish
from virnuc_assets.sequences.cds import occur_inside
from virnuc_assets.sequences.chunk_table import chunk_tables
from virnuc_assets.sequences.frame_rule import STOP_FREE, FrameRule
from virnuc_assets.sequences.frame_table import open_frames
from virnuc_assets.sequences.ledger import ledger_table
from virnuc_assets.sequences.planning import plan_source
from virnuc_assets.settings import SequenceSettings
from virnuc_assets.storage.tables import read_table, write_table

FrameSource = Callable[[Path, Path], tuple[int, int]]  # a file and a folder to counts of chunks and frames
MB = 1_000_000
CHUNK_LENGTH = 500
LONG_MB = 1000.0
ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "ARROW_IO_THREADS")
_BASES = np.frombuffer(b"ACGT", dtype=np.uint8)
_COMPLEMENT = {"A": "T", "T": "A", "C": "G", "G": "C"}
_CODONS = {**standard_dna_table.forward_table, **dict.fromkeys(standard_dna_table.stop_codons, "*")}
# Of a bacterial chromosome: share of coding bases, and the mean length of a protein.
_CODING, _PROTEIN_AA = 0.85, 283


def main() -> int:
    """Measure, print a table, write the figures."""
    given = _arguments()
    given.out.parent.mkdir(parents=True, exist_ok=True)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # of the measured processes, too
    os.environ |= dict.fromkeys(ONE_THREAD, "1")
    with tempfile.TemporaryDirectory(prefix="sequences-", dir=given.out.parent) as scratch:
        folder = Path(scratch)
        figures = _frames(folder, given) | _contigs(folder, given)
        return publish(figures | _cds(folder, given) | _memory(folder, given), given.out)


def _arguments() -> argparse.Namespace:
    parser = options("bench-sequences", __doc__)
    parser.add_argument("--mb", type=float, default=100, help="Mb of bundled genomes for our way (default 100)")
    parser.add_argument("--plain-mb", type=float, default=3, help="Mb of them for the plain way (default 3)")
    parser.add_argument("--contigs", type=int, default=200_000, help="contigs of 300 to 600 nt (default 200000)")
    parser.add_argument("--proteins", type=int, default=4000, help="genes of the bacterium (default 4000: 4 Mb)")
    parser.add_argument("--chromosome-mb", type=float, default=250, help="Mb of the long record (default 250)")
    parser.add_argument("--long", action="store_true", help="also a record of 1 Gb")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of both ways (default 3)")
    return parser.parse_args()


def _frames(folder: Path, given: argparse.Namespace) -> Figures:
    whole, share = folder / "whole.fa", folder / "share.fa"
    whole_mb, share_mb = write_repeated(whole, given.mb), write_repeated(share, given.plain_mb)
    rounds, longest = list[tuple[Figures, Figures]](), list[Figures]()
    for _ in range(given.rounds):
        plain, ours = in_fresh_process(measured, plain_frames, share), in_fresh_process(measured, our_frames, whole)
        rounds.append((plain, ours))
        longest.append(in_fresh_process(measured, longest_frames, whole))
    ours, plain = in_fresh_process(measured, our_frames, share), rounds[0][0]
    if any(ours[name] != plain[name] for name in ("chunks", "frames")):
        raise SystemExit(f"both ways must count the same: ours {ours}, plain {plain}")
    rates = [(share_mb / plain["seconds"], whole_mb / ours["seconds"]) for plain, ours in rounds]
    return {
        "mb": whole_mb,
        "plain_mb": share_mb,
        "chunks": rounds[0][1]["chunks"],
        "frames": rounds[0][1]["frames"],
        "frames_mb_per_s": statistics.median(ours for _, ours in rates),
        "plain_mb_per_s": statistics.median(plain for plain, _ in rates),
        "frames_speedup": statistics.median(ours / plain for plain, ours in rates),
        "frames_peak_mb": rounds[-1][1]["peak_mb"],
        "longest_orf_frames": longest[0]["frames"],
        "longest_orf_mb_per_s": statistics.median(whole_mb / each["seconds"] for each in longest),
        "longest_orf_speed": statistics.median(
            ours["seconds"] / each["seconds"] for (_, ours), each in zip(rounds, longest, strict=True)
        ),
        "longest_orf_peak_mb": longest[-1]["peak_mb"],
    }


def _contigs(folder: Path, given: argparse.Namespace) -> Figures:
    """Bundled genomes, cut into contigs of any length from 300 to 600 nt."""
    genomes, generator = "".join(str(record.seq) for record in _bundled()), np.random.default_rng(0)
    lengths = generator.integers(300, 601, given.contigs)
    begins = generator.integers(0, len(genomes) - 600, given.contigs)
    cut = zip(begins.tolist(), (begins + lengths).tolist(), strict=True)
    lines = [f">contig_{number:08d}\n{genomes[begin:end]}\n" for number, (begin, end) in enumerate(cut)]
    counts, found = (given.contigs // 10, given.contigs), list[Figures]()
    for count in counts:
        (fasta := folder / "contigs.fa").write_text("".join(lines[:count]), encoding="ascii")
        found.append(in_fresh_process(measured, our_frames, fasta))
    few, many = found
    return {
        "short_contigs": given.contigs,
        "mb_per_s_short_contigs": int(lengths.sum()) / MB / many["seconds"],
        "short_contigs_peak_mb": many["peak_mb"],
        "bytes_per_short_contig": (many["peak_mb"] - few["peak_mb"]) * MB / (counts[1] - counts[0]),
    }


def _cds(folder: Path, given: argparse.Namespace) -> Figures:
    """Which open frames of a bacterium are inside its proteins: the search alone, without translation."""
    sequence, proteins = bacterium(given.proteins)
    chunks = [sequence[start : start + CHUNK_LENGTH] for start in range(0, len(sequence), CHUNK_LENGTH)]
    frames = [protein for chunk in chunks for _, _, protein in plain_open_frames(chunk)]
    rounds = [
        (in_fresh_process(searched, False, frames, proteins), in_fresh_process(searched, True, frames, proteins))
        for _ in range(given.rounds)
    ]
    (plain, ours), *_ = rounds
    if plain["supported"] != ours["supported"]:
        raise SystemExit(f"both ways must find the same: ours {ours}, plain {plain}")
    return {
        "cds_genome_mb": len(sequence) / MB,
        "cds_proteins": len(proteins),
        "cds_frames": len(frames),
        "cds_frames_supported": ours["supported"],
        "cds_seconds": statistics.median(ours["seconds"] for _, ours in rounds),
        "plain_cds_seconds": statistics.median(plain["seconds"] for plain, _ in rounds),
        "cds_speedup": statistics.median(plain["seconds"] / ours["seconds"] for plain, ours in rounds),
    }


def _memory(folder: Path, given: argparse.Namespace) -> Figures:
    figures: Figures = {}
    lengths_mb = {"short_": given.chromosome_mb / 10, "": given.chromosome_mb}
    for prefix, length_mb in (lengths_mb | ({"long_": LONG_MB} if given.long else {})).items():
        fasta = folder / "chromosome.fa"
        write_chromosome(fasta, int(length_mb * MB))
        found = in_fresh_process(measured, our_frames, fasta)
        figures[f"{prefix}chromosome_mb"] = length_mb
        figures[f"{prefix}chromosome_mb_per_s"] = length_mb / found["seconds"]
        figures[f"{prefix}peak_mb"] = found["peak_mb"]
    return {**figures, "peak_growth": figures["peak_mb"] / figures["short_peak_mb"]}


def measured(frame_source: FrameSource, fasta: Path) -> Figures:
    """Seconds, peak memory, and what was counted, in this process; libraries load at the first, small file."""
    with tempfile.TemporaryDirectory(dir=fasta.parent) as scratch:
        first = Path(scratch, "first.fa")
        first.write_text(f">r\n{'ACG' * 1000}\n", encoding="ascii")
        frame_source(first, Path(scratch))
        start = time.perf_counter()
        chunks, frames = frame_source(fasta, Path(scratch))
        seconds = time.perf_counter() - start
    # Not ru_maxrss: a child starts with its parent's peak there.
    peak_kib = int(re.findall(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text(encoding="ascii"))[0])
    return {"seconds": seconds, "chunks": chunks, "frames": frames, "peak_mb": peak_kib * 1024 / 1e6}


def searched(ours: bool, frames: Sequence[str], proteins: Sequence[str]) -> Figures:
    """Seconds in which each frame is looked for in the proteins, and how many were found."""
    start = time.perf_counter()
    if ours:
        found = sum(occur_inside([frame.encode("ascii") for frame in frames], proteins))
    else:
        found = sum(_in_list(frame, proteins) for frame in frames)
    return {"seconds": time.perf_counter() - start, "supported": int(found)}


def longest_frames(fasta: Path, folder: Path) -> tuple[int, int]:
    """As `our_frames`, the longest stretch of every frame, with the default length."""
    return our_frames(fasta, folder, FrameRule.of(SequenceSettings(frame_rule="longest_orf")))


def our_frames(fasta: Path, folder: Path, rule: FrameRule = STOP_FREE) -> tuple[int, int]:
    """A file planned, cut into chunks, translated and written shard by shard, as the assets do it."""
    plan = plan_source(fasta, "source", CHUNK_LENGTH, SequenceSettings().shard_chunks)
    chunks = frames = 0
    for number, (segments, table) in enumerate(chunk_tables(plan)):
        path = folder / f"chunks-{number}.parquet"
        write_table(path, table, {"table": "chunked_fasta"})
        found, counts = open_frames(read_table(path), None, rule)
        write_table(folder / f"frames-{number}.parquet", found, {"table": "frames"})
        write_table(folder / f"ledger-{number}.parquet", ledger_table(segments, counts), {"table": "ledger"})
        chunks += table.num_rows
        frames += found.num_rows
    return chunks, frames


def plain_frames(fasta: Path, folder: Path) -> tuple[int, int]:
    """VirNucPro's way, stated plainly (upstream: units.py), by Biopython and a dictionary of codons.

    Chunks go into a FASTA file (`split_fasta_chunk`), which is read again; each chunk is translated in six frames codon
    by codon, and nucleotides and proteins of the open ones go into two FASTA files (`identify_seq`).
    """
    chunks = SeqIO.write(_plain_chunks(fasta), folder / "chunks.fa", "fasta")
    nucleotides, proteins = [], []
    for record in SeqIO.parse(folder / "chunks.fa", "fasta"):
        for name, strand, protein in plain_open_frames(str(record.seq)):
            nucleotides.append(SeqRecord(Seq(strand), f"{record.id}{name}", description=""))
            proteins.append(SeqRecord(Seq(protein), f"{record.id}{name}", description=""))
    SeqIO.write(nucleotides, folder / "nucleotides.fa", "fasta")
    return chunks, SeqIO.write(proteins, folder / "proteins.fa", "fasta")


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


def plain_open_frames(sequence: str) -> Iterator[tuple[str, str, str]]:
    """Name, nucleotides and protein of each stop-free frame of a chunk."""
    forward = sequence.upper()
    backward = "".join(_COMPLEMENT.get(base, base) for base in reversed(forward))
    for direction, strand in (("F", forward), ("R", backward)):
        for frame in range(3):
            protein = ""
            for start in range(frame, len(strand) - 2, 3):
                protein += _CODONS.get(strand[start : start + 3], "")
            if protein and "*" not in protein:
                yield f"{direction}{frame + 1}", strand[frame : frame + 3 * len(protein) + 1], protein


def _in_list(frame: str, proteins: Sequence[str]) -> bool:
    for protein in proteins:  # noqa: SIM110 - as upstream (`seq_in_reflist`); any() takes longer
        if frame in protein:
            return True
    return False


def _bundled() -> list[SeqRecord]:
    records: list[SeqRecord] = []
    for path in sorted(GENOMES.glob("*/*.fna.gz")):
        with gzip.open(path, "rt") as handle:
            records += SeqIO.parse(handle, "fasta")
    return records


def write_repeated(to: Path, mb: float) -> float:
    """Bundled genomes, again and again under new ids, as one plain FASTA; returns its Mb, at least so many."""
    records = _bundled()
    written_nt = copy = 0
    with to.open("w", encoding="ascii") as out:
        while written_nt < mb * MB:
            copy += 1
            for record in records:
                if written_nt < mb * MB:
                    out.write(SeqRecord(record.seq, f"{record.id}_copy{copy}", description="").format("fasta"))
                    written_nt += len(record)
    return written_nt / MB


def write_chromosome(to: Path, length_nt: int) -> None:
    """One record of random bases in whole lines of 80."""
    generator = np.random.default_rng(0)
    with to.open("wb") as out:
        out.write(b">chromosome of random bases\n")
        for start in range(0, length_nt // 80, 10_000):
            lines = np.full((min(10_000, length_nt // 80 - start), 81), ord("\n"), dtype=np.uint8)
            lines[:, :80] = _BASES[generator.integers(0, 4, (len(lines), 80), dtype=np.uint8)]
            out.write(lines.tobytes())


def bacterium(proteins: int) -> tuple[str, list[str]]:
    """A chromosome with genes on both strands, 85 % of it coding; and their proteins in its order."""
    generator = np.random.default_rng(0)
    codons = sorted(standard_dna_table.forward_table)
    parts, made = [], []
    for length_aa in generator.poisson(_PROTEIN_AA, proteins).tolist():
        chosen = ["ATG", *(codons[number] for number in generator.integers(0, len(codons), length_aa).tolist())]
        made.append("".join(_CODONS[codon] for codon in chosen))
        gene = Seq("".join([*chosen, "TAA"]))
        parts.append(str(gene if generator.random() < 0.5 else gene.reverse_complement()))
        parts.append(_BASES[generator.integers(0, 4, int(len(gene) * (1 - _CODING) / _CODING))].tobytes().decode())
    return "".join(parts), made


if __name__ == "__main__":
    raise SystemExit(main())
