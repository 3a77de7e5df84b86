"""Group `finetuning`: protein encoders fine-tuned on training records; no test record may have been read."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg

from virnuc_assets.defs.assets.sequences import REFERENCE_LEDGER
from virnuc_assets.defs.launchers.steps import GPU_POOL, gpu_op_tags
from virnuc_assets.defs.metadata import result, shown_facts
from virnuc_assets.defs.partitions import REFERENCE
from virnuc_assets.defs.provenance import FRAMES, contents, current_frames, current_split
from virnuc_assets.defs.resources import Workspace
from virnuc_assets.defs.sharded_asset import OWNERS, code_version, inputs_of, training_place, whole_result
from virnuc_assets.defs.tracking import MlflowTracking, Table
from virnuc_assets.encoders.checkpoints import (
    FINETUNING_FILE,
    CheckpointError,
    find_checkpoint,
    fingerprint,
    folder_digest,
    read_json,
)
from virnuc_assets.encoders.registry import FINETUNED, Variant
from virnuc_assets.errors import VirnucError
from virnuc_assets.storage.digests import digest_of
from virnuc_assets.storage.layout import SPLIT
from virnuc_assets.storage.tables import content_digest, read_table

GROUP = "finetuning"
JOB = "finetune_"  # and the encoder's name; Dagster refuses a job of the asset's own name


def asset_name(encoder: str) -> str:
    """Asset, and encoder, that fine-tuning an encoder makes."""
    return f"{FINETUNED}_{encoder}"


def build(workspace: Workspace) -> list[dg.AssetsDefinition]:
    """A fine-tuned checkpoint, and its check, for each encoder that the settings name."""
    return [make(workspace, name) for name in workspace.settings.finetuning.encoders for make in (_asset, _check)]


def build_jobs(workspace: Workspace) -> list[Any]:
    """A job for each: the reference's split, and the fine-tuning on it."""
    return [
        dg.define_asset_job(
            f"{JOB}{name}",
            dg.AssetSelection.assets(REFERENCE_LEDGER, SPLIT, asset_name(name)),
            description=f"On demand: fine-tunes {name} on the training records; then run "
            f"embed_reference_by_{asset_name(name)} and train_and_decide.",
        )
        for name in workspace.settings.finetuning.encoders
    ]


def _asset(workspace: Workspace, name: str) -> dg.AssetsDefinition:
    settings = workspace.settings.finetuning

    @dg.asset(
        name=asset_name(name),
        deps=[REFERENCE.key(FRAMES), SPLIT],
        group_name=GROUP,
        kinds={"pytorch", "mlflow"},
        owners=OWNERS,
        code_version=code_version("2", settings),
        pool=GPU_POOL,
        op_tags=gpu_op_tags(workspace.settings),
        description=f"{name} fine-tuned by LoRA ({settings.objective}) on training frames, stopped on validation "
        "frames, merged into a checkpoint; test frames are never read. A run that was killed continues.\n\n"
        "If its check fails, records that it read are test records by now: materialize it again.",
    )
    def finetuned(context: dg.AssetExecutionContext, tracking: MlflowTracking) -> dg.MaterializeResult[Any]:
        inputs, provenance = inputs_of(context), _todays_provenance(context.instance, workspace, name)
        folder = _folder(workspace, name)
        try:
            stored = _stored_facts(folder)
        except CheckpointError as error:
            context.log.warning(f"{error}; fine-tuning again")
            stored = None
        current = stored if stored and stored["provenance"]["digest"] == provenance["digest"] else None
        facts = current or _finetune(context, tracking, workspace, name, provenance)
        metadata = {
            "trained": current is None,
            **{key: facts[key] for key in ("steps", "resumed_from_step", "device")},
            **{f"best_{measure}": value for measure, value in facts["best"].items()},
            **{f"{split}_rows": rows for split, rows in facts["rows"].items()},
            "settings": shown_facts(facts["settings"]),
            "base": shown_facts(provenance["base"]),
            "folder": dg.MetadataValue.path(str(folder)),
            "mlflow_run": tracking.link(facts["provenance"]["mlflow_run"]),
        }
        return whole_result(inputs, folder_digest(folder), metadata)

    return finetuned


