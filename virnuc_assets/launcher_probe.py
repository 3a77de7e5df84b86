"""A run that only tells where it is: launched as every run is, with the GPU request of a step that embeds."""

import os
import platform
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path

import dagster as dg

from virnuc_assets.launch import GPU_POOL, gpu_op_tags
from virnuc_assets.resources import Workspace
from virnuc_assets.storage.aside import written_aside

PROBE_JOB, PROBE_OP = "check_launcher", "look_around"
# What must be alike where runs are launched and where they go, or the numbers are not.
LIBRARIES = ("virnuc_assets", "dagster", "mlflow", "torch", "transformers", "tokenizers", "pyarrow", "numpy")


def probe_job(workspace: Workspace) -> dg.JobDefinition:
    """The job of the probe; its one step's output has what it saw as metadata."""

    @dg.op(
        name=PROBE_OP,
        config_schema={"mark": str},
        out=dg.Out(dg.Nothing),
        pool=GPU_POOL,
        tags=gpu_op_tags(workspace.settings),
    )
    def look_around(context: dg.OpExecutionContext) -> Iterator[dg.Output[None]]:
        """Versions, host, device, and whether the results are those of the host that launched it."""
        mark = mark_path(workspace, context.op_config["mark"])
        seen = mark.is_file()
        if seen:
            with written_aside(mark.with_suffix(".seen")) as aside:
                aside.write_text(platform.node(), encoding="utf-8")
        yield dg.Output(None, metadata={**here(workspace), "results": "the same" if seen else "others"})

    @dg.job(
        name=PROBE_JOB,
        description="Tells from where runs go what they see there; `virnuc doctor --launcher` launches it.",
    )
    def check_launcher() -> None:
        look_around()

    return check_launcher


def here(workspace: Workspace) -> dict[str, str]:
    """What a process sees where it is."""
    import torch

    from virnuc_assets.encoders.machine import cpu_name, resolve_device

    device = resolve_device(workspace.settings.encoding.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()
    return {
        "host": platform.node(),
        "user": str(os.getuid()),
        "device": f"{device.type} ({name})",
        "gpus": str(torch.cuda.device_count()),
        "python": f"{platform.python_version()} ({sys.executable})",
        **{library: version(library) for library in LIBRARIES},
    }


def differences(
    workspace: Workspace, own: Mapping[str, str], seen: Mapping[str, str], answered: bool, asks_for_gpu: bool
) -> list[str]:
    """What is wrong with what a launched step saw, by what is seen here; `answered` tells whether it could write."""
    wrong = [
        f"{library}: {own[library]} here, {seen[library]} where runs go; install constraints.txt on both"
        for library in LIBRARIES
        if own[library] != seen[library]
    ]
    if seen["results"] != "the same" or not answered:
        wrong.append(
            f"{workspace.layout.results}: runs on {seen['host']} see other results, or cannot write there; share that "
            'folder, or set [paths] results = "s3://..."'
        )
    if asks_for_gpu and not int(seen["gpus"]):
        wrong.append(
            f"a launched step asked for a GPU, and finds none on {seen['host']}: see what the cluster's GPU request "
            'gives (gres, device plugin), or set [encoding] device = "cpu"'
        )
    return wrong


def mark_path(workspace: Workspace, name: str) -> Path:
    """A file that both sides see if their results are the same."""
    return workspace.layout.results / name
