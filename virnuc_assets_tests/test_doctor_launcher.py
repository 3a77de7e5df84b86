"""`virnuc doctor --launcher`: a real run by the configured launcher, what it saw, and what is wrong with it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from virnuc_assets.bootstrap import dagster_home
from virnuc_assets.doctor_launcher import examine_launcher
from virnuc_assets.errors import VirnucError
from virnuc_assets.launcher_probe import LIBRARIES, differences, here
from virnuc_assets_tests.assets.project import Project, new_project
from virnuc_assets_tests.running import CHECKOUT

pytest_plugins = ["virnuc_assets_tests.assets.finished"]


@pytest.fixture
def project(blank: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    project = new_project(tmp_path / "project", blank, in_memory=False)
    project.configure()
    monkeypatch.chdir(project.root)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(CHECKOUT), os.environ.get("PYTHONPATH", "")]))
    yield project


def test_a_step_that_the_launcher_launched_tells_what_it_sees(project: Project) -> None:
    told: list[str] = []
    facts, problems = examine_launcher(project.workspace, dagster_home(project.settings), 120, told.append)
    assert problems == []
    assert len(told) == 1
    assert told[0].endswith("of check_launcher by LocalRunLauncher, for at most 120 s")
    own = here(project.workspace)
    assert {name: facts[f"launched: {name}"] for name in own} == own
    assert facts["launched: results"] == "the same"
    assert facts["launcher"] == "LocalRunLauncher"
    left = [path.name for path in project.workspace.layout.results.glob(".*")]
    assert left == []
    (run,) = project.instance.get_runs()
    assert run.job_name == "check_launcher"
    project.instance.dispose()


def test_a_deployment_without_a_home_or_a_store_is_told(project: Project) -> None:
    home = dagster_home(project.settings)
    with pytest.raises(VirnucError, match="no dagster.yaml; run `virnuc setup`"):
        examine_launcher(project.workspace, home / "other", 1, print)
    project.configure(tracking={"uri": "http://127.0.0.1:9"})
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    try:
        with pytest.raises(VirnucError, match="http://127.0.0.1:9: MLflow's store does not answer"):
            examine_launcher(project.workspace, home, 1, print)
    finally:
        del os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"]


def test_each_difference_is_told_with_its_remedy(project: Project) -> None:
    own = here(project.workspace)
    seen = {**own, "results": "the same"}
    assert differences(project.workspace, own, seen, True, False) == []
    for library in LIBRARIES:
        other = {**seen, library: "0.0"}
        told = f"{library}: {own[library]} here, 0.0 where runs go; install constraints.txt on both"
        assert differences(project.workspace, own, other, True, False) == [told]
    (others,) = differences(project.workspace, own, {**seen, "results": "others"}, True, False)
    assert "see other results, or cannot write there; share that folder" in others
    (silent,) = differences(project.workspace, own, seen, False, False)
    assert silent == others
    (blind,) = differences(project.workspace, own, {**seen, "gpus": "0"}, True, True)
    assert "asked for a GPU, and finds none" in blind
    assert differences(project.workspace, own, {**seen, "gpus": "1"}, True, True) == []
