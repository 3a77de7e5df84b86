"""The split table: which records are held out, which are clustered, and which split each cluster gets."""

from __future__ import annotations

import datetime
import hashlib
from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from typing import Any, Literal, get_args

import pyarrow as pa

from virnuc_assets.errors import VirnucError
from virnuc_assets.sequences.catalogue import Source
from virnuc_assets.settings import SplitSettings
from virnuc_assets.split.relatives import Clusters, Links

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
# A record in no split: it would link two of them, or resembles what is held out.
LEFT_OUT = "left_out"
LABELS = ("host", "viral")

# What the records of a cluster may become. Held-out records are tested, apart from the test records of other labels.
_HELD_OUT = frozenset(["held out"])
_ANY, _NOT_TESTED = frozenset[str](SPLITS), frozenset[str](["train", "validation"])

_Allowed = frozenset[str]
_Rows = Sequence[Mapping[str, Any]]


class SplitError(VirnucError):
    """Nothing can be held out as asked, or some label cannot be trained on, validated and tested."""


def split_schema() -> pa.Schema:
    """One row per record, sorted by record id.

    `rows` counts its training rows, `split` is one of `SPLITS` or `LEFT_OUT`, `relatives` says what the record is
    related to, `reason` why it is in that split; a record that is left out is a cluster of its own.
    """
    columns = ("record_id", "cluster", "label", "group", "rows", "split", "relatives", "reason")
    return pa.schema([(name, pa.int64() if name == "rows" else pa.string()) for name in columns])


def splits_of(rows: Iterable[Mapping[str, Any]]) -> dict[str, Split]:
    """Record → split, of the records that have one."""
    return {row["record_id"]: row["split"] for row in rows if row["split"] in SPLITS}


def changes(before: _Rows, after: _Rows) -> dict[str, int]:
    """How many records kept their split, are new, moved to another split, are left out, or are gone."""
    old, new = splits_of(before), splits_of(after)
    return {
        "records_kept": sum(old.get(record) == split for record, split in new.items()),
        "records_new": len(new.keys() - old.keys()),
        "records_moved": sum(old.get(record, split) != split for record, split in new.items()),
        "records_left_out": len(after) - len(new),
        "records_gone": len({row["record_id"] for row in before} - {row["record_id"] for row in after}),
    }


def held_out(sources: Mapping[str, Source], settings: SplitSettings) -> dict[str, str]:
    """Records whose split is test by their source's date or names, and why; none where clusters decide."""
    if settings.test_from:
        return _held_out_by_date(sources, settings.test_from)
    names = {
        record: list(filter(None, dict.fromkeys((source.group, source.organism, source.relatives))))
        for record, source in sources.items()
    }
    known = {name for found in names.values() for name in found}
    if unknown := sorted(set(settings.test_groups) - known):
        raise SplitError(
            f"split.test_groups: unknown to the catalogue: {', '.join(unknown)}; expected groups, organisms or words "
            f"for relatives of MANIFEST.tsv, which are: {', '.join(sorted(known))}"
        )
    asked = {record: [name for name in found if name in settings.test_groups] for record, found in names.items()}
    return {record: f"held out: of {', '.join(found)}" for record, found in asked.items() if found}


def _held_out_by_date(sources: Mapping[str, Source], first: datetime.date) -> dict[str, str]:
    dates = {record: source.date for record, source in sources.items() if source.date}
    if undated := sorted({source.name for source in sources.values() if not source.date}):
        raise SplitError(
            f"split.by = 'time' needs a date for every source; {len(undated)} have none ({', '.join(undated[:5])}"
            f"{', …' if len(undated) > 5 else ''}). Fill the column `date` of MANIFEST.tsv (YYYY-MM-DD)."
        )
    held = {record: f"held out: dated {date}, not before {first}" for record, date in dates.items() if date >= first}
    if not held:
        latest = max(dates.values(), default=None)
        raise SplitError(f"split.test_from = {first}: no source is that new, the latest is of {latest}; set it earlier")
    return held


