"""The shard plan as a table: a row per piece, and in its provenance the files that the pieces were counted in.

One table plans the whole reference, another each sample; only the keys of the shards differ.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from virnuc_assets.errors import VirnucError
from virnuc_assets.sequences.catalogue import Label, Source, require_checksum
from virnuc_assets.sequences.cds import Evidence, RecordEvidence, evidence_digest, read_proteins, write_annotations
from virnuc_assets.sequences.opening import is_file
from virnuc_assets.sequences.planning import (
    Piece,
    count_records,
    pack,
    pack_key,
    records_digest,
    shard_key,
    whole_records,
)
from virnuc_assets.settings import SequenceSettings
from virnuc_assets.storage.places import state_of
from virnuc_assets.storage.schemas import plan_schema
from virnuc_assets.storage.tables import TableMismatch, read_provenance, read_table, require_table, write_table

LABELS: tuple[Label, ...] = ("host", "viral")


@dataclass(frozen=True)
class PlannedSource:
    """A file as it was when it was planned.

    Attributes:
        fasta: sequence file.
        sha256: digest of its bytes.
        states: size and time of change of its files, by path; equal as long as nobody wrote to them.
        label: viral or host; None for a sample.
        group: virus or host group; None for a sample.
        names: what the catalogue says of its records' relatives: organism, relatives, date.
        genbank: file with the CDS of its records, or None.
        genbank_sha256: digest of that file, or None.
        genbank_records_ignored: records of that file that are not in the FASTA.
        cds: CDS features of its records by treatment.
    """

    fasta: str
    sha256: str
    states: Mapping[str, list[int]]
    label: Label | None = None
    group: str | None = None
    names: Sequence[str] = ()
    genbank: str | None = None
    genbank_sha256: str | None = None
    genbank_records_ignored: int = 0
    cds: Mapping[str, int] | None = None


@dataclass(frozen=True)
class ShardPlan:
    """All pieces, by source in file order, and the files that they are in, by name.

    Attributes:
        pieces: every record of every file has one at least.
        sources: by name.
        numbered: how many shard keys were ever given, by label or sample; none is given twice.
        chunk_length: nt.
    """

    pieces: tuple[Piece, ...]
    sources: Mapping[str, PlannedSource]
    numbered: Mapping[str, int]
    chunk_length: int

    @property
    def shards(self) -> list[str]:
        """Keys of the shards, in order."""
        return sorted({piece.shard for piece in self.pieces})

    @property
    def groups(self) -> dict[str, str]:
        """Group of every record that is planned, by id, which a record that is not planned may have as well."""
        return {p.record_id: str(self.sources[p.source].group) for p in self.pieces if p.fate == "planned"}


class SameRecords(VirnucError):
    """A new source holds the records of another one, `source`, letter by letter; `content` is their digest."""

    def __init__(self, path: Path, source: str, content: str) -> None:
        super().__init__(f"{path}: holds the same records as {source}, whose results hold for it")
        self.source, self.content = source, content


def plan_sample(
    path: Path, source: Source, settings: SequenceSettings, known: Mapping[str, str] | None = None
) -> ShardPlan:
    """Plan a sample into shards of its own and write its plan table, which continues the one that is there.

    Args:
        path: of the plan.
        source: what to plan.
        settings: chunk length and shard size.
        known: other samples by the digest of their records. A sample that has no plan yet is not planned if it is one.

    Raises:
        SameRecords: it is one of those known.
        SequenceFileError: the file cannot be read; no plan is left behind that was not there before.
    """
    before, states = _plan_before(path, settings), _states(source)
    records, sha256 = count_records(source.fasta, source.name, settings.chunk_length)
    content = records_digest(records)
    if content in (known or {}) and not path.exists():
        raise SameRecords(source.fasta, (known or {})[content], content)
    numbered = before.numbered.get(source.name, 0)
    pieces, numbered = pack(records, before.pieces, partial(shard_key, source.name), numbered, settings.shard_chunks)
    planned = {source.name: PlannedSource(str(source.fasta), sha256, states)}
    plan = ShardPlan(tuple(pieces), planned, {source.name: numbered}, settings.chunk_length)
    _write(path, plan, settings)
    return plan


def plan_reference(
    path: Path, sources: Sequence[Source], settings: SequenceSettings, repack: Collection[Label] = ()
) -> tuple[ShardPlan, dict[str, VirnucError]]:
    """Plan all sources into packs of records of one label, and write the plan table.

    Files that nobody wrote to since they were planned are not read. Records that were planned before keep their
    shards, in whichever file they are now; new ones go into new shards.

    Args:
        path: of the plan; one with the same chunk length and shard size is continued.
        sources: the catalogue.
        settings: chunk length and shard size.
        repack: labels whose records are all packed again, after much was removed.

    Returns:
        The plan, and an error for each source that cannot be read or repeats another's ids. Records that such a source
        had before stay planned.
    """
    before = _plan_before(path, settings)
    counted = _Counted(path, before, settings)
    counted.add(sources)
    pieces: list[Piece] = []
    numbered = dict(before.numbered)
    for label in LABELS:
        records = [record for record in counted.records if counted.sources[record.source].label == label]
        old = [] if label in repack else [p for p in before.pieces if before.sources[p.source].label == label]
        key, given = partial(pack_key, label), numbered.get(label, 0)
        packed, numbered[label] = pack(records, old, key, given, settings.shard_chunks)
        pieces += packed
    pieces.sort(key=lambda piece: (piece.source, piece.number))
    plan = ShardPlan(tuple(pieces), counted.sources, numbered, settings.chunk_length)
    _write(path, plan, settings)
    return plan, counted.failures


class _Counted:
    """Records of all sources, read only where a file changed since the plan before."""

    def __init__(self, path: Path, before: ShardPlan, settings: SequenceSettings) -> None:
        self._path, self._before, self._settings = path, before, settings
        self._known: dict[str, list[Piece]] = {}
        for record in whole_records(before.pieces):
            self._known.setdefault(record.source, []).append(record)
        self._owners: dict[str, str] = {}
        self.records: list[Piece] = []
        self.sources: dict[str, PlannedSource] = {}
        self.failures: dict[str, VirnucError] = {}

    def add(self, sources: Sequence[Source]) -> None:
        """Take the records of all sources; of two with the same id who had it before keeps it."""
        before = self._before.sources
        unchanged = {s.name for s in sources if s.name in before and _is_as_planned(self._path, before[s.name], s)}
        for source in sorted(sources, key=lambda s: (s.name not in before, s.name not in unchanged)):
            self._add(source, source.name in unchanged)

    def _add(self, source: Source, unchanged: bool) -> None:
        """Take the records of a source, or note why not and take those it had before."""
        name, known = source.name, self._before.sources.get(source.name)
        former = self._known.get(name, [])
        planned, records = known, former
        try:
            if planned is None or not unchanged:
                planned, records = self._read(source)
            self._require_own(name, records)
            require_checksum(source.fasta, source.fasta_sha256, planned.sha256)
            if source.genbank:
                require_checksum(source.genbank, source.genbank_sha256, str(planned.genbank_sha256))
        except (VirnucError, OSError) as error:
            self.failures[name] = error if isinstance(error, VirnucError) else VirnucError(str(error))
            if known is None or self._taken(former):
                return
            planned, records = known, former
        self._owners.update(dict.fromkeys(_usable(records), name))
        self.sources[name] = planned
        self.records += records

    def _read(self, source: Source) -> tuple[PlannedSource, list[Piece]]:
        planned = _described(source)
        records, sha256 = count_records(source.fasta, source.name, self._settings.chunk_length)
        require_checksum(source.fasta, source.fasta_sha256, sha256)
        self._require_own(source.name, records)  # before the CDS of a plan that stays are written over
        planned, usable = replace(planned, sha256=sha256), _usable(records)
        evidence: Mapping[str, RecordEvidence] = dict.fromkeys(usable, RecordEvidence(Evidence.NO_GENBANK, None))
        if source.genbank:
            table = annotation_path(self._path, source.name)
            found = write_annotations(table, source.genbank, usable, source.genbank_sha256)
            evidence = found.records
            planned = replace(
                planned,
                genbank_sha256=found.sha256,
                genbank_records_ignored=found.ignored_records,
                cds=dict(found.treatments),
            )
        return planned, [
            replace(record, **evidence[record.record_id]._asdict()) if record.fate == "planned" else record
            for record in records
        ]

    def _taken(self, records: Sequence[Piece]) -> list[str]:
        """Ids among these that another source has."""
        return sorted(_usable(records).keys() & self._owners.keys())

    def _require_own(self, name: str, records: Sequence[Piece]) -> None:
        if twice := self._taken(records):
            raise VirnucError(
                f"record {twice[0]!r} occurs in sources {self._owners[twice[0]]!r} and {name!r}; expected ids that are "
                "unique over the whole catalogue, because the split and the merge join on them"
            )


def _usable(records: Iterable[Piece]) -> dict[str, tuple[int, str]]:
    """Length in nt and digest of the records that are planned, by id."""
    return {record.record_id: (record.length_nt, record.digest) for record in records if record.fate == "planned"}


def changed_sources(path: Path, sources: Iterable[Source]) -> list[str]:
    """Names of sources that a new plan would read, or leave out, by what their files and the catalogue say now.

    Raises:
        TableMismatch: there is no plan, or it is damaged.
    """
    planned = _opened(path).sources
    today = {source.name: source for source in sources}
    changed = [n for n, source in today.items() if n not in planned or not _is_as_planned(path, planned[n], source)]
    return [*changed, *(name for name in planned if name not in today)]


def _is_as_planned(path: Path, known: PlannedSource, source: Source) -> bool:
    if known.genbank and not annotation_path(path, source.name).is_file():
        return False
    described = replace(known, sha256="", genbank_sha256=None, genbank_records_ignored=0, cds=None)
    return described == _described(source)


def _described(source: Source) -> PlannedSource:
    """What the catalogue and the file system say of a source, without a look into its files."""
    names = [source.organism, source.relatives, str(source.date or "")]
    genbank = str(source.genbank) if source.genbank else None
    return PlannedSource(str(source.fasta), "", _states(source), source.label, source.group, names, genbank)


def _states(source: Source) -> dict[str, list[int]]:
    """Size and time of change of a source's files, by path: equal as long as nobody wrote to them.

    Taken before they are read, so that one that is replaced meanwhile differs from the one that was planned.
    """
    found = {str(path): path.stat() for path in (source.fasta, source.genbank) if path and is_file(path)}
    return {path: [status.st_size, status.st_mtime_ns] for path, status in found.items()}


def annotation_path(plan: Path, source: str) -> Path:
    """Where the CDS of a planned source are stored."""
    return plan.parent.with_name("annotation") / f"{source}.parquet"


def _plan_before(path: Path, settings: SequenceSettings) -> ShardPlan:
    """The plan to continue; an empty one where there is none, it cannot be read, or other settings made it."""
    try:
        require_table(path, plan_schema(), settings.model_dump())
        return read_plan(path)
    except TableMismatch:
        return ShardPlan((), {}, {}, settings.chunk_length)


def _write(path: Path, plan: ShardPlan, settings: SequenceSettings) -> None:
    provenance = {
        "table": "shard_plan",
        **settings.model_dump(),
        "numbered": dict(plan.numbered),
        "sources": {name: asdict(source) for name, source in plan.sources.items()},
    }
    columns = {name: [getattr(piece, name) for piece in plan.pieces] for name in plan_schema().names}
    write_table(path, pa.table(columns, schema=plan_schema()), provenance)


def read_plan(path: Path) -> ShardPlan:
    """A whole plan.

    Raises:
        TableMismatch: there is none, or it is damaged.
    """
    found = _opened(path)
    return ShardPlan(tuple(_pieces(found.rows)), found.sources, found.numbered, found.chunk_length)


def read_shard(path: Path, shard: str) -> ShardPlan:
    """What a plan says of one shard.

    Raises:
        TableMismatch: there is no plan, or it has no such shard (any more).
    """
    found = _opened(path)
    if shard not in found.places:  # else its table would be made again without a row
        raise TableMismatch(
            f"{path}: {shard} is not in today's plan; materialize {path.parent.parent.name}/shard_plan, which drops it"
        )
    pieces = tuple(_pieces(found.rows.take(found.places[shard].values)))
    sources = {name: found.sources[name] for name in dict.fromkeys(piece.source for piece in pieces)}
    return ShardPlan(pieces, sources, {}, found.chunk_length)


def planned_shards(path: Path) -> list[str]:
    """Shard keys of a plan, in order; none where there is no plan."""
    return sorted(_opened(path).places) if path.is_file() else []


@dataclass(frozen=True)
class _Opened:
    rows: pa.Table
    places: Mapping[str, pa.ListScalar]  # rows of each shard
    sources: Mapping[str, PlannedSource]
    numbered: Mapping[str, int]
    chunk_length: int


def _opened(path: Path) -> _Opened:
    require_table(path, plan_schema())
    return _read_once(path, state_of(path))


@functools.lru_cache(maxsize=4)
def _read_once(path: Path, state: Hashable) -> _Opened:
    """A plan as it was in this state: every stage of every shard asks for it."""
    rows, provenance = read_table(path, plan_schema()), read_provenance(path)
    numbers = pa.table({"shard": rows["shard"], "row": np.arange(rows.num_rows)})
    shards = numbers.group_by("shard", use_threads=False).aggregate([("row", "list")])
    places = dict(zip(shards["shard"].to_pylist(), shards["row_list"], strict=True))
    sources = {name: PlannedSource(**entry) for name, entry in provenance["sources"].items()}
    return _Opened(rows, places, sources, provenance["numbered"], provenance["chunk_length"])


def _pieces(rows: pa.Table) -> list[Piece]:
    columns = (rows.column(name).to_pylist() for name in plan_schema().names)  # a list a column, not a dict a row
    return [Piece(*values) for values in zip(*columns, strict=True)]


def planned_proteins(path: Path, plan: ShardPlan) -> dict[str, tuple[str, ...]]:
    """CDS translations of a shard's records, by record; those that cannot give evidence are not in it.

    Args:
        path: of the plan table.
        plan: of the shard.

    Raises:
        TableMismatch: they are not those that were planned.
    """
    proteins: dict[str, tuple[str, ...]] = {}
    by_source: dict[str, dict[str, str | None]] = {}
    for piece in plan.pieces:
        if piece.evidence == Evidence.CDS:
            by_source.setdefault(piece.source, {})[piece.record_id] = piece.evidence_digest
    for name, planned in by_source.items():
        table = annotation_path(path, name)
        found = read_proteins(table, planned)
        if changed := [
            record for record, digest in planned.items() if evidence_digest(found.get(record, ())) != digest
        ]:
            raise TableMismatch(
                f"{table}: record {changed[0]!r} and {len(changed) - 1} more: not the CDS that were planned; "
                "materialize reference/shard_plan again"
            )
        proteins |= found
    return proteins
