"""Sequences with genes of known relatedness: coding stretches from a seed, and copies that are changed a little."""

from __future__ import annotations

import random

from Bio.Data.CodonTable import standard_dna_table
from Bio.Seq import Seq

CODONS = sorted(standard_dna_table.forward_table)


def gene(seed: int, codons: int = 700) -> bytes:
    """Codons without a stop, drawn from a seed; two seeds share nothing."""
    generator = random.Random(seed)
    return "".join(generator.choice(CODONS) for _ in range(codons)).encode()


def mutated(sequence: bytes, share: float, seed: int = 0) -> bytes:
    """The sequence with this share of its bases replaced by others."""
    generator = random.Random(seed)
    bases = bytearray(sequence)
    for position in generator.sample(range(len(bases)), round(share * len(bases))):
        bases[position] = generator.choice([letter for letter in b"ACGT" if letter != bases[position]])
    return bytes(bases)


def reverse_complement(sequence: bytes) -> bytes:
    """The other strand, as bytes."""
    return bytes(Seq(sequence).reverse_complement())
