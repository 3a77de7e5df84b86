"""Clusters of related records, by shared protein k-mers and by name, so that no relative is on two sides of a split.

Sketches are FracMinHash (Irber et al. 2022, doi:10.1101/2022.01.11.475838; sourmash) over the stop-free stretches
of all six frames: DNA k-mers no longer find viruses of one species complex (dengue 1 and 2 share 4 of 10,700
31-mers), whereas the classifier reads proteins and sees the likeness. Stretches shorter than `MIN_STRETCH_AA` and
windows of few different residues are left out; AT-rich repeats of unrelated genomes share those by chance.
Similarity cannot find what shares no sequence, e.g. a nuclear and a mitochondrial record of one organism: such
records are joined by name.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components
from sourmash import MinHash

from virnuc_assets.errors import VirnucError
from virnuc_assets.sequences.translation import six_frames
from virnuc_assets.settings import SplitSettings

MIN_STRETCH_AA = 30
MIN_RESIDUES_PER_KMER = 6
# Long records are translated piece by piece; a multiple of 3, so that frames stay in step.
_PIECE_NT = 300_000
_CLOSED = np.uint32(1 << 31)


class RelativesError(VirnucError):
    """Records or names from which no clusters can be made."""


@dataclass(frozen=True)
class ClusteredRecord:
    """A record and the cluster of relatives it belongs to.

    Attributes:
        record_id: the record.
        cluster: smallest record id of the cluster.
        reason: what joined the record: the closest relative found, the names shared, or "alone".
    """

    record_id: str
    cluster: str
    reason: str


def cluster_relatives(
    sequences: Iterable[tuple[str, bytes | bytearray]], named: Mapping[str, Collection[str]], settings: SplitSettings
) -> list[ClusteredRecord]:
    """Single-linkage clusters over containment found and names given.

    Args:
        sequences: record id and upper-case nucleotides; one is held at a time.
        named: name (e.g. "relatives dengue", "organism Homo sapiens") → ids of the records that bear it.
        settings: k, sketch density, and what counts as related.

    Returns:
        One row a record, sorted by record id; the order of the input does not matter.

    Raises:
        RelativesError: a record id occurs twice, or a name lists a record that was not given.
    """
    pairs = [(record_id, protein_hashes(sequence, settings)) for record_id, sequence in sequences]
    sketches = dict(sorted(pairs, key=lambda pair: pair[0]))
    if len(sketches) < len(pairs):
        ids = [record_id for record_id, _ in pairs]
        twice = sorted({record_id for record_id in ids if ids.count(record_id) > 1})
        raise RelativesError(f"record ids must be unique; found more than once: {', '.join(twice[:5])}")
    if not sketches:
        return []
    ids = list(sketches)
    reasons: dict[str, list[str]] = {record_id: [] for record_id in ids}
    edges = [(ids[a], ids[b]) for a, b in _found(list(sketches.values()), ids, reasons, settings)]
    edges += _by_name(named, reasons)
    return [
        ClusteredRecord(record_id, cluster, "; ".join(reasons[record_id]) or "alone")
        for record_id, cluster in zip(ids, _components(ids, edges), strict=True)
    ]


def protein_hashes(sequence: bytes | bytearray, settings: SplitSettings) -> np.ndarray:
    """FracMinHash of a record's six frames: distinct uint64, about one in `sketch_scaled` of its k-mers."""
    hasher = MinHash(n=0, ksize=settings.ksize_aa, scaled=settings.sketch_scaled, is_protein=True)
    kept = [np.empty(0, dtype=np.uint64)]
    for start in range(0, len(sequence), _PIECE_NT):
        hashes: list[int] = []
        for frame in six_frames(bytes(sequence[start : start + _PIECE_NT])):
            for stretch in _informative_stretches(frame.protein, settings.ksize_aa):
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


def _found(
    sketches: list[np.ndarray], ids: list[str], reasons: dict[str, list[str]], settings: SplitSettings
) -> list[tuple[int, int]]:
    """Pairs whose smaller sketch is contained in the other far enough; tells each record its closest relative."""
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
    related &= rows != others
    closest: dict[int, tuple[float, int]] = {}
    for row, other, share in zip(rows[related], others[related], containment[related], strict=True):
        # The larger share wins; of equal ones, the smaller id.
        closest[int(row)] = max(closest.get(int(row), (0.0, 0)), (float(share), -int(other)))
    for row, (share, other) in closest.items():
        reasons[ids[row]].append(f"containment {share:.4f} with {ids[-other]}")
    return [(int(row), int(other)) for row, other in zip(rows[related], others[related], strict=True) if row < other]


def _by_name(named: Mapping[str, Collection[str]], reasons: dict[str, list[str]]) -> list[tuple[str, str]]:
    edges = []
    for name, members in sorted(named.items()):
        members = sorted(set(members))
        if unknown := [member for member in members if member not in reasons]:
            raise RelativesError(
                f"named relatives {name!r}: {len(unknown)} of {len(members)} records were not given, "
                f"e.g. {', '.join(unknown[:5])}; correct the name's records or give their sequences"
            )
        if len(members) > 1:
            edges += [(members[0], member) for member in members[1:]]
            for member in members:
                reasons[member].append(f"named {name} with {len(members) - 1} others")
    return edges


def _components(ids: list[str], edges: list[tuple[str, str]]) -> list[str]:
    """Smallest id of each record's connected component; `ids` are sorted."""
    index = {record_id: number for number, record_id in enumerate(ids)}
    rows, others = ([index[edge[side]] for edge in edges] for side in (0, 1))
    graph = coo_array((np.ones(len(edges), dtype=bool), (rows, others)), shape=(len(ids), len(ids)))
    _, component = connected_components(graph, directed=False)
    _, first = np.unique(component, return_index=True)
    return [ids[first[number]] for number in component]
