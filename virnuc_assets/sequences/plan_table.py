"""The shard plan as a table: a row a piece, and in its recipe the source that the pieces were counted in."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa

from virnuc_assets.sequences.catalogue import Label, Source, require_checksum
from virnuc_assets.sequences.opening import SequenceFileError, open_source
from virnuc_assets.sequences.planning import Piece, Plan, plan_source, source_of
from virnuc_assets.sequences.reading import read_records
from virnuc_assets.settings import SequenceSettings
from virnuc_assets.storage.layout import Domain, Layout
from virnuc_assets.storage.schemas import plan_schema
from virnuc_assets.storage.tables import read_recipe, read_table, write_table


@dataclass(frozen=True)
class PlannedSource:
    """A source as it was when it was planned.

    Attributes:
        fasta: sequence file.
        sha256: digest of its bytes.
        genbank: the same records with CDS translations, or None.
        genbank_sha256: digest of its bytes, or None.
        label: viral or host; None for a sample.
        group: virus or host group; None for a sample.
        chunk_length: nt.
    """

    fasta: Path
    sha256: str
    genbank: Path | None
    genbank_sha256: str | None
    label: Label | None
    group: str | None
    chunk_length: int


def make_plan(path: Path, source: Source, settings: SequenceSettings) -> Plan:
    """Plan a source and write its plan table to `path`.

    Raises:
        SequenceFileError: the file cannot be read; no plan is left behind.
        CatalogueError: the file is not the catalogued one.
    """
    plan = plan_source(source.fasta, source.name, settings.chunk_length, settings.shard_chunks)
    require_checksum(source.fasta, source.fasta_sha256, plan.sha256)
    genbank_sha256 = _annotation_digest(source.genbank, plan) if source.genbank else None
    if source.genbank and genbank_sha256:
        require_checksum(source.genbank, source.genbank_sha256, genbank_sha256)
    recipe = {
        "table": "shard_plan",
        "fasta": str(source.fasta),
        "sha256": plan.sha256,
        "genbank": source.genbank and str(source.genbank),
        "genbank_sha256": genbank_sha256,
        "label": source.label,
        "group": source.group,
        **settings.model_dump(),
    }
    table = pa.Table.from_pylist([asdict(piece) for piece in plan.pieces], schema=plan_schema())
    write_table(path, table, recipe)
    return plan


def _annotation_digest(path: Path, plan: Plan) -> str:
    """Digest of a GenBank file, all of whose records are found to be in the plan."""
    known = {piece.record_id for piece in plan.pieces}
    with open_source(path) as genbank:
        unknown = [record.id for record in read_records(genbank) if record.id not in known]
        if unknown:
            raise SequenceFileError(
                f"{path}: record {unknown[0]!r} (and {len(unknown) - 1} more) is not in the FASTA of this name; "
                "expected equal ids, because CDS evidence is joined on them"
            )
        return genbank.digest()


def planned_shards(layout: Layout, domain: Domain, source: str) -> list[str]:
    """Shard keys of a source's plan, in order; none where there is no plan."""
    path = layout.plan(domain, source)
    return sorted(set(read_table(path, plan_schema()).column("shard").to_pylist())) if path.is_file() else []


def read_plan(layout: Layout, domain: Domain, shard: str) -> tuple[PlannedSource, list[Piece]]:
    """The planned source of a shard and the shard's pieces."""
    path = layout.plan(domain, source_of(shard))
    rows = read_table(path, plan_schema()).to_pylist()
    recipe = read_recipe(path)
    source = PlannedSource(
        fasta=Path(recipe["fasta"]),
        sha256=recipe["sha256"],
        genbank=Path(recipe["genbank"]) if recipe["genbank"] else None,
        genbank_sha256=recipe["genbank_sha256"],
        label=recipe["label"],
        group=recipe["group"],
        chunk_length=recipe["chunk_length"],
    )
    return source, [Piece(**row) for row in rows if row["shard"] == shard]
