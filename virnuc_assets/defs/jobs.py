"""The jobs: one for each phase of the work, launched by sensors, by the calendar, or by a person."""

from collections.abc import Iterable
from typing import Any

import dagster as dg

from virnuc_assets.defs.assets import finetuning, refseq
from virnuc_assets.defs.assets.accounts import LEDGER
from virnuc_assets.defs.assets.migration import DECISION
from virnuc_assets.defs.partitions import REFERENCE, SAMPLES, ShardSet
from virnuc_assets.defs.provenance import CHUNKS, FRAMES, PREDICTIONS, vectors
from virnuc_assets.defs.resources import Workspace

FETCH_JOB = "fetch_refseq"
PLAN_REFERENCE_JOB = "plan_reference"
REFERENCE_JOB = "embed_reference"
ENCODER_JOB = "embed_reference_by_"  # and an encoder's name
SAMPLE_JOB = "predict_samples"
OTHER_VARIANT_JOB = "embed_samples_for_other_variant"
PLAN_SAMPLES_JOB = "plan_samples"
PLAN_SAMPLES_OP = "samples__shard_plan"
DECISION_JOB = "train_and_decide"
DECIDE_JOB = "decide"


_PHASES = {
    FETCH_JOB: "Downloads the RefSeq release of the settings; what is there is not fetched again.",
    PLAN_REFERENCE_JOB: "Plans the catalogue into shards; new ones become partitions.",
    REFERENCE_JOB: "Frames, embeddings and features of reference shards.",
    DECISION_JOB: "The reference's ledger, split, training and evaluation of all variants, and the decision.",
    DECIDE_JOB: "The decision alone, from what is stored; NO DECISION where something is missing.",
    PLAN_SAMPLES_JOB: "Plans the files of the watched folder.",
    SAMPLE_JOB: "From a sample's records to the serving classifier's predictions and the report.",
    OTHER_VARIANT_JOB: "Embeddings and features of samples for the variant that does not serve, on demand.",
}


def build_jobs(workspace: Workspace) -> list[Any]:
    """One job a phase; within each, Dagster follows the lineage."""
    sample_stages = [CHUNKS, FRAMES, *vectors(workspace.kept_variants("samples")), PREDICTIONS]
    others = [name for name in vectors(workspace.variants("samples")) if name not in sample_stages]
    release = dg.AssetSelection.assets(refseq.RELEASE)
    selections = {
        **({FETCH_JOB: release} if workspace.settings.refseq else {}),
        PLAN_REFERENCE_JOB: dg.AssetSelection.assets(REFERENCE.key("shard_plan")),
        REFERENCE_JOB: _assets(REFERENCE, [CHUNKS, FRAMES, *vectors(workspace.kept_variants("reference"))]),
        DECISION_JOB: dg.AssetSelection.groups("classifiers", "migration") | dg.AssetSelection.assets(LEDGER),
        DECIDE_JOB: dg.AssetSelection.assets(DECISION),
        PLAN_SAMPLES_JOB: dg.AssetSelection.assets(SAMPLES.key("shard_plan")),
        SAMPLE_JOB: _assets(SAMPLES, [*sample_stages, "report"]),
        OTHER_VARIANT_JOB: _assets(SAMPLES, others),
    }
    jobs = [dg.define_asset_job(name, chosen, description=_PHASES[name]) for name, chosen in selections.items()]
    encoder_jobs = [_encoder_job(workspace, name) for name in workspace.encoder_names()]
    return [*jobs, *encoder_jobs, *finetuning.build_jobs(workspace)]


def _assets(shards: ShardSet, names: Iterable[str]) -> dg.AssetSelection:
    return dg.AssetSelection.assets(*map(shards.key, names))


def _encoder_job(workspace: Workspace, name: str) -> Any:  # noqa: ANN401  (Dagster's own type is not public)
    """The backfill of one encoder: its embeddings of the reference, and the features that hold them."""
    encoder, tuned = workspace.encoder(name), set(workspace.encoder_names()) - set(workspace.kept_encoders("reference"))
    own = [v for v in workspace.variants() if name == v.protein or (name == v.dna and v.protein not in tuned)]
    stages = [f"{name}_embeddings", *(f"{variant.name}_features" for variant in own)]
    description = f"On demand: the reference's vectors of {encoder.name}, and the features that hold them."
    selection = _assets(REFERENCE, stages)
    return dg.define_asset_job(f"{ENCODER_JOB}{name}", selection, description=description)
