"""Six-frame translation of chunks as VirNucPro does it (upstream: `identify_seq` in units.py), many chunks at a time.

A codon of a chunk is also, read backwards and complemented, a codon of the reverse strand. So each position's codon is
numbered once, and both strands' stops and amino acids are looked up by that number.
"""

from __future__ import annotations

import itertools
from typing import Literal

import numpy as np
from Bio.Data.CodonTable import standard_dna_table

from virnuc_assets.sequences.records import UNAMBIGUOUS

STRANDS: tuple[Literal["+", "-"], ...] = ("+", "-")
CODON_NT = 3
# Upstream's names of the frames, in its order.
FRAME_NAMES = tuple(f"{name}{frame + 1}" for name in "FR" for frame in range(CODON_NT))
FRAMES_PER_CHUNK = len(FRAME_NAMES)
OPEN, STOPPED, EMPTY = range(3)

_OTHER = len(UNAMBIGUOUS)  # the number of every letter that is not A, C, G or T
_BASE = _OTHER + 1
_COMPLEMENT = bytes.maketrans(b"ACGT", b"TGCA")
_NUMBERS = bytes(UNAMBIGUOUS.find(chr(byte)) if chr(byte) in UNAMBIGUOUS else _OTHER for byte in range(256))
_STOPS_PLUS, _STOPS_MINUS, _KNOWN = 1, 2, 4
_UNKNOWN = 0  # the amino acid of a codon with other bases: it vanishes


_AMINO_ACIDS = {**standard_dna_table.forward_table, **dict.fromkeys(standard_dna_table.stop_codons, "*")}
_CODONS = ["".join(bases) for bases in itertools.product(UNAMBIGUOUS + "N", repeat=CODON_NT)]


def _amino_acids(codons: list[str]) -> bytes:
    return bytes(ord(_AMINO_ACIDS[codon]) if codon in _AMINO_ACIDS else _UNKNOWN for codon in codons).ljust(256, b"\0")


_PLUS = _amino_acids(_CODONS)
_MINUS = _amino_acids([codon.encode().translate(_COMPLEMENT)[::-1].decode() for codon in _CODONS])
_CHARACTERS = bytes(
    (plus == ord("*")) * _STOPS_PLUS | (minus == ord("*")) * _STOPS_MINUS | (plus != _UNKNOWN) * _KNOWN
    for plus, minus in zip(_PLUS, _MINUS, strict=True)
)


class SixFrames:
    """All six frames of chunks, in the order of `FRAME_NAMES`.

    Attributes:
        status: (chunks, 6) uint8: OPEN; STOPPED, a stop inside; EMPTY, no codon of A, C, G and T alone.
        ambiguous: (chunks,) bool: the chunk holds a letter other than A, C, G, T.
    """

    def __init__(self, chunks: np.ndarray, lengths_nt: np.ndarray) -> None:
        """Number the codons and find the stops of upper-case bases, (chunks, longest) uint8, contiguous.

        A chunk is in its row's first columns, zeros follow. Codons of both strands then begin in the same
        columns for all chunks, if their lengths (chunks,) leave the same rest by three; others are refused.
        """
        self._bases = chunks
        count, self._longest = chunks.shape
        if (lengths_nt % CODON_NT != self._longest % CODON_NT).any():
            raise ValueError(f"lengths of chunks differ by other than codons from {self._longest}")
        self._padding = self._longest - lengths_nt
        numbers = _translated(chunks, _NUMBERS)
        others = numbers == _OTHER
        if self._padding.any():
            others &= chunks != 0
        self.ambiguous = others.any(axis=1)
        if self._longest < CODON_NT:
            self._codons = np.empty((count, 0), np.uint8)
        else:
            self._codons = numbers[:, :-2] * np.uint8(_BASE**2)  # (chunks, longest - 2)
            self._codons += numbers[:, 1:-1] * np.uint8(_BASE)
            self._codons += numbers[:, 2:]
        characters = _translated(self._codons, _CHARACTERS)
        self.status = np.empty((count, FRAMES_PER_CHUNK), np.uint8)
        spans = [self._span(frame) for frame in range(FRAMES_PER_CHUNK)]
        # A frame of one strand has the codons of one of the other.
        characters_of = {
            span: np.bitwise_or.reduce(characters[:, slice(*span, CODON_NT)], axis=1) for span in set(spans)
        }
        for frame, span in enumerate(spans):
            found = characters_of[span]
            stops = _STOPS_PLUS if frame < CODON_NT else _STOPS_MINUS
            self.status[:, frame] = np.where(found & _KNOWN, np.where(found & stops, STOPPED, OPEN), EMPTY)

    def _span(self, frame: int) -> tuple[int, int]:
        """Where the frame's codons begin on the forward strand: the first, and one past the last."""
        offset = frame % CODON_NT
        codons_nt = max(self._longest - offset, 0) // CODON_NT * CODON_NT
        begin = offset if frame < CODON_NT else max(self._longest - offset - codons_nt, 0)
        return begin, begin + codons_nt

    def proteins(self, frame: int, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Proteins of one frame (index in `FRAME_NAMES`) of some chunks (rows,); codons with other bases vanish.

        Returns:
            The proteins' residues one after the other, uint8, and their lengths in aa (rows,) int64.
        """
        begin, stop = self._span(frame)
        codons = self._codons[rows, begin:stop:CODON_NT]
        if frame >= CODON_NT:
            codons = codons[:, ::-1]
        residues = _translated(codons, _PLUS if frame < CODON_NT else _MINUS)  # (rows, codons)
        known = residues != _UNKNOWN
        return residues[known] if not known.all() else residues.reshape(-1), known.sum(axis=1)

    def nucleotides(self, frame: int, rows: np.ndarray, lengths_aa: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The codons' bases and one more base where there is one, as VirNucPro hands them to DNABERT-S.

        As upstream, the lengths follow from those of the proteins: after codons that vanished, the end is cut off.

        Returns:
            The bases one after the other, uint8, and their lengths in nt (rows,) int64.
        """
        strand, offset = self._bases[rows], frame % CODON_NT  # (rows, longest)
        begins = np.full(len(rows), offset)
        if frame >= CODON_NT:
            strand = _translated(strand[:, ::-1], _COMPLEMENT)
            begins += self._padding[rows]
        lengths_nt = np.clip(self._longest - self._padding[rows] - offset, 0, CODON_NT * lengths_aa + 1)
        ends = begins + lengths_nt
        first, last = int(begins.min(initial=self._longest)), int(ends.max(initial=0))
        strand = strand[:, first:last]
        if (lengths_nt == last - first).all():
            return strand.reshape(-1), lengths_nt
        column = np.arange(first, first + strand.shape[1], dtype=np.int32)
        inside = (column >= begins[:, None].astype(np.int32)) & (column < ends[:, None].astype(np.int32))
        return strand[inside], lengths_nt


def six_proteins(sequence: bytes | bytearray) -> list[str]:
    """Proteins of all six frames of one upper-case sequence, stops (`*`) included, in the order of `FRAME_NAMES`."""
    frames = SixFrames(np.frombuffer(sequence, np.uint8)[None, :], np.array([len(sequence)]))
    return [
        frames.proteins(frame, np.zeros(1, np.int64))[0].tobytes().decode("ascii") for frame in range(FRAMES_PER_CHUNK)
    ]


def _translated(values: np.ndarray, table: bytes) -> np.ndarray:
    """Every byte translated by a table; many times faster than by an index of 8 bytes each."""
    return np.frombuffer(values.tobytes().translate(table), np.uint8).reshape(values.shape)
