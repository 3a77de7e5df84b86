"""The shard plan as a table: a row a piece, and in its recipe the source that the pieces were counted in."""

from __future__ import annotations

import functools
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from virnuc_assets.errors import VirnucError
from virnuc_assets.sequences.catalogue import Label, Source, require_checksum
from virnuc_assets.sequences.cds import Evidence
from virnuc_assets.sequences.cds_table import (
    Annotations,
    RecordEvidence,
    evidence_digest,
    read_proteins,
    write_annotations,
)
from virnuc_assets.sequences.planning import Piece, Plan, plan_source, records_digest
from virnuc_assets.sequences.shard_keys import source_of
from virnuc_assets.settings import SequenceSettings
from virnuc_assets.storage.layout import Domain, Layout
from virnuc_assets.storage.places import state_of
from virnuc_assets.storage.schemas import plan_schema
from virnuc_assets.storage.tables import (
    TableMismatch,
    read_recipe,
    read_table,
    read_windows,
    require_table,
    write_table,
)

_PIECES_AT_ONCE = 1 << 16


@dataclass(frozen=True)
class PlannedSource:
    """A source as it was when it was planned.

    Attributes:
        fasta: sequence file.
        sha256: digest of its bytes.
        annotation: table of the CDS of its records, or None.
        label: viral or host; None for a sample.
        group: virus or host group; None for a sample.
        chunk_length: nt.
    """

    fasta: Path
    sha256: str
    annotation: Path | None
    label: Label | None
    group: str | None
    chunk_length: int


class SameRecords(VirnucError):
    """A new source holds the records of another one, `source`, letter by letter; `content` is their digest."""

    def __init__(self, path: Path, source: str, content: str) -> None:
        super().__init__(f"{path}: holds the same records as {source}, whose results hold for it")
        self.source, self.content = source, content


def make_plan(path: Path, source: Source, settings: SequenceSettings, known: Mapping[str, str] | None = None) -> Plan:
    """Plan a source and write its plan table to `path`, and beside it the table of its annotation.

    A plan that lies there already, of the same chunk length and shard size, is continued.

    Args:
        path: of the plan.
        source: what to plan.
        settings: chunk length and shard size.
        known: other sources by the digest of their records. A source that has no plan yet is not planned if it is one.

    Raises:
        SameRecords: it is one of those known.
        SequenceFileError: the file cannot be read; no plan is left behind that was not there before.
        CatalogueError: it is not the file that the catalogue names by its checksum.
    """
    before, states = _plan_before(path, settings), source_states(source)
    plan = plan_source(source.fasta, source.name, settings.chunk_length, settings.shard_chunks, before)
    content = records_digest(plan.pieces)
    if content in (known or {}) and not path.exists():
        raise SameRecords(source.fasta, (known or {})[content], content)
    require_checksum(source.fasta, source.fasta_sha256, plan.sha256)
    annotations = None
    if source.label is not None:
        plan, annotations = _with_evidence(plan, source, annotation_path(path))
    recipe = {
        "table": "shard_plan",
        "fasta": str(source.fasta),
        "sha256": plan.sha256,
        "states": states,
        "numbered": plan.numbered,
        "genbank": source.genbank and str(source.genbank),
        "genbank_sha256": annotations and annotations.sha256,
        "genbank_records_ignored": annotations.ignored_records if annotations else 0,
        "cds": dict(annotations.treatments) if annotations else {},
        "label": source.label,
        "group": source.group,
        **settings.model_dump(),
    }
    columns = {name: [getattr(piece, name) for piece in plan.pieces] for name in plan_schema().names}
    write_table(path, pa.table(columns, schema=plan_schema()), recipe)
    return plan


def source_states(source: Source) -> dict[str, list[int]]:
    """Size and time of change of a source's files, by path: equal as long as nobody wrote to them.

    Taken before they are read, so that one that is replaced meanwhile is told from the one that was planned.
    """
    found = {str(path): path.stat() for path in (source.fasta, source.genbank) if path and path.is_file()}
    return {path: [status.st_size, status.st_mtime_ns] for path, status in found.items()}


def annotation_path(plan: Path) -> Path:
    """Where the CDS of a planned source lie."""
    return plan.parent.with_name("annotation") / plan.name


def _plan_before(path: Path, settings: SequenceSettings) -> Plan | None:
    """The plan to continue; none where there is none, it cannot be read, or other settings made it."""
    try:
        require_table(path, plan_schema(), settings.model_dump())
    except TableMismatch:
        return None
    recipe = read_recipe(path)
    return Plan(tuple(_pieces(read_table(path))), recipe["sha256"], recipe["numbered"])


