"""Six-frame translation of chunks as VirNucPro does it (upstream: `identify_seq` in units.py), many chunks at a time.

A codon of a chunk is also, read backwards and complemented, a codon of the reverse strand. So each position's codon is
numbered once, and both strands' amino acids are looked up by that number. A frame is every third of its strand's.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from Bio.Data.CodonTable import standard_dna_table

from virnuc_assets.sequences.records import UNAMBIGUOUS
from virnuc_assets.storage.digests import one_array

STRANDS: tuple[Literal["+", "-"], ...] = ("+", "-")
CODON_NT = 3
# Upstream's names of the frames, in its order.
FRAME_NAMES = tuple(f"{name}{frame + 1}" for name in "FR" for frame in range(CODON_NT))
FRAMES_PER_CHUNK = len(FRAME_NAMES)
OPEN, STOPPED, EMPTY = range(3)
_REVERSE = np.arange(FRAMES_PER_CHUNK) >= CODON_NT

_ALPHABET = UNAMBIGUOUS + "N\0"  # N for every letter that is not A, C, G or T; zeros fill a row up
_OTHER, _FILLED, _BASE = _ALPHABET.index("N"), _ALPHABET.index("\0"), len(_ALPHABET)
_NUMBERS = bytes(_ALPHABET.find(chr(byte)) if chr(byte) in _ALPHABET else _OTHER for byte in range(256))
_CODONS = ["".join(bases) for bases in itertools.product(_ALPHABET, repeat=CODON_NT)]
_COMPLEMENT = bytes.maketrans(b"ACGT", b"TGCA")
_AMINO_ACIDS = {**standard_dna_table.forward_table, **dict.fromkeys(standard_dna_table.stop_codons, "*")}
_NONE = "X"  # for a codon with other letters
_PLUS = [_AMINO_ACIDS.get(codon, _NONE) for codon in _CODONS]
_MINUS = [_AMINO_ACIDS.get(codon.encode().translate(_COMPLEMENT)[::-1].decode(), _NONE) for codon in _CODONS]
_STOPS, _KNOWN, _AMBIGUOUS, _OUTSIDE = (1, 2), 4, 8, 16  # what a codon is; a stop on either strand
_KINDS = bytes(
    (plus == "*") * _STOPS[0]
    | (minus == "*") * _STOPS[1]
    | (plus != _NONE) * _KNOWN
    | ("N" in codon.partition("\0")[0]) * _AMBIGUOUS  # what follows a zero is of the next row
    | ("\0" in codon) * _OUTSIDE
    for codon, plus, minus in zip(_CODONS, _PLUS, _MINUS, strict=True)
).ljust(256, b"\0")
# From numbers of codons to residues and from bases to bases, by the step in which a strand is read.
_RESIDUES = {step: "".join(acids).ljust(256).encode() for step, acids in ((1, _PLUS), (-1, _MINUS))}
_BASES = {1: None, -1: _COMPLEMENT}


@dataclass(frozen=True)
class Stretches:
    """A stretch in each of the six frames of some chunks; all arrays are (chunks, 6).

    Attributes:
        status: uint8: OPEN, the stretch is kept; STOPPED, stops are in the way; EMPTY, no codon of A, C, G, T alone.
        begins: where its codons begin on the forward strand, in nt of the chunk, whatever its own strand.
        codons: how many.
        lengths_nt: of the nucleotides that go with it, from its first codon in reading direction.
    """

    status: np.ndarray
    begins: np.ndarray
    codons: np.ndarray
    lengths_nt: np.ndarray


class SixFrames:
    """All six frames of chunks, in the order of `FRAME_NAMES`.

    Attributes:
        ambiguous: (chunks,) bool: the chunk holds a letter other than A, C, G, T.
    """

    def __init__(self, chunks: pa.ChunkedArray) -> None:
        """Number the codons of chunks: strings of upper-case bases."""
        self._lengths = pc.binary_length(chunks).to_numpy().astype(np.int64)
        # Rows of whole codons; in whichever column one begins, the last of a row has a zero.
        self._width = int(self._lengths.max(initial=0)) // CODON_NT + 1
        rows = one_array(pc.ascii_rpad(chunks, CODON_NT * self._width, padding="\0"))
        bases = memoryview(rows.buffers()[2] or b"")[: CODON_NT * self._width * len(rows)].tobytes()
        numbers = np.full((2 * CODON_NT - 1, len(rows) * self._width), _FILLED, np.uint8)
        numbers[:CODON_NT] = np.frombuffer(bases.translate(_NUMBERS), np.uint8).reshape(-1, CODON_NT).T
        numbers[CODON_NT:, :-1] = numbers[: CODON_NT - 1, 1:]
        codons = (numbers[:3] * np.uint8(_BASE**2) + numbers[1:4] * np.uint8(_BASE) + numbers[2:]).tobytes()
        # By the column in which a codon begins, by three.
        self._kinds = np.frombuffer(codons.translate(_KINDS), np.uint8).reshape(CODON_NT, len(rows), self._width)
        found = np.bitwise_or.reduce(self._kinds, axis=2).T  # (chunks, 3)
        self.ambiguous = (found & _AMBIGUOUS).any(axis=1)
        # A frame of the reverse strand has the codons of a column, too, which depends on the chunk's length.
        self._offsets = np.arange(FRAMES_PER_CHUNK) % CODON_NT
        self._columns = np.where(_REVERSE, self._lengths[:, None] - self._offsets, self._offsets) % CODON_NT
        self._found = np.take_along_axis(found, self._columns, axis=1)  # (chunks, 6)
        # A stretch of the reverse strand is read backwards, down to what is before it.
        self._codons, self._bases = b"\0" + codons, b"\0" + bases

    def whole(self) -> Stretches:
        """The whole frames, kept if they have no stop: VirNucPro's rule.

        With one goes, as upstream, one more base than its codons' where there is one; and where codons with other
        letters vanish from the protein, as many bases are cut off at the end.
        """
        lengths = np.maximum(self._lengths[:, None] - self._offsets, 0)
        known = codons = lengths // CODON_NT
        begins = np.where(_REVERSE, lengths - CODON_NT * codons, self._offsets)
        if self.ambiguous.any():
            unknown = (self._kinds & (_AMBIGUOUS | _OUTSIDE) == _AMBIGUOUS).sum(axis=2).T
            known = codons - np.take_along_axis(unknown, self._columns, axis=1)
        stopped = (self._found & np.repeat(_STOPS, CODON_NT)) > 0
        status = np.where(stopped, STOPPED, np.where(known > 0, OPEN, EMPTY))
        return Stretches(status, begins, codons, np.minimum(lengths, CODON_NT * known + 1))

    def longest(self, min_aa: int) -> Stretches:
        """The longest stretches between stops, kept if they have so many residues; of several the first to be read.

        Codons with other letters are neither stops nor residues. With a stretch go the bases of its codons.
        """
        found = np.stack([self._longest(strand, kinds) for strand in range(2) for kinds in self._kinds], axis=2)
        known, begins, codons = np.take_along_axis(found, self._columns[None] + CODON_NT * _REVERSE, axis=2)
        status = np.where(known >= min_aa, OPEN, np.where(self._found & _KNOWN, STOPPED, EMPTY))
        return Stretches(status, self._columns + CODON_NT * begins, codons, CODON_NT * codons)

    def _longest(self, strand: int, kinds: np.ndarray) -> np.ndarray:
        """Residues, first codon and number of codons of each chunk's longest stretch in a column: (3, chunks)."""
        # Of stretches, numbered through all rows: the codon after each, its first one, and its residues.
        ends = np.flatnonzero(kinds & (_OUTSIDE | _STOPS[strand]) > 0)
        begins = np.append(0, ends[:-1] + 1)
        residues = ends - begins
        if self.ambiguous.any():
            unknown = np.flatnonzero(kinds & (_AMBIGUOUS | _OUTSIDE) == _AMBIGUOUS)
            residues -= np.searchsorted(unknown, ends) - np.searchsorted(unknown, begins)
        first = np.append(0, np.flatnonzero(ends % self._width == self._width - 1)[:-1] + 1)  # (chunks,)
        count, order = len(ends), np.arange(len(ends))
        rank = np.maximum.reduceat(residues * count + (order if strand else order[::-1]), first) % count
        best = rank if strand else count - 1 - rank
        return np.stack([residues[best], begins[best] - self._width * np.arange(len(best)), ends[best] - begins[best]])

    def cut(self, found: Stretches, at: np.ndarray) -> tuple[pa.StringArray, pa.StringArray]:
        """Nucleotides and proteins of some frames, (n,): 6 · the chunk's row + the frame's index.

        Codons with other letters vanish from the proteins.
        """
        rows, frames = np.divmod(at, FRAMES_PER_CHUNK)
        begins, codons, lengths_nt = (each.reshape(-1)[at] for each in (found.begins, found.codons, found.lengths_nt))
        base = self._width * CODON_NT * rows + begins
        codon = (self._columns.reshape(-1)[at] * len(self._lengths) + rows) * self._width + begins // CODON_NT
        steps = np.where(_REVERSE[frames], -1, 1)
        nucleotides = _cut(self._bases, base + np.where(steps < 0, CODON_NT * codons, 1), lengths_nt, steps, _BASES)
        proteins = _cut(self._codons, codon + np.where(steps < 0, codons, 1), codons, steps, _RESIDUES)
        for number in np.flatnonzero(self.ambiguous[rows]).tolist():
            proteins[number] = proteins[number].replace(_NONE.encode(), b"")
        return _strings(nucleotides), _strings(proteins)


def _cut(
    text: bytes, starts: np.ndarray, lengths: np.ndarray, steps: np.ndarray, tables: Mapping[int, bytes | None]
) -> list[bytes]:
    spans = zip(starts.tolist(), (starts + steps * lengths).tolist(), steps.tolist(), strict=True)
    return [text[start:stop:step].translate(tables[step]) for start, stop, step in spans]


def _strings(pieces: Sequence[bytes]) -> pa.StringArray:
    offsets = np.zeros(len(pieces) + 1, np.int32)
    np.cumsum(np.fromiter(map(len, pieces), np.int32, len(pieces)), out=offsets[1:])
    return pa.StringArray.from_buffers(len(pieces), pa.py_buffer(offsets), pa.py_buffer(b"".join(pieces)))


def six_proteins(sequence: bytes | bytearray) -> list[str]:
    """Proteins of all six frames of one upper-case sequence, stops (`*`) included, in the order of `FRAME_NAMES`."""
    frames = SixFrames(pa.chunked_array([[sequence.decode("ascii")]]))
    _, proteins = frames.cut(frames.whole(), np.arange(FRAMES_PER_CHUNK))
    found: list[str] = proteins.to_pylist()
    return found
