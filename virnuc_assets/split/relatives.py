"""Which records are related: by shared protein k-mers, by similar proteins where asked, and by name.

Sketches are FracMinHash (Irber et al. 2022, doi:10.1101/2022.01.11.475838; sourmash) over the stop-free stretches
of all six frames: DNA k-mers no longer find viruses of one species complex (dengue 1 and 2 share 4 of 10,700
31-mers), whereas the classifier reads proteins and sees the likeness. Stretches shorter than `MIN_STRETCH_AA` and
windows of few different residues are left out; AT-rich repeats of unrelated genomes share those by chance. No sketch
finds what shares no sequence, e.g. a nuclear and a mitochondrial record of one organism: such records share a name.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping

import numpy as np
from scipy.cluster.hierarchy import DisjointSet
from scipy.sparse import coo_array, csr_array
from sourmash import MinHash

from virnuc_assets.sequences.translation import six_proteins
from virnuc_assets.settings import SplitSettings

# Pair of record ids, the smaller first → how close they are: a share of hashes, or a number of similar proteins.
Pairs = Mapping[tuple[str, str], float]

MIN_STRETCH_AA = 30
MIN_RESIDUES_PER_KMER = 6
# Long records are translated in segments; a multiple of 3, so that frames stay in step.
_SEGMENT_NT = 300_000
_EXCLUDED = np.uint32(1 << 31)

# Record → the records that it resembles, and as tuples of one the names that it shares.
Links = Mapping[str, Collection[Hashable]]


class Clusters:
    """Records joined one by one to those that they are linked to; relatives of relatives are one cluster.

    A record that was not added links no others, a name that records share (a tuple of one) does.
    """

    def __init__(self, links: Links, records: Iterable[str] = ()) -> None:
        self._links, self._sets = links, DisjointSet()
        for record in sorted(records):
            self.add(record)

    def add(self, record: str) -> Hashable:
        """Join a record; returns the root of the set that it is in now."""
        self._sets.add(record)
        for node in self._links[record]:
            if isinstance(node, tuple):
                self._sets.add(node)
            if node in self._sets:
                self._sets.merge(record, node)
        root: Hashable = self._sets[record]
        return root

    def touched(self, record: str) -> set[Hashable]:
        """Roots of the sets that a record is linked to."""
        return {self._sets[node] for node in self._links[record] if node in self._sets}

    def names(self) -> dict[Hashable, str]:
        """Smallest record of each set, by its root."""
        return {self._sets[name]: name for name in self.by_record().values()}

    def by_record(self) -> dict[str, str]:
        """Record → smallest record of its cluster, sorted."""
        smallest: dict[Hashable, str] = {}
        records = sorted(node for node in self._sets if isinstance(node, str))
        return {record: smallest.setdefault(self._sets[record], record) for record in records}


def find_relatives(
    sequences: Iterable[tuple[str, bytes]],
    named: Mapping[str, Collection[str]],
    settings: SplitSettings,
    similar: Pairs,
) -> tuple[Links, dict[str, str]]:
    """Links of the records, and why they are related: k-mers and similar proteins found, names given, or "alone".

    Args:
        sequences: record id and upper-case nucleotides; one is in memory at a time.
        named: name (e.g. "relatives dengue", "organism Homo sapiens") → distinct ids of the records that bear it.
        settings: k, sketch density, and what counts as related.
        similar: as `similarity.similar_records` finds them.
    """
    sketches = {record: protein_hashes(sequence, settings) for record, sequence in sequences}
    links: dict[str, set[Hashable]] = {record: set() for record in sorted(sketches)}
    reasons: dict[str, list[str]] = defaultdict(list)
    contained = related_pairs(sketches, settings)
    for pairs, reason in ((contained, "containment {:.4f} with {}"), (similar, "{} pairs of similar proteins with {}")):
        for first, second in pairs:
            links[first].add(second)
            links[second].add(first)
        for record, (closeness, other) in _closest(pairs).items():
            reasons[record].append(reason.format(closeness, other))
    for name, members in sorted(named.items()):
        for member in members if len(members) > 1 else ():
            links[member].add((name,))
            reasons[member].append(f"named {name} with {len(members) - 1} others")
    return links, {record: "; ".join(reasons[record]) or "alone" for record in links}


def _closest(pairs: Pairs) -> dict[str, tuple[float, str]]:
    """Each record's closest relative and how close it is; of equally close ones, the smaller id."""
    found = [(-closeness, *pair) for pair, closeness in pairs.items()]
    found += [(closeness, second, first) for closeness, first, second in found]
    return {record: (-closeness, other) for closeness, other, record in sorted(found, reverse=True)}