def _pieces(rows: pa.Table) -> list[Piece]:
    columns = (rows.column(name).to_pylist() for name in plan_schema().names)  # a list a column, not a dict a row
    return [Piece(*values) for values in zip(*columns, strict=True)]


def _with_evidence(plan: Plan, source: Source, to: Path) -> tuple[Plan, Annotations | None]:
    """The plan with a word of evidence for every planned record, and what the GenBank file gave, if there is one."""
    records = {piece.record_id: (piece.length_nt, piece.digest) for piece in plan.pieces if piece.fate == "planned"}
    annotations, found = None, dict.fromkeys(records, RecordEvidence(Evidence.NO_GENBANK, None))
    if source.genbank:
        annotations = write_annotations(to, source.genbank, records, source.genbank_sha256)
        found = dict(annotations.records)
    pieces = []
    for piece in plan.pieces:
        given = found[piece.record_id] if piece.fate == "planned" else RecordEvidence(None, None)
        pieces.append(replace(piece, evidence=given.evidence, evidence_digest=given.digest))
    return replace(plan, pieces=tuple(pieces)), annotations


def planned_shards(layout: Layout, domain: Domain, source: str) -> list[str]:
    """Shard keys of a source's plan, in order; none where there is no plan."""
    path = layout.plan(domain, source)
    return sorted(set(read_table(path, plan_schema()).column("shard").to_pylist())) if path.is_file() else []


def read_plan(layout: Layout, domain: Domain, shard: str) -> tuple[PlannedSource, list[Piece]]:
    """The planned source of a shard and the shard's pieces, in file order.

    Raises:
        TableMismatch: there is no plan, or it has no such shard (any more).
    """
    path = layout.plan(domain, source_of(shard))
    require_table(path, plan_schema())
    rows, recipe = _read_once(path, state_of(path))
    source = _planned_source(path, recipe)
    pieces = _pieces(rows.filter(pc.equal(rows["shard"], shard)))
    if not pieces:  # else its table would be made anew without a row
        raise TableMismatch(
            f"{path}: {shard} is not in today's plan of its source; materialize {domain}/shard_plan, which drops it"
        )
    return source, pieces


def read_whole_plan(path: Path) -> tuple[PlannedSource, dict[str, list[Piece]]]:
    """As `read_plan` for all shards of a source at once, from its plan table.

    Raises:
        TableMismatch: there is no plan, or it is damaged.
    """
    shards: dict[str, list[Piece]] = {}
    for window in read_windows(path, _PIECES_AT_ONCE, plan_schema()):  # `read_table` would load pandas for filters
        for piece in _pieces(window):
            shards.setdefault(piece.shard, []).append(piece)
    return _planned_source(path, read_recipe(path)), shards


def _planned_source(path: Path, recipe: dict[str, Any]) -> PlannedSource:
    return PlannedSource(
        fasta=Path(recipe["fasta"]),
        sha256=recipe["sha256"],
        annotation=annotation_path(path) if recipe["genbank"] else None,
        label=recipe["label"],
        group=recipe["group"],
        chunk_length=recipe["chunk_length"],
    )


@functools.lru_cache(maxsize=2)
def _read_once(path: Path, state: Hashable) -> tuple[pa.Table, dict[str, Any]]:
    """A plan as it was in this state: it is asked for by every stage of every shard, one source after the other."""
    return read_table(path, plan_schema()), read_recipe(path)


def planned_proteins(source: PlannedSource, pieces: Sequence[Piece]) -> dict[str, tuple[str, ...]]:
    """CDS translations of a shard's records, by record; those that cannot give evidence are not in it.

    Raises:
        TableMismatch: they are not those that were planned.
    """
    planned = {piece.record_id: piece.evidence_digest for piece in pieces if piece.evidence == Evidence.CDS}
    proteins = read_proteins(source.annotation, planned) if source.annotation else {}
    if changed := [record for record, digest in planned.items() if evidence_digest(proteins.get(record, ())) != digest]:
        raise TableMismatch(
            f"{source.annotation}: record {changed[0]!r} and {len(changed) - 1} more: not the CDS that were planned; "
            "materialize reference/shard_plan again"
        )
    return proteins


def read_pieces(layout: Layout, domain: Domain, source: str) -> list[Piece]:
    """All pieces of a source, in file order."""
    return _pieces(read_table(layout.plan(domain, source), plan_schema()))
