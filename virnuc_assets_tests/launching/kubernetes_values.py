"""What the official chart makes of deploy/k8s/values.yaml, as far as the launcher and the executor see it.

Follows the chart's templates `_run-launcher.tpl`, `configmap-instance.yaml`, `_concurrency.tpl`, and the container
context of `dagster-user-deployments`. The storages are left to Dagster's defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

DEPLOY = Path(__file__).parents[2] / "deploy/k8s"
RELEASE = "virnuc"
USER_ENV = f"{RELEASE}-dagster-user-deployments-virnuc-user-env"
_SNAKE = {
    "containerConfig": "container_config",
    "podSpecConfig": "pod_spec_config",
    "podTemplateSpecMetadata": "pod_template_spec_metadata",
    "jobSpecConfig": "job_spec_config",
    "jobMetadata": "job_metadata",
}


def values() -> dict[str, Any]:
    return dict(yaml.safe_load((DEPLOY / "values.yaml").read_text(encoding="utf-8")))


def deployment() -> dict[str, Any]:
    """The one code location."""
    (found,) = values()["dagster-user-deployments"]["deployments"]
    return dict(found)


def image_name() -> str:
    image = deployment()["image"]
    return f"{image['repository']}:{image['tag']}"


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
        "run_k8s_config": {_SNAKE[key]: value for key, value in given["runK8sConfig"].items()},
    }


def instance_config() -> dict[str, Any]:
    """The instance's dagster.yaml."""
    chart = values()
    daemon, limits = chart["dagsterDaemon"], chart["concurrency"]
    coordinator, monitoring = daemon["runCoordinator"]["config"]["queuedRunCoordinator"], daemon["runMonitoring"]
    retries = daemon["runRetries"]
    return {
        "telemetry": chart["telemetry"],
        "run_launcher": {"module": "dagster_k8s", "class": "K8sRunLauncher", "config": launcher_config()},
        "run_coordinator": {
            "module": "dagster.core.run_coordinator",
            "class": daemon["runCoordinator"]["type"],
            "config": {"dequeue_interval_seconds": coordinator["dequeueIntervalSeconds"]},
        },
        "run_monitoring": {
            "enabled": monitoring["enabled"],
            "start_timeout_seconds": monitoring["startTimeoutSeconds"],
            "cancel_timeout_seconds": monitoring["cancelTimeoutSeconds"],
            "max_resume_run_attempts": monitoring["maxResumeRunAttempts"],
            "poll_interval_seconds": monitoring["pollIntervalSeconds"],
            "free_slots_after_run_end_seconds": monitoring["freeSlotsAfterRunEndSeconds"],
        },
        "run_retries": {
            "enabled": retries["enabled"],
            "max_retries": retries["maxRetries"],
            "retry_on_asset_or_op_failure": retries["retryOnAssetOrOpFailure"],
        },
        "concurrency": {
            "pools": {"granularity": limits["pools"]["granularity"], "default_limit": limits["pools"]["defaultLimit"]},
            "runs": {"max_concurrent_runs": limits["runs"]["maxConcurrentRuns"]},
        },
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


def prerequisites(settings: str, postgres: Mapping[str, str], secrets: Mapping[str, str]) -> list[dict[str, Any]]:
    """What README.md has an administrator make, and the chart itself, before the first run."""
    chart = values()["global"]["postgresqlSecretName"]
    return [
        *manifests("storage.yaml"),
        _named("ConfigMap", "virnuc-settings", {"virnuc.toml": settings}),
        _named("ConfigMap", USER_ENV, {}),
        _named("Secret", chart, stringData=dict(postgres)),
        _named("Secret", deployment()["envSecrets"][0]["name"], stringData=dict(secrets)),
    ]


def _named(kind: str, name: str, data: dict[str, str] | None = None, **more: Any) -> dict[str, Any]:
    content = {"data": data} if data is not None else {}
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name}, **content, **more}
