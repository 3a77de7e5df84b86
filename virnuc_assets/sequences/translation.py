"""Six-frame translation of a chunk as VirNucPro does it (upstream: `identify_seq` in units.py)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from Bio.Data.CodonTable import standard_dna_table

from virnuc_assets.sequences.reading import UNAMBIGUOUS

FRAMES_PER_CHUNK = 6
_OTHER = len(UNAMBIGUOUS)
_COMPLEMENT = bytes.maketrans(b"ACGT", b"TGCA")

_CODES = np.full(256, _OTHER, dtype=np.uint8)
_CODES[np.frombuffer(UNAMBIGUOUS.encode(), dtype=np.uint8)] = np.arange(_OTHER, dtype=np.uint8)
_AMINO_ACIDS = np.frombuffer(
    "".join(
        standard_dna_table.forward_table.get(a + b + c, "*")
        for a in UNAMBIGUOUS
        for b in UNAMBIGUOUS
        for c in UNAMBIGUOUS
    ).encode(),
    dtype=np.uint8,
)


@dataclass(frozen=True)
class Frame:
    """One reading frame of a chunk.

    Attributes:
        strand: `+` or `-`.
        frame: 1 to 3.
        nucleotides: the codons' letters and one more base where there is one, as VirNucPro hands them to DNABERT-S.
        protein: one letter a codon; codons with other letters than A, C, G, T have vanished. `*` is a stop.
    """

    strand: Literal["+", "-"]
    frame: int
    nucleotides: str
    protein: str

    @property
    def suffix(self) -> str:
        """VirNucPro's name of the frame: F1 to F3, R1 to R3."""
        return f"{'F' if self.strand == '+' else 'R'}{self.frame}"


def reverse_complement(sequence: bytes) -> bytes:
    """Reverse complement; letters other than A, C, G, T stay as they are."""
    return sequence.translate(_COMPLEMENT)[::-1]


def six_frames(chunk: bytes) -> Iterator[Frame]:
    """All six frames of an upper-case chunk: forward 0, 1, 2, then those of the reverse complement."""
    for strand, letters in (("+", chunk), ("-", reverse_complement(chunk))):
        codes = _CODES[np.frombuffer(letters, dtype=np.uint8)]
        for offset in range(3):
            protein = _translate(codes[offset:])
            nucleotides = letters[offset : offset + 3 * len(protein) + 1].decode("ascii")
            yield Frame(strand, offset + 1, nucleotides, protein)  # type: ignore[arg-type]


def _translate(codes: np.ndarray) -> str:
    codons = codes[: codes.size // 3 * 3].reshape(-1, 3)  # (codons, 3)
    codons = codons[(codons < _OTHER).all(axis=1)].astype(np.intp)
    index = (codons[:, 0] * _OTHER + codons[:, 1]) * _OTHER + codons[:, 2]
    return str(_AMINO_ACIDS[index].tobytes(), encoding="ascii")
