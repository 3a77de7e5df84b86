"""Set-up before anything starts: Dagster's home, MLflow's database and experiment, the profile's checkpoints.

Two processes that touch a fresh SQLite file race; so one step makes them, once.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from dagster import DagsterInstance

from virnuc_assets.encoders.checkpoints import fetch_checkpoint, require_pinned
from virnuc_assets.encoders.fingerprint import fingerprint
from virnuc_assets.errors import VirnucError
from virnuc_assets.launch import GPU_POOL
from virnuc_assets.launcher import LocalRunLauncher
from virnuc_assets.partitions import REFERENCE
from virnuc_assets.resources import Workspace
from virnuc_assets.settings import Settings
from virnuc_assets.tracking import EXPERIMENT

_DAGSTER_YAML = Path(__file__).parent / "dagster.yaml"


def dagster_home(settings: Settings) -> Path:
    """Dagster's home of this project in its profile; what one profile has done is not done in the other."""
    return settings.var / settings.profile / "dagster"


def mlflow_folder(settings: Settings) -> Path:
    """Folder of MLflow's database and artifacts, where no others are set."""
    return settings.var / "mlflow"


def tracking_uri(settings: Settings) -> str:
    """Where MLflow keeps its runs."""
    return settings.tracking.uri or f"sqlite:///{mlflow_folder(settings) / 'mlflow.db'}"


def mlflow_server_url(settings: Settings) -> str:
    """Where MLflow shows its runs."""
    return tracking_uri(settings) if settings.tracking.of_others else settings.servers.mlflow_url


def artifact_location(settings: Settings) -> str | None:
    """Where MLflow keeps models; None where a server of others decides that."""
    if settings.tracking.of_others:
        return None
    named = settings.tracking.artifacts or str(mlflow_folder(settings) / "artifacts")
    return named if "://" in named else (settings.root / named).as_uri()


def set_up(settings: Settings, say: Callable[[str], None], encoders: Sequence[str] = ()) -> None:
    """Make what is missing; a second call changes nothing.

    Args:
        settings: the project's.
        say: told each step.
        encoders: names in the registry; without any, those that the settings' variants read.
    """
    from virnuc_assets.encoders.machine import gpus_present

    workspace = Workspace(settings)
    settings.incoming.mkdir(parents=True, exist_ok=True)
    say(f"Dagster home {dagster_home(settings)}")
    _make_dagster_home(dagster_home(settings), gpus_present(), say)
    say(f"MLflow store {tracking_uri(settings)}")
    _make_mlflow_store(settings)
    names = encoders or [workspace.encoder(slot).name for slot in workspace.slots()]
    specs = [workspace.encoder_named(name) for name in names]
    for spec in specs:
        require_pinned(spec)  # all of them, before the first download
    for spec in specs:
        folder = fetch_checkpoint(spec, workspace.layout.checkpoints)
        digest = fingerprint(spec, folder, settings.encoding.precision)["checkpoint_digest"]
        say(f"encoder {spec.name}: " + (f"{folder}, digest {digest}" if folder else "computed, no weights"))


def _make_dagster_home(home: Path, gpus: int, say: Callable[[str], None]) -> None:
    home.mkdir(parents=True, exist_ok=True)
    if not (home / "dagster.yaml").exists():  # a person may have set another launcher or limit
        shutil.copyfile(_DAGSTER_YAML, home / "dagster.yaml")
    with DagsterInstance.from_config(str(home)) as instance:
        instance.get_runs(limit=1)
        instance.get_dynamic_partitions(str(REFERENCE.partitions.name))
        instance.all_instigator_state()
        if size_gpu_pool(instance, gpus):
            say(f"pool {GPU_POOL}: {gpus} runs that embed at a time, one a GPU")


def size_gpu_pool(instance: DagsterInstance, gpus: int) -> bool:
    """Let as many runs that embed go at a time as this machine has GPUs, where it is this machine that runs them.

    One is dagster.yaml's own limit. One that a person set, or this did before, stays.

    Returns:
        Whether a limit was set.
    """
    limited = any(
        pool.name == GPU_POOL and not pool.from_default for pool in instance.event_log_storage.get_pool_limits()
    )
    if gpus < 2 or limited or not isinstance(instance.run_launcher, LocalRunLauncher):
        return False
    instance.event_log_storage.set_concurrency_slots(GPU_POOL, gpus)
    return True


def require_experiment(settings: Settings) -> str:
    """Id of the project's experiment in its MLflow store.

    Raises:
        VirnucError: the store does not answer, or has no such experiment.
    """
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        experiment = MlflowClient(tracking_uri=tracking_uri(settings)).get_experiment_by_name(EXPERIMENT)
    except MlflowException as error:
        raise VirnucError(f"{tracking_uri(settings)}: MLflow's store does not answer: {error}") from error
    if experiment is None:
        raise VirnucError(f"{tracking_uri(settings)}: no experiment {EXPERIMENT!r}; run `virnuc setup`")
    return str(experiment.experiment_id)


def _make_mlflow_store(settings: Settings) -> None:
    uri, location = tracking_uri(settings), artifact_location(settings)
    if not settings.tracking.of_others:
        mlflow_folder(settings).mkdir(parents=True, exist_ok=True)
        upgrade = [sys.executable, "-m", "mlflow", "db", "upgrade", uri]
        done = subprocess.run(upgrade, check=False, capture_output=True, text=True)  # noqa: S603
        if done.returncode:
            raise VirnucError(f"{uri}: MLflow cannot make or upgrade its database:\n{done.stderr.strip()}")
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        client.create_experiment(EXPERIMENT, artifact_location=location)
    elif location and experiment.artifact_location != location:
        raise VirnucError(
            f"{uri}: this MLflow store keeps its models in {experiment.artifact_location}, expected {location}; the "
            "project was moved or copied, or [tracking] changed. Undo that, or begin with an empty store."
        )
