"""What each table of a shard must have been made from today: the chain from the planned source to the features.

A stage that builds on a table asks for its recipe here; so a source that was replaced, an encoder that changed, or
a stage that was skipped is noticed by whatever comes after it, however it was launched.
"""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from virnuc_assets.encoders.checkpoints import find_checkpoint
from virnuc_assets.encoders.fingerprint import fingerprint
from virnuc_assets.encoders.registry import Branch
from virnuc_assets.errors import VirnucError
from virnuc_assets.resources import Workspace
from virnuc_assets.sequences.opening import FileState, file_state
from virnuc_assets.sequences.plan_table import PlannedSource, planned_shards, read_plan, read_whole_plan
from virnuc_assets.sequences.planning import Piece
from virnuc_assets.sequences.shard_keys import source_of
from virnuc_assets.storage.digests import digest_of
from virnuc_assets.storage.footers import footer
from virnuc_assets.storage.layout import RECORDS_FILE, Domain, Layout
from virnuc_assets.storage.schemas import chunks_schema, frames_schema
from virnuc_assets.storage.tables import TableMismatch, content_digest, read_recipe, require_table


def todays_plan(workspace: Workspace, domain: Domain, shard: str) -> tuple[PlannedSource, list[Piece]]:
    """The planned source of a shard and its pieces.

    Raises:
        TableMismatch: there is no plan.
        VirnucError: it was made for another chunk length than today's.
    """
    source, pieces = read_plan(workspace.layout, domain, shard)
    if source.chunk_length != (today := workspace.settings.sequences.chunk_length):
        raise VirnucError(
            f"{domain}/shard_plan: {shard} is planned in chunks of {source.chunk_length} nt, virnuc.toml says {today}; "
            f"materialize {domain}/shard_plan again, or set sequences.chunk_length back"
        )
    return source, pieces


def chunks_recipe(source: PlannedSource, pieces: Sequence[Piece]) -> dict[str, Any]:
    """What a shard's chunks follow from: its records' letters, not the file that they lie in."""
    return {
        "table": "chunks",
        "chunk_length": source.chunk_length,
        "pieces": digest_of([[p.record_id, p.digest, p.length_nt, p.first_chunk, p.end_chunk] for p in pieces]),
    }


def frames_recipe(workspace: Workspace, domain: Domain, shard: str) -> dict[str, Any]:
    """What a shard's frames follow from.

    Raises:
        TableMismatch: the plan or the chunks are missing, or the chunks are not those of today's plan.
    """
    source, pieces = todays_plan(workspace, domain, shard)
    chunks, recipe = workspace.layout.table(domain, "chunked_fasta", shard), chunks_recipe(source, pieces)
    require_table(chunks, chunks_schema(), recipe)
    return {"chunks": content_digest(chunks), **frames_inputs(source, pieces)}


def frames_inputs(source: PlannedSource, pieces: Sequence[Piece]) -> dict[str, Any]:
    """What a shard's frames follow from beside its chunks."""
    return {
        "table": "frames",
        "pieces": chunks_recipe(source, pieces)["pieces"],
        "evidence": digest_of([[p.record_id, p.fate, p.reason, p.evidence, p.evidence_digest] for p in pieces]),
        "label": source.label,
        "group": source.group,
    }


def frames_digest(workspace: Workspace, domain: Domain, shard: str) -> str:
    """Content digest of a shard's frames, after they were found to be made from today's plan.

    Raises:
        TableMismatch: a table of the chain is missing or stale.
    """
    frames = workspace.layout.table(domain, "translated_proteins", shard)
    require_table(frames, frames_schema(), frames_recipe(workspace, domain, shard))
    return content_digest(frames)


def branch_fingerprints(workspace: Workspace, branch: Branch) -> dict[str, dict[str, str]]:
    """Fingerprints of a branch's two encoders as they are today, by side."""
    found = {}
    for side, slot in (("dna", branch.dna), ("protein", branch.protein)):
        spec = workspace.encoder(slot)
        folder = find_checkpoint(spec, workspace.layout.checkpoints)
        found[side] = fingerprint(spec, folder, workspace.settings.encoding.precision)
    return found


def features_recipe(
    workspace: Workspace, domain: Domain, shard: str, encoders: Mapping[str, Mapping[str, str]]
) -> dict[str, Any]:
    """What a shard's features follow from: today's frames and the two encoders.

    Raises:
        TableMismatch: a table of the chain is missing or stale.
    """
    return {"table": "features", "frames": frames_digest(workspace, domain, shard), "encoders": encoders}


def embeddings_recipe(encoder: Mapping[str, str], frames: str) -> dict[str, Any]:
    """What a shard's embeddings follow from: the encoder's fingerprint and the content digest of the frames."""
    return {"table": "embeddings", "encoder": encoder, "frames": frames}


def predictions_recipe(features: str, classifier: str) -> dict[str, Any]:
    """What a shard's predictions follow from: content digest of the features, digest of the classifier's weights."""
    return {"table": "predictions", "features": features, "classifier": classifier}


def plan_digest(layout: Layout, domain: Domain, shard: str) -> str:
    """Digest of what a shard was planned from, also of when that was put there; empty where there is no plan.

    A file that is replaced and put back is another one: what was asked of the first is asked again.
    """
    plan = layout.plan(domain, source_of(shard))
    if not plan.is_file():
        return ""
    recipe = read_recipe(plan)
    fasta = Path(recipe["fasta"])
    return digest_of([recipe["sha256"], recipe["numbered"], fasta.stat().st_mtime_ns if fasta.is_file() else None])


def chunks_are_older(layout: Layout, domain: Domain, shard: str) -> bool:
    """Whether a shard was planned anew since its chunks were made, or its plan cannot be read."""
    try:
        planned = read_shard_inputs(layout.plan(domain, source_of(shard))).get(shard)
    except FileNotFoundError:
        return False
    except TableMismatch:
        return True  # the run that this asks for says what is wrong, and stops no other sample
    chunks = footer(layout.table(domain, "chunked_fasta", shard))
    return planned is None or chunks is None or chunks.recipe != planned.chunks


class ShardInputs(NamedTuple):
    """What a shard's chunks, and its frames beside the chunks, must follow from by its plan."""

    chunks: dict[str, Any]
    frames: dict[str, Any]


def read_shard_inputs(plan: Path) -> Mapping[str, ShardInputs]:
    """Of every shard of a plan; read again only when the plan was written anew.

    Raises:
        FileNotFoundError: there is no plan.
        TableMismatch: it is damaged.
    """
    return _shard_inputs(plan, file_state(plan.stat()))


@functools.lru_cache(maxsize=1 << 14)
def _shard_inputs(plan: Path, _: FileState) -> Mapping[str, ShardInputs]:
    source, shards = read_whole_plan(plan)
    return {
        shard: ShardInputs(chunks_recipe(source, pieces), frames_inputs(source, pieces))
        for shard, pieces in shards.items()
    }


def report_is_older(layout: Layout, sample: str) -> bool:
    """Whether a sample's predictions or ledgers were made anew since its report was written."""
    report = layout.sample_report(sample) / RECORDS_FILE
    shards = planned_shards(layout, "samples", sample)
    tables = [layout.table("samples", asset, shard) for asset in ("predictions", "ledger") for shard in shards]
    written = [table.stat().st_mtime_ns for table in tables if table.is_file()]
    return report.is_file() and bool(written) and report.stat().st_mtime_ns < max(written)
