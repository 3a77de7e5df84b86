"""What each table of a shard must be made from today: the chain from the planned records to the predictions.

The one copy: assets write it into their tables, stages that build on a table require it, checks and `virnuc demo` ask
by it what is missing or stale. A source that was replaced, an encoder that changed or a stage that was skipped is so
noticed by whatever comes after it, however it was launched: a table that is missing or stale is a `TableMismatch`, or
another `VirnucError`.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import dagster as dg
import pyarrow.compute as pc

from virnuc_assets.defs.partitions import REFERENCE
from virnuc_assets.defs.resources import Workspace, encoders_of
from virnuc_assets.encoders.checkpoints import find_checkpoint, fingerprint, identity
from virnuc_assets.encoders.registry import Variant
from virnuc_assets.errors import VirnucError
from virnuc_assets.sequences.catalogue import Source
from virnuc_assets.sequences.composition import WIDTHS
from virnuc_assets.sequences.frame_table import Truth
from virnuc_assets.sequences.plan_table import read_plan, read_shard
from virnuc_assets.sequences.planning import ShardPlan
from virnuc_assets.split.similarity import tool_version
from virnuc_assets.storage.digests import digest_of
from virnuc_assets.storage.layout import CLASSIFIER_FILE, Domain
from virnuc_assets.storage.schemas import chunks_schema, evaluation_schema, features_schema, vector_dim
from virnuc_assets.storage.tables import (
    Provenance,
    content_digest,
    is_made_by,
    read_provenance,
    read_schema,
    require_table,
)

if TYPE_CHECKING:
    from virnuc_assets.classifier.checkpoint import ServingClassifier

CHUNKS, FRAMES, LEDGER = "chunked_fasta", "translated_proteins", "ledger"
PREDICTIONS, REPORT = "predictions", "report"
_SHOWN = 10


def stages(domain: Domain, variants: Sequence[Variant]) -> list[str]:
    """Per-shard assets for some variants, in the order in which they are made."""
    return [CHUNKS, FRAMES, *vectors(variants), *([PREDICTIONS, REPORT] if domain == "samples" else [])]


def vectors(variants: Sequence[Variant]) -> list[str]:
    """Embedding and feature assets of some variants, each once, in the order in which they are made."""
    embeddings = [f"{name}_embeddings" for name in encoders_of(variants)]
    return [*embeddings, *(f"{variant.name}_features" for variant in variants)]


def planned_shard(workspace: Workspace, domain: Domain, shard: str) -> ShardPlan:
    """The records of a shard and the files that they are in; refused if it is planned for another chunk length."""
    plan = read_shard(workspace.layout.plan(domain, shard.rpartition("-")[0] if domain == "samples" else ""), shard)
    if plan.chunk_length != (today := workspace.settings.sequences.chunk_length):
        raise VirnucError(
            f"{domain}/shard_plan: {shard} is planned in chunks of {plan.chunk_length} nt, virnuc.toml says {today}; "
            f"materialize {domain}/shard_plan again, or set sequences.chunk_length back"
        )
    return plan


def chunks_provenance(plan: ShardPlan) -> Provenance:
    """What a shard's chunks follow from: its records' sequences, not the files that they are in."""
    return {
        "table": "chunks",
        "chunk_length": plan.chunk_length,
        "records": digest_of(plan.columns("record_id", "digest", "length_nt", "first_chunk", "end_chunk")),
    }


def shard_truth(plan: ShardPlan, proteins: Mapping[str, tuple[str, ...]] = MappingProxyType({})) -> Truth | None:
    """What is known of the records of a shard, all of one label; None of a sample's."""
    label = next(iter(plan.sources.values())).label
    return None if label is None else Truth(label, plan.groups, proteins)


def plan_digest(plan: ShardPlan) -> str:
    """Digest of all that a shard's chunks and frames follow from by its plan: the data version of `shards`."""
    return digest_of([chunks_provenance(plan), _truth(plan)])


