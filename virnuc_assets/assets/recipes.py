"""What each table of a shard must have been made from today: the chain from the planned source to the features.

A stage that builds on a table asks for its recipe here; so a source that was replaced, an encoder that changed, or
a stage that was skipped is noticed by whatever comes after it, however it was launched.
"""

import functools
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from virnuc_assets.encoders.checkpoints import find_checkpoint
from virnuc_assets.encoders.fingerprint import fingerprint
from virnuc_assets.encoders.registry import Variant
from virnuc_assets.errors import VirnucError
from virnuc_assets.resources import Workspace
from virnuc_assets.sequences.plan_table import PlannedSource, read_plan, read_whole_plan
from virnuc_assets.sequences.planning import Piece
from virnuc_assets.sequences.shard_keys import source_of
from virnuc_assets.storage.digests import digest_of
from virnuc_assets.storage.footers import footer
from virnuc_assets.storage.layout import RECORDS_FILE, Domain, Layout
from virnuc_assets.storage.places import changed_at, state_of
from virnuc_assets.storage.schemas import chunks_schema, frames_schema
from virnuc_assets.storage.tables import TableMismatch, content_digest, require_table


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


def variant_fingerprints(workspace: Workspace, variant: Variant) -> dict[str, dict[str, str]]:
    """Fingerprints of a variant's two encoders as they are today, by side."""
    found = {}
    for side, name in (("dna", variant.dna), ("protein", variant.protein)):
        spec = workspace.encoder(name)
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


def predictions_recipe(features: str, classifier: str, planned: str) -> dict[str, Any]:
    """What a shard's predictions follow from.

    Args:
        features: content digest of the features.
        classifier: digest of its weights.
        planned: digest of what the shard was planned from, so that predictions of an older file are told from today's
            by themselves, whether or not the tables between are there.
    """
    return {"table": "predictions", "features": features, "classifier": classifier, "planned": planned}


def predictions_are_older(layout: Layout, shard: str) -> bool:
    """Whether a sample shard lacks predictions of what it is planned from today, by whichever classifier.

    A shard without plan is left to who plans.
    """
    try:
        planned = read_shard_inputs(layout.plan("samples", source_of(shard))).get(shard)
    except FileNotFoundError:
        return False
    except TableMismatch:
        return True  # the run that this asks for says what is wrong, and stops no other sample
    predictions = footer(layout.table("samples", "predictions", shard))
    return planned is None or predictions is None or predictions.recipe.get("planned") != planned.digest


class ShardInputs(NamedTuple):
    """What a shard's chunks, and its frames beside the chunks, must follow from by its plan; and the digest of both."""

    chunks: dict[str, Any]
    frames: dict[str, Any]
    digest: str


def read_shard_inputs(plan: Path) -> Mapping[str, ShardInputs]:
    """Of every shard of a plan; read again only when the plan was written anew.

    Raises:
        FileNotFoundError: there is no plan.
        TableMismatch: it is damaged.
    """
    return _shard_inputs(plan, state_of(plan))


@functools.lru_cache(maxsize=1 << 14)
def _shard_inputs(plan: Path, _: Hashable) -> Mapping[str, ShardInputs]:
    source, shards = read_whole_plan(plan)
    return {
        shard: _inputs(chunks_recipe(source, pieces), frames_inputs(source, pieces)) for shard, pieces in shards.items()
    }


def _inputs(chunks: dict[str, Any], frames: dict[str, Any]) -> ShardInputs:
    return ShardInputs(chunks, frames, digest_of([chunks, frames]))


def report_is_older(layout: Layout, sample: str) -> bool:
    """Whether a planned sample lacks a report of its plan, its predictions and its ledgers as they are today."""
    return changed_at(layout.sample_report(sample) / RECORDS_FILE) < report_inputs_changed_at(layout, sample)


def report_inputs_changed_at(layout: Layout, sample: str) -> float:
    """When the newest of what a sample's report is made of was written; 0 without a plan that can be read."""
    plan = layout.plan("samples", sample)
    try:
        shards = read_shard_inputs(plan)
    except (FileNotFoundError, TableMismatch):
        return 0.0
    tables = [layout.table("samples", asset, shard) for asset in ("predictions", "ledger") for shard in shards]
    return max(changed_at(path) for path in (plan, *tables))
