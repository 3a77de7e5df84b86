"""Plans records into shards of a bounded number of chunks: those of one file, or of many files of one label.

Where the chunks of a record are is VirNucPro's geometry in closed form (upstream: `split_fasta_chunk` in units.py).
"""

from __future__ import annotations

import functools
import itertools
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from virnuc_assets.errors import VirnucError
from virnuc_assets.sequences.catalogue import Label
from virnuc_assets.sequences.opening import SequenceFileError, open_source
from virnuc_assets.sequences.reading import read_records
from virnuc_assets.sequences.records import SequenceDigest
from virnuc_assets.storage.digests import digest_of, one_array
from virnuc_assets.storage.schemas import plan_schema

MAX_PACKS = 9999
Status = Literal["planned", "skipped", "failed"]
Numbers = TypeVar("Numbers", int, np.ndarray)
_ELSEWHERE = "the sequence is stored elsewhere (CONTIG or WGS); fetch the record with rettype=gbwithparts"
_LIKE_PROTEIN = "looks like protein: fewer than half of the characters are A, C, G, T, U or N"


def chunk_count(length_nt: Numbers, chunk_length: int) -> Numbers:
    """The ceiling of length / chunk length."""
    return -(-length_nt // chunk_length)


def starts_of(index: np.ndarray, length_nt: np.ndarray | int, chunk_length: int) -> np.ndarray:
    """Start of each 0-based chunk of a record, (n,) int64; `length_nt` is of the record, or of each one's record.

    The chunks of a record overlap so that together they end where the record ends: the surplus r = k·c − n
    is taken back over the k − 1 steps between chunks. Each step goes back q = r // k, the first few q + 1.
    The last chunk is shorter than `chunk_length` where few chunks cannot take back the whole surplus; a record
    shorter than `chunk_length` is one short chunk; an empty record has none.
    """
    count = np.maximum(-(-np.asarray(length_nt) // chunk_length), 1)
    surplus = count * chunk_length - length_nt
    step_back = surplus // count
    longer_steps = np.minimum(surplus - (count - 1) * step_back, count - 1)
    return np.asarray(index * (chunk_length - step_back) - np.minimum(index, longer_steps))


def pack_key(label: str, index: int) -> str:
    """Key of a pack of reference records of one label, e.g. `viral-0001`; an error for more than such keys sort."""
    if index >= MAX_PACKS:
        raise VirnucError(f"{label}: more than {MAX_PACKS} shards were made so far; set sequences.shard_chunks higher")
    return f"{label}-{index + 1:04d}"


class Segment(NamedTuple):
    """A row of the plan: chunks `first_chunk` to `end_chunk` (0-based, half-open) of one record, as part of a shard.

    A record without chunks (empty, or not planned) is a segment with none, so that the ledger has its line.
    `length_nt` and `digest` are of the whole record; `number` shows apart records of one id.
    """

    source: str
    shard: str
    record_id: str
    number: int
    length_nt: int
    digest: str
    first_chunk: int
    end_chunk: int
    status: Status = "planned"
    reason: str | None = None
    evidence: str | None = None
    evidence_digest: str | None = None

    @property
    def chunks(self) -> int:
        """Number of chunks."""
        return self.end_chunk - self.first_chunk


@dataclass(frozen=True)
class PlannedSource:
    """A catalogued source, or a sample's file, as it was when it was planned; label, group, files as of `Source`."""

    fasta: str
    sha256: str  # digest of its bytes
    states: Mapping[str, list[int]]  # size and time of change of its files, by path: equal until somebody writes to one
    label: Label | None = None
    group: str | None = None
    names: Sequence[str] = ()  # what the catalogue says of its records' relatives: organism, relatives, date
    genbank: str | None = None
    genbank_sha256: str | None = None
    genbank_records_ignored: int = 0  # records of that file that are not in the FASTA
    cds: Mapping[str, int] | None = None  # CDS features of its records by treatment


@dataclass(frozen=True)
class ShardPlan:
    """All segments, and the files that they are in, by name.

    The table has a row per `Segment`, by source in file order; every record of every file has one at least. A row takes
    a third of the memory of an object, and a sample may have millions of records.
    """

    table: pa.Table
    sources: Mapping[str, PlannedSource]
    numbered: Mapping[str, int]  # how many shard keys were ever given, by label or sample; none is given twice
    chunk_length: int

    @property
    def segments(self) -> list[Segment]:
        """The rows of the table."""
        return rows_of(self.table)

    def columns(self, *names: str) -> list[tuple[Any, ...]]:
        """Some columns of all rows."""
        return list(zip(*(self.table[name].to_pylist() for name in names), strict=True))

    @functools.cached_property
    def rows_by_shard(self) -> Mapping[str, np.ndarray]:
        """Row numbers of each shard, by its key, in order; int64."""
        return shard_rows(self.table)

    @property
    def shards(self) -> list[str]:
        """Keys of the shards, in order."""
        return list(self.rows_by_shard)

    @property
    def groups(self) -> dict[str, str]:
        """Group of every record that is planned, by id, which a record that is not planned may have as well."""
        rows = self.columns("record_id", "source", "status")
        return {record: str(self.sources[source].group) for record, source, status in rows if status == "planned"}

    @property
    def content(self) -> str:
        """Digest of the records, ids and sequences in file order, however the file is written or packed."""
        rows = self.columns("record_id", "digest", "first_chunk")
        return digest_of([[record, digest] for record, digest, first in rows if not first])


def rows_of(table: pa.Table) -> list[Segment]:
    """Rows of a plan table."""
    columns = (table[name].to_pylist() for name in Segment._fields)  # a list per column, not a dict per row
    return [Segment(*values) for values in zip(*columns, strict=True)]


def shard_rows(plan: pa.Table) -> dict[str, np.ndarray]:
    """Row numbers of each shard of a plan, by its key, in order; int64."""
    shards = one_array(plan["shard"]).dictionary_encode()
    codes = shards.indices.to_numpy()
    ends = np.cumsum(np.bincount(codes, minlength=len(shards.dictionary)))
    rows = np.split(np.argsort(codes, kind="stable"), ends[:-1])
    return dict(sorted(zip(shards.dictionary.to_pylist(), rows, strict=False)))


def rows_at(plan: pa.Table, rows: np.ndarray) -> pa.Table:
    """Some rows of a plan, ascending; not copied where each follows the other."""
    if len(rows) and rows[-1] - rows[0] + 1 == len(rows):
        return plan.slice(rows[0], len(rows))
    return plan.take(pa.array(rows))


def table_of(segments: Iterable[Segment]) -> pa.Table:
    """A plan table of these rows."""
    columns = list(zip(*segments, strict=True)) or [()] * len(Segment._fields)
    return pa.table(dict(zip(Segment._fields, columns, strict=True)), schema=plan_schema())


def whole_records(plan: pa.Table) -> pa.Table:
    """A row per record of a whole plan, with all of its chunks, in the order of the plan."""
    first = np.flatnonzero(pc.equal(plan["first_chunk"], 0))
    if len(first) == plan.num_rows:
        return plan
    last = np.append(first[1:], plan.num_rows)[: len(first)] - 1
    ends = plan["end_chunk"].take(pa.array(last))
    return plan.take(pa.array(first)).set_column(plan.column_names.index("end_chunk"), "end_chunk", ends)


def plan_source(
    path: Path,
    source: str,
    chunk_length: int,
    shard_chunks: int,
    before: ShardPlan | None = None,
    *,
    min_length_nt: int = 0,
    shown: str = "",
) -> ShardPlan:
    """Count a file's chunks and cut them, across records, into shards; continues a plan of the same chunk length.

    Records of fewer than `min_length_nt` are skipped. Messages call the file by its path, or as `shown`. Nothing of a
    file is planned unless all of it can be read.
    """
    records, sha256 = count_records(path, source, chunk_length, min_length_nt, shown)
    old, given = (before.table, before.numbered.get(source, 0)) if before else (plan_schema().empty_table(), 0)
    # Keys are 1-based and zero-padded, so that they sort as they follow each other.
    table, numbered = pack(records, old, lambda index: f"{source}-{index + 1:06d}", given, shard_chunks)
    planned = PlannedSource(str(path), sha256, {})
    return ShardPlan(table, {source: planned}, {source: numbered}, chunk_length)


def count_records(
    path: Path, source: str, chunk_length: int, min_length_nt: int = 0, shown: str = ""
) -> tuple[pa.Table, str]:
    """Every record of a file as one segment of no shard, and the digest of the file."""
    kinds = [("planned", None), ("failed", _ELSEWHERE), ("failed", _LIKE_PROTEIN)]
    kinds.append(("skipped", f"shorter than the minimum of {min_length_nt} nt"))
    # Buffers that grow, as there may be millions of records; `found` is the kind of each.
    ids, digests, hashes, lengths = pa.lib.StringBuilder(), pa.lib.StringBuilder(), array("q"), array("q")
    found = array("b")
    with open_source(path, shown) as opened:
        for header, blocks in read_records(opened):
            bases = SequenceDigest(blocks)
            is_elsewhere = bool(header.length_nt) and not bases.length_nt
            found.append(1 if is_elsewhere else 2 if bases.is_like_protein else 3 * (bases.length_nt < min_length_nt))
            ids.append(header.id)
            hashes.append(hash(header.id))
            lengths.append(bases.length_nt)
            digests.append(bases.hexdigest())
            if min(len(ids), len(digests)) < len(found):  # a builder leaves out the first that it has no space for
                raise SequenceFileError(f"{opened.name}: more than 2 GB of ids or digests of records; split the file")
        sha256 = opened.digest()
    kind, length_nt = np.array(found), np.array(lengths)
    statuses, reasons = (pa.array(words, pa.string()).take(pa.array(kind)) for words in zip(*kinds, strict=True))
    columns = {
        **dict.fromkeys(("evidence", "evidence_digest"), pa.nulls(len(kind), pa.string())),
        **{"record_id": ids.finish(), "digest": digests.finish(), "status": statuses, "reason": reasons},
        "source": pa.repeat(source, len(kind)),
        "shard": pa.repeat("", len(kind)),
        "number": np.arange(1, len(kind) + 1),
        "length_nt": length_nt,
        "first_chunk": np.zeros(len(kind), np.int64),
    }
    columns |= _of_unique_ids(columns, np.flatnonzero(kind == 0), np.array(hashes))
    is_planned = pc.equal(columns["status"], "planned").to_numpy(zero_copy_only=False)
    columns["end_chunk"] = np.where(is_planned, chunk_count(length_nt, chunk_length), 0)
    return pa.table({name: columns[name] for name in Segment._fields}, schema=plan_schema()), sha256


def _of_unique_ids(records: Mapping[str, pa.Array], usable: np.ndarray, hashes: np.ndarray) -> dict[str, pa.Array]:
    """Status and reason of all records, where ids occur twice.

    Of the usable records with one id, one is planned if all have the same sequence, none if they differ.
    """
    ascending = np.sort(hashes[usable])
    twice = ascending[1:][ascending[1:] == ascending[:-1]]
    if not len(twice):
        return {}
    rows = usable[np.isin(hashes[usable], twice)]
    columns = {name: records[name].take(pa.array(rows)) for name in ("record_id", "digest")}
    of_rows = pa.table({"number": rows + 1, **columns}).to_pandas()
    by_id = of_rows.groupby("record_id")
    sequences, first = by_id["digest"].transform("nunique"), by_id["number"].transform("first")
    failed = sequences > 1
    several = sequences.astype(str) + " different sequences have this first word of the header"
    reasons = "duplicate id: " + several.where(failed, "same sequence as record " + first.astype(str))
    changed = failed | (first != of_rows["number"])
    found = {"status": failed.map({True: "failed", False: "skipped"}), "reason": reasons}
    mask = np.zeros(len(records["status"]), bool)
    mask[rows[changed]] = True
    return {
        name: pc.replace_with_mask(records[name], pa.array(mask), pa.array(values[changed], pa.string()))
        for name, values in found.items()
    }


def pack(
    records: pa.Table, before: pa.Table, key: Callable[[int], str], numbered: int, shard_chunks: int
) -> tuple[pa.Table, int]:
    """Segments of all records, in order, and how many shard keys were ever given then.

    Args:
        records: whole, of one file or of many.
        before: the plan that is continued. Records of the same id and sequence keep their shards, whichever file they
            are in now; others go into new shards, so an update costs what it changed.
        key: of the shard with a number, from 0; keys ascend.
        numbered: how many keys were given before.
        shard_chunks: the most of a shard.
    """
    if not before.num_rows:
        cut = _cut(records, key, numbered, shard_chunks, key(numbered))
        return cut, numbered + pc.count_distinct(cut["shard"]).as_py()
    known: dict[tuple[str, str, str], list[Segment]] = defaultdict(list)
    for segment in rows_of(before):
        known[segment.record_id, segment.digest, segment.status].append(segment)
    kept, new = list[Segment](), list[int]()
    for row, record in enumerate(rows_of(records)):
        found = known.get((record.record_id, record.digest, record.status))
        if not found:
            new.append(row)
        while found:
            old = found.pop(0)
            kept.append(record._replace(shard=old.shard, first_chunk=old.first_chunk, end_chunk=old.end_chunk))
            if not old.chunks:  # one of several records of an id that are not planned
                break
    shards = {segment.shard for segment in kept}
    home = max(shards) if shards else key(numbered)
    cut = _cut(records.take(pa.array(new, pa.int64())), key, numbered, shard_chunks, home)
    opened = len(set(cut["shard"].unique().to_pylist()) - shards)
    order = [(name, "ascending") for name in ("source", "number", "first_chunk")]
    return pa.concat_tables([table_of(kept), cut]).sort_by(order), numbered + opened


def _cut(records: pa.Table, key: Callable[[int], str], numbered: int, shard_chunks: int, home: str) -> pa.Table:
    """New records cut into new shards; one without chunks goes to its neighbour's, or to `home`."""
    chunks = np.subtract(records["end_chunk"], records["first_chunk"])
    ends = np.cumsum(chunks)
    begins = ends - chunks  # in all new chunks; (records,)
    last = (ends - 1) // shard_chunks  # shard of a record's last chunk, or of the chunk before it; -1 where none is
    segments = last - np.minimum(begins // shard_chunks, last) + 1
    row = np.repeat(np.arange(len(chunks)), segments)  # (segments,) and so what follows
    shard = last[row] - (np.repeat(np.cumsum(segments), segments) - 1 - np.arange(len(row)))
    keys = pa.array([home, *(key(numbered + index) for index in range(last.max(initial=-1) + 1))])
    columns = {
        "shard": keys.take(pa.array(shard + 1)),
        "first_chunk": pa.array(np.maximum(begins[row], shard * shard_chunks) - begins[row]),
        "end_chunk": pa.array(np.minimum(ends[row], (shard + 1) * shard_chunks) - begins[row]),
    }
    table = records.take(pa.array(row)) if len(row) > len(chunks) else records
    for name, values in columns.items():
        table = table.set_column(table.column_names.index(name), plan_schema().field(name), values)
    return table


def plan_faults(segments: Sequence[Segment], chunk_length: int) -> Iterator[str]:
    """What is wrong with a plan, a sentence each: every chunk of a planned record is in one shard, and once."""
    for _, of_record in itertools.groupby(segments, key=lambda segment: (segment.source, segment.number)):
        end = 0
        for segment in of_record:
            if segment.first_chunk != end:
                yield f"{segment.record_id}: chunk {end} is in no shard or two"
            end = segment.end_chunk
        chunks = chunk_count(segment.length_nt, chunk_length) if segment.status == "planned" else 0
        if end != chunks:
            yield f"{segment.record_id}: {end} chunks planned of {chunks} in {segment.length_nt} nt"
