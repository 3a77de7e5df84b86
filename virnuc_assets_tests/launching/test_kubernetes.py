"""The pods of a run and of its steps, as dagster-k8s makes them of the values that we ship: what each asks for."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster._core.code_pointer import ModuleCodePointer
from dagster._core.definitions.reconstruct import ReconstructableJob, ReconstructableRepository
from dagster._core.execution.api import create_execution_plan
from dagster._core.execution.context_creation_job import (
    PlanOrchestrationContextManager,
    orchestration_context_event_generator,
)
from dagster._core.executor.step_delegating import StepHandlerContext
from dagster._core.launcher import LaunchRunContext
from dagster._grpc.types import ExecuteStepArgs
from dagster_k8s.executor import K8sStepHandler
from kubernetes import config
from kubernetes.client import ApiClient, BatchV1Api

from virnuc_assets.defs.partitions import REFERENCE
from virnuc_assets.settings import load_settings
from virnuc_assets_tests.launching import kubernetes_values
from virnuc_assets_tests.launching.kubernetes_values import validate
from virnuc_assets_tests.test_definitions import ON_DEVICE

GPU = "nvidia.com/gpu"
TOLERATION = {"key": GPU, "operator": "Exists", "effect": "NoSchedule"}
GPU_KIND = {"nvidia.com/gpu.product": "tiny"}
ZONE = kubernetes_values.launcher_config()["run_k8s_config"]["pod_spec_config"]["nodeSelector"]
STAGES = ("chunked_fasta", "translated_proteins", "dnabert_s_embeddings", "kmer_features")
CONFIG = "dagster-k8s/config"
Job = dict[str, Any]


class Cluster:
    """Dagster with our values and settings; the jobs that it asks for are validated and kept, and nothing runs."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (root / "dagster.yaml").write_text(yaml.safe_dump(kubernetes_values.instance_config()), encoding="utf-8")
        self.instance = dg.DagsterInstance.from_config(str(root))
        kind = ", ".join(f'"{name}" = "{value}"' for name, value in GPU_KIND.items())
        (root / "virnuc.toml").write_text(f'[launch]\nsteps = "kubernetes"\ngpu_nodes = {{ {kind} }}\n')
        self.settings, self._jobs = load_settings(root), list[Job]()
        monkeypatch.chdir(root)
        monkeypatch.setattr(config, "load_incluster_config", lambda: None)
        monkeypatch.setattr(K8sStepHandler, "_detect_current_name_and_uid", lambda _: ("run", "1234"))
        monkeypatch.setattr(BatchV1Api, "create_namespaced_job", self._create)

    def _create(self, body: Any, namespace: str, **_: Any) -> None:
        job = ApiClient().sanitize_for_serialization(body)
        validate(job)
        assert namespace == "virnuc"
        self._jobs.append(job)

    def launch(self, **tags: str) -> tuple[Job, dict[str, Job]]:
        """The job of a run of reference stages, and those of its steps by asset."""
        keys = frozenset(map(REFERENCE.key, STAGES))
        code, image = ModuleCodePointer("virnuc_assets.definitions", "defs", None), kubernetes_values.image_name()
        context = kubernetes_values.container_context()
        location = ReconstructableRepository(code, image, sys.executable, ["dagster"], context)
        job = ReconstructableJob(location, "__ASSET_JOB", asset_selection=keys)
        origin, definition = job.get_python_origin(), job.get_definition()
        run = self.instance.create_run_for_job(definition, asset_selection=keys, job_code_origin=origin, tags=tags)
        self.instance.run_launcher.launch_run(LaunchRunContext(run, workspace=None))
        for _ in self._steps(job, run):
            pass
        found = {made["metadata"]["labels"].get("dagster/op", ""): made for made in self._jobs}
        return found.pop(""), {step.replace("__", "/"): made for step, made in found.items()}

    def _steps(self, job: ReconstructableJob, run: dg.DagsterRun) -> Iterator[object]:
        plan, events = create_execution_plan(job), orchestration_context_event_generator
        manager = PlanOrchestrationContextManager(events, job, plan, {}, run, self.instance)
        yield from manager.prepare_context()
        context = manager.get_context()
        for key in plan.step_keys_to_execute:
            given = ExecuteStepArgs(run.job_code_origin, run.run_id, [key], self.instance.get_ref())
            steps = [plan.get_step_by_key(key)]
            yield from context.executor._step_handler.launch_step(
                StepHandlerContext(self.instance, context, steps, given, run)
            )


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path, monkeypatch)
    yield cluster
    cluster.instance.dispose()


