"""The jobs: one for each phase of the work, launched by sensors, by the calendar, or by a person."""

from typing import Any

import dagster as dg

from virnuc_assets.assets import finetuning, refseq
from virnuc_assets.assets.accounts import LEDGER
from virnuc_assets.assets.finetuning import asset_name
from virnuc_assets.assets.migration import DECISION
from virnuc_assets.partitions import REFERENCE, SAMPLES
from virnuc_assets.resources import Workspace

FETCH_JOB = "fetch_refseq"
PLAN_REFERENCE_JOB = "plan_reference"
REFERENCE_JOB = "embed_reference"
ENCODER_JOB = "embed_reference_by_"  # and an encoder's name
SAMPLE_JOB = "predict_samples"
OTHER_VARIANT_JOB = "embed_samples_for_other_variant"
REPORT_JOB = "report_samples"
PLAN_SAMPLES_JOB = "plan_samples"
PLAN_SAMPLES_OP = "samples__shard_plan"
DECISION_JOB = "train_and_decide"
DECIDE_JOB = "decide"


_PHASES = {
    FETCH_JOB: "Downloads the RefSeq release of the settings; what is there is not fetched again.",
    PLAN_REFERENCE_JOB: "Plans the catalogue into shards; new ones become partitions.",
    REFERENCE_JOB: "Frames, embeddings and features of reference shards.",
    DECISION_JOB: "The reference's ledger, split, training and evaluation of all variants, and the decision.",
    DECIDE_JOB: "The decision alone, from what lies on disk; NO DECISION where something is missing.",
    PLAN_SAMPLES_JOB: "Plans the files of the watched folder.",
    SAMPLE_JOB: "From a sample's shards to the serving classifier's predictions.",
    OTHER_VARIANT_JOB: "Embeddings and features of samples for the variant that does not serve, on demand.",
    REPORT_JOB: "What a sample's user receives.",
}


def build_jobs(workspace: Workspace) -> list[Any]:
    """One job a phase; within each, Dagster follows the lineage."""
    serving = workspace.variant(workspace.settings.serving.variant)
    sample_stages = (
        "chunked_fasta",
        "translated_proteins",
        f"{serving.dna}_embeddings",
        f"{serving.protein}_embeddings",
        f"{serving.name}_features",
        "predictions",
    )
    on_demand = [f"{variant.name}_features" for variant in workspace.variants("samples") if variant != serving]
    others = [name for name in workspace.encoder_names("samples") if name not in (serving.dna, serving.protein)]
    on_demand += [f"{name}_embeddings" for name in others]
    tuned = _tuned(workspace)
    of_tuned = [f"{name}_embeddings" for name in workspace.encoder_names() if name in tuned]
    of_tuned += [f"{variant.name}_features" for variant in workspace.variants() if variant.protein in tuned]
    plans = {shards.domain: dg.AssetSelection.assets(shards.key("shard_plan")) for shards in (REFERENCE, SAMPLES)}
    release = dg.AssetSelection.assets(refseq.RELEASE) if workspace.settings.refseq else dg.AssetSelection.assets()
    selections = {
        **({FETCH_JOB: release} if workspace.settings.refseq else {}),
        PLAN_REFERENCE_JOB: plans["reference"],
        REFERENCE_JOB: dg.AssetSelection.key_prefixes("reference")
        - plans["reference"]
        - release
        - dg.AssetSelection.assets(*map(REFERENCE.key, of_tuned)),  # made by a job of their own, after fine-tuning
        DECISION_JOB: dg.AssetSelection.groups("classifiers", "migration") | dg.AssetSelection.assets(LEDGER),
        DECIDE_JOB: dg.AssetSelection.assets(DECISION),
        PLAN_SAMPLES_JOB: plans["samples"],
        SAMPLE_JOB: dg.AssetSelection.assets(*map(SAMPLES.key, sample_stages)),
        OTHER_VARIANT_JOB: dg.AssetSelection.assets(*map(SAMPLES.key, on_demand)),
        REPORT_JOB: dg.AssetSelection.assets(SAMPLES.key("report")),
    }
    jobs = [dg.define_asset_job(name, chosen, description=_PHASES[name]) for name, chosen in selections.items()]
    encoder_jobs = [_encoder_job(workspace, name) for name in workspace.encoder_names()]
    return [*jobs, *encoder_jobs, *finetuning.build_jobs(workspace)]


def _encoder_job(workspace: Workspace, name: str) -> Any:  # noqa: ANN401  (Dagster's own type is not public)
    """The backfill of one encoder: its embeddings of the reference, and the features that hold them."""
    encoder, tuned = workspace.encoder(name), _tuned(workspace)
    own = [v for v in workspace.variants() if name == v.protein or (name == v.dna and v.protein not in tuned)]
    stages = [f"{name}_embeddings", *(f"{variant.name}_features" for variant in own)]
    description = f"On demand: the reference's vectors of {encoder.name}, and the features that hold them."
    selection = dg.AssetSelection.assets(*map(REFERENCE.key, stages))
    return dg.define_asset_job(f"{ENCODER_JOB}{name}", selection, description=description)


def _tuned(workspace: Workspace) -> list[str]:
    """Encoders that are fine-tuned on demand: what is made of them is made by their own job."""
    return [asset_name(name) for name in workspace.settings.finetuning.encoders]
