"""Pods of the stand-in that are killed, canceled or refused: what Dagster makes of it, and what is left."""

from __future__ import annotations

import json
import os

import psutil
import pytest

from virnuc_assets.defs.partitions import REFERENCE
from virnuc_assets_tests.launching.kubernetes_deployment import Deployment, wait_until_finished
from virnuc_assets_tests.launching.kubernetes_pods import Pod
from virnuc_assets_tests.launching.platform import told
from virnuc_assets_tests.running import until

pytestmark = pytest.mark.kubernetes
pytest_plugins = ["virnuc_assets_tests.assets.finished", "virnuc_assets_tests.launching.kubernetes_fixtures"]

CONFIG = "dagster-k8s/config"
FRAMING = ("chunked_fasta", "translated_proteins")


def test_a_canceled_run_leaves_no_pod(deployment: Deployment) -> None:
    run_id = deployment.launch(["esm2_3b_embeddings"], deployment.project.keys(REFERENCE)[:1])
    step = deployment.running_pod(run_id, "step_worker")
    deployment.platform.terminate(run_id)
    until(lambda: deployment.platform.status(run_id) == "CANCELED", "cancellation")
    until(lambda: not _there(deployment, run_id), "the end of the pods", patience=60)
    pods = deployment.pods_of(run_id)
    assert len(pods) == 2
    assert step in pods
    assert not any(_lives(pod) for pod in pods)


def test_a_run_whose_pod_is_killed_is_retried_and_what_its_step_still_makes_is_used(deployment: Deployment) -> None:
    """The step does not know of its run's death, and goes on until it learns that the run was failed, or to its end."""
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
    assert "K8s job has no active pods" in told(deployment.platform, run_id)


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
    assert len(finished) < len(tables), "the step was killed too late for this test to tell anything"


@pytest.mark.parametrize(
    ("container", "reason"),
    [
        ({"livenessProbe": {"httpGet": {"port": []}}}, "port: [] is not valid under any of the given schemas"),
        ({"volumeMounts": [{"name": "nowhere", "mountPath": "/x"}]}, "is no volume of the pod"),
        ({"privileged": True}, "Unexpected keys in model class V1Container: {'privileged'}"),
    ],
)
def test_a_hostile_tag_fails_its_run_with_the_reason_and_leaves_nothing(
    container: dict[str, object], reason: str, deployment: Deployment
) -> None:
    key = deployment.project.keys(REFERENCE)[0]
    run_id = deployment.launch(["chunked_fasta"], [key], **{CONFIG: json.dumps({"container_config": container})})
    wait_until_finished(deployment.project.instance, run_id)
    assert deployment.platform.status(run_id) == "FAILURE"
    assert reason in told(deployment.platform, run_id)
    assert deployment.pods_of(run_id) == []
    assert deployment.platform.taken_slots() == 0


def _there(deployment: Deployment, run_id: str) -> list[Pod]:
    return [pod for pod in deployment.cluster.pods() if pod in deployment.pods_of(run_id)]


def _lives(pod: Pod) -> bool:
    """Whether anything of a pod's processes is left."""
    assert pod.process is not None
    group = pod.process.pid
    there = [process for process in psutil.process_iter(["status"]) if process.info["status"] != psutil.STATUS_ZOMBIE]
    return any(_group_of(process) == group for process in there)


def _group_of(process: psutil.Process) -> int | None:
    try:
        return os.getpgid(process.pid)
    except ProcessLookupError:
        return None
