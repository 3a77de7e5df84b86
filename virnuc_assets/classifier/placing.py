"""Which records lie together, and on which side they must: what is held out, and what had a side before.

Records are placed in three turns, so that the first ones decide: records that had a side keep it; records held out
go to test; of all others, each joins its relatives, unless these lie on two sides, or it resembles what is held
out. Such a record is left out: neither what was placed before it, nor the test of what is held out, gives way.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass

from scipy.cluster.hierarchy import DisjointSet

from virnuc_assets.classifier.relatives import Kinship
from virnuc_assets.classifier.split import SPLITS, Split

_HELD, _BARRED = "held out", "not tested"


@dataclass(frozen=True)
class Placement:
    """Clusters of the records that may have a side.

    Attributes:
        cluster_of: record → smallest id of its cluster; records left out are not there.
        fixed: cluster → its side, of the clusters that need not be dealt.
        touched: record left out → the clusters that it resembles; none where it is left out of a held-out family.
    """

    cluster_of: Mapping[str, str]
    fixed: Mapping[str, Split]
    touched: Mapping[str, tuple[str, ...]]


def place(
    kinship: Kinship,
    rows: Mapping[str, int],
    held: Collection[str],
    barred: Collection[str],
    before: Mapping[str, Split],
) -> Placement:
    """Place every record of a kinship; equal inputs give equal placements, whatever their order.

    Args:
        kinship: of exactly the records to place.
        rows: record → its training rows.
        held: records whose side is test.
        barred: records whose side may not be test, because of their label only what is held out is tested.
        before: side of the records that shall keep it.
    """
    kept = _without_relatives_of_held(kinship, held, before)
    joined = _Joined(kinship)
    for record in sorted(kept):
        joined.join(record, {_HELD} if record in held else {_BARRED} if record in barred else set())
    joined.settle(rows, kept)
    left_out: list[str] = []
    for record in sorted(set(held).intersection(rows) - kept.keys()):
        if all(_HELD in marks for marks in joined.touched_marks(record)):
            joined.join(record, {_HELD, "test"})
        else:
            left_out.append(record)
    families = kinship.clusters()
    closed = {families[record] for record in joined.records if record in held}
    resembles_held = []
    for record in sorted(rows.keys() - joined.records - set(left_out)):
        marks = {_BARRED} if record in barred else set[str]()
        if families[record] in closed:
            resembles_held.append(record)
        elif _contradict(marks.union(*joined.touched_marks(record))):
            left_out.append(record)
        else:
            joined.join(record, marks)
    cluster_of = joined.clusters()
    fixed = {cluster: side for record, cluster in cluster_of.items() if (side := joined.side(record))}
    touched = joined.touched_by(left_out, cluster_of)
    return Placement(cluster_of, fixed, {**touched, **dict.fromkeys(resembles_held, ())})


def _contradict(marks: Collection[str]) -> bool:
    return sum(side in marks for side in SPLITS) > 1 or ("test" in marks and _BARRED in marks)


def _without_relatives_of_held(
    kinship: Kinship, held: Collection[str], before: Mapping[str, Split]
) -> dict[str, Split]:
    """Sides to keep; a record that is not held out loses its side where it became a relative of one that is."""
    clusters = kinship.among(before).clusters()
    closed = {cluster for record, cluster in clusters.items() if record in held}
    return {record: before[record] for record, found in clusters.items() if record in held or found not in closed}


class _Joined:
    """Sets of related records that grow record by record; a set's marks are its side and what its records may not."""

    def __init__(self, kinship: Kinship) -> None:
        self.records: set[str] = set()
        self._kinship = kinship
        self._sets = DisjointSet()
        self._marks: dict[Hashable, set[str]] = {}  # by the set's root

    def touched_marks(self, record: str) -> list[set[str]]:
        """Marks of the sets that a record would join."""
        return [self._marks[root] for root in self._roots(record)]

    def side(self, record: str) -> Split | None:
        """Side of a record's set, if it has one."""
        marks = self._marks[self._sets[record]]
        return next((side for side in SPLITS if side in marks), None)

    def join(self, record: str, marks: set[str]) -> None:
        """Add a record with its marks to the sets of its relatives, which thereby become one."""
        roots = self._roots(record)
        found = marks.union(*(self._marks.pop(root) for root in roots))
        self.records.add(record)
        self._sets.add(record)
        for root in roots:
            self._sets.merge(record, root)
        for name in self._kinship.names[record]:
            self._sets.add((name,))
            self._sets.merge(record, (name,))
        self._marks[self._sets[record]] = found

    def settle(self, rows: Mapping[str, int], before: Mapping[str, Split]) -> None:
        """Give each set the side that most rows of its records had, of equally many the first; not one it may not."""
        tally: dict[Hashable, Counter[Split]] = defaultdict(Counter)
        for record in self.records:
            tally[self._sets[record]][before[record]] += rows[record]
        for root, found in tally.items():
            allowed = [side for side in SPLITS if not _contradict({*self._marks[root], side})]
            self._marks[root].add(max(allowed, key=found.__getitem__))

    def clusters(self) -> dict[str, str]:
        """Record → smallest id of its set."""
        first: dict[Hashable, str] = {}
        return {record: first.setdefault(self._sets[record], record) for record in sorted(self.records)}

    def touched_by(self, records: Iterable[str], cluster_of: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
        """Clusters that each record resembles, by their smallest ids, sorted."""
        cluster_at = {self._sets[member]: cluster for member, cluster in cluster_of.items()}
        return {record: tuple(sorted(cluster_at[root] for root in self._roots(record))) for record in records}

    def _roots(self, record: str) -> list[Hashable]:
        nodes: Iterable[Hashable] = [
            *self._kinship.relatives[record],
            *((name,) for name in self._kinship.names[record]),
        ]
        return sorted({self._sets[node] for node in nodes if node in self._sets}, key=str)
