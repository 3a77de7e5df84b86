"""Examines a deployment before its first run: its stores, and what a step sees that its launcher launched."""

from __future__ import annotations

import platform
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg

from virnuc_assets.bootstrap import require_experiment, tracking_uri
from virnuc_assets.errors import VirnucError
from virnuc_assets.launch import gpu_op_tags
from virnuc_assets.launcher import LocalRunLauncher
from virnuc_assets.launcher_probe import PROBE_JOB, PROBE_OP, differences, here, mark_path
from virnuc_assets.resources import Workspace
from virnuc_assets.storage.aside import written_aside

_MODULE = "virnuc_assets.definitions"
_LOOK_SECONDS = 0.5
# Where the clients of stores and clusters have what they raise.
_CLIENTS = (
    ("botocore.exceptions", "BotoCoreError"),
    ("botocore.exceptions", "ClientError"),
    ("dagster_k8s.client", "DagsterK8sUnrecoverableAPIError"),
    ("dagster_k8s.client", "DagsterK8sAPIRetryLimitExceeded"),
    ("kubernetes.client.exceptions", "OpenApiException"),
    ("urllib3.exceptions", "HTTPError"),
)


def examine_launcher(
    workspace: Workspace, home: Path, patience_seconds: float, say: Callable[[str], None]
) -> tuple[dict[str, Any], list[str]]:
    """What a deployment's stores and a step that its launcher launched tell, and what is to be mended before a run.

    Args:
        workspace: the project, whose folder is the current one.
        home: Dagster's.
        patience_seconds: for the launched run.
        say: told what is waited for.

    Raises:
        VirnucError: the home, a store or the launcher does not answer; what comes after it was not looked at.
    """
    if not (home / "dagster.yaml").is_file():
        raise VirnucError(f"{home}: no dagster.yaml; run `virnuc setup`, or name Dagster's home (--home)")
    with _examined(str(home)):
        with written_aside(home / ".probe") as aside:
            aside.write_text("", encoding="utf-8")
        (home / ".probe").unlink()
    facts: dict[str, Any] = {"Dagster home": home}
    with _examined(f"{home}: Dagster's database"):
        instance = dg.DagsterInstance.from_config(str(home))
        facts["runs on record"] = instance.get_runs_count()
    with instance:
        with _examined(f"{home}/dagster.yaml"):
            facts["launcher"] = type(instance.run_launcher).__name__
        facts["MLflow"] = f"{tracking_uri(workspace.settings)}, experiment {require_experiment(workspace.settings)}"
        seen, problems = _launch_probe(workspace, instance, patience_seconds, say)
    facts["results"] = workspace.layout.results
    return {**facts, **{f"launched: {name}": value for name, value in seen.items()}}, problems


@contextmanager
def _examined(what: str) -> Iterator[None]:
    """Turn what a part of the deployment refuses into one error that names the part."""
    try:
        yield
    except _refusals() as error:
        cause = f" ({error.__cause__})" if error.__cause__ else ""
        raise VirnucError(f"{what}: {type(error).__name__}: {error}{cause}") from error


def _refusals() -> tuple[type[Exception], ...]:
    """Errors of files, databases, launchers, and of those clients that were loaded."""
    from sqlalchemy.exc import SQLAlchemyError

    loaded = [(sys.modules.get(module), name) for module, name in _CLIENTS]
    return OSError, SQLAlchemyError, dg.DagsterError, *(getattr(module, name) for module, name in loaded if module)


def _launch_probe(
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
    mark = mark_path(workspace, name)
    with _examined(f"{workspace.layout.results}"), written_aside(mark) as aside:
        aside.write_text(platform.node(), encoding="utf-8")
    try:
        launcher = type(instance.run_launcher).__name__
        with _examined(f"{launcher} did not launch a run"):
            run_id = _launch(instance, {"ops": {PROBE_OP: {"config": {"mark": name}}}})
        say(f"run {run_id} of {PROBE_JOB} by {launcher}, for at most {patience_seconds:.0f} s")
        seen = _outcome(instance, run_id, patience_seconds)
        answer = mark.with_suffix(".seen")
        local = isinstance(instance.run_launcher, LocalRunLauncher)  # which asks for none, and takes what there is
        asked = bool(gpu_op_tags(workspace.settings)) and not local
        return seen, differences(workspace, here(workspace), seen, answer.is_file(), asked)
    finally:
        for path in (mark, mark.with_suffix(".seen")):
            path.unlink(missing_ok=True)


def _launch(instance: dg.DagsterInstance, config: Mapping[str, Any]) -> str:
    from dagster._cli.job import _create_run
    from dagster._core.workspace.context import WorkspaceProcessContext
    from dagster._core.workspace.load_target import ModuleTarget

    with _code_location(instance, WorkspaceProcessContext, ModuleTarget) as request:
        location = request.get_code_location(_MODULE)
        (repository,) = location.get_repositories().values()
        job = repository.get_full_job(PROBE_JOB)
        run = _create_run(instance, location, repository, job, config, None, None, None)
        instance.launch_run(run.run_id, request)
        return str(run.run_id)


@contextmanager
def _code_location(instance: dg.DagsterInstance, context: Any, target: Any) -> Iterator[Any]:  # noqa: ANN401
    load = target(module_name=_MODULE, attribute=None, working_directory=str(Path.cwd()), location_name=_MODULE)
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
