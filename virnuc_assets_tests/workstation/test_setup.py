"""Set-up makes what is missing, changes nothing that is there, and what lacks it says so."""

import hashlib
import json
import shutil
from pathlib import Path

import dagster as dg
import mlflow
import pytest

from virnuc_assets.defs.tracking import EXPERIMENT
from virnuc_assets.errors import VirnucError
from virnuc_assets.settings import load_settings
from virnuc_assets.workstation.setup import (
    dagster_home,
    mlflow_folder,
    mlflow_page,
    require_set_up,
    set_up,
    size_gpu_pool,
    tracking_uri,
)
from virnuc_assets_tests.assets.project import Project, new_project, quiet

pytest_plugins = ["virnuc_assets_tests.assets.finished"]


@pytest.fixture
def fresh(blank: Path, tmp_path: Path) -> Project:
    return new_project(tmp_path / "project", blank, samples={"flu": ["fluA_PB2"]})


def contents(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_set_up_makes_home_store_experiment_and_checkpoints(blank: Path) -> None:
    settings = load_settings(blank)
    assert settings.incoming.is_dir()
    experiment = mlflow.MlflowClient(tracking_uri(settings)).get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    assert experiment.artifact_location == (mlflow_folder(settings) / "artifacts").as_uri()
    address = f"{settings.servers.mlflow_url}/#/experiments/{experiment.experiment_id}/runs"
    assert mlflow_page(settings) == f"{address}?workflowType=machine_learning&viewStateShareKey=trainings"
    folders = {path.name for path in (settings.var / "checkpoints").iterdir() if path.is_dir()}
    assert folders == {"dnabert_s_miniature", "fastesm2_650_miniature", "esm2_3b_miniature"}


def test_a_second_set_up_makes_what_is_missing_and_changes_nothing_else(fresh: Project) -> None:
    before = contents(fresh.root)
    shutil.rmtree(fresh.workspace.layout.checkpoints / "fastesm2_650_miniature")
    logged: list[str] = []
    with quiet():
        set_up(fresh.settings, logged.append)
    assert contents(fresh.root) == before
    assert [line.split(" ")[0] for line in logged] == [*["encoder"] * 3, "Dagster", "MLflow"]
    assert f"encoder esm2_3b_miniature: {fresh.workspace.layout.checkpoints / 'esm2_3b_miniature'}" in logged


def test_a_store_that_was_made_before_gets_its_kind_and_its_columns(fresh: Project) -> None:
    client = mlflow.MlflowClient(tracking_uri(fresh.settings))
    found = client.get_experiment_by_name(EXPERIMENT)
    assert found is not None
    assert found.tags["mlflow.experimentKind"] == "custom_model_development"
    columns = json.loads(found.tags["mlflow.sharedViewState.trainings"])["selectedColumns"]
    assert {"attributes.`Models`", "metrics.`test_accuracy`", "metrics.`test_auroc`"} <= set(columns)
    for name in found.tags:
        client.delete_experiment_tag(found.experiment_id, name)
    with quiet():
        set_up(fresh.settings, lambda _: None)
    assert client.get_experiment_by_name(EXPERIMENT).tags == found.tags


@pytest.mark.parametrize("artifacts", [None, "our models"])
def test_the_store_of_a_moved_project_is_corrected_once(fresh: Project, tmp_path: Path, artifacts: str | None) -> None:
    """With a folder inside the project as `[tracking] artifacts`, too; whatever its name."""
    if artifacts:
        shutil.rmtree(mlflow_folder(fresh.settings))
        fresh.configure(tracking={"artifacts": artifacts})
        with quiet():
            set_up(fresh.settings, lambda step: None)
    moved = Project(fresh.root.rename(tmp_path / "moved here"), in_memory=True)
    former, now = ((root / (artifacts or "var/mlflow/artifacts")).as_uri() for root in (fresh.root, moved.root))
    logged: list[str] = []
    require_set_up(moved.settings, logged.append)
    require_set_up(moved.settings, logged.append)
    (line,) = logged
    assert line.endswith(f"mlflow.db: this project was moved or copied; models are now in {now}, were in {former}")
    experiment = mlflow.MlflowClient(tracking_uri(moved.settings)).get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    assert experiment.artifact_location == now


def test_other_artifacts_in_the_settings_are_refused(fresh: Project) -> None:
    """Nobody knows whether the models are there."""
    fresh.configure(tracking={"artifacts": "elsewhere"})
    with quiet(), pytest.raises(VirnucError, match=r"elsewhere; the project was moved or copied, or \[tracking\] chan"):
        set_up(fresh.settings, lambda step: None)


def test_a_project_without_set_up_is_refused(fresh: Project) -> None:
    require_set_up(fresh.settings, lambda step: None)
    for missing in (dagster_home(fresh.settings) / "dagster.yaml", mlflow_folder(fresh.settings) / "mlflow.db"):
        content = missing.read_bytes()
        missing.unlink()
        with pytest.raises(
            VirnucError, match=f"not set up for the profile miniature: no {missing}; run `virnuc setup`"
        ):
            require_set_up(fresh.settings, lambda step: None)
        missing.write_bytes(content)


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
