"""The job `check_environment`: what its step's metadata shows, and what makes it fail."""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path

import dagster as dg
import pytest
import torch

from virnuc_assets.defs.jobs import check_environment_job
from virnuc_assets.defs.resources import Workspace
from virnuc_assets.settings import Settings
from virnuc_assets_tests.assets.project import Finished, Project, failures

pytest_plugins = ["virnuc_assets_tests.assets.finished"]


def run(workspace: Workspace) -> dg.ExecuteInProcessResult:
    with dg.DagsterInstance.ephemeral() as instance:
        return check_environment_job(workspace).execute_in_process(instance=instance, raise_on_error=False)


def test_the_metadata_shows_host_device_versions_and_the_store(finished: Finished) -> None:
    workspace = finished.workspace
    before = sorted(workspace.layout.results.iterdir())
    (event,) = (each for each in run(workspace).all_events if each.event_type == dg.DagsterEventType.STEP_OUTPUT)
    found = {name: entry.value for name, entry in event.step_output_data.metadata.items()}
    shown = {"host": platform.node(), "GPUs": str(torch.cuda.device_count()), "python": platform.python_version()}
    shown |= {name: version(name) for name in ("torch", "dagster", "transformers")}
    assert found == {**found, **shown, "results": str(workspace.layout.results)}
    assert found["results store"].startswith("written and read back in ")
    assert sorted(workspace.layout.results.iterdir()) == before


def test_a_store_that_cannot_be_written_fails_the_step(tmp_path: Path) -> None:
    workspace = Workspace(Settings(root=tmp_path))
    workspace.layout.results.parent.mkdir()
    workspace.layout.results.write_text("a file, not a folder")
    (text,) = failures(run(workspace))
    assert f"the results store {workspace.layout.results} cannot be written and read: [Errno 17] File exists" in text


def test_what_the_doctor_refuses_fails_the_step(copied: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    (copied.workspace.layout.checkpoints / "esm2_3b_miniature/config.json").unlink()
    (event,) = (each for each in run(copied.workspace).all_events if each.is_step_failure)
    assert "esm2_3b_miniature: " in str(event.step_failure_data.user_failure_data)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    copied.configure(encoding={"device": "cuda"})
    assert "device = 'cuda' is set, but torch finds no GPU" in failures(run(copied.workspace))[0]
