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
    assert not any(_lives(pod) for pod in made.pods_seen)


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


def test_a_pod_has_the_variables_of_its_image_and_what_it_refers_to_and_no_others(cluster: Cluster) -> None:
    cluster.give(SECRET)
    word = {"secretKeyRef": {"name": "s", "key": "word"}}
    variables = [{"name": "OVERRIDDEN", "value": "pod"}, {"name": "REFERRED", "valueFrom": word}]
    pod = run(cluster, job("j", "env", {"env": variables, "envFrom": [{"secretRef": {"name": "s"}}]}))
    until(lambda: status("j").succeeded == 1, "success", every=0.01)
    log = client.CoreV1Api().read_namespaced_pod_log(pod.name, NAMESPACE, _preload_content=False).data.decode()
    told = {line.partition("=")[0]: line.partition("=")[2] for line in log.splitlines()}
    shells_own = {"PWD", "SHLVL", "_", "OLDPWD", "PATH"}
    assert {key: value for key, value in told.items() if key not in shells_own} == {
        **{"FROM_IMAGE": "image", "OVERRIDDEN": "pod", "REFERRED": "hidden", "word": "hidden", "HOSTNAME": pod.name},
    }


@pytest.mark.parametrize(
    ("container", "pod", "reason"),
    [
        ({"envFrom": [{"secretRef": {"name": "s"}}]}, {}, "CreateContainerConfigError"),
        ({}, {"volumes": [{"name": "v", "secret": {"secretName": "s"}}]}, "FailedMount"),
    ],
)
def test_a_pod_starts_when_what_it_refers_to_is_there(
    cluster: Cluster, container: dict[str, Any], pod: dict[str, Any], reason: str
) -> None:
    waiting = run(cluster, job("j", "true", container, **pod))
    until(lambda: events(waiting) == [reason], "an event", every=0.01)
    assert (waiting.phase, status("j").active) == ("Pending", 1)
    cluster.give(SECRET)
    until(lambda: status("j").succeeded == 1, "success", every=0.01)


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
    [(ONE_GPU, {}), ({"resources": {"limits": {GPU: "2"}}}, ON_GPU), ({}, {"nodeSelector": {"zone": "b"}})],
)
def test_a_pod_that_fits_nowhere_waits(cluster: Cluster, container: dict[str, Any], pod: dict[str, Any]) -> None:
    waiting = run(cluster, job("j", "true", container, **pod))
    until(lambda: events(waiting) == ["FailedScheduling"], "an event", every=0.01)
    assert waiting.node is None


def test_a_failed_pod_is_followed_by_others_up_to_the_limit(cluster: Cluster) -> None:
    manifest = job("j", "exit 3")
    manifest["spec"]["backoffLimit"] = 1
    pod = run(cluster, manifest)
    until(lambda: status("j").failed == 2, "two failures", every=0.01)
    assert status("j").conditions[0].type == "Failed"
    assert pod.object["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 3


def test_a_job_that_is_deleted_leaves_its_pods_unless_told_otherwise(cluster: Cluster) -> None:
    left, gone = (run(cluster, job(name, "sleep 60")) for name in ("left", "gone"))
    until(lambda: _lives(left) and _lives(gone), "both pods", every=0.01)
    client.BatchV1Api().delete_namespaced_job("left", NAMESPACE)
    client.BatchV1Api().delete_namespaced_job("gone", NAMESPACE, propagation_policy="Background")
    until(lambda: cluster.pods() == [left], "the end of the other", every=0.01)
    assert (_lives(left), _lives(gone)) == (True, False)
    client.CoreV1Api().delete_namespaced_pod(left.name, NAMESPACE)
    until(lambda: cluster.pods() == [], "the end of both", every=0.01)
    assert not _lives(left)


def test_a_pod_that_will_not_end_is_killed_with_all_that_it_started(cluster: Cluster) -> None:
    pod = run(cluster, job("j", "trap '' TERM; (trap '' TERM; sleep 60) & echo up; while :; do sleep 60; done"))
    until(lambda: "up" in pod.log.read_text() if pod.log.exists() else False, "the trap", every=0.01)
    client.CoreV1Api().delete_namespaced_pod(pod.name, NAMESPACE)
    until(lambda: cluster.pods() == [], "the end", every=0.01)
    until(lambda: not _lives(pod), "the end of what was killed", patience=10, every=0.01)


def test_no_pod_outlives_the_cluster(cluster: Cluster) -> None:
    pod = run(cluster, job("j", "trap '' TERM; sleep 60 & while :; do sleep 60; done"))
    until(lambda: _lives(pod), "the pod", every=0.01)
    cluster.close()
    until(lambda: not _lives(pod), "the end of what was killed", patience=10, every=0.01)


def test_what_a_pod_owns_goes_with_it_and_what_is_over_goes_in_time(cluster: Cluster) -> None:
    owner = run(cluster, job("owner", "sleep 60"))
    owned = job("owned", "sleep 60")
    uid = owner.object["metadata"]["uid"]
    owned["metadata"]["ownerReferences"] = [{"apiVersion": "v1", "kind": "Pod", "name": owner.name, "uid": uid}]
    child = run(cluster, owned)
    client.BatchV1Api().delete_namespaced_job("owner", NAMESPACE, propagation_policy="Foreground")
    until(lambda: cluster.pods() == [], "the end of both", every=0.01)
    assert not _lives(child)
    soon = job("soon", "true")
    soon["spec"]["ttlSecondsAfterFinished"] = 0
    run(cluster, soon)
    until(lambda: not client.BatchV1Api().list_namespaced_job(NAMESPACE).items, "its removal", every=0.01)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"containers": [{"name": "main", "image": "busybox", "colour": "red"}]}, "Additional properties"),
        ({"containers": [{"image": "busybox"}]}, "'name' is a required property"),
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


def _lives(pod: Pod) -> bool:
    """Whether anything of the pod's process group is left."""
    if pod.process is None:
        return False
    states = (path.read_text().rpartition(")")[2].split() for path in Path("/proc").glob("[0-9]*/stat"))
    return any(int(fields[2]) == pod.process.pid and fields[0] != "Z" for fields in states)