def reference_version(path: Path) -> str:
    """Version of a whole plan by its content: what its shards follow from, and the names of the sources' records."""
    plan = read_plan(path)
    versions = {shard: [plan_digest(read_shard(path, shard))] for shard in plan.shards}
    return digest_of([versions, {name: of.names for name, of in plan.sources.items()}])


def _truth(plan: ShardPlan) -> dict[str, Any]:
    of = plan.sources
    return {
        "evidence": digest_of(plan.columns("record_id", "status", "reason", "evidence", "evidence_digest")),
        "labels": digest_of([[r, of[s].label, of[s].group] for r, s in plan.columns("record_id", "source")]),
    }


def _chunks_digest(workspace: Workspace, domain: Domain, shard: str, plan: ShardPlan) -> str:
    """Content digest of a shard's chunks, after they were found to be those of its plan."""
    chunks = workspace.layout.table(domain, CHUNKS, shard)
    require_table(chunks, chunks_schema(), chunks_provenance(plan))
    return content_digest(chunks)


def frames_provenance(workspace: Workspace, domain: Domain, shard: str) -> Provenance:
    """What a shard's frames follow from."""
    plan = planned_shard(workspace, domain, shard)
    chunks, rule = _chunks_digest(workspace, domain, shard, plan), workspace.frame_rule(domain).provenance
    return {"table": "frames", "chunks": chunks, **_truth(plan), **rule}


def ledger_provenance(workspace: Workspace, domain: Domain, shard: str) -> Provenance:
    """What a shard's ledger follows from."""
    return {**frames_provenance(workspace, domain, shard), "table": "ledger"}


def frames_digest(workspace: Workspace, domain: Domain, shard: str) -> str:
    """Content digest of a shard's frames, after they were found to be made from today's plan."""
    frames = workspace.layout.table(domain, FRAMES, shard)
    require_table(frames, workspace.frame_rule(domain).schema, frames_provenance(workspace, domain, shard))
    return content_digest(frames)


def encoder_fingerprint(workspace: Workspace, name: str) -> dict[str, str]:
    """Fingerprint of an encoder as it is today; a `CheckpointError` where its checkpoint is missing or damaged."""
    spec = workspace.encoder(name)
    folder = find_checkpoint(spec, workspace.layout.checkpoints)
    return fingerprint(spec, folder, workspace.settings.encoding.precision)


def encoder_version(workspace: Workspace, name: str) -> str:
    """Version of an encoder by what is known of it without its checkpoint.

    Also of what is trained on its vectors: another version of a library may give equal ones, and the classifier of the
    older is refused all the same.
    """
    spec = workspace.encoder(name)
    return digest_of([identity(spec, workspace.settings.encoding.precision), spec.digest])


def variant_fingerprints(workspace: Workspace, variant: Variant) -> dict[str, dict[str, str]]:
    """Fingerprints of a variant's two encoders, or of the parts of composition, as they are today, by alphabet."""
    return {
        "dna": encoder_fingerprint(workspace, variant.dna),
        "protein": encoder_fingerprint(workspace, variant.protein),
    }


def embeddings_provenance(
    workspace: Workspace, domain: Domain, shard: str, encoder: Mapping[str, str]
) -> dict[str, Any]:
    """What a shard's embeddings follow from: the encoder's fingerprint and the content of the frames."""
    frames = frames_digest(workspace, domain, shard)
    return {"table": "embeddings", "encoder": encoder, "frames": frames, **workspace.frame_rule(domain).provenance}


def features_provenance(
    workspace: Workspace, domain: Domain, shard: str, variant: Variant, encoders: Mapping[str, Mapping[str, str]]
) -> dict[str, Any]:
    """What a shard's features follow from: frames and vectors of today's encoders, or chunks (k-mer baseline)."""
    made: dict[str, Any] = {"table": "features", "encoders": encoders}
    if variant.is_kmer:
        plan = planned_shard(workspace, domain, shard)
        chunks, rule = _chunks_digest(workspace, domain, shard, plan), workspace.rule_of(variant).provenance
        return {**made, "chunks": chunks, "labels": _truth(plan)["labels"], "dims": WIDTHS, **rule}
    frames = frames_digest(workspace, domain, shard)
    contents, dims = {}, {}
    for alphabet, name in (("dna", variant.dna), ("protein", variant.protein)):
        path = workspace.layout.table(domain, f"{name}_embeddings", shard)
        require_table(path, require={"frames": frames, "encoder": encoders[alphabet]})
        contents[alphabet], dims[alphabet] = content_digest(path), vector_dim(read_schema(path))
    return {**made, "frames": frames, "embeddings": contents, "dims": dims, **workspace.frame_rule(domain).provenance}


