"""What each table of a shard must be made from today: the chain from the planned records to the predictions.

The one copy: assets write it into their tables, stages that build on a table require it, checks and `virnuc demo` ask
by it what is missing or stale. A source that was replaced, an encoder that changed or a stage that was skipped is so
noticed by whatever comes after it, however it was launched.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from virnuc_assets.defs.resources import Workspace
from virnuc_assets.encoders.checkpoints import find_checkpoint, fingerprint, identity
from virnuc_assets.encoders.registry import Variant
from virnuc_assets.errors import VirnucError
from virnuc_assets.sequences.composition import WIDTHS
from virnuc_assets.sequences.frame_table import Truth
from virnuc_assets.sequences.plan_table import read_plan, read_shard
from virnuc_assets.sequences.planning import ShardPlan
from virnuc_assets.storage.digests import digest_of
from virnuc_assets.storage.layout import CLASSIFIER_FILE, Domain
from virnuc_assets.storage.schemas import chunks_schema, vector_dim
from virnuc_assets.storage.tables import Provenance, content_digest, is_made_by, read_schema, require_table

CHUNKS, FRAMES, LEDGER, PREDICTIONS = "chunked_fasta", "translated_proteins", "ledger", "predictions"


def vectors(variants: Iterable[Variant]) -> list[str]:
    """Embedding and feature assets of some variants, each once, in the order in which they are made."""
    chosen = list(variants)
    encoders = dict.fromkeys(name for each in chosen if not each.is_kmer for name in (each.dna, each.protein))
    return [*(f"{name}_embeddings" for name in encoders), *(f"{variant.name}_features" for variant in chosen)]


def planned_shard(workspace: Workspace, domain: Domain, shard: str) -> ShardPlan:
    """The records of a shard and the files that they are in.

    Raises:
        TableMismatch: there is no plan, or no such shard in it.
        VirnucError: it was made for another chunk length than today's.
    """
    path = workspace.layout.plan(domain, shard.rpartition("-")[0] if domain == "samples" else "")
    plan = read_shard(path, shard)
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


def frames_provenance(workspace: Workspace, domain: Domain, shard: str) -> Provenance:
    """What a shard's frames follow from.

    Raises:
        TableMismatch: the plan or the chunks are missing, or the chunks are not those of today's plan.
    """
    plan = planned_shard(workspace, domain, shard)
    chunks = workspace.layout.table(domain, CHUNKS, shard)
    require_table(chunks, chunks_schema(), chunks_provenance(plan))
    return {
        "table": "frames",
        "chunks": content_digest(chunks),
        **_truth(plan),
        **workspace.frame_rule(domain).provenance,
    }


def ledger_provenance(workspace: Workspace, domain: Domain, shard: str) -> Provenance:
    """What a shard's ledger follows from; raises as `frames_provenance`."""
    return {**frames_provenance(workspace, domain, shard), "table": "ledger"}


def frames_digest(workspace: Workspace, domain: Domain, shard: str) -> str:
    """Content digest of a shard's frames, after they were found to be made from today's plan.

    Raises:
        TableMismatch: a table of the chain is missing or stale.
    """
    frames = workspace.layout.table(domain, FRAMES, shard)
    require_table(frames, workspace.frame_rule(domain).schema, frames_provenance(workspace, domain, shard))
    return content_digest(frames)


def encoder_fingerprint(workspace: Workspace, name: str) -> dict[str, str]:
    """Fingerprint of an encoder as it is today.

    Raises:
        CheckpointError: its checkpoint is missing or damaged.
    """
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
    """What a shard's embeddings follow from: the encoder's fingerprint and the content of the frames.

    Raises:
        TableMismatch: a table of the chain is missing or stale.
    """
    frames = frames_digest(workspace, domain, shard)
    return {"table": "embeddings", "encoder": encoder, "frames": frames, **workspace.frame_rule(domain).provenance}


def features_provenance(
    workspace: Workspace, domain: Domain, shard: str, variant: Variant, encoders: Mapping[str, Mapping[str, str]]
) -> dict[str, Any]:
    """What a shard's features follow from: today's frames, and the vectors of today's encoders.

    Raises:
        TableMismatch: a table of the chain is missing or stale.
    """
    if variant.is_kmer:
        return _composition_provenance(workspace, domain, shard, variant, encoders)
    frames = frames_digest(workspace, domain, shard)
    contents, dims = {}, {}
    for alphabet, name in (("dna", variant.dna), ("protein", variant.protein)):
        path = workspace.layout.table(domain, f"{name}_embeddings", shard)
        require_table(path, require={"frames": frames, "encoder": encoders[alphabet]})
        contents[alphabet], dims[alphabet] = content_digest(path), vector_dim(read_schema(path))
    made = {"frames": frames, "encoders": encoders, "embeddings": contents, "dims": dims}
    return {"table": "features", **made, **workspace.frame_rule(domain).provenance}


def _composition_provenance(
    workspace: Workspace, domain: Domain, shard: str, variant: Variant, encoders: Mapping[str, Mapping[str, str]]
) -> dict[str, Any]:
    """What the k-mer baseline's features follow from: the chunks, and the labels of a reference."""
    plan, chunks = planned_shard(workspace, domain, shard), workspace.layout.table(domain, CHUNKS, shard)
    require_table(chunks, chunks_schema(), chunks_provenance(plan))
    return {
        "table": "features",
        "chunks": content_digest(chunks),
        "labels": _truth(plan)["labels"],
        "encoders": encoders,
        "dims": WIDTHS,
        **workspace.rule_of(variant).provenance,
    }


def predictions_provenance(features: str, classifier: str) -> Provenance:
    """What a shard's predictions follow from: content digest of the features, and digest of the weights."""
    return {"table": "predictions", "features": features, "classifier": classifier}


def serving_classifier(workspace: Workspace) -> str:
    """Digest of the weights of the serving classifier.

    Raises:
        VirnucError: there is none, or it cannot be read.
    """
    path = workspace.layout.classifier(workspace.settings.serving.variant) / CLASSIFIER_FILE
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["weights_sha256"])
    except (FileNotFoundError, ValueError, LookupError) as error:
        raise VirnucError(f"{path}: no serving classifier; run train_and_decide") from error


class Today:
    """What is missing or stale of the tables of one domain; each fingerprint is computed once."""

    def __init__(self, workspace: Workspace, domain: Domain) -> None:
        """Nothing is read yet."""
        self._workspace, self._domain = workspace, domain
        self._fingerprint = functools.cache(lambda name: encoder_fingerprint(workspace, name))

    @property
    def stages(self) -> list[str]:
        """Per-shard assets that are kept up to date, in the order in which they are made."""
        last = [PREDICTIONS] if self._domain == "samples" else []
        return [CHUNKS, FRAMES, *vectors(self._workspace.variants(self._domain)), *last]

    def is_current(self, asset: str, shard: str) -> bool:
        """Whether a shard's table is there and made from today's inputs."""
        path = self._workspace.layout.table(self._domain, asset, shard)
        try:
            current = is_made_by(path, self._provenance(asset, shard))
            if current and asset == FRAMES:
                ledger = self._workspace.layout.table(self._domain, LEDGER, shard)
                return is_made_by(ledger, ledger_provenance(self._workspace, self._domain, shard))
            return current
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