def protein_hashes(sequence: bytes, settings: SplitSettings) -> np.ndarray:
    """FracMinHash of a record's six frames: distinct uint64, about one in `sketch_scaled` of its k-mers."""
    hasher = MinHash(n=0, ksize=settings.ksize_aa, scaled=settings.sketch_scaled, is_protein=True)
    kept = [np.empty(0, dtype=np.uint64)]
    for start in range(0, len(sequence), _SEGMENT_NT):
        hashes: list[int] = []
        for protein in six_proteins(sequence[start : start + _SEGMENT_NT]):
            for stretch in _informative_stretches(protein, settings.ksize_aa):
                # Not `add_protein`: it sorts every hash in, at a cost that grows with the sketch.
                hashes += hasher.seq_to_hashes(stretch, is_protein=True)
        found = np.array(hashes, dtype=np.uint64)
        kept.append(found[found <= np.iinfo(np.uint64).max // settings.sketch_scaled])
    return np.unique(np.concatenate(kept))


def _informative_stretches(protein: str, k: int) -> Iterator[str]:
    """Parts of the long stop-free stretches in which every k-mer has enough different residues."""
    residues = np.frombuffer(protein.encode("ascii"), dtype=np.uint8)  # (aa,)
    if residues.size < max(MIN_STRETCH_AA, k):
        return
    stops = np.flatnonzero(residues == ord("*"))
    lengths = np.diff(stops, prepend=-1, append=residues.size)  # of each stretch and the stop behind it
    too_short = np.repeat(lengths <= MIN_STRETCH_AA, lengths)[: residues.size] | (residues == ord("*"))
    # One bit for each residue, the highest for what no k-mer may contain.
    bits = np.where(too_short, _EXCLUDED, np.uint32(1) << (residues & 31).astype(np.uint32))
    kmers = np.bitwise_or.reduce(np.lib.stride_tricks.sliding_window_view(bits, k), axis=1)  # (aa - k + 1,)
    informative = (kmers < _EXCLUDED) & (np.bitwise_count(kmers) >= min(MIN_RESIDUES_PER_KMER, k))
    for first, end in np.flatnonzero(np.diff(informative, prepend=False, append=False)).reshape(-1, 2):
        yield protein[first : end + k - 1]


def related_pairs(sketches: Mapping[str, np.ndarray], settings: SplitSettings) -> dict[tuple[str, str], float]:
    """Pairs of records, sorted, → the share of the smaller sketch's hashes that both have, where that is enough."""
    if not sketches:
        return {}
    ids = sorted(sketches)
    sizes = np.array([sketches[record].size for record in ids])
    distinct, columns = np.unique(np.concatenate([sketches[record] for record in ids]), return_inverse=True)
    incidence = csr_array(
        (np.ones(columns.size, dtype=np.int32), columns, np.concatenate([[0], np.cumsum(sizes)])),
        shape=(len(ids), distinct.size),
    )
    shared = coo_array(incidence @ incidence.T)  # (records, records)
    rows, others = shared.coords
    containment = shared.data / np.minimum(sizes[rows], sizes[others])
    related = (shared.data >= settings.min_shared_hashes) & (containment >= settings.containment_threshold)
    related &= rows < others
    found = zip(rows[related].tolist(), others[related].tolist(), containment[related].tolist(), strict=True)
    return {(ids[first], ids[second]): share for first, second, share in sorted(found)}
