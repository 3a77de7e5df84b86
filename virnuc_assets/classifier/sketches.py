"""Protein sketches of records, and the pairs of records that share enough of them.

Sketches are FracMinHash (Irber et al. 2022, doi:10.1101/2022.01.11.475838; sourmash) over the stop-free stretches
of all six frames: DNA k-mers no longer find viruses of one species complex (dengue 1 and 2 share 4 of 10,700
31-mers), whereas the classifier reads proteins and sees the likeness. Stretches shorter than `MIN_STRETCH_AA` and
windows of few different residues are left out; AT-rich repeats of unrelated genomes share those by chance.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_array, csr_array
from sourmash import MinHash

from virnuc_assets.sequences.translation import six_proteins
from virnuc_assets.settings import SplitSettings

MIN_STRETCH_AA = 30
MIN_RESIDUES_PER_KMER = 6
# Long records are translated piece by piece; a multiple of 3, so that frames stay in step.
_PIECE_NT = 300_000
_CLOSED = np.uint32(1 << 31)


class RelatedPair(NamedTuple):
    """Positions of two related sketches, the smaller first, and the share of the smaller sketch that both hold."""

    first: int
    second: int
    containment: float


def protein_hashes(sequence: bytes | bytearray, settings: SplitSettings) -> np.ndarray:
    """FracMinHash of a record's six frames: distinct uint64, about one in `sketch_scaled` of its k-mers."""
    hasher = MinHash(n=0, ksize=settings.ksize_aa, scaled=settings.sketch_scaled, is_protein=True)
    kept = [np.empty(0, dtype=np.uint64)]
    for start in range(0, len(sequence), _PIECE_NT):
        hashes: list[int] = []
        for protein in six_proteins(sequence[start : start + _PIECE_NT]):
            for stretch in _informative_stretches(protein, settings.ksize_aa):
                # Not `add_protein`: it sorts every hash in, at a cost that grows with the sketch.
                hashes += hasher.seq_to_hashes(stretch, is_protein=True)
        found = np.array(hashes, dtype=np.uint64)
        kept.append(found[found <= np.iinfo(np.uint64).max // settings.sketch_scaled])
    return np.unique(np.concatenate(kept))


def _informative_stretches(protein: str, k: int) -> Iterator[str]:
    """Parts of the long stop-free stretches in which every k-mer has enough different residues."""
    letters = np.frombuffer(protein.encode("ascii"), dtype=np.uint8)  # (aa,)
    if letters.size < max(MIN_STRETCH_AA, k):
        return
    stops = np.flatnonzero(letters == ord("*"))
    lengths = np.diff(stops, prepend=-1, append=letters.size)  # of each stretch and the stop behind it
    too_short = np.repeat(lengths <= MIN_STRETCH_AA, lengths)[: letters.size] | (letters == ord("*"))
    # One bit a residue letter, the highest for what no k-mer may hold.
    bits = np.where(too_short, _CLOSED, np.uint32(1) << (letters & 31).astype(np.uint32))
    kmers = np.bitwise_or.reduce(np.lib.stride_tricks.sliding_window_view(bits, k), axis=1)  # (aa - k + 1,)
    informative = (kmers < _CLOSED) & (np.bitwise_count(kmers) >= min(MIN_RESIDUES_PER_KMER, k))
    for first, end in np.flatnonzero(np.diff(informative, prepend=False, append=False)).reshape(-1, 2):
        yield protein[first : end + k - 1]


def related_pairs(sketches: Sequence[np.ndarray], settings: SplitSettings) -> list[RelatedPair]:
    """Pairs whose smaller sketch is contained in the other far enough, sorted by position.

    Args:
        sketches: as `protein_hashes` makes them.
        settings: what counts as related.
    """
    if not sketches:
        return []
    sizes = np.array([sketch.size for sketch in sketches])
    distinct, columns = np.unique(np.concatenate(sketches), return_inverse=True)
    incidence = csr_array(
        (np.ones(columns.size, dtype=np.int32), columns, np.concatenate([[0], np.cumsum(sizes)])),
        shape=(len(sketches), distinct.size),
    )
    shared = coo_array(incidence @ incidence.T)  # (records, records)
    rows, others = shared.coords
    containment = shared.data / np.minimum(sizes[rows], sizes[others])
    related = (shared.data >= settings.min_shared_hashes) & (containment >= settings.containment_threshold)
    related &= rows < others
    found = zip(rows[related].tolist(), others[related].tolist(), containment[related].tolist(), strict=True)
    return sorted(RelatedPair(*pair) for pair in found)
