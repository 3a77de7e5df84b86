"""A fine-tuned encoder in the graph: killed and continued, embedded, trained on, judged; refused where it leaks."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

pytest.importorskip("peft")


from virnuc_assets.definitions import build_defs
from virnuc_assets.defs import jobs
from virnuc_assets.defs.assets.finetuning import JOB
from virnuc_assets.defs.partitions import REFERENCE
from virnuc_assets.defs.provenance import Today, stages, variant_fingerprints
from virnuc_assets.defs.resources import Workspace
from virnuc_assets.defs.tracking import EXPERIMENT, TRAINING_TAG
from virnuc_assets.encoders.checkpoints import FINETUNING_FILE, CheckpointMissingError, find_checkpoint, folder_digest
from virnuc_assets.settings import Settings
from virnuc_assets.storage.tables import read_provenance, read_table
from virnuc_assets_tests.assets.judging import judged
from virnuc_assets_tests.assets.project import Finished, Project, client_of, failures

pytest_plugins = ["virnuc_assets_tests.assets.finished"]

CHECKOUT = Path(__file__).parents[2]
ENCODER = "finetuned_fastesm2_650"
CHECKPOINT = f"{ENCODER}_miniature"
TUNED: dict[str, dict[str, Any]] = {
    "finetuning": {"encoders": ["fastesm2_650"], "learning_rate": 2e-3, "max_epochs": 3, "max_rows": 64},
    "variants": {"tuned": {"dna": "dnabert_s", "protein": ENCODER}},
    "decision": {"also_compared": ["tuned"]},
}
EPOCH = 4  # batches of 16 rows
KILLED_AT = 2 * EPOCH
CHILD = """
import os, signal, sys
from pathlib import Path
import dagster as dg
from virnuc_assets.defs.partitions import REFERENCE, register
from virnuc_assets.defs.tracking import MlflowTracking
from virnuc_assets_tests.assets.project import Project

class Killed(MlflowTracking):
    def log_epoch(self, epoch, metrics):
        super().log_epoch(epoch, metrics)
        if epoch == int(sys.argv[2]) and "validation_loss" in metrics:
            os.kill(os.getpid(), signal.SIGKILL)

