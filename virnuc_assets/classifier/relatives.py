"""Who is related to whom: by shared protein k-mers, by similar proteins where asked, and by name.

Similarity cannot find what shares no sequence, e.g. a nuclear and a mitochondrial record of one organism: such
records are joined by name.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from scipy.cluster.hierarchy import DisjointSet

from virnuc_assets.classifier.sketches import protein_hashes, related_pairs
from virnuc_assets.errors import VirnucError
from virnuc_assets.settings import SplitSettings

# A pair of record ids, the smaller first → how many pairs of similar proteins they have.
SimilarRecords = Mapping[tuple[str, str], int]


class RelativesError(VirnucError):
    """Records or names from which no kinship can be made."""


@dataclass(frozen=True)
class Kinship:
    """What links the records.

    Attributes:
        relatives: record → the records that it resembles; every record is a key, sorted.
        names: record → the names that it shares with others.
        reasons: record → the closest relative found, and the names shared; or "alone".
    """

    relatives: Mapping[str, frozenset[str]]
    names: Mapping[str, frozenset[str]]
    reasons: Mapping[str, str]

    def among(self, records: Collection[str]) -> Kinship:
        """The same of some records alone: a record that is not among them links no others, a name still does."""
        kept = [record for record in self.relatives if record in records]
        return Kinship(
            {record: self.relatives[record].intersection(records) for record in kept},
            {record: self.names[record] for record in kept},
            {record: self.reasons[record] for record in kept},
        )

    def clusters(self) -> dict[str, str]:
        """Record → smallest id of its cluster; relatives of relatives are one cluster (single linkage)."""
        joined = DisjointSet([*self.relatives, *((name,) for names in self.names.values() for name in names)])
        for record, others in self.relatives.items():
            for other in others:
                joined.merge(record, other)
            for name in self.names[record]:
                joined.merge(record, (name,))
        first: dict[object, str] = {}
        return {record: first.setdefault(joined[record], record) for record in self.relatives}


def find_relatives(
    sequences: Iterable[tuple[str, bytes | bytearray]],
    named: Mapping[str, Collection[str]],
    settings: SplitSettings,
    similar: SimilarRecords,
) -> Kinship:
    """Kinship by containment found, by similar proteins found, and by names given.

    Args:
        sequences: record id and upper-case nucleotides; one is held at a time.
        named: name (e.g. "relatives dengue", "organism Homo sapiens") → ids of the records that bear it.
        settings: k, sketch density, and what counts as related.
        similar: records with similar proteins, as `similarity.similar_records` finds them; empty where not asked.

    Returns:
        Kinship of the records given; the order of the input does not matter.

    Raises:
        RelativesError: a record id occurs twice, or a name or a pair lists a record that was not given.
    """
    pairs = [(record_id, protein_hashes(sequence, settings)) for record_id, sequence in sequences]
    sketches = dict(sorted(pairs, key=lambda pair: pair[0]))
    if len(sketches) < len(pairs):
        ids = [record_id for record_id, _ in pairs]
        twice = sorted({record_id for record_id in ids if ids.count(record_id) > 1})
        raise RelativesError(f"record ids must be unique; found more than once: {', '.join(twice[:5])}")
    ids = list(sketches)
    contained = {
        (ids[first], ids[second]): share for first, second, share in related_pairs(list(sketches.values()), settings)
    }
    _require_known(ids, named, similar)
    relatives: dict[str, set[str]] = {record_id: set() for record_id in ids}
    for first, second in [*contained, *similar]:
        relatives[first].add(second)
        relatives[second].add(first)
    shared = {name: set(members) for name, members in sorted(named.items()) if len(set(members)) > 1}
    names: dict[str, set[str]] = {record_id: set() for record_id in ids}
    reasons: dict[str, list[str]] = defaultdict(list)
    for record_id, (share, other) in _closest(contained).items():
        reasons[record_id].append(f"containment {share:.4f} with {other}")
    for record_id, (count, other) in _closest(similar).items():
        reasons[record_id].append(f"{count:.0f} pairs of similar proteins with {other}")
    for name, members in shared.items():
        for member in members:
            names[member].add(name)
            reasons[member].append(f"named {name} with {len(members) - 1} others")
    return Kinship(
        {record_id: frozenset(found) for record_id, found in relatives.items()},
        {record_id: frozenset(found) for record_id, found in names.items()},
        {record_id: "; ".join(reasons[record_id]) or "alone" for record_id in ids},
    )


def _closest(pairs: Mapping[tuple[str, str], float]) -> dict[str, tuple[float, str]]:
    """Each record's closest relative and how close it is; of equally close ones, the smaller id."""
    closest: dict[str, tuple[float, str]] = {}
    for (first, second), share in pairs.items():
        for record, other in ((first, second), (second, first)):
            found = closest.get(record)
            if found is None or (-share, other) < (-found[0], found[1]):
                closest[record] = (share, other)
    return closest


def _require_known(ids: Collection[str], named: Mapping[str, Collection[str]], similar: SimilarRecords) -> None:
    known = set(ids)
    proteins = {record for pair in similar for record in pair}
    for name, members in [*sorted(named.items()), ("similar proteins", proteins)]:
        if unknown := sorted(set(members) - known):
            raise RelativesError(
                f"named relatives {name!r}: {len(unknown)} of {len(set(members))} records were not given, "
                f"e.g. {', '.join(unknown[:5])}; correct the name's records or give their sequences"
            )
