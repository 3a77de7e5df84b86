"""Six-frame translation of chunks as VirNucPro does it (upstream: `identify_seq` in units.py), many chunks at a time.

A codon of a chunk is also, read backwards and complemented, a codon of the reverse strand. So each position's codon is
numbered once, and both strands' amino acids are looked up by that number. A frame is every third of its strand's.
"""

from __future__ import annotations

import itertools
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
_RESIDUES = [bytes("".join(acids).ljust(256), "ascii") for acids in (_PLUS, _MINUS)]
_INLINE = 12  # bytes that a view of Arrow has room for


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
        self._codons, self._bases = codons, bases

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
        Of what is not kept only the status is found.
        """
        # Codons between two stops or ends of rows, in all columns for one strand, then for the other.
        at = np.flatnonzero(self._kinds & (sum(_STOPS) | _OUTSIDE) > 0)
        kinds = self._kinds.reshape(-1)[at]
        plus, minus = (np.compress(kinds & (stop | _OUTSIDE) > 0, at) for stop in _STOPS)
        ends = np.append(plus, self._kinds.size + minus)
        codons = np.diff(ends, prepend=-1) - 1
        long = np.flatnonzero(codons >= min_aa)
        ends, codons = ends[long], codons[long]
        begins, known = ends - codons, codons
        if self.ambiguous.any():
            unknown = np.flatnonzero(self._kinds & (_AMBIGUOUS | _OUTSIDE) == _AMBIGUOUS)
            before, after = (np.searchsorted(unknown, at % self._kinds.size) for at in (begins, ends))
            known = codons - (after - before)
        row, begins = np.divmod(begins, self._width)
        # The best of a row has the most residues, then is read first; it is noted as one number.
        of_minus = row >= self._kinds.size // self._width
        ranks = known, np.where(of_minus, begins, self._width - 1 - begins), codons
        best = np.zeros((len(_REVERSE), len(self._lengths)), np.int64)
        np.maximum.at(best.reshape(-1), row, np.ravel_multi_index(ranks, 3 * (self._width,)))
        best = best[self._columns + CODON_NT * _REVERSE, np.arange(len(self._lengths))[:, None]]
        known, begins, codons = np.unravel_index(best, 3 * (self._width,))
        begins = self._columns + CODON_NT * np.where(_REVERSE, begins, self._width - 1 - begins)
        status = np.where(known >= min_aa, OPEN, np.where(self._found & _KNOWN, STOPPED, EMPTY))
        return Stretches(status, begins, codons, CODON_NT * codons)

    def cut(self, found: Stretches, at: np.ndarray) -> tuple[pa.StringArray, pa.StringArray]:
        """Nucleotides and proteins of some frames, (n,): 6 · the chunk's row + the frame's index.

        Codons with other letters vanish from the proteins.
        """
        rows, frames = np.divmod(at, FRAMES_PER_CHUNK)
        begins, codons, lengths_nt = (each.reshape(-1)[at] for each in (found.begins, found.codons, found.lengths_nt))
        backward = _REVERSE[frames]
        # A stretch of the reverse strand ends, as it is read, with the first of its bases.
        base = self._width * CODON_NT * rows + begins + np.where(backward, CODON_NT * codons - lengths_nt, 0)
        codon = (self._columns.reshape(-1)[at] * len(self._lengths) + rows) * self._width + begins // CODON_NT
        # Bases of many frames are cut of both strands of the chunk; of codons, there are fewer in the frames.
        reverse = np.frombuffer(self._bases, np.uint8)[::-1].tobytes().translate(_COMPLEMENT)
        base = np.where(backward, 2 * len(reverse) - base - lengths_nt, base)
        nucleotides = _cut(self._bases + reverse, base, lengths_nt)
        proteins = _translated(self._codons, codon, codons, backward)
        return nucleotides, pc.replace_substring(proteins, _NONE, "") if self.ambiguous.any() else proteins


def _translated(text: bytes, starts: np.ndarray, lengths: np.ndarray, backward: np.ndarray) -> pa.StringArray:
    """Residues of runs of codons in reading direction; those of the reverse strand are turned all at once."""
    plus, minus = np.flatnonzero(~backward), np.flatnonzero(backward)
    at, turned = np.append(plus, minus[::-1]), np.append(plus, minus)
    codons = np.frombuffer(_cut(text, starts[at], lengths[at]).buffers()[2] or b"", np.uint8)
    forward, reverse = np.split(codons, [int(lengths[plus].sum())])
    residues = forward.tobytes().translate(_RESIDUES[0]) + reverse[::-1].tobytes().translate(_RESIDUES[1])
    begins = np.empty_like(starts)
    begins[turned] = np.cumsum(lengths[turned]) - lengths[turned]
    return _cut(residues, begins, lengths)


def _cut(text: bytes, starts: np.ndarray, lengths: np.ndarray) -> pa.StringArray:
    """Parts of a text. Arrow copies them from views: a length, and a place or, of so short a string, its letters."""
    views = np.zeros((len(starts), 4), np.int32)  # the first letters, which a view has before a place, are not read
    views[:, 0], views[:, 3] = lengths, starts
    if len(short := np.flatnonzero(lengths <= _INLINE)):
        heads = np.ndarray(len(text) + 1, f"V{_INLINE}", text + bytes(_INLINE), strides=(1,))[starts[short]]
        heads = heads.view(np.uint8).reshape(-1, _INLINE) * (np.arange(_INLINE) < lengths[short, None])
        views[short, 1:] = heads.view(np.int32)
    buffers = [None, pa.py_buffer(views), pa.py_buffer(text)]
    return pa.Array.from_buffers(pa.string_view(), len(views), buffers).cast(pa.string())


def six_proteins(sequence: bytes | bytearray) -> list[str]:
    """Proteins of all six frames of one upper-case sequence, stops (`*`) included, in the order of `FRAME_NAMES`."""
    frames = SixFrames(pa.chunked_array([[sequence.decode("ascii")]]))
    _, proteins = frames.cut(frames.whole(), np.arange(FRAMES_PER_CHUNK))
    found: list[str] = proteins.to_pylist()
    return found
