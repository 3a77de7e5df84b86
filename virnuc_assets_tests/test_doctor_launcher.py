"""`virnuc doctor --launcher`: a real run by the configured launcher, what it saw, and what is wrong with it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from virnuc_assets.bootstrap import dagster_home
from virnuc_assets.doctor_launcher import examine_launcher
from virnuc_assets.errors import VirnucError
from virnuc_assets.launcher_probe import LIBRARIES, differences, here
from virnuc_assets_tests.assets.project import Project, new_project
from virnuc_assets_tests.loopback import answering
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


def test_results_in_a_store_that_is_away_are_told(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    for name, value in {**environment, "AWS_MAX_ATTEMPTS": "1", "AWS_DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(name, value)
    project.configure(paths={"results": "s3://bucket/away"})
    with pytest.raises(VirnucError, match=r"^s3://bucket/away/\w+: EndpointConnectionError: Could not connect"):
        examine_launcher(project.workspace, dagster_home(project.settings), 1, print)


class Forbidding(BaseHTTPRequestHandler):
    """An API of Kubernetes that knows its caller and lets it do nothing."""

    def do_POST(self) -> None:
        self.send_error(403, "Forbidden", "jobs.batch is forbidden: this service account may not create jobs")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def forbidding() -> Iterator[str]:
    with answering(ThreadingHTTPServer(("127.0.0.1", 0), Forbidding)) as server:
        yield f"http://127.0.0.1:{server.server_port}"


@pytest.mark.kubernetes
def test_a_launcher_that_may_not_launch_is_told(project: Project, forbidding: str) -> None:
    context = {"name": "here", "context": {"cluster": "here", "user": "me"}}
    kubeconfig = {"contexts": [context], "users": [{"name": "me", "user": {}}], "current-context": "here"}
    kubeconfig["clusters"] = [{"name": "here", "cluster": {"server": forbidding}}]
    (project.root / "kubeconfig").write_text(yaml.safe_dump(kubeconfig))
    config = {"load_incluster_config": False, "kubeconfig_file": str(project.root / "kubeconfig"), "job_image": "x"}
    config |= {"service_account_name": "s", "instance_config_map": "m", "dagster_home": "/home"}
    described = {"run_launcher": {"module": "dagster_k8s", "class": "K8sRunLauncher", "config": config}}
    home = dagster_home(project.settings)
    (home / "dagster.yaml").write_text(yaml.safe_dump(described))
    expected = "^K8sRunLauncher did not launch a run: .*this service account may not create jobs"
    with pytest.raises(VirnucError, match=re.compile(expected, re.DOTALL)):
        examine_launcher(project.workspace, home, 1, print)
    assert list(project.workspace.layout.results.glob(".*")) == []


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