def _finetune(
    context: dg.AssetExecutionContext,
    tracking: MlflowTracking,
    workspace: Workspace,
    name: str,
    provenance: Mapping[str, Any],
) -> dict[str, Any]:
    from virnuc_assets.classifier.datasets import proteins_of_split
    from virnuc_assets.encoders.finetuning import Examples, FinetuneJob, finetune

    settings, spec = workspace.settings, workspace.encoder(name)
    base, tuned = find_checkpoint(spec, workspace.layout.checkpoints), workspace.encoder(asset_name(name))
    if base is None:
        raise VirnucError(f"{name}: no checkpoint to fine-tune")
    frames = current_frames(context.instance, workspace).values()
    split = read_table(current_split(context.instance, workspace))
    draw = partial(proteins_of_split, list(frames), split, seed=settings.finetuning.seed)
    training = f"{settings.profile}/{tuned.name}"
    tags, params = {"encoder": tuned.name}, settings.finetuning.model_dump(mode="json")
    with (
        training_place(workspace, tuned.name, context.log.info),
        tracking.training(training, tuned.name, context.run.run_id, tags, params) as run_id,
    ):
        frames_table = Table(REFERENCE.key(FRAMES).to_user_string(), provenance["frames"], "train")
        tracking.log_tables(run_id, [frames_table, Table(SPLIT, provenance["split"], "train")])
        job = FinetuneJob(
            base,
            train=Examples(*draw(split="train")),
            validation=Examples(*draw(split="validation")),
            settings=settings.finetuning,
            max_length=spec.max_length,
            provenance={**provenance, "mlflow_run": run_id},
            token_dropout=spec.token_dropout,
            device=settings.encoding.device,
        )
        work = workspace.layout.var / GROUP / tuned.name
        return finetune(job, work, _folder(workspace, name), tracking.log_epoch)


def _todays_provenance(instance: dg.DagsterInstance, workspace: Workspace, name: str) -> dict[str, Any]:
    """What a fine-tuned checkpoint follows from today, and the records that it reads, by split."""
    spec = workspace.encoder(name)
    base = fingerprint(spec, find_checkpoint(spec, workspace.layout.checkpoints), "fp32")
    split = current_split(instance, workspace)
    frames = contents(current_frames(instance, workspace))
    inputs = {"base": base, "split": content_digest(split), "frames": frames}
    settings = workspace.settings.finetuning.model_dump(mode="json", exclude={"encoders"})
    rows = read_table(split).to_pylist()
    records = {
        subset: sorted(row["record_id"] for row in rows if row["split"] == subset) for subset in ("train", "validation")
    }
    return {**inputs, "digest": digest_of({**inputs, "settings": settings}), "records": records}


def leaks(workspace: Workspace, encoder: str, split: Path) -> dict[str, list[str]]:
    """Records that fine-tuning read for one split and that are in another, or in none, today.

    Relatives are in one split; so a record that is still in the split it was read for has none among the test's. What
    was read is stored in the checkpoint, so that a copy of it that virnuc.toml names as a folder is covered, too.
    """
    folder = find_checkpoint(workspace.encoder(encoder), workspace.layout.checkpoints)
    facts = _stored_facts(folder) if folder else None
    if facts is None:
        return {}
    today = {row["record_id"]: row["split"] for row in read_table(split).to_pylist()}
    return {
        record: [f"was read for {subset}, and is now in {today.get(record) or 'no split'}: fine-tune again"]
        for subset, records in facts["provenance"]["records"].items()
        for record in records
        if today.get(record) != subset
    }


def require_no_leak(workspace: Workspace, variant: Variant, split: Path) -> None:
    """Refuse to train or score a variant whose encoder was fine-tuned on what are test records today."""
    if found := leaks(workspace, variant.protein, split):
        shown = "\n  ".join(f"{record}: {why[0]}" for record, why in list(found.items())[:5])
        raise VirnucError(f"{variant.name}: {len(found)} records leak through {variant.protein}:\n  {shown}")


def _check(workspace: Workspace, name: str) -> dg.AssetChecksDefinition:
    @dg.asset_check(asset=asset_name(name), name="no_test_record_was_read")
    def check(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        """Every record that was read is in the same split today, so that neither it nor a relative is tested."""
        faults = leaks(workspace, asset_name(name), current_split(context.instance, workspace))
        facts = _stored_facts(_folder(workspace, name)) or {}
        records = {subset: len(ids) for subset, ids in facts["provenance"]["records"].items()}
        return result(faults, train_records=records["train"], validation_records=records["validation"])

    return check


def _folder(workspace: Workspace, name: str) -> Path:
    return workspace.layout.checkpoints / workspace.encoder(asset_name(name)).name


def _stored_facts(folder: Path) -> dict[str, Any] | None:
    path = folder / FINETUNING_FILE
    return read_json(path) if path.is_file() else None