def assign_splits(
    related: tuple[Links, Mapping[str, str]],
    counted: pa.Table,
    settings: SplitSettings,
    held: Mapping[str, str],
    before: _Rows,
) -> pa.Table:
    """The split of all records that have training rows: clusters keep the split they had, all others are assigned one.

    Args:
        related: as `find_relatives` gives it, of at least the records that have rows.
        counted: record_id, label ("viral" / "host"), group, rows: one row for each record with training rows.
        settings: seed and wanted fractions of rows.
        held: record → why it is held out for the test; a label that has such records is tested on them alone.
        before: rows of the split table whose splits are kept, where `held` allows it.

    Returns:
        `split_schema`; the order of no input matters, and the table given back as `before` gives the same table.
    """
    links, relatives = related
    rows = {row["record_id"]: row for row in sorted(counted.to_pylist(), key=lambda row: str(row["record_id"]))}
    if without := [record for record, row in rows.items() if not row["group"]]:
        raise SplitError(
            f"{len(without)} records have no group, e.g. {', '.join(without[:5])}; fill the column `group` of "
            "MANIFEST.tsv for their sources: every group is spread over train, validation and test"
        )
    closed = {row["label"] for record, row in rows.items() if record in held}
    allowed = {
        record: _HELD_OUT if record in held else _NOT_TESTED if row["label"] in closed else _ANY
        for record, row in rows.items()
    }
    kept = {
        record: split
        for record, split in splits_of(before).items()
        if record in rows and (split == "test" if record in held else split in allowed[record])
    }
    cluster_of, fixed, touched = _clustered(links, rows, allowed, kept)
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for record, cluster in cluster_of.items():
        row = rows[record]
        for scope in (row["label"], f"{row['label']} {row['group']}"):  # where shares and coverage are counted
            counts[cluster][scope] += row["rows"]
    assigned = _assigned(counts, fixed, closed, settings)
    splits = fixed | {cluster: split for cluster, (split, _) in assigned.items()}
    _require_every_label(counts, splits, len(kept))
    old_reasons = {row["record_id"]: row["reason"] for row in before}
    for record, row in rows.items():
        cluster = cluster_of.get(record, record)
        split = splits[cluster] if record in cluster_of else LEFT_OUT
        if split == LEFT_OUT:
            reason = _why_left_out(touched.get(record, []), splits, held.get(record))
        elif cluster in assigned:
            reason = assigned[cluster][1]
        elif record not in kept:
            reason = held.get(record, f"joins relatives that are in {split}")
        elif kept[record] == split:
            reason = old_reasons[record]
        else:
            reason = f"moved from {kept[record]}: most related rows are here"
        row.update(cluster=cluster, split=split, relatives=relatives[record], reason=reason)
    return pa.Table.from_pylist(list(rows.values()), schema=split_schema())


def _why_left_out(touched: Sequence[str], splits: Mapping[str, Split], held: str | None) -> str:
    if not touched:
        return "left out: relative of records held out"
    linked = len({splits[cluster] for cluster in touched}) > 1
    why = held or ("would link two splits" if linked else "of its label only what is held out is tested")
    return f"left out: {why}; resembles {' and '.join(f'{cluster} ({splits[cluster]})' for cluster in touched[:5])}"


def _require_every_label(counts: Mapping[str, Counter[str]], splits: Mapping[str, Split], kept: int) -> None:
    missing = []
    for label in LABELS:
        clusters = sorted(cluster for cluster, found in counts.items() if label in found)
        if lacking := [split for split in SPLITS if split not in {splits[cluster] for cluster in clusters}]:
            missing.append(
                f"{label}: {len(clusters)} clusters ({', '.join(clusters[:5])}), none for {' and '.join(lacking)}"
            )
    if missing:
        again = f" {kept} records kept the split they had; another [split] seed assigns all again." if kept else ""
        raise SplitError(
            "every label needs unrelated records in train, validation and test, i.e. at least three clusters; found "
            f"{'; '.join(missing)}. Add reference genomes that are no relatives of these.{again}"
        )