def pod_of(job: Job) -> tuple[dict[str, Any], dict[str, Any]]:
    """Its specification, and that of its container."""
    spec = job["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    return spec, container


def test_the_embedding_asks_for_a_gpu_and_nothing_else_does(cluster: Cluster) -> None:
    run, steps = cluster.launch()
    assert {f"reference/{stage}" for stage in STAGES} < steps.keys()  # and those of checks
    for name, job in [("run", run), *steps.items()]:
        (spec, container), on_gpu = pod_of(job), name in ON_DEVICE
        assert container["resources"].get("limits", {}).get(GPU) == ("1" if on_gpu else None)
        assert (TOLERATION in spec.get("tolerations", [])) == on_gpu
        assert spec["nodeSelector"] == ({**ZONE, **GPU_KIND} if on_gpu else ZONE)


def test_what_the_values_say_arrives_in_every_pod(cluster: Cluster) -> None:
    run, steps = cluster.launch()
    code, launcher = kubernetes_values.deployment(), kubernetes_values.launcher_config()["run_k8s_config"]
    for spec, container in map(pod_of, (run, *steps.values())):
        assert container["image"] == kubernetes_values.image_name()
        assert container["imagePullPolicy"] == "IfNotPresent"
        assert spec["securityContext"] == launcher["pod_spec_config"]["securityContext"]
        assert container["securityContext"] == launcher["container_config"]["securityContext"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        mounts = [{frozenset(mount.items()) for mount in of["volumeMounts"]} for of in (container, code)]
        assert mounts[0] == mounts[1] and spec["volumes"] == code["volumes"]
        assert {"secretRef": {"name": "virnuc-secrets"}} in container["envFrom"]
        assert [entry["valueFrom"] for entry in container["env"] if entry["name"] == "DAGSTER_PG_PASSWORD"] == [
            {"secretKeyRef": {"name": "virnuc-postgres", "key": "postgresql-password"}}
        ]
    assert pod_of(run)[1]["resources"] == code["resources"]
    settings = cluster.settings.launch
    for job in steps.values():
        resources = pod_of(job)[1]["resources"]
        assert resources["requests"] == {"cpu": settings.step_cpu, "memory": settings.step_memory}
        assert {**resources["limits"], GPU: None} == {"memory": settings.step_memory, GPU: None}
        assert [owner["name"] for owner in job["metadata"]["ownerReferences"]] == ["run"]  # it goes with the run's pod


@pytest.mark.parametrize(
    ("container", "reason"),
    [
        ({"livenessProbe": {"httpGet": {"port": []}}}, "port"),
        ({"volumeMounts": [{"name": "nowhere", "mountPath": "/x"}]}, "is no volume of the pod"),
    ],
)
def test_a_hostile_tag_is_refused(container: Mapping[str, object], reason: str, cluster: Cluster) -> None:
    with pytest.raises(Exception, match=reason):
        cluster.launch(**{CONFIG: json.dumps({"container_config": container})})


def test_a_run_that_died_is_noticed_and_retried_and_one_that_is_canceled_ends_its_steps(cluster: Cluster) -> None:
    """By Dagster, where it is set up so; the executor itself retries no step."""
    monitoring, retries = (cluster.instance.get_settings(name) for name in ("run_monitoring", "run_retries"))
    assert (monitoring["enabled"], monitoring["max_resume_run_attempts"]) == (True, 0)
    assert (retries["enabled"], retries["retry_on_asset_or_op_failure"]) == (True, True)
    assert cluster.instance.run_launcher.supports_check_run_worker_health
