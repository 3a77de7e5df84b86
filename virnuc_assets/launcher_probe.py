"""A run that only tells where it is: launched as every run is, with the GPU request of a step that embeds."""

import os
import platform
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import dagster as dg

from virnuc_assets.errors import VirnucError
from virnuc_assets.launch import GPU_POOL, gpu_op_tags
from virnuc_assets.launcher import LocalRunLauncher
from virnuc_assets.resources import Workspace
from virnuc_assets.storage.aside import written_aside

PROBE_JOB, PROBE_OP = "check_launcher", "look_around"
MODULE = "virnuc_assets.definitions"
# What must be alike where runs are launched and where they go, or the numbers are not.
LIBRARIES = ("virnuc_assets", "dagster", "mlflow", "torch", "tokenizers", "safetensors", "pyarrow", "numpy")
_LOOK_SECONDS = 0.5


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
        mark = _mark(workspace, context.op_config["mark"])
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

    from virnuc_assets.encoders.machine import cpu_name, gpus_present, resolve_device

    device = resolve_device(workspace.settings.encoding.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()
    return {
        "host": platform.node(),
        "user": str(os.getuid()),
        "device": f"{device.type} ({name})",
        "gpus": str(gpus_present()),
        "python": f"{platform.python_version()} ({sys.executable})",
        **{library: version(library) for library in LIBRARIES},
    }


def launch_probe(
    workspace: Workspace, instance: dg.DagsterInstance, patience_seconds: float, say: Callable[[str], None]
) -> tuple[dict[str, str], list[str]]:
    """Launch the probe past the queue, and wait for what it says.

    Args:
        workspace: the project, whose folder is the current one.
        instance: whose launcher is asked.
        patience_seconds: for the launched run to begin and end; a cluster may be busy.
        say: told where the run is.

    Returns:
        What the launched step saw, and what is wrong with it.

    Raises:
        VirnucError: the run did not end well, or not in time.
    """
    name = f".{uuid.uuid4().hex}.probe"
    mark = _mark(workspace, name)
    with written_aside(mark) as aside:
        aside.write_text(platform.node(), encoding="utf-8")
    try:
        run_id = _launch(instance, {"ops": {PROBE_OP: {"config": {"mark": name}}}})
        launcher = type(instance.run_launcher).__name__
        say(f"run {run_id} of {PROBE_JOB} by {launcher}, for at most {patience_seconds:.0f} s")
        seen = _outcome(instance, run_id, patience_seconds)
        answer = mark.with_suffix(".seen")
        local = isinstance(instance.run_launcher, LocalRunLauncher)  # which asks for none, and takes what there is
        asked = bool(gpu_op_tags(workspace.settings)) and not local
        return seen, differences(workspace, here(workspace), seen, answer.is_file(), asked)
    finally:
        for path in (mark, mark.with_suffix(".seen")):
            path.unlink(missing_ok=True)


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


def _launch(instance: dg.DagsterInstance, config: Mapping[str, Any]) -> str:
    from dagster._cli.job import _create_run
    from dagster._core.workspace.context import WorkspaceProcessContext
    from dagster._core.workspace.load_target import ModuleTarget

    with _code_location(instance, WorkspaceProcessContext, ModuleTarget) as request:
        location = request.get_code_location(MODULE)
        (repository,) = location.get_repositories().values()
        job = repository.get_full_job(PROBE_JOB)
        run = _create_run(instance, location, repository, job, config, None, None, None)
        instance.launch_run(run.run_id, request)
        return str(run.run_id)


@contextmanager
def _code_location(instance: dg.DagsterInstance, context: Any, target: Any) -> Iterator[Any]:  # noqa: ANN401
    load = target(module_name=MODULE, attribute=None, working_directory=str(Path.cwd()), location_name=MODULE)
    with context(instance, load) as process:
        yield process.create_request_context()


def _outcome(instance: dg.DagsterInstance, run_id: str, patience_seconds: float) -> dict[str, str]:
    """Metadata of the step's output, once the run has ended."""
    deadline = time.monotonic() + patience_seconds
    while True:
        run = instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            break
        if time.monotonic() > deadline:
            instance.run_launcher.terminate(run_id)
            raise VirnucError(
                f"run {run_id} was {run.status.value} after {patience_seconds:.0f} s; it is canceled. Where runs wait "
                "for a busy cluster, give it longer (--patience)."
            )
        time.sleep(_LOOK_SECONDS)
    logs = [entry for entry in instance.all_logs(run_id) if entry.dagster_event]
    for entry in logs:
        event = entry.dagster_event
        if event and event.event_type == dg.DagsterEventType.STEP_OUTPUT:
            return {name: str(value.value) for name, value in event.step_output_data.metadata.items()}
    events = [entry.dagster_event for entry in logs]
    told = [event.message or "" for event in events if event and event.is_failure]
    raise VirnucError(f"run {run_id} did not end well:\n" + "\n".join(told or ["it says nothing"]))


def _mark(workspace: Workspace, name: str) -> Path:
    return workspace.layout.results / name
