"""The job `check_environment`: what its step's metadata shows, and what makes it fail."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import torch

from virnuc_assets.defs.environment import LIBRARIES, check_environment_job
from virnuc_assets.defs.resources import Workspace
from virnuc_assets.settings import Settings


def run(workspace: Workspace) -> dg.ExecuteInProcessResult:
    with dg.DagsterInstance.ephemeral() as instance:
        return check_environment_job(workspace).execute_in_process(instance=instance, raise_on_error=False)


def shown(metadata: Mapping[str, dg.MetadataValue[Any]]) -> dict[str, Any]:
    return {name: value.value for name, value in metadata.items()}


def failure(result: dg.ExecuteInProcessResult) -> tuple[str, dict[str, Any]]:
    """Description and metadata of the failed step."""
    (event,) = (event for event in result.all_events if event.is_step_failure)
    told = event.step_failure_data.user_failure_data
    assert told is not None
    return str(told.description), shown(told.metadata)


def test_the_metadata_shows_host_device_versions_and_the_store(tmp_path: Path) -> None:
    workspace = Workspace(Settings(root=tmp_path))
    result = run(workspace)
    assert result.success
    (event,) = (event for event in result.all_events if event.event_type == dg.DagsterEventType.STEP_OUTPUT)
    found = shown(event.step_output_data.metadata)
    assert found["host"] == platform.node()
    assert found["GPUs"] == torch.cuda.device_count()
    assert found["device"].startswith("cuda (" if found["GPUs"] else "cpu (")
    assert found["Python"].startswith(platform.python_version())
    assert {library: found[library] for library in LIBRARIES} == {library: version(library) for library in LIBRARIES}
    assert found["results"] == str(workspace.layout.results)
    assert found["results store"].startswith("written and read back in 0.")
    assert list(workspace.layout.results.iterdir()) == []


def test_a_folder_that_cannot_be_written_fails_the_step(tmp_path: Path) -> None:
    workspace = Workspace(Settings(root=tmp_path))
    workspace.layout.results.parent.mkdir()
    workspace.layout.results.write_text("a file, not a folder")
    description, facts = failure(run(workspace))
    store = f"the results store {workspace.layout.results}"
    assert f"{platform.node()}: {store} cannot be written and read: [Errno 17] File exists" in description
    assert facts["host"] == platform.node()


def test_a_gpu_that_the_settings_require_and_is_absent_fails_the_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    settings = Settings.model_validate({"root": tmp_path, "encoding": {"device": "cuda"}})
    description, facts = failure(run(Workspace(settings)))
    assert "the step asks for a GPU ([encoding] device = 'cuda'), but torch finds none" in description
    assert facts["GPUs"] == 0
