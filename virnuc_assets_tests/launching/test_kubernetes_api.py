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
from virnuc_assets_tests.launching.kubernetes_pods import Image, Pod
from virnuc_assets_tests.running import until

SECRET = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"word": "hidden"}}


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    image = Image(tmp_path, {"PATH": os.environ["PATH"], "FROM_IMAGE": "image", "OVERRIDDEN": "image"})
    with Cluster(tmp_path / "cluster", {"busybox": image}) as made:
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


def test_a_pod_has_the_variables_of_its_image_and_what_it_refers_to_and_no_others(cluster: Cluster) -> None:
    word = {"secretKeyRef": {"name": "s", "key": "word"}}
    variables = [{"name": "OVERRIDDEN", "value": "pod"}, {"name": "REFERRED", "valueFrom": word}]
    asked = {"env": variables, "envFrom": [{"secretRef": {"name": "s"}}]}
    absent = run(cluster, job("too-soon", "env", asked))
    until(lambda: absent.ended, "its end", every=0.01)
    assert "('Secret', 's'), which is not there" in cluster.refused[0]
    cluster.give(SECRET)
    pod = run(cluster, job("j", "env", asked))
    until(lambda: status("j").succeeded == 1, "success", every=0.01)
    log = client.CoreV1Api().read_namespaced_pod_log(pod.name, NAMESPACE, _preload_content=False).data.decode()
    told = {line.partition("=")[0]: line.partition("=")[2] for line in log.splitlines()}
    shells_own = {"PWD", "SHLVL", "_", "OLDPWD", "PATH"}
    assert {key: value for key, value in told.items() if key not in shells_own} == {
        **{"FROM_IMAGE": "image", "OVERRIDDEN": "pod", "REFERRED": "hidden", "word": "hidden", "HOSTNAME": pod.name},
    }


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
