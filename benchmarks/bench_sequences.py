"""From FASTA to frames: ours, and a plain statement of VirNucPro's way, on one core each.

Ours plans a file, cuts it into chunks, translates and filters them and writes chunks, frames and ledger; the plain way
does the same with FASTA files in between, on less of the same sequence, because its rate does not depend on the length.
Every figure is of a process of its own, after a first small file that loads the libraries; its memory is all that it
held at the highest, libraries included. The memory of a contig is what a file of many takes beyond one of a tenth.
`longest_orf_speed` is our rate with frame_rule = "longest_orf", which writes some 13 times as many frames, over that
with "stop_free".
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
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
from virnuc_assets.sequences.catalogue import read_catalogue
from virnuc_assets.sequences.cds import occur_inside
from virnuc_assets.sequences.chunk_table import chunk_tables
from virnuc_assets.sequences.frame_rule import STOP_FREE, FrameRule
from virnuc_assets.sequences.frame_table import open_frames
from virnuc_assets.sequences.ledger import ledger_table
from virnuc_assets.sequences.planning import chunk_count, plan_source, starts_of
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
_COMPLEMENT = {"A": "T", "T": "A", "C": "G", "G": "C"}
_CODONS = {**standard_dna_table.forward_table, **dict.fromkeys(standard_dna_table.stop_codons, "*")}

Way = Callable[[Path, Path], None]  # a file and a folder for what is made of it


def measure(given: argparse.Namespace, scratch: Path) -> tuple[Figures, Limits]:
    """All on one core."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # of the measured processes, too
    os.environ |= dict.fromkeys(ONE_THREAD, "1")
    genomes = [record for source in read_catalogue(GENOMES) for record in common.parsed(source.fasta, "fasta")]
    fasta, few = scratch / "measured.fa", given.contigs // 10
    figures = _frames(genomes, scratch, given) | _cds(given)
    contigs = {}
    for count in (few, given.contigs):
        write_contigs(fasta, genomes, count)
        contigs[count] = in_fresh_process(measured, our_frames, fasta)
    beyond_few = contigs[given.contigs]["peak_mb"] - contigs[few]["peak_mb"]
    figures["mb_per_s_short_contigs"] = contigs[given.contigs]["per_s"]
    figures["short_contigs_peak_mb"] = contigs[given.contigs]["peak_mb"]
    figures["bytes_per_short_contig"] = beyond_few * MB / (given.contigs - few)
    for prefix, mb in {"": given.chromosome_mb, **({"long_": LONG_MB} if given.long else {})}.items():
        write_chromosome(fasta, mb)
        found = in_fresh_process(measured, our_frames, fasta)
        figures |= {f"{prefix}chromosome_mb_per_s": found["per_s"], f"{prefix}peak_mb": found["peak_mb"]}
    return figures, {}


def _frames(genomes: Sequence[SeqRecord], folder: Path, given: argparse.Namespace) -> Figures:
    """Bundled genomes, again and again under new ids."""
    whole, share = folder / "whole.fa", folder / "share.fa"
    for path, mb in ((whole, given.mb), (share, given.plain_mb)):
        with path.open("w", encoding="ascii") as out:
            for number, record in enumerate(itertools.cycle(genomes)):
                out.write(SeqRecord(record.seq, f"{record.id}_copy{number}", description="").format("fasta"))
                if out.tell() >= mb * MB:
                    break
    longest = partial(our_frames, rule=FrameRule.of(SequenceSettings(frame_rule="longest_orf")))
    ways = {
        "plain": partial(in_fresh_process, measured, plain_frames, share),
        "ours": partial(in_fresh_process, measured, our_frames, whole),
        "longest_orf": partial(in_fresh_process, measured, longest, whole),
    }
    found = common.alternate(given.rounds, ways)
    return {
        "frames_mb_per_s": median(found["ours"]),
        "plain_mb_per_s": median(found["plain"]),
        **speedup("frames_speedup", found["ours"], found["plain"]),
        **speedup("longest_orf_speed", found["longest_orf"], found["ours"]),
    }


def write_contigs(fasta: Path, genomes: Sequence[SeqRecord], count: int) -> None:
    """Genomes, cut into contigs of any length from 300 to 600 nt."""
    bases, chance = "".join(str(record.seq) for record in genomes), random.Random(0)  # noqa: S311
    with fasta.open("w", encoding="ascii") as out:
        for number in range(count):
            start = chance.randrange(len(bases) - 600)
            out.write(f">contig_{number:08d}\n{bases[start : start + chance.randint(300, 600)]}\n")


