"""A training that is killed: progress was seen from another process, nothing of it stays, the next one is clean."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from virnuc_assets.classifier.checkpoint import load_classifier
from virnuc_assets.defs.tracking import EXPERIMENT, REGISTERED
from virnuc_assets_tests.assets.project import Finished, Project, client_of, failures
from virnuc_assets_tests.running import until

pytest_plugins = ["virnuc_assets_tests.assets.finished"]

PROJECT = Path(__file__).parents[2]
ENDLESS = {"max_epochs": 1_000_000, "patience": 1_000_000}
CHILD = """
import sys
from pathlib import Path
from virnuc_assets_tests.assets.project import Project, failures
print(failures(Project(Path(sys.argv[1])).materialize("fastesm2_classifier")))
"""
KILLED_WHEN_REGISTERED = f"""
import os, signal
from virnuc_assets.defs.tracking import MlflowTracking
log_model = MlflowTracking.log_model
def log_and_die(*arguments):
    log_model(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)
MlflowTracking.log_model = log_and_die
{CHILD}
"""


@pytest.fixture
def project(finished: Finished, tmp_path: Path) -> Project:
    return finished.copy(tmp_path / "project", in_memory=False)


def runs_of(client: MlflowClient, status: str) -> list[Run]:
    experiment = client.get_experiment_by_name(EXPERIMENT)
    where = f"attributes.status = '{status}' and tags.variant = 'fastesm2'"
    return list(client.search_runs([experiment.experiment_id], where))


def seen_epochs(client: MlflowClient, child: subprocess.Popen[str], epochs: int) -> Run:
    """The child's run, once this process has read so many of its epochs."""
    seen: list[Run] = []

    def enough() -> bool:
        assert child.poll() is None
        for run in runs_of(client, "RUNNING"):
            history = client.get_metric_history(run.info.run_id, "validation_loss")
            assert [entry.step for entry in history] == list(range(1, len(history) + 1))
            seen.extend([run] if len(history) >= epochs else [])
        return bool(seen)

    until(enough, f"{epochs} epochs", every=0.3)
    return seen[0]


def state(project: Project, client: MlflowClient) -> dict[str, object]:
    """The classifier's files, and the registered model with its aliases."""
    folder = project.workspace.layout.classifier("fastesm2")
    model = client.get_registered_model(REGISTERED)
    versions = [version.version for version in client.search_model_versions(f"name = '{model.name}'")]
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    return {"files": files, "aliases": dict(model.aliases), "versions": versions}


def scratch(project: Project) -> list[str]:
    return [path.name for path in project.workspace.layout.classifier("x").parent.glob("*.rows")]


def test_a_killed_training_leaves_what_was_there_and_the_next_one_is_clean(project: Project) -> None:
    client = client_of(project)
    before = state(project, client)
    finished_runs = {run.info.run_id for run in runs_of(client, "FINISHED")}
    project.configure(training=ENDLESS)
    command = [sys.executable, "-c", CHILD, str(project.root)]
    with subprocess.Popen(command, cwd=PROJECT, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
        killed = seen_epochs(client, child, 3).info.run_id
        assert len(scratch(project)) == 1
        child.send_signal(signal.SIGKILL)
    assert child.returncode == -signal.SIGKILL
    assert state(project, client) == before
    assert [run.info.run_id for run in runs_of(client, "RUNNING")] == [killed]

    project.configure(training={"max_epochs": 2})
    assert failures(project.materialize("fastesm2_classifier")) == []
    assert scratch(project) == []
    assert runs_of(client, "RUNNING") == []
    assert [run.info.run_id for run in runs_of(client, "KILLED")] == [killed]
    (fresh,) = {run.info.run_id for run in runs_of(client, "FINISHED")} - finished_runs
    after = state(project, client)
    assert after["files"] != before["files"]
    assert after["aliases"] == before["aliases"]
    newest = max(client.search_model_versions(f"name = '{REGISTERED}'"), key=lambda version: int(version.version))
    assert newest.run_id == fresh


def test_a_classifier_is_registered_before_it_serves(project: Project) -> None:
    """Killed in between, the registry knows one that nobody sees; what serves is always registered."""
    client = client_of(project)
    before, layout = state(project, client), project.workspace.layout
    project.configure(training={"seed": 1, "max_epochs": 2})
    command = [sys.executable, "-c", KILLED_WHEN_REGISTERED, str(project.root)]
    child = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert child.returncode == -signal.SIGKILL, child.stderr
    after = state(project, client)
    published = {name: content for name, content in after["files"].items() if not name.endswith(".partial")}
    assert (published, after["aliases"]) == (before["files"], before["aliases"])
    assert len(after["versions"]) == len(before["versions"]) + 1
    (killed,) = runs_of(client, "RUNNING")

    assert failures(project.materialize("fastesm2_classifier", "fastesm2_evaluation")) == []
    assert runs_of(client, "RUNNING") == []
    assert client.get_run(killed.info.run_id).info.status == "KILLED"
    digest = load_classifier(layout.classifier("fastesm2"))[1].weights_sha256
    tracking = project.defs.resources["tracking"]
    trained = client.get_run(tracking.find_training(digest))
    assert client.get_model_version(REGISTERED, tracking.version_of(digest)).run_id == trained.info.run_id
    assert "test_accuracy" in trained.data.metrics
    assert trained.info.status == "FINISHED"
