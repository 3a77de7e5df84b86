"""Random genomes from a seed: lengths about the borders of chunks, frames that stay open, planted CDS."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from pathlib import Path

from Bio import SeqIO
from Bio.Seq import Seq
from Bio.SeqFeature import FeatureLocation, SeqFeature
from Bio.SeqRecord import SeqRecord

from virnuc_assets_tests.sequences.plain import plain_frames

LONGEST_NT = 6000
# A, C, G, T: even, and with few of the letters that stops are made of.
COMPOSITIONS = ((1, 1, 1, 1), (1, 5, 5, 1), (1, 9, 9, 2), (0, 3, 3, 1), (3, 9, 9, 0), (1, 20, 2, 1))
SHORTEST_CDS = 30


@dataclass(frozen=True)
class Genome:
    """A record as it stands in a file, as it is meant, and its CDS: (start, end, strand, protein)."""

    id: str
    written: str
    sequence: str
    cds: tuple[tuple[int, int, int, str], ...]


def random_genomes(count: int, seed: int) -> list[Genome]:
    """Genomes of 1 to some 6,000 nt; one in four has CDS, one in five ambiguity codes, lower case or U."""
    draw = random.Random(seed)
    return [_genome(f"genome{number}.1", draw) for number in range(count)]


def write_genomes(genomes: list[Genome], fasta: Path, genbank: Path) -> None:
    """The genomes as FASTA, and those that have CDS as GenBank."""
    width = random.Random(len(genomes))
    with fasta.open("w", encoding="ascii") as handle:
        for genome in genomes:
            columns = width.choice([50, 60, 70, 80, LONGEST_NT])
            lines = [genome.written[at : at + columns] for at in range(0, len(genome.written), columns)]
            handle.write("\n".join([f">{genome.id} random", *lines, ""]))
    entries = [_entry(genome) for genome in genomes if genome.cds]
    with genbank.open("w", encoding="ascii") as handle:
        SeqIO.write(entries, handle, "genbank")


def _genome(name: str, draw: random.Random) -> Genome:
    sequence = "".join(draw.choices("ACGT", draw.choice(COMPOSITIONS), k=_length(draw)))
    if draw.random() < 0.2:
        places = {draw.randrange(len(sequence)) for _ in range(draw.randint(1, 5))}
        sequence = "".join(draw.choice("NRYKMSWBDHV") if at in places else base for at, base in enumerate(sequence))
    cds = tuple(_open_stretches(sequence, draw)) if draw.random() < 0.25 else ()
    written = sequence
    if draw.random() < 0.2:
        written = "".join(base.lower() if draw.random() < 0.5 else base for base in written)
    if draw.random() < 0.2:
        written = written.replace("T", "U").replace("t", "u")
    return Genome(name, written, sequence, cds)


def _length(draw: random.Random) -> int:
    kind = draw.random()
    if kind < 0.15:
        return draw.randint(1, 12)
    if kind < 0.75:
        return draw.choice([300, 500]) * draw.choice([1, 1, 1, 2, 2, 3, 5, 10]) + draw.choice([-2, -1, 0, 1, 2])
    return draw.randint(1, LONGEST_NT)


def _open_stretches(sequence: str, draw: random.Random) -> list[tuple[int, int, int, str]]:
    """Some stop-free stretches of the six frames, as CDS of the record."""
    found = []
    for name, _, protein in plain_frames(sequence) if set(sequence) <= set("ACGT") else ():
        offset, forward = int(name[1]) - 1, name[0] == "F"
        for stretch in re.finditer(f"[^*]{{{SHORTEST_CDS},}}", protein):
            start, end = (offset + 3 * place for place in stretch.span())
            if not forward:
                start, end = len(sequence) - end, len(sequence) - start
            if draw.random() < 0.5:
                found.append((start, end, 1 if forward else -1, stretch.group()))
    return found


def _entry(genome: Genome) -> SeqRecord:
    features = [
        SeqFeature(
            FeatureLocation(start, end, strand), "CDS", qualifiers={"codon_start": ["1"], "translation": [protein]}
        )
        for start, end, strand, protein in genome.cds
    ]
    name = genome.id.partition(".")[0]
    return SeqRecord(Seq(genome.sequence), genome.id, name, "random", None, features, {"molecule_type": "DNA"})
