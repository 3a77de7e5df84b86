"""What runs ask Slurm for, and what its answers mean for them. No Slurm is needed."""

from __future__ import annotations

import json
import logging
import os
import stat
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster._core.code_pointer import ModuleCodePointer
from dagster._core.execution.api import create_execution_plan
from dagster._core.instance.ref import InstanceRef
from dagster._core.launcher import LaunchRunContext, RunLauncher
from dagster._core.launcher.base import WorkerStatus
from dagster._core.origin import JobPythonOrigin, RepositoryPythonOrigin
from dagster._core.storage.dagster_run import DagsterRunStatus
from dagster._core.system_config.objects import ResolvedRunConfig
from dagster._daemon.monitoring.run_monitoring import monitor_starting_run
from dagster._serdes import ConfigurableClassData
from hypothesis import given
from hypothesis import strategies as st

from virnuc_assets.defs.launchers import slurm
from virnuc_assets.defs.launchers.slurm import (
    _PASSWORD,
    JOB_TAG,
    OPTIONS,
    SUBMITTED_TAG,
    ControllerAway,
    SlurmRunLauncher,
    _end_jobs_without_a_run,
)
from virnuc_assets.defs.launchers.steps import SLURM_TAG
from virnuc_assets.errors import VirnucError
from virnuc_assets_tests.running import CHECKOUT


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
    data = ConfigurableClassData(slurm.__name__, "SlurmRunLauncher", yaml.safe_dump(config))
    made = data.rehydrate(RunLauncher)
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
        for name in ("squeue", "scontrol", "sbatch", "scancel"):
            saying(tmp_path, name, f"cat <<'END'\n{said.get(name, '')}\nEND\nexit {status}")

    return put


def new_run(
    instance: dg.DagsterInstance, selected: list[str], tag: Mapping[str, Any] | str | None = None, **more: Any
) -> dg.DagsterRun:
    tags = {} if tag is None else {SLURM_TAG: tag if isinstance(tag, str) else json.dumps(tag)}
    return instance.create_run_for_job(steps.get_subset(op_selection=selected), tags=tags, **more)


def saying(folder: Path, command: str, script: str) -> None:
    path = folder / "commands" / command
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def current(home: dg.DagsterInstance, run: dg.DagsterRun) -> dg.DagsterRun:
    now = home.get_run_by_id(run.run_id)
    assert now is not None
    return now


def asked(
    home: dg.DagsterInstance, selected: list[str], tag: Mapping[str, Any] | str | None = None, **config: Any
) -> list[str]:
    """Options of a run of some ops."""
    return slurm.options(launcher(home, **config)._request(new_run(home, selected, tag)))


def test_a_run_asks_for_what_its_steps_need_and_its_tag_decides(home: dg.DagsterInstance) -> None:
    resources = {"partition": "main", "cpus_per_task": 4, "time": "1:00"}
    defaults = ["--partition=main", "--cpus-per-task=4", "--time=1:00"]
    tag = {"gres": "gpu:a100:4", "mem": "8G", "cpus_per_task": 2}
    over = ["--partition=main", "--cpus-per-task=2", "--time=1:00", "--gres=gpu:a100:4", "--mem=8G"]
    assert asked(home, ["on_cpu"], resources=resources) == defaults
    assert asked(home, ["on_gpu", "on_cpu"], resources=resources) == [*defaults, "--gres=gpu:1"]
    assert asked(home, ["on_two_gpus"], resources=resources) == [*defaults[:2], "--time=10", "--gres=gpu:2"]
    assert asked(home, ["on_gpu"], tag, resources=resources) == over
    assert asked(home, ["on_gpu"], {"gres": None, "partition": None}, resources=resources) == defaults[1:]


def test_only_steps_that_are_executed_count(home: dg.DagsterInstance) -> None:
    job = steps.get_subset(op_selection=["on_gpu", "on_cpu"])
    whole = create_execution_plan(job)
    for keys, expected in ((["on_cpu"], {}), (["on_gpu"], {"gres": "gpu:1"})):
        plan = whole.build_subset_plan(keys, job, ResolvedRunConfig.build(job))
        run = home.create_run_for_job(job, execution_plan=plan)
        stored = home.get_execution_plan_snapshot(str(run.execution_plan_snapshot_id))
        assert {step.key for step in stored.steps} == {"on_cpu", "on_gpu"}
        assert launcher(home)._request(run) == expected