project = Project(Path(sys.argv[1]), in_memory=True)
register(project.instance, REFERENCE, sys.argv[4:])
given = project.defs.resources["tracking"]
dg.materialize(
    project.defs.assets,
    selection=dg.AssetSelection.assets(sys.argv[3]),
    instance=project.instance,
    resources={"tracking": Killed(uri=given.uri, server_url=given.server_url, dagster_url=given.dagster_url)},
)
"""


@pytest.fixture(scope="module")
def tuned(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The finished project with an encoder whose fine-tuning was killed and continued, and a variant on it."""
    project = finished.copy(tmp_path_factory.mktemp("tuned") / "project")
    project.configure(**TUNED)
    child = [sys.executable, "-c", CHILD, str(project.root), str(KILLED_AT), ENCODER, *project.keys(REFERENCE)]
    killed = subprocess.run(child, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    project.results = [project.job(f"{JOB}fastesm2_650")]
    project.results += project.run_shards(f"{jobs.ENCODER_JOB}{ENCODER}", REFERENCE)
    project.results.append(project.materialize("tuned_classifier", "tuned_evaluation"))
    assert failures(*project.results) == []
    return project


def folder_of(project: Project) -> Path:
    return project.workspace.layout.checkpoints / CHECKPOINT


def facts_of(project: Project) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((folder_of(project) / FINETUNING_FILE).read_text())
    return facts


def finetuned(result: dg.ExecuteInProcessResult) -> dg.AssetMaterialization:
    (event,) = result.asset_materializations_for_node(ENCODER)
    return event


def check_of(result: dg.ExecuteInProcessResult) -> dg.AssetCheckEvaluation:
    (check,) = (c for c in result.get_asset_check_evaluations() if c.check_name == "no_test_record_was_read")
    return check


def test_metrics_are_in_mlflow_while_it_runs_and_a_killed_run_is_continued(tuned: Finished) -> None:
    """What a process logged before it was killed was there without its end."""
    client = client_of(tuned)
    experiment = client.get_experiment_by_name(EXPERIMENT).experiment_id
    runs = client.search_runs(
        [experiment], f"tags.`{TRAINING_TAG}` = 'miniature/{CHECKPOINT}'", order_by=["start_time"]
    )
    assert [run.info.status for run in runs] == ["KILLED", "FINISHED"]
    steps = [
        {name: [one.step for one in client.get_metric_history(run.info.run_id, name)] for name in run.data.metrics}
        for run in runs
    ]
    ends = range(EPOCH, 3 * EPOCH + 1, EPOCH)
    assert steps[0]["validation_loss"] == steps[0]["validation_auroc"] == [0, *ends[:2]]
    assert steps[0]["training_loss"] == list(range(1, KILLED_AT + 1))
    assert steps[1]["validation_loss"] == list(ends[1:])  # after the checkpoint of the first epoch
    facts = facts_of(tuned)
    assert (facts["resumed_from_step"], facts["steps"]) == (EPOCH, ends[-1])
    assert facts["provenance"]["mlflow_run"] == runs[1].info.run_id
    assert runs[1].data.params["learning_rate"] == "0.002"
    event = finetuned(tuned.results[0])
    metadata = {name: value.value for name, value in event.metadata.items()}
    numbers = {
        "steps": facts["steps"],
        **{f"best_{name}": value for name, value in facts["best"].items()},
        **{f"{split}_rows": rows for split, rows in facts["rows"].items()},
    }
    assert metadata == {**metadata, **numbers, "trained": True, "folder": str(folder_of(tuned))}
    settings = {row.data["name"]: row.data["value"] for row in metadata["settings"].records}
    assert settings == {name: str(value) for name, value in facts["settings"].items()}
    assert (event.tags or {})["dagster/data_version"] == folder_digest(folder_of(tuned))


def test_its_checkpoint_is_an_encoder_and_its_variant_a_column(tuned: Finished) -> None:
    assert variant_fingerprints(tuned.workspace, tuned.workspace.variant("tuned"))["protein"] == {
        **read_provenance(table(tuned, "fastesm2_650_embeddings"))["encoder"],
        **{"encoder": CHECKPOINT, "checkpoint": "finetuned", "checkpoint_digest": folder_digest(folder_of(tuned))},
    }
    vectors = [read_table(table(tuned, f"{name}_embeddings")).column("vector") for name in (ENCODER, "fastesm2_650")]
    assert vectors[0].type == vectors[1].type and vectors[0] != vectors[1]
    assert stale(tuned) == set()
    shown = judged(tuned)["variants"]["tuned"]
    assert (shown["protein_encoder"], shown["problems"]) == (CHECKPOINT, [])
    assert shown["performance"]["levels"]["frame"]["auroc"] is not None


def stale(project: Project) -> set[str]:
    """Assets of which not every table is of today."""
    today, every = Today(project.workspace, "reference"), stages("reference", project.workspace.variants())
    keys = project.keys(REFERENCE)
    return {asset for asset in every if not all(today.is_current(asset, shard) for shard in keys)}


def table(project: Project, asset: str) -> Path:
    return project.workspace.layout.table("reference", asset, project.keys(REFERENCE)[0])


def test_a_test_record_that_was_read_is_named_and_nothing_is_trained_or_scored(tuned: Finished) -> None:
    passed, records = check_of(tuned.results[0]), facts_of(tuned)["provenance"]["records"]
    assert passed.passed
    assert {s: passed.metadata[f"{s}_records"].value for s in records} == {s: len(ids) for s, ids in records.items()}
    split = read_table(tuned.workspace.layout.whole("train_test_split")).to_pylist()
    assert {subset: set(ids) for subset, ids in records.items()} == {
        subset: {row["record_id"] for row in split if row["split"] == subset} for subset in ("train", "validation")
    }
    tested = next(row["record_id"] for row in split if row["split"] == "test")
    path = folder_of(tuned) / FINETUNING_FILE
    before, facts = path.read_text(), facts_of(tuned)
    facts["provenance"]["records"]["train"].append(tested)
    path.write_text(json.dumps(facts))
    try:
        check = check_of(tuned.materialize(ENCODER))
        refused = failures(*(tuned.materialize(f"tuned_{stage}") for stage in ("classifier", "evaluation")))
        others = failures(tuned.materialize("fastesm2_evaluation"))
    finally:
        path.write_text(before)
    assert not check.passed
    (fault,) = check.metadata["first_faults"].records  # type: ignore[union-attr]
    expected = "was read for train, and is now in test: fine-tune again"
    assert fault.data == {"where": tested, "fault": expected}
    assert others == [] and len(refused) == 2
    for text in refused:
        assert f"tuned: 1 records leak through {ENCODER}" in text and f"{tested}: was read for train" in text


def test_a_second_run_trains_nothing_and_other_settings_train_again(tuned: Finished, tmp_path: Path) -> None:
    again = finetuned(tuned.materialize(ENCODER))
    assert again.metadata["trained"].value is False
    first = finetuned(tuned.results[0])
    assert again.tags == first.tags
    project = tuned.copy(tmp_path / "project")
    project.configure(**{**TUNED, "finetuning": {**TUNED["finetuning"], "max_epochs": 1, "seed": 1}})
    made = project.materialize(ENCODER)
    assert failures(made) == []
    event = finetuned(made)
    assert (event.metadata["trained"].value, event.metadata["resumed_from_step"].value) == (True, 0)
    assert event.metadata["steps"].value == EPOCH
    assert (event.tags or {})["dagster/data_version"] != (first.tags or {})["dagster/data_version"]
    assert stale(project) == {f"{ENCODER}_embeddings", "tuned_features"}
    (refused,) = failures(project.materialize("tuned_evaluation"))
    assert f"{ENCODER}_embeddings" in refused and "encoder.checkpoint_digest: expected" in refused


FEATURES = "tuned_features"
SECTIONS = {**TUNED, "finetuning": {"encoders": ["fastesm2_650"]}}


@pytest.mark.parametrize("profile", ["miniature", "full"])
def test_without_a_checkpoint_the_encoder_says_what_makes_it(tmp_path: Path, profile: str) -> None:
    workspace = Workspace(Settings.model_validate({"root": tmp_path, "profile": profile, **SECTIONS}))
    with pytest.raises(CheckpointMissingError, match=f"materialize the asset {ENCODER}$"):
        find_checkpoint(workspace.encoder(ENCODER), workspace.layout.checkpoints)


def test_the_section_adds_its_assets_and_jobs_and_changes_no_other(tmp_path: Path) -> None:
    def graph(**sections: Any) -> tuple[dict[str, tuple[Any, ...]], dict[str, set[str]]]:
        defs = build_defs(Settings.model_validate({"root": tmp_path, **sections}))
        nodes, found = defs.resolve_asset_graph(), [job for job in defs.resolve_all_job_defs() if job.name[:2] != "__"]
        assets = {
            key.to_user_string(): (node.parent_keys, node.group_name, node.pools, {c.name for c in node.check_keys})
            for key in nodes.get_all_asset_keys()
            for node in [nodes.get(key)]
        }
        keys = {job.name: {k.to_user_string() for k in job.asset_layer.executable_asset_keys} for job in found}
        return assets, keys

    (before, jobs_before), (after, jobs_after) = graph(), graph(**SECTIONS)
    added = {f"{domain}/{name}" for domain in ("reference", "samples") for name in (f"{ENCODER}_embeddings", FEATURES)}
    assert after.keys() - before.keys() == {ENCODER, "tuned_classifier", "tuned_evaluation", *added}
    changed = {name for name, node in before.items() if after[name] != node}
    assert changed == {"ablations", "encoder_benchmark", "migration_decision"}
    parents = {dg.AssetKey(["reference", "translated_proteins"]), dg.AssetKey("train_test_split")}
    assert after[ENCODER] == (parents, "finetuning", {"gpu"}, {"no_test_record_was_read"})
    assert dg.AssetKey(ENCODER) in after[f"reference/{ENCODER}_embeddings"][0]
    own = {
        f"{JOB}fastesm2_650": {"reference_ledger", "train_test_split", ENCODER},
        f"{jobs.ENCODER_JOB}{ENCODER}": {f"reference/{ENCODER}_embeddings", f"reference/{FEATURES}"},
    }
    assert {name: found for name, found in jobs_after.items() if name not in jobs_before} == own
    more = {job for job in jobs_before if jobs_after[job] != jobs_before[job]}
    assert more == {jobs.DECISION_JOB, jobs.OTHER_VARIANT_JOB}
