"""Runs and steps as pods of the stand-in: what each asks for and makes, and what is left where one is killed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from dagster import DagsterEventType

from virnuc_assets.defs.partitions import REFERENCE
from virnuc_assets_tests.assets.project import Project, failures
from virnuc_assets_tests.launching import kubernetes_values
from virnuc_assets_tests.launching.kubernetes_deployment import (
    GPU_KIND,
    STAGES,
    ZONE,
    Deployment,
    wait_until_finished,
)
from virnuc_assets_tests.launching.kubernetes_pods import GPU, Pod
from virnuc_assets_tests.launching.platform import PATHS, events_of
from virnuc_assets_tests.running import until

pytestmark = pytest.mark.kubernetes
pytest_plugins = ["virnuc_assets_tests.assets.finished", "virnuc_assets_tests.launching.kubernetes_deployment"]

TOLERATION = {"key": GPU, "operator": "Exists", "effect": "NoSchedule"}
EMBEDDING = "reference__dnabert_s_embeddings"


@dataclass(frozen=True)
class Launched:
    """Runs of the deployment, all finished: by launch path, and the one of three shards with steps of all kinds."""

    by_path: Mapping[str, str]
    of_three: str


@pytest.fixture(scope="module")
def launched(deployment: Deployment) -> Launched:
    """The run of three shards continues while the schedule's minute is awaited."""
    keys, instance = deployment.project.keys(REFERENCE), deployment.project.instance
    for path in _tables(deployment.project, keys[:3]).values():
        path.unlink(missing_ok=True)
    of_three = deployment.launch(STAGES, keys[:3])
    paths = [path for path in PATHS if path != "automation"]
    launched = deployment.platform.launch_by(dict(zip(paths, keys[3:], strict=False)))
    by_path = {path: run() for path, run in launched.items()}
    wait_until_finished(instance, of_three, *by_path.values())
    by_path["automation"] = deployment.platform.launch_by({"automation": keys[-1]})["automation"]()
    wait_until_finished(instance, by_path["automation"])
    return Launched(by_path, of_three)


def test_every_launch_path_asks_for_a_gpu_for_the_embedding_and_for_nothing_else(
    launched: Launched, deployment: Deployment, report_line: Callable[[str], None]
) -> None:
    runs = [*launched.by_path.items(), ("three shards", launched.of_three)]
    report_line(f"{'launch path':12} | {'kubernetes':33} | request")
    for path, run_id in runs:
        assert deployment.platform.status(run_id) == "SUCCESS", (path, events_of(deployment.platform, run_id))
        pods = deployment.pods_of(run_id)
        assert [_request(pod) for pod in pods if _step(pod) == EMBEDDING] == [f"{GPU}: 1, tolerated"], path
        assert {_request(pod) for pod in pods if _step(pod) != EMBEDDING} == {"none"}, path
        for pod in pods:
            report_line(f"{path:12} | {_step(pod):33} | {_request(pod)}")
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
    (run_pod,) = deployment.pods_of(launched.of_three, "run_worker")
    assert run_pod.container["resources"] == code["resources"]
    settings = deployment.project.settings.launch
    for pod in deployment.pods_of(launched.of_three, "step_worker"):
        resources = pod.container["resources"]
        assert resources["requests"] == {"cpu": settings.step_cpu, "memory": settings.step_memory}
        assert {**resources["limits"], GPU: None} == {"memory": settings.step_memory, GPU: None}


def test_steps_of_a_run_go_one_at_a_time_and_so_do_all_that_need_the_gpu(
    launched: Launched, deployment: Deployment
) -> None:
    types = {DagsterEventType.STEP_WORKER_STARTING, DagsterEventType.STEP_SUCCESS}
    logs = deployment.project.instance.all_logs(launched.of_three, of_type=types)
    assert [entry.dagster_event.event_type for entry in logs if entry.dagster_event] == [
        *(DagsterEventType.STEP_WORKER_STARTING, DagsterEventType.STEP_SUCCESS) * len(STAGES)
    ]
    runs = (launched.of_three, *launched.by_path.values())
    assert len([pod for run_id in runs for pod in deployment.pods_of(run_id) if pod.gpus]) == len(runs)
    spans = sorted(_embedding_span(deployment, run_id) for run_id in runs)
    assert all(end <= start for (_, end), (start, _) in pairwise(spans)), spans


def _embedding_span(deployment: Deployment, run_id: str) -> tuple[float, ...]:
    """When the embedding began and succeeded. The pool's place is free at the success; the pod ends a little later."""
    types = {DagsterEventType.STEP_START, DagsterEventType.STEP_SUCCESS}
    logs = deployment.project.instance.all_logs(run_id, of_type=types)
    return tuple(entry.timestamp for entry in logs if entry.step_key == EMBEDDING)


