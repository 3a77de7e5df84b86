"""A launcher, runs, and commands that answer in the place of Slurm's. Fixtures are imported by who uses them."""

import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster._core.launcher import RunLauncher
from dagster._core.storage.dagster_run import DagsterRunStatus
from dagster._serdes import ConfigurableClassData

from virnuc_assets.defs.launchers.slurm import SlurmRunLauncher
from virnuc_assets.defs.launchers.steps import SLURM_TAG


@dg.op(tags={SLURM_TAG: {"gres": "gpu:1"}})
def on_gpu() -> None: ...


@dg.op(tags={SLURM_TAG: {"gres": "gpu:2", "time": "10"}})
def on_two_gpus() -> None: ...


@dg.op
def on_cpu() -> None: ...


@dg.job
def steps() -> None:
    on_gpu()
    on_two_gpus()
    on_cpu()


@pytest.fixture
def home() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as home:
        yield home


def launcher(home: dg.DagsterInstance | None = None, **config: Any) -> SlurmRunLauncher:
    """As dagster.yaml sets it up."""
    made = ConfigurableClassData("virnuc_assets.slurm", "SlurmRunLauncher", yaml.safe_dump(config)).rehydrate(
        RunLauncher
    )
    assert isinstance(made, SlurmRunLauncher)
    if home:
        made.register_instance(home)
    return made


@pytest.fixture
def answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts commands that say something, and end with a status, in the place of Slurm's."""
    folder = tmp_path / "commands"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def put(status: int = 0, **said: str) -> None:
        for name in ("squeue", "sacct", "scontrol", "sbatch", "scancel"):
            command = folder / name
            command.write_text(f"#!/bin/sh\ncat <<'END'\n{said.get(name, '')}\nEND\nexit {status}\n")
            command.chmod(command.stat().st_mode | stat.S_IXUSR)

    return put


def new_run(
    instance: dg.DagsterInstance, selected: list[str], tag: Mapping[str, Any] | str | None = None, **more: Any
) -> dg.DagsterRun:
    tags = {} if tag is None else {SLURM_TAG: tag if isinstance(tag, str) else json.dumps(tag)}
    return instance.create_run_for_job(steps.get_subset(op_selection=selected), tags=tags, **more)


def status(home: dg.DagsterInstance, run: dg.DagsterRun) -> DagsterRunStatus:
    now = home.get_run_by_id(run.run_id)
    assert now is not None
    return now.status
