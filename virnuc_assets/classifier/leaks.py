"""What crosses the sides of a split, found anew on the tables as they lie on disk.

Neither the clusters of the split table nor the files it was made from are trusted: records are put together again
from their chunks, and sketched again.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from virnuc_assets.classifier.relatives import SimilarRecords
from virnuc_assets.classifier.sketches import protein_hashes, related_pairs
from virnuc_assets.classifier.split import LEFT_OUT, Split, sides_of
from virnuc_assets.errors import VirnucError
from virnuc_assets.settings import SplitSettings
from virnuc_assets.storage.schemas import chunks_schema
from virnuc_assets.storage.tables import read_table

Faults = dict[str, list[str]]


class ChunksDoNotTile(VirnucError):
    """The chunks on disk leave a gap, or overlap with different letters."""


def rebuilt_records(chunks: Mapping[str, Path], lengths: Mapping[str, int]) -> Iterator[tuple[str, bytes]]:
    """Every record as its chunks spell it, when its last chunk was read.

    Args:
        chunks: chunks tables by shard, all shards of each record; shards are read in the order of their keys.
        lengths: nt of each record.

    Raises:
        ChunksDoNotTile: a chunk begins behind the end of those before it, or contradicts them, or some are missing.
    """
    unfinished: dict[str, bytearray] = {}
    for shard in sorted(chunks):
        for row in read_table(chunks[shard], chunks_schema()).to_pylist():
            record = row["record_id"]
            sequence = unfinished.setdefault(record, bytearray())
            letters, start = row["sequence"].encode("ascii"), row["start_nt"]
            known = bytes(sequence[start:])
            if start > len(sequence) or letters[: len(known)] != known:
                raise ChunksDoNotTile(
                    f"{chunks[shard]}: chunk {row['chunk_id']} begins at {start} nt and does not go on where the "
                    f"{len(sequence)} nt before it end; materialize reference/chunked_fasta (partition {shard}) again"
                )
            sequence += letters[len(known) :]
            if len(sequence) == lengths.get(record):
                yield record, bytes(unfinished.pop(record))
    if unfinished:
        record, sequence = next(iter(unfinished.items()))
        raise ChunksDoNotTile(
            f"record {record!r}: its chunks end at {len(sequence)} nt, planned are {lengths.get(record)}, and "
            f"{len(unfinished) - 1} more are so; materialize reference/chunked_fasta again"
        )


def relatives_apart(
    rows: Iterable[Mapping[str, Any]],
    sequences: Iterable[tuple[str, bytes]],
    named: Mapping[str, Collection[str]],
    settings: SplitSettings,
    similar: SimilarRecords,
) -> Faults:
    """Clusters, related records and names that lie on more than one side; what is left out lies on none.

    Args:
        rows: the split table's.
        sequences: records as `rebuilt_records` gives them.
        named: name → ids of the records that bear it.
        settings: what counts as related.
        similar: records with similar proteins.
    """
    rows = list(rows)
    sides = sides_of(rows)
    faults: Faults = defaultdict(list)
    for record in sorted(
        row["record_id"] for row in rows if row["record_id"] not in sides and row["split"] != LEFT_OUT
    ):
        faults[record].append("is on no side, and not left out")
    clusters: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        if row["record_id"] in sides:
            clusters[row["cluster"]].add(row["record_id"])
    for name, members in [*sorted((f"cluster {name}", members) for name, members in clusters.items()), *named.items()]:
        if len(found := {sides[member] for member in members if member in sides}) > 1:
            faults[name].append(f"has records in {' and '.join(sorted(found))}")
    sketches = {record: protein_hashes(sequence, settings) for record, sequence in sequences if record in sides}
    ids = sorted(sketches)
    pairs = related_pairs([sketches[record] for record in ids], settings)
    told = [(ids[a], ids[b], f"containment {share:.4f}") for a, b, share in pairs]
    told += [(a, b, f"{count} pairs of similar proteins") for (a, b), count in similar.items()]
    for first, second, why in told:
        if first in sides and second in sides and sides[first] != sides[second]:
            faults[first].append(f"({sides[first]}) is a relative of {second} ({sides[second]}): {why}")
    for record in sorted(sides.keys() - sketches.keys()):
        faults[record].append("has no chunks on disk")
    return dict(faults)


def miscounted(rows: Iterable[Mapping[str, Any]], counted: Iterable[Mapping[str, Any]]) -> Faults:
    """Records whose training rows on disk are not those of the split table; each must be there once."""
    keys = ("record_id", "label", "group", "rows")
    listed, found = ([tuple(row[key] for key in keys) for row in table] for table in (rows, counted))
    twice = [row for row, times in Counter(listed).items() if times > 1]
    wrong = sorted({*twice, *(set(listed) ^ set(found))})
    return {row[0]: [f"{row[3]} rows of {row[1]} {row[2]} are not in split and frames alike"] for row in wrong}


def proteins_on_both_sides(frames: Iterable[Path], sides: Mapping[str, Split]) -> int:
    """Distinct proteins that training and test rows share letter by letter; by 64-bit digests, 8 bytes each."""
    digests: dict[str, list[np.ndarray]] = {"train": [], "test": []}
    for path in frames:
        table = read_table(path).select(["record_id", "protein"])
        for side, kept in digests.items():
            wanted = [sides.get(record) == side for record in table.column("record_id").to_pylist()]
            proteins = table.column("protein").filter(pa.array(wanted, pa.bool_())).to_pylist()
            kept.append(np.array([_digest(protein) for protein in proteins], dtype=np.uint64))
    train, test = (np.unique(np.concatenate([np.empty(0, np.uint64), *kept])) for kept in digests.values())
    return int(np.intersect1d(train, test, assume_unique=True).size)


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("ascii"), digest_size=8).digest(), "little")
