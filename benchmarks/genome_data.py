"""Genomes to measure with: the bundled ones over and over, a random chromosome, a bacterium that is mostly genes."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
from Bio import SeqIO
from Bio.Data.CodonTable import standard_dna_table

MB = 1_000_000
_LINE_NT, _LINES = 80, 10_000
_LETTERS = np.frombuffer(b"ACGT", dtype=np.uint8)
_COMPLEMENT = bytes.maketrans(b"ACGT", b"TGCA")
# Of a bacterial chromosome: share of coding letters, and the mean length of a protein.
_CODING, _PROTEIN_AA = 0.85, 283


def write_repeated(genomes: Path, to: Path, length_nt: int) -> int:
    """Bundled genomes, again and again under new ids, as one plain FASTA; returns its letters, at least so many."""
    records = []
    for path in sorted(genomes.glob("*/*.fna.gz")):
        with gzip.open(path, "rt") as handle:
            records += [(record.id, _wrapped(str(record.seq).encode())) for record in SeqIO.parse(handle, "fasta")]  # type: ignore[no-untyped-call]
    written = copy = 0
    with to.open("wb") as out:
        while written < length_nt:
            copy += 1
            for record_id, lines in records:
                if written < length_nt:
                    out.write(b">%s_copy%d\n%s" % (record_id.encode(), copy, lines))
                    written += len(lines) - lines.count(b"\n")
    return written


def write_chromosome(to: Path, length_nt: int) -> None:
    """One record of random letters, wrapped at 80."""
    generator, rows = np.random.default_rng(0), -(-length_nt // _LINE_NT)
    with to.open("wb") as out:
        out.write(b">chromosome of random letters\n")
        for start in range(0, rows, _LINES):
            lines = np.full((min(_LINES, rows - start), _LINE_NT + 1), ord("\n"), dtype=np.uint8)
            lines[:, :-1] = _LETTERS[generator.integers(0, 4, (len(lines), _LINE_NT), dtype=np.uint8)]
            surplus = max(0, (start + len(lines)) * _LINE_NT - length_nt)
            out.write(lines.tobytes()[: lines.size - surplus - bool(surplus)] + b"\n" * bool(surplus))


def write_bacterium(to: Path, proteins: int) -> list[str]:
    """A chromosome with genes on both strands, 85 % of it coding; returns their proteins in its order."""
    generator = np.random.default_rng(0)
    amino_acids = standard_dna_table.forward_table
    codons = sorted(amino_acids)
    parts, made = [], []
    for length_aa in generator.poisson(_PROTEIN_AA, proteins).tolist():
        chosen = ["ATG", *(codons[number] for number in generator.integers(0, len(codons), length_aa).tolist())]
        made.append("".join(amino_acids[codon] for codon in chosen))
        gene = "".join([*chosen, "TAA"]).encode()
        parts.append(gene if generator.random() < 0.5 else gene.translate(_COMPLEMENT)[::-1])
        between = int(len(gene) * (1 - _CODING) / _CODING)
        parts.append(_LETTERS[generator.integers(0, 4, between)].tobytes())
    to.write_bytes(b">bacterium\n" + _wrapped(b"".join(parts)))
    return made


def _wrapped(letters: bytes) -> bytes:
    return b"".join(letters[start : start + _LINE_NT] + b"\n" for start in range(0, len(letters), _LINE_NT))
