"""The stand-in for the API of Kubernetes, asked by the real client: what a launcher notices is as in a cluster."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client, config
from kubernetes.client.rest import ApiException

from virnuc_assets_tests.launching.kubernetes_api import NAMESPACE, Cluster
from virnuc_assets_tests.launching.kubernetes_pods import GPU, Image, Node, Pod
from virnuc_assets_tests.running import until

SECRET = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"word": "hidden"}}
ON_GPU = {"tolerations": [{"key": GPU, "operator": "Exists", "effect": "NoSchedule"}]}
ONE_GPU = {"resources": {"limits": {GPU: "1"}}}


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    nodes = (Node("cpu-1", labels={"zone": "a"}), Node("gpu-1", gpus=1, taints=(GPU,)))
    image = Image(tmp_path, {"PATH": os.environ["PATH"], "FROM_IMAGE": "image", "OVERRIDDEN": "image"})
    with Cluster(tmp_path / "cluster", nodes, {"busybox": image}) as made:
        config.load_kube_config(str(made.kubeconfig))
        yield made
    assert not any(pod.lives for pod in made.pods_seen)


def job(name: str, script: str, container: Mapping[str, Any] | None = None, **pod: Any) -> dict[str, Any]:
    """A job whose pod runs a shell script."""
    only = {"name": "main", "image": "busybox", "command": ["sh", "-c"], "args": [script], **(container or {})}
    spec = {"restartPolicy": "Never", "containers": [only], "terminationGracePeriodSeconds": 1, **pod}
    template = {"metadata": {"labels": {"app": name}}, "spec": spec}
    return {
        **{"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}},
        "spec": {"backoffLimit": 0, "template": template},
    }


def run(cluster: Cluster, manifest: dict[str, Any]) -> Pod:
    """Create a job; its first pod, as soon as it is there."""
    client.BatchV1Api().create_namespaced_job(NAMESPACE, manifest)
    name = manifest["metadata"]["name"]

    def pods() -> list[Pod]:
        return [pod for pod in cluster.pods_seen if pod.labels["job-name"] == name]

    until(lambda: bool(pods()), "a pod", every=0.01)
    return pods()[0]


def status(name: str) -> client.V1JobStatus:
    return client.BatchV1Api().read_namespaced_job_status(name, NAMESPACE).status


def events(pod: Pod) -> list[str]:
    listed = client.CoreV1Api().list_namespaced_event(NAMESPACE, field_selector=f"involvedObject.name={pod.name}")
    return [event.reason for event in listed.items]


def test_a_pod_starts_when_what_it_refers_to_is_there_and_has_its_variables(cluster: Cluster) -> None:
    word = {"secretKeyRef": {"name": "s", "key": "word"}}
    variables = [{"name": "OVERRIDDEN", "value": "pod"}, {"name": "REFERRED", "valueFrom": word}]
    pod = run(cluster, job("j", "env", {"env": variables, "envFrom": [{"secretRef": {"name": "s"}}]}))
    until(lambda: events(pod) == ["CreateContainerConfigError"], "an event", every=0.01)
    assert (pod.phase, status("j").active) == ("Pending", 1)
    cluster.give(SECRET)
    until(lambda: status("j").succeeded == 1, "success", every=0.01)
    log = client.CoreV1Api().read_namespaced_pod_log(pod.name, NAMESPACE, _preload_content=False).data.decode()
    told = {line.partition("=")[0]: line.partition("=")[2] for line in log.splitlines()}
    shells_own = {"PWD", "SHLVL", "_", "OLDPWD", "PATH"}
    assert {key: value for key, value in told.items() if key not in shells_own} == {
        **{"FROM_IMAGE": "image", "OVERRIDDEN": "pod", "REFERRED": "hidden", "word": "hidden", "HOSTNAME": pod.name},
    }


def test_a_gpu_is_one_pods_at_a_time(cluster: Cluster, tmp_path: Path) -> None:
    first = run(cluster, job("one", "until [ -e go ]; do sleep 0.05; done", ONE_GPU, **ON_GPU))
    second = run(cluster, job("two", "true", ONE_GPU, **ON_GPU))
    until(lambda: events(second) == ["FailedScheduling"], "an event", every=0.01)
    (tmp_path / "go").touch()
    until(lambda: status("two").succeeded == 1, "success", every=0.01)
    assert first.ran
    assert second.ran
    assert first.ran[1] <= second.ran[0]
    assert [first.node, second.node] == ["gpu-1", "gpu-1"]


@pytest.mark.parametrize(
    ("container", "pod"),
    [(ONE_GPU, {}), ({}, {"nodeSelector": {"zone": "b"}})],
)
def test_a_pod_that_fits_nowhere_waits(cluster: Cluster, container: dict[str, Any], pod: dict[str, Any]) -> None:
    waiting = run(cluster, job("j", "true", container, **pod))
    until(lambda: events(waiting) == ["FailedScheduling"], "an event", every=0.01)
    assert waiting.node is None


def test_pods_end_with_all_that_they_started_when_they_or_their_owner_are_deleted(cluster: Cluster) -> None:
    stubborn = "trap '' TERM; (trap '' TERM; sleep 60) & while :; do sleep 60; done"
    left, owner = (run(cluster, job(name, stubborn)) for name in ("left", "owner"))
    owned = job("owned", "sleep 60")
    reference = {"apiVersion": "v1", "kind": "Pod", "name": owner.name, "uid": owner.object["metadata"]["uid"]}
    owned["metadata"]["ownerReferences"] = [reference]
    child = run(cluster, owned)
    until(lambda: left.lives and owner.lives and child.lives, "all pods", every=0.01)
    client.BatchV1Api().delete_namespaced_job("left", NAMESPACE)  # a job alone leaves its pods
    client.BatchV1Api().delete_namespaced_job("owner", NAMESPACE, propagation_policy="Background")
    until(lambda: cluster.pods() == [left], "the end of the others", every=0.01)
    until(lambda: not (owner.lives or child.lives), "the end of what was killed", patience=10, every=0.01)
    assert left.lives
    client.CoreV1Api().delete_namespaced_pod(left.name, NAMESPACE)
    until(lambda: not left.lives, "the end", patience=10, every=0.01)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"containers": [{"name": "main", "image": "busybox", "colour": "red"}]}, "Additional properties"),
        ({"restartPolicy": "Always"}, "neither Never nor OnFailure"),
        ({"containers": [{"name": "m", "resources": {"limits": {"memory": "much"}}}]}, "'much' is no quantity"),
    ],
)
def test_invalid_objects_are_refused_and_told(cluster: Cluster, change: dict[str, Any], said: str) -> None:
    with pytest.raises(ApiException) as caught:
        client.BatchV1Api().create_namespaced_job(NAMESPACE, job("j", "true", **change))
    assert caught.value.status == 422
    assert said in caught.value.body
    assert len(cluster.refused) == 1
    assert cluster.jobs_seen == []


def test_what_is_there_twice_or_not_at_all_is_told_as_a_cluster_does(cluster: Cluster) -> None:
    run(cluster, job("j", "true"))
    calls = {
        409: lambda: client.BatchV1Api().create_namespaced_job(NAMESPACE, job("j", "true")),
        404: lambda: client.BatchV1Api().read_namespaced_job_status("other", NAMESPACE),
    }
    for code, call in calls.items():
        with pytest.raises(ApiException) as caught:
            call()
        assert caught.value.status == code
    assert cluster.unknown == []