def write_chromosome(fasta: Path, mb: float) -> None:
    """One record of random bases in whole lines of 80."""
    lines = np.full((int(mb * MB) // 80, 81), ord("\n"), np.uint8)
    random_bases = np.random.default_rng(0).integers(0, 4, (len(lines), 80), np.uint8)
    lines[:, :80] = np.frombuffer(b"ACGT", np.uint8)[random_bases]
    fasta.write_bytes(b">chromosome\n" + lines.tobytes())


def _cds(given: argparse.Namespace) -> Figures:
    """Which open frames of a bacterium, 85 % of it coding, are inside its proteins: the search alone."""
    chance = random.Random(0)  # noqa: S311
    genes = [common.coding(chance, chance.randint(66, 500)) for _ in range(given.proteins)]
    sequence = "".join(f"{gene}TAA{''.join(chance.choices('ACGT', k=150))}" for gene in genes)
    chunks = [sequence[start : start + CHUNK_LENGTH] for start in range(0, len(sequence), CHUNK_LENGTH)]
    frames = [protein for chunk in chunks for _, _, protein in plain_open_frames(chunk)]
    proteins = [str(Seq(gene).translate()) for gene in genes]
    searches = {"plain": plain_search, "ours": our_search}
    ways = {name: partial(in_fresh_process, searched, way, frames, proteins) for name, way in searches.items()}
    found = common.alternate(given.rounds, ways)
    return speedup("cds_speedup", found["ours"], found["plain"])


def measured(way: Way, fasta: Path) -> Figures:
    """Mb/s and peak memory in this process; libraries load at the first, small file."""
    with tempfile.TemporaryDirectory(dir=fasta.parent) as scratch:
        first = Path(scratch, "first.fa")
        first.write_text(f">r\n{'ACG' * 1000}\n", encoding="ascii")
        way(first, Path(scratch))
        start = time.perf_counter()
        way(fasta, Path(scratch))
        seconds = time.perf_counter() - start
    with fasta.open(encoding="ascii") as lines:
        mb = sum(len(line) - 1 for line in lines if not line.startswith(">")) / MB
    return {"per_s": mb / seconds, "peak_mb": common.peak_bytes() / MB}


def searched(search: Callable[[list[str], list[str]], object], frames: list[str], proteins: list[str]) -> Figures:
    """Frames that are looked for in the proteins in a second."""
    start = time.perf_counter()
    search(frames, proteins)
    return {"per_s": len(frames) / (time.perf_counter() - start)}


def our_search(frames: list[str], proteins: list[str]) -> object:
    """Which frames are inside a protein."""
    return occur_inside([frame.encode("ascii") for frame in frames], proteins)


def plain_search(frames: list[str], proteins: list[str]) -> object:
    """As upstream (`seq_in_reflist`): protein by protein."""
    found = []
    for frame in frames:
        for protein in proteins:  # any() takes longer
            if frame in protein:
                found.append(frame)
                break
    return found


def our_frames(fasta: Path, folder: Path, rule: FrameRule = STOP_FREE) -> None:
    """A file planned, cut into chunks, translated and written shard by shard, as the assets do it."""
    plan = plan_source(fasta, "source", CHUNK_LENGTH, SequenceSettings().shard_chunks)
    for number, (segments, table) in enumerate(chunk_tables(plan)):
        path = folder / f"chunks-{number}.parquet"
        write_table(path, table, {"table": "chunked_fasta"})
        found, counts = open_frames(read_table(path), None, rule)
        write_table(folder / f"frames-{number}.parquet", found, {"table": "frames"})
        write_table(folder / f"ledger-{number}.parquet", ledger_table(segments, counts), {"table": "ledger"})


def plain_frames(fasta: Path, folder: Path) -> None:
    """VirNucPro's way, stated plainly (upstream: units.py), by Biopython and a dictionary of codons.

    Chunks go into a FASTA file (`split_fasta_chunk`), which is read again; each chunk is translated in six frames codon
    by codon, and nucleotides and proteins of the open ones go into two FASTA files (`identify_seq`).
    """
    SeqIO.write(_plain_chunks(fasta), folder / "chunks.fa", "fasta")
    nucleotides, proteins = [], []
    for record in SeqIO.parse(folder / "chunks.fa", "fasta"):
        for name, strand, protein in plain_open_frames(str(record.seq)):
            nucleotides.append(SeqRecord(Seq(strand), f"{record.id}{name}", description=""))
            proteins.append(SeqRecord(Seq(protein), f"{record.id}{name}", description=""))
    SeqIO.write(nucleotides, folder / "nucleotides.fa", "fasta")
    SeqIO.write(proteins, folder / "proteins.fa", "fasta")


def _plain_chunks(fasta: Path) -> Iterator[SeqRecord]:
    for record in SeqIO.parse(fasta, "fasta"):
        starts = starts_of(np.arange(chunk_count(len(record), CHUNK_LENGTH)), len(record), CHUNK_LENGTH).tolist()
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
