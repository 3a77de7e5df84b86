"""A new project's folder, its set-up (Dagster's home, MLflow's store, checkpoints), and what `virnuc doctor` examines.

Two processes that touch a fresh SQLite file race; so one step makes them, once.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import sqlite3
import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args
from urllib.parse import quote

from dagster import DagsterInstance
from filelock import FileLock

from virnuc_assets.defs.launchers.local import LocalRunLauncher
from virnuc_assets.defs.launchers.steps import GPU_POOL
from virnuc_assets.defs.partitions import REFERENCE
from virnuc_assets.defs.resources import Workspace
from virnuc_assets.defs.tracking import EXPERIMENT, EXPERIMENT_TAGS, VIEW, misplaced
from virnuc_assets.encoders.checkpoints import CheckpointError, CheckpointMissingError, find_checkpoint
from virnuc_assets.encoders.registry import encoder_named, graph_encoder
from virnuc_assets.errors import VirnucError
from virnuc_assets.sequences.catalogue import write_manifest
from virnuc_assets.settings import SETTINGS_FILE, Settings
from virnuc_assets.storage.atomic import atomic_folder, atomic_write
from virnuc_assets.storage.layout import Domain
from virnuc_assets.storage.outputs import OutputRefused, require_writable, unwritable
from virnuc_assets.workstation.lock import LOCK_FILE, Lock, read_lock, resolve, set_up_encoder, verify, write_lock

if TYPE_CHECKING:
    import torch

# Where MLflow's database holds absolute locations of artifacts.
_LOCATIONS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
_LIBRARIES = (
    *("virnuc_assets", "dagster", "mlflow", "torch", "transformers", "tokenizers", "safetensors", "huggingface_hub"),
    *("pyarrow", "numpy", "biopython", "sourmash"),
)
_DAGSTER_YAML = Path(__file__).parents[1] / "dagster.yaml"
# Links to the checkout's own project, which the wheel holds as files.
_TEMPLATE = Path(__file__).parents[1] / "template"
DEMO_SAMPLE = _TEMPLATE / "samples/demo_sample.fasta"
WORKSPACE_FILE = "workspace.yaml"


def dagster_home(settings: Settings) -> Path:
    """Dagster's home of this project in its profile; what one profile has done is not done in the other."""
    return settings.var / settings.profile / "dagster"


def mlflow_folder(settings: Settings) -> Path:
    """Folder of MLflow's database and artifacts, where no others are set."""
    return settings.var / "mlflow"


def tracking_uri(settings: Settings) -> str:
    """Where MLflow keeps its runs."""
    return settings.tracking.uri or f"sqlite:///{_mlflow_database(settings)}"


def _mlflow_database(settings: Settings) -> Path:
    return mlflow_folder(settings) / "mlflow.db"


def mlflow_server_url(settings: Settings) -> str:
    """Where MLflow shows its runs."""
    return tracking_uri(settings) if settings.tracking.of_others else settings.servers.mlflow_url


def mlflow_page(settings: Settings) -> str:
    """The page to open first: the trainings, where the store is this project's own; else the server's first page."""
    url = mlflow_server_url(settings)
    if settings.tracking.uri:
        return url
    with contextlib.closing(sqlite3.connect(_mlflow_database(settings))) as connection:
        found = connection.execute("SELECT experiment_id FROM experiments WHERE name = ?", [EXPERIMENT]).fetchone()
    return f"{url}/#/experiments/{found[0]}/runs?{VIEW}" if found else url


def artifact_location(settings: Settings) -> str | None:
    """Where MLflow keeps models; None where a server of others decides that."""
    if settings.tracking.of_others:
        return None
    named = settings.tracking.artifacts or str(mlflow_folder(settings) / "artifacts")
    return named if "://" in named else (settings.root / named).absolute().as_uri()


