"""What deploy/k8s and deploy/docker hold is valid, fits together, and asks for no more than it says."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dagster._config import process_config
from dagster._core.instance.config import dagster_instance_config_schema
from dagster_k8s import K8sRunLauncher
from dagster_k8s.job import DagsterK8sJobConfig

from virnuc_assets_tests.launching import kubernetes_values
from virnuc_assets_tests.launching.kubernetes_api import validate

CHECKOUT = Path(__file__).parents[2]
README = (CHECKOUT / "deploy/k8s/README.md").read_text(encoding="utf-8")
MANIFESTS = [path.name for path in sorted((CHECKOUT / "deploy/k8s").glob("*.yaml")) if path.name != "values.yaml"]


@pytest.mark.parametrize("name", MANIFESTS)
def test_manifests_are_valid_and_the_readme_applies_them(name: str) -> None:
    for manifest in kubernetes_values.manifests(name):
        validate(manifest)
    assert f"kubectl apply -f deploy/k8s/{name}" in README


def pod_specs() -> Iterator[tuple[str, dict[str, Any]]]:
    """Of our own manifests, and those that the values give to the chart and to the launcher."""
    for name in MANIFESTS:
        for manifest in kubernetes_values.manifests(name):
            if "template" in manifest["spec"]:
                yield name, manifest["spec"]["template"]["spec"]
    values, runs = kubernetes_values.values(), kubernetes_values.launcher_config()["run_k8s_config"]
    yield "runs", {**runs["pod_spec_config"], "containers": [runs["container_config"]]}
    for part in (values["dagsterWebserver"], values["dagsterDaemon"], kubernetes_values.deployment()):
        container = {"securityContext": part["securityContext"]}
        yield "chart", {"securityContext": part["podSecurityContext"], "containers": [container]}


@pytest.mark.parametrize(("name", "spec"), list(pod_specs()))
def test_pods_are_as_restricted_as_the_namespace_demands(name: str, spec: dict[str, Any]) -> None:
    """The level "restricted" of Kubernetes' Pod Security Standards."""
    pod = spec["securityContext"]
    assert pod["runAsNonRoot"] is True
    assert pod["runAsUser"] == pod["fsGroup"] == 10001
    assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
    for container in spec["containers"]:
        context = container["securityContext"]
        assert context == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    assert all("hostPath" not in volume for volume in spec.get("volumes", []))
    assert "pod-security.kubernetes.io/enforce=restricted" in README


def test_dagster_takes_what_the_chart_makes_of_the_values() -> None:
    launcher, instance = kubernetes_values.launcher_config(), kubernetes_values.instance_config()
    assert process_config(K8sRunLauncher.config_type(), launcher).errors in (None, [])
    assert process_config(dagster_instance_config_schema(), instance).errors in (None, [])
    context = kubernetes_values.container_context()["k8s"]
    assert process_config(DagsterK8sJobConfig.config_type_container_context(), context).errors in (None, [])


def test_one_image_and_one_version_everywhere() -> None:
    values, name = kubernetes_values.values(), kubernetes_values.image_name()
    assert values["dagsterWebserver"]["image"] == values["dagsterDaemon"]["image"]
    assert values["dagsterDaemon"]["image"] == kubernetes_values.deployment()["image"]
    images = {container["image"] for _, spec in pod_specs() for container in spec["containers"] if "image" in container}
    assert images == {name}
    assert f"-t {name} ." in README
    dagster = re.search(r"^dagster==(.+)$", (CHECKOUT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert dagster is not None
    assert f"dagster/dagster --version {dagster[1]} -f deploy/k8s/values.yaml" in README


def test_what_pods_refer_to_is_made_by_the_readme() -> None:
    claims = {m["metadata"]["name"] for m in kubernetes_values.manifests("storage.yaml")}
    for spec in [*(spec for _, spec in pod_specs()), kubernetes_values.deployment()]:
        for volume in spec.get("volumes", []):
            if "persistentVolumeClaim" in volume:
                assert volume["persistentVolumeClaim"]["claimName"] in claims
            else:
                assert f"kubectl create configmap {volume['configMap']['name']} " in README
    secrets = [secret["name"] for secret in kubernetes_values.deployment()["envSecrets"]]
    for secret in [*secrets, kubernetes_values.values()["global"]["postgresqlSecretName"]]:
        assert f"kubectl create secret generic {secret} " in README


def instructions() -> list[tuple[str, str]]:
    """Word and rest of each instruction of the Dockerfile."""
    text = (CHECKOUT / "deploy/docker/Dockerfile").read_text(encoding="utf-8")
    lines = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ").splitlines()
    return [(line.partition(" ")[0], line.partition(" ")[2]) for line in lines if line]


def test_all_that_is_installed_into_the_image_is_pinned() -> None:
    installs = [
        part for word, rest in instructions() if word == "RUN" for part in rest.split("&&") if "install" in part
    ]
    assert len(installs) == 2
    assert all("pip install" in install and "-c constraints.txt" in install for install in installs)
    project = (CHECKOUT / "pyproject.toml").read_text(encoding="utf-8")
    extras = re.search(r"'\.\[(.+)\]'", installs[-1])
    assert extras is not None
    assert all(f"\n{extra} = [" in project for extra in extras[1].split(","))
    assert re.search(r"^torch==[0-9.]+$", (CHECKOUT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)


def test_what_is_copied_is_in_the_repository_and_reaches_the_builder() -> None:
    let_through = [
        line.removeprefix("!") for line in (CHECKOUT / ".dockerignore").read_text().splitlines() if line[:1] == "!"
    ]
    sources = []
    for word, rest in instructions():
        if word == "COPY" and "--from" not in rest:
            sources += [part.replace("loc[k]", "lock") for part in rest.split()[:-1] if not part.startswith("--")]
    assert sorted({*sources}) == sorted(let_through)
    listed = subprocess.run(["git", "ls-files", *sources], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    tracked = listed.stdout.splitlines()
    absent = [source for source in sources if not any(f"{path}/".startswith(f"{source}/") for path in tracked)]
    assert absent in ([], ["virnuc.lock"])  # written by the first set-up of a profile with real checkpoints