def test_tables_are_the_same_byte_for_byte_as_those_of_one_process(
    launched: Launched, deployment: Deployment, framed: Project, tmp_path: Path
) -> None:
    keys, alone = framed.keys(REFERENCE)[:3], framed.copy(tmp_path / "alone", in_memory=False)
    for path in (found := _tables(alone, keys)).values():
        path.unlink(missing_ok=True)
    assert failures(alone.materialize(*map(REFERENCE.key, STAGES), partition=(keys[0], keys[-1]))) == []
    made = _tables(deployment.project, keys)
    assert {name: path.read_bytes() for name, path in made.items()} == {n: p.read_bytes() for n, p in found.items()}


CONFIG = "dagster-k8s/config"
FRAMING = ("chunked_fasta", "translated_proteins")


def test_a_canceled_run_leaves_no_pod(deployment: Deployment) -> None:
    run_id = deployment.launch(["esm2_3b_embeddings"], deployment.project.keys(REFERENCE)[:1])
    step = deployment.running_pod(run_id, "step_worker")
    deployment.platform.terminate(run_id)
    until(lambda: deployment.platform.status(run_id) == "CANCELED", "cancellation")
    until(lambda: not {*deployment.cluster.pods()} & {*deployment.pods_of(run_id)}, "the end of the pods")
    pods = deployment.pods_of(run_id)
    assert len(pods) == 2
    assert step in pods
    assert not any(pod.lives for pod in pods)


def test_a_run_whose_pod_is_killed_is_retried_and_what_its_step_still_makes_is_used(deployment: Deployment) -> None:
    """The step does not know of its run's death; it continues until it learns that the run was failed, or ends."""
    keys, layout = deployment.project.keys(REFERENCE), deployment.project.workspace.layout
    orphaned, left = ([layout.table("reference", stage, key) for key in keys] for stage in FRAMING)
    for path in (*orphaned, *left):
        path.unlink()
    run_id = deployment.launch(FRAMING, keys)
    step, worker = (deployment.running_pod(run_id, kind) for kind in ("step_worker", "run_worker"))
    until(lambda: orphaned[0].exists(), "the first table", every=0.005)
    worker.kill()
    until(lambda: step.ended, "the orphaned step")
    made = {path: path.stat().st_mtime_ns for path in orphaned if path.exists()}
    assert not any(path.exists() for path in left)
    assert deployment.platform.succeeds(run_id) == ["FAILURE", "SUCCESS"]
    assert {path: path.stat().st_mtime_ns for path in made} == made
    assert all(path.exists() for path in (*orphaned, *left))
    assert "K8s job has no active pods" in events_of(deployment.platform, run_id)


def test_a_run_whose_step_is_killed_is_retried_and_finished_shards_are_not_made_again(deployment: Deployment) -> None:
    keys, layout = deployment.project.keys(REFERENCE), deployment.project.workspace.layout
    tables = [layout.table("reference", "esm2_3b_embeddings", key) for key in keys]
    run_id = deployment.launch(["esm2_3b_embeddings"], keys)
    step = deployment.running_pod(run_id, "step_worker")
    until(lambda: tables[0].exists(), "the first table", every=0.005)
    step.kill()
    finished = {path: path.stat().st_mtime_ns for path in tables if path.exists()}
    until(lambda: step.phase == "Failed", "the pod's end")
    assert deployment.platform.succeeds(run_id) == ["FAILURE", "SUCCESS"]
    assert all(path.exists() for path in tables)
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert len(finished) < len(tables), "the step was killed too late for this test to show anything"


@pytest.mark.parametrize(
    ("container", "reason"),
    [
        ({"livenessProbe": {"httpGet": {"port": []}}}, "port: [] is not valid under any of the given schemas"),
        ({"volumeMounts": [{"name": "nowhere", "mountPath": "/x"}]}, "is no volume of the pod"),
    ],
)
def test_a_hostile_tag_fails_its_run_with_the_reason_and_leaves_nothing(
    container: dict[str, object], reason: str, deployment: Deployment
) -> None:
    key = deployment.project.keys(REFERENCE)[0]
    run_id = deployment.launch(["chunked_fasta"], [key], **{CONFIG: json.dumps({"container_config": container})})
    wait_until_finished(deployment.project.instance, run_id)
    assert deployment.platform.status(run_id) == "FAILURE"
    assert reason in events_of(deployment.platform, run_id)
    assert deployment.pods_of(run_id) == []
    assert deployment.platform.taken_slots() == 0


def _step(pod: Pod) -> str:
    return pod.labels.get("dagster/op", "(run)")


def _request(pod: Pod) -> str:
    """What a pod asks of GPUs, for the table."""
    resources: dict[str, Any] = pod.container["resources"]
    requests = resources.get("requests", {}).get(GPU)
    limit = resources.get("limits", {}).get(GPU, requests)
    tolerated = TOLERATION in pod.object["spec"].get("tolerations", [])
    return f"{GPU}: {limit}, {'tolerated' if tolerated else 'not tolerated'}" if limit or tolerated else "none"


def _tables(project: Project, keys: list[str]) -> dict[str, Path]:
    layout = project.workspace.layout
    return {f"{stage} {key}": layout.table("reference", stage, key) for stage in STAGES for key in keys}
