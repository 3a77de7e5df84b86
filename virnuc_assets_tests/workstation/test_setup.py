"""Set-up makes what is missing, changes nothing that is there, and what lacks it says so."""

import hashlib
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import mlflow
import pytest

from virnuc_assets.defs.partitions import SAMPLES
from virnuc_assets.defs.tracking import EXPERIMENT, MlflowTracking
from virnuc_assets.errors import VirnucError
from virnuc_assets.settings import Settings, load_settings
from virnuc_assets.workstation.setup import dagster_home, mlflow_folder, set_up, size_gpu_pool, tracking_uri
from virnuc_assets_tests.assets.project import Project, failures, new_project, quiet

pytest_plugins = ["virnuc_assets_tests.assets.finished"]


@pytest.fixture
def fresh(blank: Path, tmp_path: Path) -> Iterator[Project]:
    project = new_project(tmp_path / "project", blank, samples={"flu": ["fluA_PB2"]})
    yield project
    project.instance.dispose()


def contents(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def settings_of(project: Path) -> Settings:
    return load_settings(project / "virnuc.toml")


def test_set_up_makes_home_store_experiment_and_checkpoints(blank: Path) -> None:
    settings = settings_of(blank)
    assert settings.incoming.is_dir()
    experiment = mlflow.MlflowClient(tracking_uri(settings)).get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    assert experiment.artifact_location == (mlflow_folder(settings) / "artifacts").as_uri()
    folders = {path.name for path in (settings.var / "checkpoints").iterdir() if path.is_dir()}
    assert folders == {"dnabert_s_miniature", "fastesm2_650_miniature", "esm2_3b_miniature"}


def test_dagsters_home_is_quiet_and_has_one_gpu_slot(fresh: Project) -> None:
    with dg.DagsterInstance.from_config(str(dagster_home(fresh.settings))) as instance:
        assert not instance.telemetry_enabled
        assert not instance.nux_enabled
        assert instance.run_retries_enabled
        assert instance.run_monitoring_enabled
        assert instance.global_op_concurrency_default_limit == 1
        assert instance.get_dynamic_partitions("reference_shards") == []


def test_a_second_set_up_makes_what_is_missing_and_changes_nothing_else(fresh: Project) -> None:
    store = mlflow_folder(fresh.settings)
    with sqlite3.connect(store / "mlflow.db") as connection:  # it is that of the project it was copied from
        connection.execute("UPDATE experiments SET artifact_location = ?", [(store / "artifacts").as_uri()])
    connection.close()
    before = contents(fresh.root)
    shutil.rmtree(fresh.workspace.layout.checkpoints / "fastesm2_650_miniature")
    told: list[str] = []
    with quiet():
        set_up(fresh.settings, told.append)
    assert contents(fresh.root) == before
    assert [line.split(" ")[0] for line in told] == [*["encoder"] * 5, "Dagster", "MLflow"]
    assert f"encoder esm2_3b_miniature: {fresh.workspace.layout.checkpoints / 'esm2_3b_miniature'}" in told


def test_a_store_that_writes_into_another_project_is_refused(fresh: Project) -> None:
    with quiet(), pytest.raises(VirnucError, match="the project was moved or copied"):
        set_up(fresh.settings, lambda step: None)


def test_the_pool_has_a_slot_for_each_gpu_of_this_machine(fresh: Project) -> None:
    def limit() -> int:
        info = instance.event_log_storage.get_concurrency_info("gpu")
        return info.limit or 0

    with dg.DagsterInstance.from_config(str(dagster_home(fresh.settings))) as instance:
        assert [size_gpu_pool(instance, gpus) for gpus in (0, 1)] == [False, False]
        assert limit() == 1  # by default
        assert size_gpu_pool(instance, 4)
        assert limit() == 4
        assert not size_gpu_pool(instance, 2)  # somebody's own limit stays
        assert limit() == 4


def test_a_missing_experiment_is_told_with_its_remedy(fresh: Project) -> None:
    client = mlflow.MlflowClient(tracking_uri(fresh.settings))
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    client.rename_experiment(experiment.experiment_id, "of_somebody_else")
    tracking = MlflowTracking(uri=tracking_uri(fresh.settings), server_url="")
    with pytest.raises(VirnucError, match=f"experiment '{EXPERIMENT}' is missing; run `virnuc setup`"):
        tracking.find_training("0" * 64)


def test_a_missing_checkpoint_fails_the_embeddings_with_its_remedy(fresh: Project) -> None:
    stages = [SAMPLES.key(name) for name in ("chunked_fasta", "translated_proteins")]
    assert failures(fresh.job("plan_samples")) == []
    assert failures(fresh.materialize(*stages, partition="flu")) == []
    shutil.rmtree(fresh.workspace.layout.checkpoints / "dnabert_s_miniature")
    (told,) = failures(fresh.materialize(SAMPLES.key("dnabert_s_embeddings"), partition="flu"))
    assert "CheckpointMissingError: dnabert_s_miniature: no checkpoint in" in told
    assert "run `virnuc setup --encoder dnabert_s_miniature`" in told
    assert not fresh.workspace.layout.table("samples", "dnabert_s_embeddings", "flu-000001").exists()
    assert failures(fresh.materialize(SAMPLES.key("fastesm2_650_embeddings"), partition="flu")) == []