def set_up(
    settings: Settings, log: Callable[[str], None], encoders: Sequence[str] = (), update: Sequence[str] = ()
) -> None:
    """Make what is missing; a second call changes nothing.

    Checkpoints come first, as they may be refused: of the encoders that are named, or of all that the settings read.
    `update` names encoders whose lock is moved to what their repository or folder has now.
    """
    import torch

    checkpoints = Workspace(settings).layout.checkpoints
    checkpoints.mkdir(parents=True, exist_ok=True)
    with FileLock(checkpoints / ".setup.lock"):  # of two set-ups, the second finds what the first made
        set_up_encoders(settings, log, encoders, update)
        settings.incoming.mkdir(parents=True, exist_ok=True)
        log(f"Dagster home {dagster_home(settings)}")
        _make_dagster_home(dagster_home(settings), torch.cuda.device_count(), log)
        log(f"MLflow store {tracking_uri(settings)}")
        _make_mlflow_store(settings, log)


def set_up_encoders(
    settings: Settings, log: Callable[[str], None], encoders: Sequence[str], update: Sequence[str]
) -> None:
    """The checkpoints alone, as `set_up` makes them; virnuc.lock gets what it lacks, or is moved."""
    workspace, before = Workspace(settings), read_lock(settings.root)
    if encoders or update:
        specs = [encoder_named(settings, name) for name in dict.fromkeys([*encoders, *update])]
    else:
        bases = settings.finetuning.encoders
        specs = [graph_encoder(settings, name) for name in dict.fromkeys([*workspace.encoder_names(), *bases])]
    wanted = [resolve(spec, before, spec.name in update) for spec in specs]  # all of them, before the first download
    for spec, each in zip(specs, wanted, strict=True):
        old = before.entries.get(spec.name)
        in_lock = old is not None and spec.name not in update
        folder, locked = set_up_encoder(spec, workspace.layout.checkpoints, each, in_lock, log)
        if locked is not None and locked != old:
            write_lock(settings.root, Lock(entries={**read_lock(settings.root).entries, spec.name: locked}))
            if old is None:
                trusted = "this copy is trusted, and every later set-up takes exactly its bytes; commit"
                origin = f"{locked.source} {locked.revision}"
                log(f"encoder {spec.name}: {origin} was not in {LOCK_FILE}: {trusted} {LOCK_FILE}")
            else:
                log(f"encoder {spec.name}: {LOCK_FILE} moved; stale now: {_stale_tables(workspace, spec.name)}")
        log(f"encoder {spec.name}: {folder or 'no checkpoint to fetch'}")


def require_set_up(settings: Settings, log: Callable[[str], None]) -> None:
    """Refuse a project that `virnuc setup` did not prepare; of one that was moved or copied, correct MLflow's store."""
    wanted = [dagster_home(settings) / "dagster.yaml"]
    wanted += [] if settings.tracking.uri else [_mlflow_database(settings)]
    if missing := [str(path) for path in wanted if not path.is_file()]:
        raise VirnucError(
            f"{settings.root}: this project is not set up for the profile {settings.profile}: no "
            f"{', no '.join(missing)}; run `virnuc setup` first"
        )
    follow_move(settings, log)


def follow_move(settings: Settings, log: Callable[[str], None]) -> None:
    """Have the store of a project that was moved or copied name its artifacts where they now are, inside the project.

    MLflow stores absolute locations: without this, models are written to, and loaded from, the former folder.
    """
    database, expected = _mlflow_database(settings), artifact_location(settings)
    if settings.tracking.uri or expected is None or not database.is_file():
        return
    inside = quote(f"/{settings.tracking.artifacts or 'mlflow/artifacts'}")
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        where = "SELECT artifact_location FROM experiments WHERE name = ?"
        former = next((str(location) for (location,) in connection.execute(where, [EXPERIMENT])), expected)
        if former == expected or not (former.startswith("file:") and former.endswith(inside)):
            return
        for table, column in _LOCATIONS:
            connection.execute(
                f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?",  # noqa: S608
                [expected, len(former) + 1, len(former), former],
            )
    log(f"MLflow store {database}: this project was moved or copied; models are now in {expected}, were in {former}")


