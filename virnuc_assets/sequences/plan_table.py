"""The table of a shard plan, with the files that its segments were counted in as provenance.

One table plans the whole reference, another each sample; only the keys of the shards differ.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from virnuc_assets.errors import VirnucError
from virnuc_assets.sequences.catalogue import Label, Source, require_checksum
from virnuc_assets.sequences.cds import Evidence, evidence_digest, read_proteins, write_annotations
from virnuc_assets.sequences.opening import SequenceFileError, is_file, open_source
from virnuc_assets.sequences.planning import (
    PlannedSource,
    ShardPlan,
    count_records,
    pack,
    pack_key,
    plan_source,
    rows_at,
    whole_records,
)
from virnuc_assets.sequences.reading import FASTQ_IS_NO_REFERENCE, sequence_format
from virnuc_assets.settings import SequenceSettings
from virnuc_assets.storage.places import state_of
from virnuc_assets.storage.schemas import plan_schema
from virnuc_assets.storage.tables import TableMismatch, read_provenance, read_table, require_table, write_table

LABELS: tuple[Label, ...] = ("host", "viral")


class SameRecords(VirnucError):
    """A new source holds the records of another one, `source`, letter by letter; `content` is their digest."""

    def __init__(self, path: Path, source: str, content: str) -> None:
        super().__init__(f"{path}: holds the same records as {source}, whose results hold for it")
        self.source, self.content = source, content


def plan_sample(
    path: Path, source: Source, settings: SequenceSettings, known: Mapping[str, str] | None = None
) -> ShardPlan:
    """Plan a sample into shards of its own and write its plan table, which continues the one that is there.

    Raises:
        SameRecords: it has no plan yet, and the records of one of those `known`, by the digest of their records.
    """
    before = _plan_before(path, settings)
    plan = plan_source(source.fasta, source.name, settings.chunk_length, settings.shard_chunks, before)
    if known and plan.content in known and not path.exists():
        raise SameRecords(source.fasta, known[plan.content], plan.content)
    _write(path, plan, settings)
    return plan


def plan_reference(
    path: Path, sources: Sequence[Source], settings: SequenceSettings, repack: Collection[Label] = ()
) -> tuple[ShardPlan, dict[str, VirnucError]]:
    """Plan all sources into packs of records of one label, and write the plan table.

    Files that nobody wrote to since they were planned are not read. Records of a plan with the same settings keep their
    shards, in whichever file they are now, unless their label is to be packed again (`repack`); new ones go into new
    shards.

    Returns:
        The plan, and an error for each source that cannot be read or repeats another's ids. Records that such a source
        had before stay planned.
    """
    before = _plan_before(path, settings)
    found, failures = _counted(path, sources, before, settings)
    planned = {name: source for name, (source, _) in found.items()}
    packed, numbered = [], dict(before.numbered)
    for label in LABELS:
        records = [plan_schema().empty_table(), *(of for source, of in found.values() if source.label == label)]
        old = [name for name, source in before.sources.items() if source.label == label and label not in repack]
        key, given = partial(pack_key, label), numbered.get(label, 0)
        table, numbered[label] = pack(
            pa.concat_tables(records), _of_sources(before.table, old), key, given, settings.shard_chunks
        )
        packed.append(table)
    table = pa.concat_tables(packed).sort_by([("source", "ascending"), ("number", "ascending")])
    plan = ShardPlan(table, planned, numbered, settings.chunk_length)
    _write(path, plan, settings)
    return plan, failures


_Counted = tuple[PlannedSource, pa.Table]


def _of_sources(plan: pa.Table, names: Sequence[str]) -> pa.Table:
    return plan.filter(pc.is_in(plan["source"], pa.array(names, pa.string())))


def _counted(
    path: Path, sources: Sequence[Source], before: ShardPlan, settings: SequenceSettings
) -> tuple[dict[str, _Counted], dict[str, VirnucError]]:
    """Every source with its whole records, or with those that it had before; and what is wrong with it."""
    former = whole_records(before.table)
    known = {source.name: before.sources.get(source.name) for source in sources}
    unchanged = {source.name for source in sources if _is_as_planned(path, known[source.name], source)}
    found: dict[str, _Counted] = {}
    owners: dict[str, str] = {}
    failures: dict[str, VirnucError] = {}
    # Of two sources with one id, the one that had it before keeps it.
    for source in sorted(sources, key=lambda source: (known[source.name] is None, source.name not in unchanged)):
        name, planned = source.name, known[source.name]
        had = None if planned is None else (planned, _of_sources(former, [name]))
        try:
            if had is None or name not in unchanged:
                found[name] = _read(path, source, owners, settings)
            else:
                _require_own(name, had[1], owners)
                found[name] = had
        except (VirnucError, OSError) as error:
            failures[name] = error if isinstance(error, VirnucError) else VirnucError(str(error))
            if had is None or _usable(had[1]).keys() & owners.keys():
                continue
            found[name] = had
        owners.update(dict.fromkeys(_usable(found[name][1]), name))
    return found, failures


def _read(path: Path, source: Source, owners: Mapping[str, str], settings: SequenceSettings) -> _Counted:
    planned = _described(source)
    with open_source(source.fasta) as opened:
        if sequence_format(opened) == "FASTQ":
            raise SequenceFileError(f"{source.fasta}: expected FASTA, found FASTQ; {FASTQ_IS_NO_REFERENCE}")
    records, sha256 = count_records(source.fasta, source.name, settings.chunk_length)
    require_checksum(source.fasta, source.fasta_sha256, sha256)
    _require_own(source.name, records, owners)  # before the CDS of a plan that stays are written over
    planned, usable = replace(planned, sha256=sha256), _usable(records)
    evidence: Mapping[str, tuple[Evidence, str | None]] = dict.fromkeys(usable, (Evidence.NO_GENBANK, None))
    if source.genbank:
        table = annotation_path(path, source.name)
        found = write_annotations(table, source.genbank, usable, source.genbank_sha256)
        evidence = found.records
        planned = replace(
            planned,
            genbank_sha256=found.sha256,
            genbank_records_ignored=found.ignored_records,
            cds=dict(found.treatments),
        )
    of_records = [evidence.get(record, (None, None)) for record in records["record_id"].to_pylist()]
    is_planned = pc.equal(records["status"], "planned")  # records that are not may have the id of one that is
    for name, values in zip(("evidence", "evidence_digest"), zip(*of_records, strict=True), strict=False):
        column = pc.if_else(is_planned, pa.array(values, pa.string()), None)
        records = records.set_column(records.column_names.index(name), name, column)
    return planned, records


def _require_own(name: str, records: pa.Table, owners: Mapping[str, str]) -> None:
    if twice := sorted(_usable(records).keys() & owners.keys()):
        raise VirnucError(
            f"record {twice[0]!r} occurs in sources {owners[twice[0]]!r} and {name!r}; expected ids that are unique "
            "over the whole catalogue, because the split and the merge join on them"
        )


def _usable(records: pa.Table) -> dict[str, tuple[int, str]]:
    """Length in nt and digest of the records that are planned, by id."""
    used = records.filter(pc.equal(records["status"], "planned"))
    ids, lengths, digests = (used[name].to_pylist() for name in ("record_id", "length_nt", "digest"))
    return dict(zip(ids, zip(lengths, digests, strict=True), strict=True))


def changed_sources(path: Path, sources: Iterable[Source]) -> list[str]:
    """Names of sources that a new plan would read, or leave out, by what their files and the catalogue say now."""
    planned = read_plan(path).sources
    today = {source.name: source for source in sources}
    changed = [name for name, source in today.items() if not _is_as_planned(path, planned.get(name), source)]
    return [*changed, *(name for name in planned if name not in today)]


def _is_as_planned(path: Path, known: PlannedSource | None, source: Source) -> bool:
    if known is None or (known.genbank and not annotation_path(path, source.name).is_file()):
        return False
    checksums = (source.fasta_sha256 or known.sha256, source.genbank_sha256 or known.genbank_sha256)
    described = replace(known, sha256="", genbank_sha256=None, genbank_records_ignored=0, cds=None)
    return checksums == (known.sha256, known.genbank_sha256) and described == _described(source)


def _described(source: Source) -> PlannedSource:
    """What the catalogue and the file system say of a source, without reading its files."""
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
        require_table(path, plan_schema(), settings.of_plans)
        return read_plan(path)
    except TableMismatch:
        return ShardPlan(plan_schema().empty_table(), {}, {}, settings.chunk_length)


def _write(path: Path, plan: ShardPlan, settings: SequenceSettings) -> None:
    provenance = {
        "table": "shard_plan",
        **settings.of_plans,
        "numbered": dict(plan.numbered),
        "sources": {name: asdict(source) for name, source in plan.sources.items()},
    }
    write_table(path, plan.table, provenance)


def read_plan(path: Path) -> ShardPlan:
    """A whole plan; a TableMismatch where there is none, or it is damaged."""
    require_table(path, plan_schema())
    return _read_once(path, state_of(path))


@functools.lru_cache(maxsize=4)
def _read_once(path: Path, _: Hashable) -> ShardPlan:
    """A plan as it was in this state: every stage of every shard asks for it."""
    provenance = read_provenance(path)
    sources = {name: PlannedSource(**entry) for name, entry in provenance["sources"].items()}
    return ShardPlan(read_table(path, plan_schema()), sources, provenance["numbered"], provenance["chunk_length"])


def read_shard(path: Path, shard: str) -> ShardPlan:
    """What a plan says of one shard; a TableMismatch where there is no plan, or it has no such shard (any more)."""
    plan = read_plan(path)
    if shard not in plan.rows_by_shard:  # else its table would be made again without a row
        raise TableMismatch(
            f"{path}: {shard} is not in today's plan; materialize {path.parent.parent.name}/shard_plan, which drops it"
        )
    table = rows_at(plan.table, plan.rows_by_shard[shard])
    return replace(
        plan, table=table, sources={name: plan.sources[name] for name in table["source"].unique().to_pylist()}
    )


def planned_shards(path: Path) -> list[str]:
    """Shard keys of a plan, in order; none where there is no plan."""
    return read_plan(path).shards if path.is_file() else []


def planned_proteins(path: Path, plan: ShardPlan) -> dict[str, tuple[str, ...]]:
    """CDS translations of a shard's records that give evidence, by record; TableMismatch unless they are as planned."""
    proteins: dict[str, tuple[str, ...]] = {}
    by_source: dict[str, dict[str, str | None]] = defaultdict(dict)
    for segment in plan.segments:
        if segment.evidence == Evidence.CDS:
            by_source[segment.source][segment.record_id] = segment.evidence_digest
    for name, planned in by_source.items():
        table = annotation_path(path, name)
        found = read_proteins(table, planned)
        if changed := [record for record, of in planned.items() if evidence_digest(found.get(record, ())) != of]:
            raise TableMismatch(
                f"{table}: record {changed[0]!r} and {len(changed) - 1} more: not the CDS that were planned; "
                "materialize reference/shard_plan again"
            )
        proteins |= found
    return proteins
