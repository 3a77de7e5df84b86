"""What the official chart makes of deploy/k8s/values.yaml, as far as the launcher and the executor see it.

Follows the chart's templates `_run-launcher.tpl`, `configmap-instance.yaml`, `_concurrency.tpl`, and the container
context of `dagster-user-deployments`. The storages are left to Dagster's defaults.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

DEPLOY = Path(__file__).parents[2] / "deploy/k8s"
RELEASE = "virnuc"
USER_ENV = f"{RELEASE}-dagster-user-deployments-virnuc-user-env"


def values() -> dict[str, Any]:
    return dict(yaml.safe_load((DEPLOY / "values.yaml").read_text(encoding="utf-8")))


def deployment() -> dict[str, Any]:
    """The one code location."""
    (found,) = values()["dagster-user-deployments"]["deployments"]
    return dict(found)


def image_name() -> str:
    image = deployment()["image"]
    return f"{image['repository']}:{image['tag']}"


def _snake(given: Mapping[str, Any]) -> dict[str, Any]:
    """The keys as Dagster spells them; the values are Kubernetes' own, and stay."""
    return {re.sub("([A-Z])", lambda found: f"_{found[1].lower()}", key): value for key, value in given.items()}


def launcher_config() -> dict[str, Any]:
    given, chart = values()["runLauncher"]["config"]["k8sRunLauncher"], values()
    return {
        "load_incluster_config": given["loadInclusterConfig"],
        "job_namespace": RELEASE,
        "image_pull_policy": given["imagePullPolicy"],
        "image_pull_secrets": chart["imagePullSecrets"],
        "service_account_name": f"{RELEASE}-dagster",
        "dagster_home": chart["global"]["dagsterHome"],
        "instance_config_map": f"{RELEASE}-dagster-instance",
        "postgres_password_secret": chart["global"]["postgresqlSecretName"],
        "run_k8s_config": _snake(given["runK8sConfig"]),
    }


def instance_config() -> dict[str, Any]:
    """The instance's dagster.yaml."""
    chart = values()
    daemon, limits = chart["dagsterDaemon"], chart["concurrency"]
    coordinator = daemon["runCoordinator"]
    return {
        "telemetry": chart["telemetry"],
        "run_launcher": {"module": "dagster_k8s", "class": "K8sRunLauncher", "config": launcher_config()},
        "run_coordinator": {
            "module": "dagster.core.run_coordinator",
            "class": coordinator["type"],
            "config": _snake(coordinator["config"]["queuedRunCoordinator"]),
        },
        "run_monitoring": _snake(daemon["runMonitoring"]),
        "run_retries": _snake(daemon["runRetries"]),
        "concurrency": {"pools": _snake(limits["pools"]), "runs": _snake(limits["runs"])},
    }


def container_context() -> dict[str, Any]:
    """What the code server hands to the pods of its runs."""
    code = deployment()
    return {
        "k8s": {
            "image_pull_policy": code["image"]["pullPolicy"],
            "env_config_maps": [USER_ENV],
            "env_secrets": [secret["name"] for secret in code["envSecrets"]],
            "volume_mounts": code["volumeMounts"],
            "volumes": code["volumes"],
            "resources": code["resources"],
            "namespace": RELEASE,
            "service_account_name": f"{RELEASE}-dagster-user-deployments-user-deployments",
            "run_k8s_config": {"pod_spec_config": {"automount_service_account_token": True}},
        }
    }


def manifests(name: str) -> list[dict[str, Any]]:
    """The objects of a file."""
    return [found for found in yaml.safe_load_all((DEPLOY / name).read_text(encoding="utf-8")) if found]


def prerequisites(postgres: Mapping[str, str], secrets: Mapping[str, str]) -> list[dict[str, Any]]:
    """What README.md has an administrator make, and the chart itself, before the first run."""
    contents: list[tuple[str, str, str, Mapping[str, str]]] = [
        ("ConfigMap", "virnuc-settings", "data", {"virnuc.toml": ""}),
        ("ConfigMap", USER_ENV, "data", {}),
        ("Secret", values()["global"]["postgresqlSecretName"], "stringData", postgres),
        ("Secret", deployment()["envSecrets"][0]["name"], "stringData", secrets),
    ]
    named = [{"apiVersion": "v1", "kind": k, "metadata": {"name": n}, field: dict(c)} for k, n, field, c in contents]
    return [*manifests("storage.yaml"), *named]
