"""From FASTA to frames: ours, and a plain statement of VirNucPro's way, on one core each.

Ours plans a file, cuts it into chunks, translates and filters them and writes chunks, frames and ledger; the plain way
does the same with FASTA files in between, on a share of the same file, because its rate does not depend on the length.
Every figure is of a process of its own, after a first small file that loads the libraries; its memory is all that it
held at the highest, libraries included, for one record as long as a chromosome and for one of a tenth. The memory of a
contig is what a file of many takes beyond one of a tenth. `longest_orf_speed` is our rate with
frame_rule = "longest_orf", which writes some 13 times as many frames, over that with "stop_free".
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from Bio import SeqIO
from Bio.Data.CodonTable import standard_dna_table
from Bio.Seq import Seq
from Bio.SeqRecord import SeqRecord

from benchmarks import common
from benchmarks.common import GENOMES, MB, Figures, Limits, in_fresh_process, median, speedup
from virnuc_assets.sequences.cds import occur_inside
from virnuc_assets.sequences.chunk_table import chunk_tables
from virnuc_assets.sequences.frame_rule import STOP_FREE, FrameRule
from virnuc_assets.sequences.frame_table import open_frames
from virnuc_assets.sequences.ledger import ledger_table
from virnuc_assets.sequences.planning import chunk_count, chunk_starts, plan_source
from virnuc_assets.settings import SequenceSettings
from virnuc_assets.storage.tables import read_table, write_table

OPTIONS = {
    "mb": (100.0, "Mb of bundled genomes for our way"),
    "plain-mb": (3.0, "Mb of them for the plain way"),
    "contigs": (200_000, "contigs of 300 to 600 nt"),
    "proteins": (4000, "genes of the bacterium of 4 Mb"),
    "chromosome-mb": (250.0, "Mb of the long record"),
    "long": (False, "also a record of 1 Gb"),
    "rounds": (3, "of both ways"),
}
CHUNK_LENGTH = 500
LONG_MB = 1000.0
ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "ARROW_IO_THREADS")
_BASES = np.frombuffer(b"ACGT", np.uint8)
_COMPLEMENT = {"A": "T", "T": "A", "C": "G", "G": "C"}
_CODONS = {**standard_dna_table.forward_table, **dict.fromkeys(standard_dna_table.stop_codons, "*")}
_PROTEIN_AA = 283  # mean length in a bacterial chromosome

Way = Callable[[Path, Path], tuple[int, int]]  # a file and a folder to counts of chunks and frames


def measure(given: argparse.Namespace, scratch: Path) -> tuple[Figures, Limits]:
    """All on one core."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # of the measured processes, too
    os.environ |= dict.fromkeys(ONE_THREAD, "1")
    return _frames(scratch, given) | _contigs(scratch, given) | _cds(given) | _chromosomes(scratch, given), {}


def _frames(folder: Path, given: argparse.Namespace) -> Figures:
    whole, share = folder / "whole.fa", folder / "share.fa"
    write_repeated(whole, given.mb)
    write_repeated(share, given.plain_mb)
    ways = {"plain": (plain_frames, share), "ours": (our_frames, whole), "longest_orf": (longest_frames, whole)}
    processes = {name: partial(in_fresh_process, measured, *way) for name, way in ways.items()}
    found = common.alternate(given.rounds, processes)
    ours, plain = in_fresh_process(measured, our_frames, share), found["plain"][0]
    _require_equal(ours, plain, "chunks", "frames")
    return {
        "frames_mb_per_s": median(found["ours"]),
        "plain_mb_per_s": median(found["plain"]),
        **speedup("frames_speedup", found["ours"], found["plain"]),
        **speedup("longest_orf_speed", found["longest_orf"], found["ours"]),
        "frames_peak_mb": median(found["ours"], "peak_mb"),
        "longest_orf_peak_mb": median(found["longest_orf"], "peak_mb"),
    }


def _contigs(folder: Path, given: argparse.Namespace) -> Figures:
    """Bundled genomes, cut into contigs of any length from 300 to 600 nt."""
    genomes, generator = "".join(str(record.seq) for record in _bundled()), np.random.default_rng(0)
    begins = generator.integers(0, len(genomes) - 600, given.contigs)
    ends = begins + generator.integers(300, 601, given.contigs)
    cut = [genomes[begin:end] for begin, end in zip(begins.tolist(), ends.tolist(), strict=True)]
    found, fasta, few = list[Figures](), folder / "contigs.fa", given.contigs // 10
    for count in (few, given.contigs):
        fasta.write_text("".join(f">contig_{number:08d}\n{bases}\n" for number, bases in enumerate(cut[:count])))
        found.append(in_fresh_process(measured, our_frames, fasta))
    return {
        "mb_per_s_short_contigs": found[1]["per_s"],
        "short_contigs_peak_mb": found[1]["peak_mb"],
        "bytes_per_short_contig": (found[1]["peak_mb"] - found[0]["peak_mb"]) * MB / (given.contigs - few),
    }