def _stale_tables(workspace: Workspace, encoder: str) -> str:
    """Assets made of an encoder's vectors, with the count of their tables that are there."""
    variants = [variant.name for variant in workspace.variants() if encoder in (variant.dna, variant.protein)]
    assets = [f"{encoder}_embeddings", *(f"{name}_features" for name in variants)]
    found = []
    for domain in get_args(Domain):
        for asset in assets:
            count = len(list(workspace.layout.table(domain, asset, "any").parent.glob("*.parquet")))
            found += [f"{domain}/{asset} ({count} tables)"] if count else []
    found += [f"{name}_classifier" for name in variants if workspace.layout.classifier(name).is_dir()]
    return ", ".join(found) or "nothing"


def _make_dagster_home(home: Path, gpus: int, log: Callable[[str], None]) -> None:
    home.mkdir(parents=True, exist_ok=True)
    if not (home / "dagster.yaml").exists():  # a person may have set another launcher or limit
        shutil.copyfile(_DAGSTER_YAML, home / "dagster.yaml")
    with DagsterInstance.from_config(str(home)) as instance:
        instance.get_runs(limit=1)
        instance.get_dynamic_partitions(str(REFERENCE.partitions.name))
        instance.all_instigator_state()
        if size_gpu_pool(instance, gpus):
            log(f"pool {GPU_POOL}: {gpus} runs that embed at a time, one a GPU")


def size_gpu_pool(instance: DagsterInstance, gpus: int) -> bool:
    """Let as many runs that embed go at a time as this machine has GPUs, where it is this machine that runs them.

    One is dagster.yaml's own limit. One that a person set, or this did before, stays. Returns whether a limit was set.
    """
    limits = instance.event_log_storage.get_pool_limits()
    limited = any(pool.name == GPU_POOL and not pool.from_default for pool in limits)
    if gpus < 2 or limited or not isinstance(instance.run_launcher, LocalRunLauncher):
        return False
    instance.event_log_storage.set_concurrency_slots(GPU_POOL, gpus)
    return True


def _make_mlflow_store(settings: Settings, log: Callable[[str], None]) -> None:
    uri, location = tracking_uri(settings), artifact_location(settings)
    if not settings.tracking.of_others:
        mlflow_folder(settings).mkdir(parents=True, exist_ok=True)
        upgrade = [sys.executable, "-m", "mlflow", "db", "upgrade", uri]
        done = subprocess.run(upgrade, check=False, capture_output=True, text=True)  # noqa: S603
        if done.returncode:
            raise VirnucError(f"{uri}: MLflow cannot make or upgrade its database:\n{done.stderr.strip()}")
        follow_move(settings, log)
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        client.create_experiment(EXPERIMENT, artifact_location=location, tags=EXPERIMENT_TAGS)
    elif location and experiment.artifact_location != location:
        raise VirnucError(misplaced(uri, experiment.artifact_location, location))
    else:
        for name, value in EXPERIMENT_TAGS.items() - experiment.tags.items():  # a store that was made without them
            client.set_experiment_tag(experiment.experiment_id, name, value)


def make_project(folder: Path, bundled: bool) -> None:
    """Make a project in a folder, with the bundled genomes and sample, or without sequence; all of it or nothing."""
    data = folder / "data"
    require_writable(folder)
    if found := [path.name for path in (folder / SETTINGS_FILE, folder / WORKSPACE_FILE, data) if path.exists()]:
        raise OutputRefused(f"{folder.resolve()}: {', '.join(found)} there already; name a folder for a new project")
    with (  # the last one gets its name first; settings last: with them it is a project
        atomic_write(folder / SETTINGS_FILE) as settings,
        atomic_write(folder / WORKSPACE_FILE) as workspace,
        atomic_folder(data) as temporary,
    ):
        for name in ("genomes", "samples"):
            if bundled:
                shutil.copytree(_TEMPLATE / name, temporary / name)
            else:
                (temporary / name).mkdir()
        if not bundled:
            write_manifest(temporary / "genomes", [])
        (temporary / "incoming").mkdir()
        shutil.copyfile(_TEMPLATE / WORKSPACE_FILE, workspace)
        shutil.copyfile(_TEMPLATE / SETTINGS_FILE, settings)