def _clustered(
    links: Links, rows: Mapping[str, Mapping[str, Any]], allowed: Mapping[str, _Allowed], kept: Mapping[str, Split]
) -> tuple[dict[str, str], dict[str, Split], dict[str, list[str]]]:
    """Cluster records in three steps, so that the first ones decide.

    Records that had a split keep it; where they became relatives, they get the one that most of their rows had. Records
    held out join the test, unless they resemble others that had a split. All others join their relatives, unless these
    are in two splits, or one of them is held out: neither what was placed before, nor the test of what is held out,
    gives way to a new record.

    Returns:
        Record → smallest id of its cluster, of the records that may have a split; cluster → its split, of those that
        need not be assigned one; record that would link clusters → these, sorted.
    """
    clusters, refused = Clusters(links), list[str]()
    possible: dict[Hashable, _Allowed] = {}  # by what was once the set's root

    def add(records: Iterable[str], wanted: Mapping[str, _Allowed]) -> None:
        for record in sorted(records):
            if left := wanted[record].intersection(*(possible[root] for root in clusters.touched(record))):
                possible[clusters.add(record)] = left
            else:
                refused.append(record)

    held = {record for record in rows if allowed[record] == _HELD_OUT}
    old = Clusters(links, kept).by_record()
    of_held = {old[record] for record in held.intersection(old)}
    members: dict[str, list[str]] = defaultdict(list)
    for record, cluster in old.items():
        if record in held or cluster not in of_held:
            members[cluster].append(record)
    for found in members.values():
        weight: Counter[str] = Counter()
        for record in found:
            weight[kept[record]] += rows[record]["rows"]
        shared = frozenset.intersection(*(allowed[record] for record in found))
        chosen = max((split for split in (*SPLITS, *_HELD_OUT) if split in shared), key=weight.__getitem__)
        add(found, dict.fromkeys(found, frozenset([chosen])))
    rest = rows.keys() - {record for found in members.values() for record in found}
    add(held & rest, allowed)
    families = Clusters(links, rows).by_record()
    of_held = {families[record] for record in held.difference(refused)}
    add((record for record in rest - held if families[record] not in of_held), allowed)
    names = clusters.names()
    fixed: dict[str, Split] = {
        cluster: next((split for split in SPLITS if split in possible[root]), "test")
        for root, cluster in names.items()
        if len(possible[root]) == 1
    }
    touched = {record: sorted(names[root] for root in clusters.touched(record)) for record in refused}
    return clusters.by_record(), fixed, touched


def _assigned(
    counts: Mapping[str, Counter[str]], fixed: Mapping[str, Split], closed: Collection[str], settings: SplitSettings
) -> dict[str, tuple[Split, str]]:
    """Split and why of the clusters that have none `fixed`: where rows of their kind lack most, large ones first.

    A cluster counts for the label and group most of its rows have. Every split gets a cluster of every label, and
    of every group that has as many clusters as there are splits; beyond that the largest shortfall of rows decides.
    The test split of `closed` labels is full. `counts`: cluster → rows by label, and by label and group.
    """
    of_closed = {cluster for cluster, found in counts.items() if not found.keys().isdisjoint(closed)}
    # What is tested of a closed label takes no part in the shares.
    sharing = [cluster for cluster in counts if fixed.get(cluster) != "test" or cluster not in of_closed]
    order = sorted(sharing, key=lambda cluster: _order(cluster, counts[cluster], settings.seed))
    scopes = {cluster: _main_scopes(counts[cluster]) for cluster in order}
    clusters = Counter(scope for cluster in order for scope in scopes[cluster])
    to_come = Counter(scope for cluster in order if cluster not in fixed for scope in scopes[cluster])
    total: Counter[str] = Counter()
    have: dict[Split, Counter[str]] = {split: Counter() for split in SPLITS}
    for cluster in order:
        total.update(counts[cluster])
        if cluster in fixed:
            have[fixed[cluster]].update(counts[cluster])
    wanted: dict[Split, float] = {
        "train": 1.0 - settings.validation_fraction - settings.test_fraction,
        "validation": settings.validation_fraction,
        "test": settings.test_fraction,
    }
    assigned: dict[str, tuple[Split, str]] = {}
    for cluster in (cluster for cluster in order if cluster not in fixed):
        possible = [split for split in SPLITS if split != "test" or cluster not in of_closed]
        whole = sum(wanted[split] for split in possible)
        reason = f"split furthest below its share of {scopes[cluster][1]}"
        for scope in scopes[cluster]:
            lacking = [split for split in possible if not have[split][scope]]
            if lacking and clusters[scope] >= len(possible) and len(lacking) >= to_come[scope]:
                possible, reason = lacking, f"split without {scope}"
                break
        short = {
            split: sum(wanted[split] / whole - have[split][scope] / total[scope] for scope in scopes[cluster])
            for split in possible
        }
        chosen = max(possible, key=short.__getitem__)
        assigned[cluster] = (chosen, reason)
        have[chosen].update(counts[cluster])
        to_come.subtract(scopes[cluster])
    return assigned


def _order(cluster: str, counts: Counter[str], seed: int) -> tuple[int, bytes]:
    """Large clusters first, while shares can still be evened out; those of like size (a factor of 2) by the seed."""
    rows = sum(counts[label] for label in LABELS)
    return -rows.bit_length(), hashlib.sha256(f"{seed}:{cluster}".encode()).digest()


def _main_scopes(counts: Counter[str]) -> tuple[str, str]:
    """The label and the group that most rows have."""
    group = max(sorted(counts.keys() - LABELS), key=counts.__getitem__)
    return group.split(" ", 1)[0], group