def _cds(given: argparse.Namespace) -> Figures:
    """Which open frames of a bacterium are inside its proteins: the search alone, without translation."""
    sequence, proteins = bacterium(given.proteins)
    chunks = [sequence[start : start + CHUNK_LENGTH] for start in range(0, len(sequence), CHUNK_LENGTH)]
    frames = [protein for chunk in chunks for _, _, protein in plain_open_frames(chunk)]
    ways = {search.__name__: partial(in_fresh_process, searched, search, frames, proteins) for search in (plain, ours)}
    found = common.alternate(given.rounds, ways)
    _require_equal(found["ours"][0], found["plain"][0], "supported")
    counts = {"cds_frames": len(frames), "cds_frames_supported": found["ours"][0]["supported"]}
    return {**counts, **speedup("cds_speedup", found["ours"], found["plain"])}


def _require_equal(ours: Figures, plain: Figures, *counts: str) -> None:
    if any(ours[name] != plain[name] for name in counts):
        raise SystemExit(f"both ways must find the same: ours {ours}, plain {plain}")


def _chromosomes(folder: Path, given: argparse.Namespace) -> Figures:
    """One record of random bases in whole lines of 80."""
    figures, fasta, generator = Figures(), folder / "chromosome.fa", np.random.default_rng(0)
    lengths_mb = {"short_": given.chromosome_mb / 10, "": given.chromosome_mb}
    for prefix, length_mb in (lengths_mb | ({"long_": LONG_MB} if given.long else {})).items():
        lines = np.full((int(length_mb * MB) // 80, 81), ord("\n"), np.uint8)
        lines[:, :80] = _BASES[generator.integers(0, 4, (len(lines), 80), np.uint8)]
        fasta.write_bytes(b">chromosome\n" + lines.tobytes())
        found = in_fresh_process(measured, our_frames, fasta)
        figures |= {f"{prefix}chromosome_mb_per_s": found["per_s"], f"{prefix}peak_mb": found["peak_mb"]}
    return {**figures, "peak_growth": figures["peak_mb"] / figures["short_peak_mb"]}


def measured(way: Way, fasta: Path) -> Figures:
    """Mb/s, peak memory, and what was counted, in this process; libraries load at the first, small file."""
    with tempfile.TemporaryDirectory(dir=fasta.parent) as scratch:
        first = Path(scratch, "first.fa")
        first.write_text(f">r\n{'ACG' * 1000}\n", encoding="ascii")
        way(first, Path(scratch))
        start = time.perf_counter()
        chunks, frames = way(fasta, Path(scratch))
        seconds = time.perf_counter() - start
    with fasta.open(encoding="ascii") as lines:
        mb = sum(len(line) - 1 for line in lines if not line.startswith(">")) / MB
    return {"per_s": mb / seconds, "chunks": chunks, "frames": frames, "peak_mb": common.peak_bytes() / MB}


def searched(search: Callable[[Sequence[str], Sequence[str]], int], frames: list[str], proteins: list[str]) -> Figures:
    """Frames that are looked for in the proteins in a second, and how many were found."""
    start = time.perf_counter()
    found = search(frames, proteins)
    return {"per_s": len(frames) / (time.perf_counter() - start), "supported": found}


def ours(frames: Sequence[str], proteins: Sequence[str]) -> int:
    """Frames inside a protein."""
    return int(sum(occur_inside([frame.encode("ascii") for frame in frames], proteins)))


def plain(frames: Sequence[str], proteins: Sequence[str]) -> int:
    """As upstream (`seq_in_reflist`): protein by protein."""
    found = 0
    for frame in frames:
        for protein in proteins:  # any() takes longer
            if frame in protein:
                found += 1
                break
    return found


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


def _plain_chunks(fasta: Path) -> Iterator[SeqRecord]:
    for record in SeqIO.parse(fasta, "fasta"):
        starts = chunk_starts(0, chunk_count(len(record), CHUNK_LENGTH), len(record), CHUNK_LENGTH).tolist()
        for number, start in enumerate(starts, start=1):
            part = record.seq[start : start + CHUNK_LENGTH]
            yield SeqRecord(part, f"{record.id}_chunk_{number}", description="")


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


def _bundled() -> list[SeqRecord]:
    records: list[SeqRecord] = []
    for path in sorted(GENOMES.glob("*/*.fna.gz")):
        with gzip.open(path, "rt") as handle:
            records += SeqIO.parse(handle, "fasta")
    return records


def write_repeated(to: Path, mb: float) -> None:
    """At least so many Mb of bundled genomes, again and again under new ids, as one plain FASTA."""
    with to.open("w", encoding="ascii") as out:
        for number, record in enumerate(itertools.cycle(_bundled())):
            if out.tell() >= mb * MB:
                return
            out.write(SeqRecord(record.seq, f"{record.id}_copy{number}", description="").format("fasta"))


def bacterium(proteins: int) -> tuple[str, list[str]]:
    """A chromosome with genes on both strands, 85 % of it coding; and their proteins in its order."""
    generator, codons = np.random.default_rng(0), sorted(standard_dna_table.forward_table)
    parts, made = list[str](), list[str]()
    for length_aa in generator.poisson(_PROTEIN_AA, proteins).tolist():
        gene = Seq("ATG" + "".join(generator.choice(codons, length_aa)) + "TAA")
        between = _BASES[generator.integers(0, 4, int(len(gene) * 0.15 / 0.85))].tobytes().decode()
        parts += [str(gene if generator.random() < 0.5 else gene.reverse_complement()), between]
        made.append(str(gene.translate(to_stop=True)))
    return "".join(parts), made


if __name__ == "__main__":
    raise SystemExit(common.run("bench-sequences", __doc__, OPTIONS, measure))