def examine(workspace: Workspace, every_byte: bool = False) -> tuple[dict[str, Any], list[str]]:
    """Facts of the machine and the project, and the problems that a person must fix before a run.

    `every_byte`: the content of every checkpoint is compared with virnuc.lock, instead of sizes and times.
    """
    import torch

    from virnuc_assets.encoders.golden import GoldenError, check_golden
    from virnuc_assets.encoders.machine import cpu_name, native_precision, resolve_device

    settings, layout = workspace.settings, workspace.layout
    problems = [
        fault for folder in (settings.var, dagster_home(settings), layout.locks) if (fault := unwritable(folder))
    ]
    facts: dict[str, Any] = {"host": platform.node(), "user": os.getuid(), "python": platform.python_version()}
    facts |= {name: version(name) for name in _LIBRARIES}
    facts |= {"profile": settings.profile, "GPUs": torch.cuda.device_count()}
    try:
        device = resolve_device(settings.encoding.device)
    except VirnucError as error:
        on_a_cluster = "on a cluster, check what its steps ask for ([launch], the gres or the device plugin)"
        return facts, [*problems, f"{facts['host']}: {error}; {on_a_cluster}"]
    facts["device"] = f"{device} ({torch.cuda.get_device_name(device) if device.type == 'cuda' else cpu_name()})"
    precision = settings.encoding.precision
    emulated = device.type == "cpu" and not native_precision(precision)
    facts["precision"] = (
        f"{precision}, emulated: this CPU does not compute in it, fp32 is faster" if emulated else precision
    )
    facts["cpu threads"] = torch.get_num_threads()
    facts["attention backends"] = ", ".join(_sdpa_backends(device)) or "none"
    facts["memory"] = f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB"
    for name in workspace.encoder_names():
        spec = workspace.encoder(name)
        try:
            folder = find_checkpoint(spec, layout.checkpoints)
            facts[f"encoder {name}"] = f"{spec.name}: {folder or 'computed, no weights'}"
            problems += verify(spec, layout.checkpoints, workspace.lock) if every_byte else []
        except (CheckpointMissingError, CheckpointError) as error:
            state = "missing" if isinstance(error, CheckpointMissingError) else "incomplete"
            facts[f"encoder {name}"] = f"{spec.name}: {state}"
            problems.append(str(error))
    for architecture in sorted({workspace.encoder(name).architecture for name in workspace.encoder_names()}):
        try:
            difference = check_golden(architecture, settings.encoding.device)
            facts[f"golden vectors {architecture}"] = f"largest difference {difference:.1e}"
        except GoldenError as error:
            problems.append(str(error))
    serving = layout.classifier(settings.serving.variant)
    facts["serving classifier"] = serving if serving.is_dir() else f"{settings.serving.variant}: not trained yet"
    return facts, problems


def _sdpa_backends(device: torch.device) -> list[str]:
    """Scaled-dot-product backends that run here, each tried on a small tensor."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.functional import scaled_dot_product_attention

    query = torch.zeros(1, 1, 8, 64, device=device, dtype=torch.float16 if device.type == "cuda" else torch.float32)
    found = []
    for name, backend in SDPBackend.__members__.items():
        if backend == SDPBackend.ERROR:
            continue
        try:
            with sdpa_kernel(backend), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch warns why each of the others was not taken
                scaled_dot_product_attention(query, query, query)
        except RuntimeError:  # "no viable backend": what is asked here
            continue
        found.append(name.lower().replace("_", " "))
    return found
