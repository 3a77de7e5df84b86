"""The jobs, one for each phase of the work."""

import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import dagster as dg

from virnuc_assets.defs.assets import finetuning, refseq
from virnuc_assets.defs.assets.migration import DECISION
from virnuc_assets.defs.assets.sequences import REFERENCE_LEDGER
from virnuc_assets.defs.assets.shards import PLAN
from virnuc_assets.defs.launchers.steps import GPU_POOL, gpu_op_tags
from virnuc_assets.defs.partitions import REFERENCE, SAMPLES, ShardSet
from virnuc_assets.defs.provenance import stages, vectors
from virnuc_assets.defs.resources import Workspace
from virnuc_assets.errors import VirnucError
from virnuc_assets.storage.atomic import atomic_write

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
    """One job a phase, launched by sensors or by a person; within each, Dagster follows the lineage."""
    of_reference, of_samples = (stages(each, workspace.kept_variants(each)) for each in ("reference", "samples"))
    selections = {
        PLAN_REFERENCE_JOB: _of(REFERENCE, [PLAN]),
        REFERENCE_JOB: _of(REFERENCE, of_reference),
        DECISION_JOB: dg.AssetSelection.groups("classifiers", "migration") | dg.AssetSelection.assets(REFERENCE_LEDGER),
        DECIDE_JOB: dg.AssetSelection.assets(DECISION),
        PLAN_SAMPLES_JOB: _of(SAMPLES, [PLAN]),
        SAMPLE_JOB: _of(SAMPLES, of_samples),
        OTHER_VARIANT_JOB: _of(SAMPLES, [n for n in vectors(workspace.variants("samples")) if n not in of_samples]),
    }
    if workspace.settings.refseq:
        selections[FETCH_JOB] = dg.AssetSelection.assets(refseq.RELEASE)
    jobs = [dg.define_asset_job(name, chosen, description=_PHASES[name]) for name, chosen in selections.items()]
    encoder_jobs = [_encoder_job(workspace, name) for name in workspace.encoder_names()]
    return [*jobs, *encoder_jobs, *finetuning.build_jobs(workspace), check_environment_job(workspace)]


def _of(shards: ShardSet, names: Iterable[str]) -> dg.AssetSelection:
    return dg.AssetSelection.assets(*map(shards.key, names))


def _encoder_job(workspace: Workspace, name: str) -> Any:  # noqa: ANN401  (Dagster's own type is not public)
    """The backfill of one encoder: its embeddings of the reference, and the features that hold them."""
    encoder, tuned = workspace.encoder(name), set(workspace.encoder_names()) - set(workspace.kept_encoders("reference"))
    own = [v for v in workspace.variants() if name == v.protein or (name == v.dna and v.protein not in tuned)]
    names = [f"{name}_embeddings", *(f"{variant.name}_features" for variant in own)]
    description = f"On demand: the reference's vectors of {encoder.name}, and the features that hold them."
    return dg.define_asset_job(f"{ENCODER_JOB}{name}", _of(REFERENCE, names), description=description)


def check_environment_job(workspace: Workspace) -> dg.JobDefinition:
    """What `virnuc doctor` shows and the results store's answer, in a step that is placed as an embedding step is."""

    @dg.op(out=dg.Out(dg.Nothing), pool=GPU_POOL, tags=gpu_op_tags(workspace.settings))
    def report_environment(context: dg.OpExecutionContext) -> None:
        """Fails where `virnuc doctor` does, or where the results store cannot be used."""
        from virnuc_assets.workstation.setup import examine

        path = workspace.layout.results / f".check_environment.{context.run_id}"
        found, problems = examine(workspace)
        facts = {name: str(value) for name, value in found.items()}
        try:
            answer = _store_answer(path)
        except VirnucError as error:
            problems.append(str(error))
        if problems:
            raise dg.Failure("\n".join(problems), metadata=facts)
        context.add_output_metadata({**facts, "results": str(path.parent), "results store": answer})

    @dg.job(description="Shows host, device, versions and the results store's answer, as an embedding step finds them.")
    def check_environment() -> None:
        report_environment()

    return check_environment


def _store_answer(path: Path) -> str:
    """Write a small file, read it back and delete it."""
    text, start = path.name, time.monotonic()
    try:
        with atomic_write(path) as partial:
            partial.write_text(text, encoding="utf-8")
        if (found := path.read_text(encoding="utf-8")) != text:
            raise OSError(f"expected {text!r}, found {found!r}")
        path.unlink()
    except OSError as error:  # what the client of an object store raises says enough
        raise VirnucError(
            f"the results store {path.parent} cannot be written and read: {error}. Make that folder writable for user "
            f"{os.getuid()}, or correct [paths] results."
        ) from error
    return f"written and read back in {time.monotonic() - start:.3f} s"
