"""Runs and steps as pods of the stand-in, launched in every way: what each pod asks for, and what it makes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from dagster import DagsterEventType

from virnuc_assets.defs.partitions import REFERENCE
from virnuc_assets_tests.assets.project import Project
from virnuc_assets_tests.launching import kubernetes_values
from virnuc_assets_tests.launching.kubernetes_deployment import (
    GPU_KIND,
    STAGES,
    ZONE,
    Deployment,
    wait_until_finished,
)
from virnuc_assets_tests.launching.kubernetes_pods import GPU, Pod
from virnuc_assets_tests.launching.platform import PATHS, told

pytestmark = pytest.mark.kubernetes
pytest_plugins = ["virnuc_assets_tests.assets.finished", "virnuc_assets_tests.launching.kubernetes_fixtures"]

TOLERATION = {"key": GPU, "operator": "Exists", "effect": "NoSchedule"}
EMBEDDING = "reference__dnabert_s_embeddings"


@dataclass(frozen=True)
class Launched:
    """Runs of the deployment, all finished: by launch path, and the one of three shards with steps of all kinds."""

    by_path: Mapping[str, str]
    of_three: str


@pytest.fixture(scope="module")
def launched(deployment: Deployment) -> Launched:
    """The run of three shards goes on while the schedule's minute is awaited."""
    keys, instance = deployment.project.keys(REFERENCE), deployment.project.instance
    _forget_tables(deployment.project, keys[:3])
    of_three = deployment.launch(STAGES, keys[:3])
    paths = [path for path in PATHS if path != "automation"]
    launched = deployment.platform.launch_by(dict(zip(paths, keys[3:], strict=False)))
    by_path = {path: run() for path, run in launched.items()}
    wait_until_finished(instance, of_three, *by_path.values())
    by_path["automation"] = deployment.platform.launch_by({"automation": keys[-1]})["automation"]()
    wait_until_finished(instance, by_path["automation"])
    return Launched(by_path, of_three)


def test_every_launch_path_asks_for_a_gpu_for_the_embedding_and_for_nothing_else(
    launched: Launched, deployment: Deployment, tell: Callable[[str], None]
) -> None:
    runs = [*launched.by_path.items(), ("three shards", launched.of_three)]
    tell(f"{'launch path':12} | {'kubernetes':33} | request")
    for path, run_id in runs:
        assert deployment.platform.status(run_id) == "SUCCESS", (path, told(deployment.platform, run_id))
        pods = deployment.pods_of(run_id)
        assert [_request(pod) for pod in pods if _step(pod) == EMBEDDING] == [f"{GPU}: 1, tolerated"], path
        assert {_request(pod) for pod in pods if _step(pod) != EMBEDDING} == {"none"}, path
        for pod in pods:
            tell(f"{path:12} | {_step(pod):33} | {_request(pod)}")
    assert set(launched.by_path) == {"ui", "schedule", "sensor", "backfill", "automation"}
    assert deployment.cluster.unknown == []
    assert deployment.cluster.refused == []


def test_what_the_values_say_arrives_in_every_pod(launched: Launched, deployment: Deployment) -> None:
    pods = [pod for run in (launched.of_three, *launched.by_path.values()) for pod in deployment.pods_of(run)]
    code, launcher = kubernetes_values.deployment(), kubernetes_values.launcher_config()
    for pod in pods:
        spec, container = pod.object["spec"], pod.container
        assert container["image"] == kubernetes_values.image_name()
        assert container["imagePullPolicy"] == "IfNotPresent"
        assert spec["securityContext"] == launcher["run_k8s_config"]["pod_spec_config"]["securityContext"]
        assert container["securityContext"] == launcher["run_k8s_config"]["container_config"]["securityContext"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert {frozenset(mount.items()) for mount in container["volumeMounts"]} == {
            frozenset(mount.items()) for mount in code["volumeMounts"]
        }
        assert spec["volumes"] == code["volumes"]
        assert {"secretRef": {"name": "virnuc-secrets"}} in container["envFrom"]
        assert [entry["valueFrom"] for entry in container["env"] if entry["name"] == "DAGSTER_PG_PASSWORD"] == [
            {"secretKeyRef": {"name": "virnuc-postgres", "key": "postgresql-password"}}
        ]
        assert "of Dagster's database" not in str(pod.object)
        on_gpu = _step(pod) == EMBEDDING
        assert spec["nodeSelector"] == ({**ZONE, **GPU_KIND} if on_gpu else ZONE)
        assert pod.node == ("gpu-1" if on_gpu else "cpu-1")


def test_pods_of_runs_ask_for_little_and_steps_for_what_the_settings_say(
    launched: Launched, deployment: Deployment
) -> None:
    (run_pod,) = deployment.pods_of(launched.of_three, "run_worker")
    assert run_pod.container["resources"] == kubernetes_values.deployment()["resources"]
    settings = deployment.project.settings.launch
    requests = {"cpu": settings.step_cpu, "memory": settings.step_memory}
    for pod in deployment.pods_of(launched.of_three, "step_worker"):
        resources = pod.container["resources"]
        assert resources["requests"] == requests
        assert {**resources["limits"], GPU: None} == {"memory": settings.step_memory, GPU: None}


def test_steps_of_a_run_go_one_at_a_time_and_so_do_all_that_need_the_gpu(
    launched: Launched, deployment: Deployment
) -> None:
    types = {DagsterEventType.STEP_WORKER_STARTING, DagsterEventType.STEP_SUCCESS}
    told = deployment.project.instance.all_logs(launched.of_three, of_type=types)
    assert [entry.dagster_event.event_type for entry in told if entry.dagster_event] == [
        *(DagsterEventType.STEP_WORKER_STARTING, DagsterEventType.STEP_SUCCESS) * len(STAGES)
    ]
    runs = (launched.of_three, *launched.by_path.values())
    on_gpu = [pod for run_id in runs for pod in deployment.pods_of(run_id) if pod.gpus]
    assert len(on_gpu) == len(runs)
    spans = sorted(pod.ran for pod in on_gpu if pod.ran)
    assert all(end <= start for (_, end), (start, _) in pairwise(spans)), spans


def test_check_environment_asks_kubernetes_for_a_gpu(deployment: Deployment) -> None:
    run_id = deployment.platform.launch("check_environment")
    wait_until_finished(deployment.project.instance, run_id)
    assert deployment.platform.status(run_id) == "SUCCESS", told(deployment.platform, run_id)
    assert "written and read back in" in told(deployment.platform, run_id)
    assert {_step(pod): _request(pod) for pod in deployment.pods_of(run_id)} == {
        "(run)": "none",
        "report_environment": f"{GPU}: 1, tolerated",
    }


def _step(pod: Pod) -> str:
    return pod.labels.get("dagster/op", "(run)")


def _request(pod: Pod) -> str:
    """What a pod asks of GPUs, for the table."""
    resources: dict[str, Any] = pod.container["resources"]
    requests = resources.get("requests", {}).get(GPU)
    limit = resources.get("limits", {}).get(GPU, requests)
    tolerated = TOLERATION in pod.object["spec"].get("tolerations", [])
    return f"{GPU}: {limit}, {'tolerated' if tolerated else 'not tolerated'}" if limit or tolerated else "none"


def _paths(project: Project, keys: list[str]) -> list[Path]:
    layout = project.workspace.layout
    return [layout.table("reference", stage, key) for stage in STAGES for key in keys]


def _forget_tables(project: Project, keys: list[str]) -> None:
    for path in _paths(project, keys):
        path.unlink(missing_ok=True)
