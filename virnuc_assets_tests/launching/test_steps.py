"""Where steps run, by the settings: the executor of the graph, and the tags by which steps ask for a GPU."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from virnuc_assets.definitions import build_defs
from virnuc_assets.defs.launchers.steps import KUBERNETES_TAG, SLURM_TAG, step_executor
from virnuc_assets.errors import VirnucError
from virnuc_assets.settings import EncodingSettings, LaunchSettings, Settings
from virnuc_assets_tests.test_definitions import ON_DEVICE

GPU = "nvidia.com/gpu"


def settings(launch: LaunchSettings, device: str = "auto") -> Settings:
    return Settings(root=Path("nowhere"), launch=launch, encoding=EncodingSettings.model_validate({"device": device}))


def tagged(made: Settings, tag: str) -> Iterator[tuple[str, dict[str, object]]]:
    """Steps with a tag in the job of all assets, and what it says."""
    for asset in build_defs(made).assets or ():
        if isinstance(asset, dg.AssetsDefinition) and tag in asset.op.tags:
            value = asset.op.tags[tag]
            yield asset.key.to_user_string(), json.loads(value) if isinstance(value, str) else value


def test_steps_run_in_the_process_of_their_run_unless_pods_are_asked_for() -> None:
    assert step_executor(LaunchSettings()) is dg.in_process_executor
    defs = build_defs(settings(LaunchSettings(steps="kubernetes")))
    names = {defs.resolve_job_def(name).executor_def.name for name in ("train_and_decide", "__ASSET_JOB")}
    assert names == {"kubernetes"}


def test_without_its_package_kubernetes_is_refused_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dagster_k8s", None)
    with pytest.raises(VirnucError) as caught:
        step_executor(LaunchSettings(steps="kubernetes"))
    assert str(caught.value) == (
        '[launch] steps = "kubernetes": dagster_k8s is not installed; expected what '
        "`pip install 'virnuc_assets[kubernetes]'` brings. Install it, or set steps = \"in_process\"."
    )


@pytest.mark.parametrize("tag", [KUBERNETES_TAG, SLURM_TAG])
def test_language_models_alone_ask_for_a_gpu_unless_all_is_to_run_on_the_cpu(tag: str) -> None:
    assert {name for name, _ in tagged(settings(LaunchSettings()), tag)} == ON_DEVICE
    assert list(tagged(settings(LaunchSettings(), device="cpu"), tag)) == []


def test_nodes_are_chosen_for_steps_with_a_gpu_alone() -> None:
    chosen = {"nvidia.com/gpu.product": "NVIDIA-L4"}
    for _, value in tagged(settings(LaunchSettings(gpu_nodes=chosen)), KUBERNETES_TAG):
        assert value == {
            "container_config": {"resources": {"limits": {GPU: "1"}}},
            "pod_spec_config": {
                "tolerations": [{"key": GPU, "operator": "Exists", "effect": "NoSchedule"}],
                "node_selector": chosen,
            },
        }
