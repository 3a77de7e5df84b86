"""What crosses the splits, found again on the tables on disk.

Neither the clusters of the split table nor the files that it was made from are trusted: records are put together from
their chunks, and sketched again.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from virnuc_assets.settings import SplitSettings
from virnuc_assets.split.assignment import LEFT_OUT, Split, splits_of
from virnuc_assets.split.relatives import Pairs, protein_hashes, related_pairs
from virnuc_assets.storage.schemas import chunks_schema
from virnuc_assets.storage.tables import TableMismatch, read_table

Faults = dict[str, list[str]]


def rebuilt_records(chunks: Iterable[Path], lengths: Mapping[str, int]) -> Iterator[tuple[str, bytes]]:
    """Every record as its chunks spell it, as soon as its last chunk was read; one with a gap never is.

    Chunks tables come in the order of each record; `lengths` are its nt.
    """
    unfinished: dict[str, bytearray] = defaultdict(bytearray)
    for path in chunks:
        table = read_table(path, chunks_schema(), columns=["record_id", "start_nt", "sequence"])
        for record, start, bases in zip(*(column.to_pylist() for column in table.columns), strict=True):
            sequence, chunk = unfinished[record], bases.encode("ascii")
            known = bytes(sequence[start:])
            if chunk[: len(known)] != known:
                raise TableMismatch(
                    f"{path}: the chunk at {start} nt of record {record!r} contradicts the one before it; materialize "
                    "reference/chunked_fasta (this partition) again"
                )
            if start <= len(sequence):
                sequence += chunk[len(known) :]
            if len(sequence) == lengths.get(record):
                yield record, bytes(unfinished.pop(record))


def relatives_apart(
    rows: Iterable[Mapping[str, Any]],
    sequences: Iterable[tuple[str, bytes]],
    named: Mapping[str, Collection[str]],
    settings: SplitSettings,
    similar: Pairs,
) -> Faults:
    """Clusters, related records and names that are in more than one split; what is left out is in none.

    Of the rows of the split table; the others are as of `relatives.find_relatives`.
    """
    rows = sorted(rows, key=lambda row: str(row["record_id"]))
    splits = splits_of(rows)
    faults: Faults = defaultdict(list)
    clusters: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        if row["record_id"] in splits:
            clusters[f"cluster {row['cluster']}"].add(row["record_id"])
        elif row["split"] != LEFT_OUT:
            faults[row["record_id"]].append("is in no split, and not left out")
    for name, members in [*sorted(clusters.items()), *named.items()]:
        if len(found := {splits[member] for member in members if member in splits}) > 1:
            faults[name].append(f"has records in {' and '.join(sorted(found))}")
    sketches = {record: protein_hashes(sequence, settings) for record, sequence in sequences if record in splits}
    reasons = [(pair, f"containment {share:.4f}") for pair, share in related_pairs(sketches, settings).items()]
    reasons += [(pair, f"{count} pairs of similar proteins") for pair, count in similar.items()]
    for (first, second), why in reasons:
        if first in splits and second in splits and splits[first] != splits[second]:
            faults[first].append(f"({splits[first]}) is a relative of {second} ({splits[second]}): {why}")
    for record in sorted(splits.keys() - sketches.keys()):
        faults[record].append("not all of its chunks are on disk")
    return dict(faults)


def miscounted(rows: Iterable[Mapping[str, Any]], counted: Iterable[Mapping[str, Any]]) -> Faults:
    """Records whose training rows on disk are not those of the split table; each must be there once."""
    keys = ("record_id", "label", "group", "rows")
    listed, found = (Counter(tuple(row[key] for key in keys) for row in table) for table in (rows, counted))
    wrong = sorted(row for row in listed.keys() | found.keys() if listed[row] != found[row])
    return {row[0]: [f"{row[3]} rows of {row[1]} {row[2]} are not in split and frames alike"] for row in wrong}


def proteins_in_train_and_test(frames: Iterable[Path], splits: Mapping[str, Split]) -> int:
    """Distinct proteins that training and test rows share residue by residue; by 64-bit hashes, 8 bytes each."""
    hashes: dict[str, list[np.ndarray]] = {"train": [], "test": []}
    for path in frames:
        table = read_table(path, columns=["record_id", "protein"])
        split_of = [splits.get(record) for record in table["record_id"].to_pylist()]
        for split, kept in hashes.items():
            proteins = table["protein"].filter(pa.array([found == split for found in split_of], pa.bool_()))
            kept.append(np.fromiter(map(hash, proteins.to_pylist()), np.int64))
    train, test = (np.concatenate([np.empty(0, np.int64), *kept]) for kept in hashes.values())
    return int(np.intersect1d(train, test).size)
