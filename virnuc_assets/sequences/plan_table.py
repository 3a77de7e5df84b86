"""The shard plan as a table: a row a piece, and in its recipe the source that the pieces were counted in."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa

from virnuc_assets.sequences.catalogue import Label, Source
from virnuc_assets.sequences.opening import open_source
from virnuc_assets.sequences.planning import Piece, Plan, plan_source, source_of
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
    """
    plan = plan_source(source.fasta, source.name, settings.chunk_length, settings.shard_chunks)
    genbank_sha256 = None
    if source.genbank is not None:
        with open_source(source.genbank) as genbank:
            genbank_sha256 = genbank.digest()
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