def test_steps_that_differ_are_refused_unless_the_tag_decides(home: dg.DagsterInstance) -> None:
    both = ["on_gpu", "on_two_gpus"]
    with pytest.raises(VirnucError, match=r"tag virnuc/slurm of step .*: \['gres'\] differ from another step's"):
        asked(home, both)
    assert asked(home, both, {"gres": "gpu:3"}) == ["--gres=gpu:3", "--time=10"]


@pytest.mark.parametrize(
    ("tag", "wrong"),
    [
        ("gpu:1", "is 'gpu:1'; expected a JSON object"),
        ({"wrap": "id"}, "'wrap': 'id'"),
        ({"cpus_per_task": True}, "'cpus_per_task': True"),
    ],
)
def test_other_forms_are_refused_by_the_name_of_the_tag(home: dg.DagsterInstance, tag: Any, wrong: str) -> None:
    with pytest.raises(VirnucError, match=rf"^tag virnuc/slurm of run .*{wrong}"):
        asked(home, ["on_cpu"], tag)


@given(st.dictionaries(st.sampled_from([*OPTIONS, "wrap", "export", ""]), st.text(), min_size=1))
def test_no_tag_becomes_another_option(tag: dict[str, str]) -> None:
    if not (tag.keys() <= set(OPTIONS) and all(value.isprintable() for value in tag.values())):
        with pytest.raises(VirnucError, match="^tag: "):
            slurm.request(json.dumps(tag), "tag")
    else:
        words = [f"--{key.replace('_', '-')}={value}" for key, value in tag.items()]
        assert slurm.options(slurm.request(json.dumps(tag), "tag")) == words


def test_a_wrong_dagster_yaml_is_refused_and_the_deployed_one_is_not() -> None:
    for name in ("TMPDIR", "VIRNUC_UP_HOME", "SLURM_JOB_ID"):
        with pytest.raises(VirnucError, match=f"{name} cannot be passed on"):
            launcher(environment=[name])
    with pytest.raises(dg.DagsterInvalidConfigError, match="gpus"):
        launcher(resources={"gpus": 1})
    launcher(**yaml.safe_load((CHECKOUT / "deploy/slurm/dagster.yaml").read_text())["run_launcher"]["config"])


def test_a_job_may_wait_for_days() -> None:
    """Dagster's monitoring under the deployed dagster.yaml leaves a run alone that was launched a week ago."""
    deployed = yaml.safe_load((CHECKOUT / "deploy/slurm/dagster.yaml").read_text())
    monitoring = {"run_monitoring": deployed["run_monitoring"]}
    with dg.DagsterInstance.ephemeral(settings=monitoring) as home:
        for days, expected in ((7, DagsterRunStatus.STARTING), (31, DagsterRunStatus.FAILURE)):
            run = new_run(home, ["on_cpu"])
            launched = dg.DagsterEvent(dg.DagsterEventType.PIPELINE_STARTING.value, run.job_name)
            home.report_dagster_event(launched, run.run_id, timestamp=time.time() - days * 86_400)
            record = home.get_run_record_by_id(run.run_id)
            assert record is not None
            monitor_starting_run(home, record, logging.getLogger())
            assert current(home, run).status is expected


ALIVE, DEAD = ["PENDING", "COMPLETING", "A_NEW_STATE"], ["COMPLETED", "TIMEOUT", "NODE_FAIL"]


@pytest.mark.parametrize("state", [*ALIVE, *DEAD])
def test_states(home: dg.DagsterInstance, answers: Callable[..., None], state: str) -> None:
    run = new_run(home, ["on_cpu"])
    queue = f"3|RUNNING|None|a|b|\n\n7|{state}|Its reason|dagster-{run.run_id}|\n8|FAILED|None|two\nlines|"
    answers(squeue=queue, scontrol="JobId=7 ExitCode=0:9 DerivedExitCode=0:0")
    health = launcher(home).check_run_worker_health(run)
    if state in ALIVE:
        assert health.status is WorkerStatus.RUNNING
        return
    assert health.status is WorkerStatus.FAILED
    log = Path(home.root_directory, "slurm", f"{run.run_id}.log").resolve()
    assert health.msg == f"Slurm job 7 is {state} (reason Its reason), exit code 0:9; its log is {log}"


def test_a_silent_controller_fails_no_run_and_cancels_none(
    home: dg.DagsterInstance, answers: Callable[..., None]
) -> None:
    answers(status=1)
    run = new_run(home, ["on_cpu"], status=DagsterRunStatus.STARTED)
    assert launcher(home).check_run_worker_health(run).status is WorkerStatus.RUNNING
    with pytest.raises(ControllerAway, match="squeue got no answer"):
        launcher(home).terminate(run.run_id)
    assert current(home, run).status is DagsterRunStatus.STARTED


