"""Sequences drawn by rule, and the miniatures of the registry."""

import numpy as np

from virnuc_assets.encoders.alphabet import AMINO_ACIDS, NUCLEOTIDES
from virnuc_assets.encoders.registry import ENCODERS, MINIATURE

MINIATURES = [spec for spec in ENCODERS.values() if spec.checkpoint == MINIATURE]


def drawn(alphabet: str, lengths: list[int], seed: int = 0) -> list[str]:
    """A random sequence of each length."""
    generator = np.random.default_rng(seed)
    letters = list(NUCLEOTIDES if alphabet == "dna" else AMINO_ACIDS)
    return ["".join(generator.choice(letters, size=length)) for length in lengths]