def predictions_provenance(features: str, classifier: str) -> Provenance:
    """What a shard's predictions follow from: content digest of the features, and digest of the weights."""
    return {"table": "predictions", "features": features, "classifier": classifier}


def serving_classifier(workspace: Workspace) -> str:
    """Digest of the weights of the serving classifier; refused where there is none, or it cannot be read."""
    path = workspace.layout.classifier(workspace.settings.serving.variant) / CLASSIFIER_FILE
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["weights_sha256"])
    except (FileNotFoundError, ValueError, LookupError) as error:
        raise VirnucError(f"{path}: no serving classifier; run train_and_decide") from error


def fitting_classifier(
    workspace: Workspace, variant: Variant, features: Path, encoders: Mapping[str, Mapping[str, str]]
) -> ServingClassifier:
    """The classifier of a variant; refused where it was trained for others than today's encoders and these features."""
    from virnuc_assets.classifier.checkpoint import ServingClassifier

    folder, chunk_length = workspace.layout.classifier(variant.name), workspace.settings.sequences.chunk_length
    dims = read_provenance(features)["dims"]
    return ServingClassifier.load(folder, encoders, dims, chunk_length, workspace.rule_of(variant))


class Today:
    """What is missing or stale of the tables of one domain; each fingerprint is computed once."""

    def __init__(self, workspace: Workspace, domain: Domain) -> None:
        """Nothing is read yet."""
        self._workspace, self._domain = workspace, domain
        self._fingerprint = functools.cache(lambda name: encoder_fingerprint(workspace, name))

    def is_current(self, asset: str, shard: str) -> bool:
        """Whether a shard's table is there and made from today's inputs; frames with their ledger."""
        table, workspace, domain = self._workspace.layout.table, self._workspace, self._domain
        try:
            if asset == FRAMES and not is_made_by(
                table(domain, LEDGER, shard), ledger_provenance(workspace, domain, shard)
            ):
                return False
            return is_made_by(table(domain, asset, shard), self._provenance(asset, shard))
        except VirnucError:  # something that it is made from is missing or stale
            return False

    def _provenance(self, asset: str, shard: str) -> Provenance:
        workspace, domain = self._workspace, self._domain
        if asset == CHUNKS:
            return chunks_provenance(planned_shard(workspace, domain, shard))
        if asset == FRAMES:
            return frames_provenance(workspace, domain, shard)
        if asset.endswith("_embeddings"):
            encoder = self._fingerprint(asset.removesuffix("_embeddings"))
            return embeddings_provenance(workspace, domain, shard, encoder)
        if asset == PREDICTIONS:
            features = f"{workspace.settings.serving.variant}_features"
            path = workspace.layout.table(domain, features, shard)
            require_table(path, require=self._provenance(features, shard))
            return predictions_provenance(content_digest(path), serving_classifier(workspace))
        variant = workspace.variant(asset.removesuffix("_features"))
        encoders = {"dna": self._fingerprint(variant.dna), "protein": self._fingerprint(variant.protein)}
        return features_provenance(workspace, domain, shard, variant, encoders)


# What assets that read the whole reference ask first: are all shards there, and made from today's inputs?