def test_a_job_that_the_controller_forgot(home: dg.DagsterInstance, answers: Callable[..., None]) -> None:
    answers()
    run = new_run(home, ["on_cpu"])
    health = launcher(home).check_run_worker_health(run)
    assert health == (WorkerStatus.RUNNING, "its job is being submitted", None, None)
    home.add_run_tags(run.run_id, {JOB_TAG: "6", SUBMITTED_TAG: "the run that this one is a retry of"})
    assert launcher(home).check_run_worker_health(current(home, run)).status is WorkerStatus.RUNNING
    home.add_run_tags(run.run_id, {JOB_TAG: "7", SUBMITTED_TAG: run.run_id})
    submitted = current(home, run)
    health = launcher(home).check_run_worker_health(submitted)
    assert health.status is WorkerStatus.FAILED
    assert str(health.msg).startswith("Slurm knows no job of this run; its log is /")


@pytest.mark.parametrize(
    ("message", "away"),
    [
        ("Batch job submission failed: Unable to contact slurm controller (connect failure)", True),
        ("Batch job submission failed: Resource temporarily unavailable", True),
        ("Batch job submission failed: Invalid account or account/partition combination specified", False),
    ],
)
def test_who_reached_nobody_was_not_refused(
    answers: Callable[..., None], tmp_path: Path, message: str, away: bool
) -> None:
    answers()
    saying(tmp_path, "sbatch", f"echo 'sbatch: error: {message}' >&2\nexit 1")
    with pytest.raises(VirnucError, match=message.partition("(")[0]) as caught:
        slurm.submit("dagster-1", [], ["true"], os.environ)
    assert isinstance(caught.value, ControllerAway) is away


@pytest.mark.parametrize(
    ("storage", "shown"),
    [
        ("{postgres_url: 'postgresql://dagster:secret@db/dagster'}", True),
        ("{postgres_db: {username: u, password: secret, hostname: db, db_name: d}}", True),
        ("{postgres_url: 'postgresql://dagster@db:5432/dagster'}", False),
    ],
)
def test_a_password_in_dagster_yaml_is_found_in_what_a_job_would_be_given(
    tmp_path: Path, storage: str, shown: bool
) -> None:
    (tmp_path / "dagster.yaml").write_text(f"storage:\n  postgres: {storage}\n")
    text = dg.serialize_value(InstanceRef.from_dir(str(tmp_path)))
    assert bool(_PASSWORD.search(text)) is shown


@pytest.mark.parametrize(
    ("state", "ended_seconds_ago", "cancelled"),
    [("PENDING", 1, True), ("RUNNING", 1, False), ("RUNNING", 300, True), ("COMPLETED", 300, False)],
)
def test_jobs_whose_run_has_ended_are_cancelled(
    home: dg.DagsterInstance,
    answers: Callable[..., None],
    tmp_path: Path,
    state: str,
    ended_seconds_ago: int,
    cancelled: bool,
) -> None:
    run, going_on = new_run(home, ["on_cpu"]), new_run(home, ["on_cpu"], status=DagsterRunStatus.STARTED)
    failed = dg.DagsterEvent(dg.DagsterEventType.RUN_FAILURE.value, run.job_name)
    home.report_dagster_event(failed, run.run_id, timestamp=time.time() - ended_seconds_ago)
    answers(squeue=f"7|{state}|None|dagster-{run.run_id}|\n8|RUNNING|None|dagster-{going_on.run_id}|")
    saying(tmp_path, "scancel", f"echo $* >> {tmp_path}/cancelled")
    _end_jobs_without_a_run(home)
    text = tmp_path / "cancelled"
    assert (text.read_text() if text.exists() else "") == ("7\n" if cancelled else "")


@pytest.mark.parametrize(("state", "submitted"), [("PENDING", False), ("RUNNING", False), ("CANCELLED", True)])
def test_a_job_whose_answer_was_lost_is_taken_for_the_runs_own(
    answers: Callable[..., None], tmp_path: Path, state: str, submitted: bool
) -> None:
    code = RepositoryPythonOrigin(sys.executable, ModuleCodePointer("somewhere", "defs", None))
    with dg.DagsterInstance.local_temp(str(tmp_path)) as home:
        run = new_run(home, ["on_cpu"], job_code_origin=JobPythonOrigin("steps", code))
        answers(squeue=f"7|{state}|None|dagster-{run.run_id}|", sbatch="8")
        launcher(home).launch_run(LaunchRunContext(run, workspace=None))
        assert current(home, run).tags[JOB_TAG] == ("8" if submitted else "7")