def reference_tables(instance: dg.DagsterInstance, workspace: Workspace, asset: str) -> dict[str, Path]:
    """The tables of all reference shards, by shard; refused where some are missing, or no shard is planned."""
    shards = REFERENCE.keys(instance)
    tables = {shard: workspace.layout.table("reference", asset, shard) for shard in shards}
    missing = [shard for shard, path in tables.items() if not path.is_file()]
    if missing or not shards:
        raise VirnucError(
            f"reference/{asset}: {len(missing)} of {len(shards)} shards have no table "
            f"({', '.join(missing[:_SHOWN])}{', …' if len(missing) > _SHOWN else ''}); materialize them first"
        )
    return tables


def contents(tables: Mapping[str, Path]) -> str:
    """Digest of the rows of the tables of several shards."""
    return digest_of({shard: content_digest(path) for shard, path in tables.items()})


def current_frames(instance: dg.DagsterInstance, workspace: Workspace) -> dict[str, Path]:
    """The frames tables of all reference shards, each made from today's plan of its source."""
    tables = reference_tables(instance, workspace, FRAMES)
    for shard in tables:
        frames_digest(workspace, "reference", shard)
    return tables


def current_features(instance: dg.DagsterInstance, workspace: Workspace, variant: Variant) -> dict[str, Path]:
    """The features tables of a variant, each made from today's frames by today's encoders and equally wide."""
    tables = reference_tables(instance, workspace, f"{variant.name}_features")
    encoders = variant_fingerprints(workspace, variant)
    schema = features_schema(vector_dim(read_schema(next(iter(tables.values())))))
    for shard, path in tables.items():
        require_table(path, schema, features_provenance(workspace, "reference", shard, variant, encoders))
    return tables


def split_provenance(instance: dg.DagsterInstance, workspace: Workspace) -> dict[str, Any]:
    """What the split follows from today: frames, plans, names and dates of the catalogue, settings and tool."""
    frames, catalogue = contents(current_frames(instance, workspace)), workspace.catalogue()
    return {
        "table": "split",
        "frames": frames,
        "plan": reference_version(workspace.layout.plan("reference")),
        "names": digest_of({each.name: [each.relatives, each.organism, str(each.date)] for each in catalogue}),
        "similarity": tool_version(workspace.settings.split),
        "settings": workspace.settings.split.model_dump(mode="json"),
    }


def current_split(instance: dg.DagsterInstance, workspace: Workspace) -> Path:
    """The split table, made from today's frames, names and settings."""
    path = workspace.layout.split
    require_table(path, require=split_provenance(instance, workspace))
    return path


def evaluation_provenance(features: Mapping[str, Path], split: Path, classifier_digest: str) -> dict[str, Any]:
    """What an evaluation follows from."""
    return {
        "table": "evaluation",
        "columns": evaluation_schema().names,
        "classifier": classifier_digest,
        "split": content_digest(split),
        "features": contents(features),
    }


def planned(workspace: Workspace) -> ShardPlan:
    """The plan of the reference, with those of its records that have chunks to be used."""
    plan = read_plan(workspace.layout.plan("reference"))
    return replace(plan, table=plan.table.filter(pc.equal(plan.table["status"], "planned")))


def record_sources(workspace: Workspace) -> dict[str, Source]:
    """The catalogued source of every planned record; refused where a planned source has left the catalogue."""
    sources, plan = {source.name: source for source in workspace.catalogue()}, planned(workspace)
    if gone := sorted(plan.sources.keys() - sources.keys()):
        raise VirnucError(f"source {gone[0]!r} is planned, but not catalogued: materialize reference/shard_plan")
    return {segment.record_id: sources[segment.source] for segment in plan.segments}


def named_records(workspace: Workspace) -> dict[str, set[str]]:
    """Records that the catalogue joins: of one organism, or named as relatives."""
    named: dict[str, set[str]] = {}
    for record, source in record_sources(workspace).items():
        for kind, name in (("organism", source.organism), ("relatives", source.relatives)):
            if name:
                named.setdefault(f"{kind} {name}", set()).add(record)
    return named


def record_lengths(workspace: Workspace) -> dict[str, int]:
    """Length in nt of every planned reference record."""
    return {segment.record_id: segment.length_nt for segment in planned(workspace).segments}
