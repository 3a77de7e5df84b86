"""What a job asks for: by defaults, steps and tags; what is refused; and what a state means. No Slurm is needed."""

import json
import logging
import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster._core.execution.api import create_execution_plan
from dagster._core.launcher import RunLauncher
from dagster._core.launcher.base import WorkerStatus
from dagster._core.storage.dagster_run import DagsterRunStatus
from dagster._core.system_config.objects import ResolvedRunConfig
from dagster._daemon.monitoring.run_monitoring import monitor_starting_run
from dagster._serdes import ConfigurableClassData
from hypothesis import given
from hypothesis import strategies as st

from virnuc_assets import slurm_jobs
from virnuc_assets.errors import VirnucError
from virnuc_assets.launch import SLURM_TAG
from virnuc_assets.slurm import JOB_TAG, SUBMITTED_TAG, SlurmRunLauncher
from virnuc_assets.slurm_jobs import FORMS, ControllerAway
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


def asked(
    home: dg.DagsterInstance, selected: list[str], tag: Mapping[str, Any] | str | None = None, **config: Any
) -> list[str]:
    """Options of a run of some ops."""
    return slurm_jobs.options(launcher(home, **config)._request(new_run(home, selected, tag)))


def new_run(
    instance: dg.DagsterInstance, selected: list[str], tag: Mapping[str, Any] | str | None = None, **more: Any
) -> dg.DagsterRun:
    tags = {} if tag is None else {SLURM_TAG: tag if isinstance(tag, str) else json.dumps(tag)}
    return instance.create_run_for_job(steps.get_subset(op_selection=selected), tags=tags, **more)


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
        ('["gpu:1"]', "expected a JSON object"),
        ({"wrap": "id"}, "'wrap': 'id'"),
        ({"gres": "gpu:1 --wrap=id"}, "'gres': 'gpu:1 --wrap=id'"),
        ({"gres": ["gpu:1"]}, r"'gres': \['gpu:1'\]"),
        ({"cpus_per_task": 0}, "'cpus_per_task': 0"),
        ({"cpus_per_task": True}, "'cpus_per_task': True"),
        ({"time": "tomorrow"}, "'time': 'tomorrow'"),
    ],
)
def test_other_forms_are_refused_by_the_name_of_the_tag(home: dg.DagsterInstance, tag: Any, wrong: str) -> None:
    with pytest.raises(VirnucError, match=rf"^tag virnuc/slurm of run .*{wrong}"):
        asked(home, ["on_cpu"], tag)


values = st.one_of(
    st.text(),
    st.sampled_from(
        [" ", ";", "\n", "$(id)", "`id`", "'", '"', "-", "--wrap=id", "\0", "gpu:1", "é", "\u2028"]
    ).flatmap(lambda bad: st.tuples(st.text("ab1:,", max_size=3), st.text("ab1:,", max_size=3)).map(bad.join)),
)


@given(st.dictionaries(st.sampled_from([*FORMS, "wrap", "export", ""]), values, min_size=1))
def test_no_tag_becomes_another_option_or_a_command(hostile: dict[str, str]) -> None:
    try:
        options = slurm_jobs.options(slurm_jobs.request(json.dumps(hostile), "tag"))
    except VirnucError as error:
        assert str(error).startswith("tag: ")
        return
    assert len(options) == len(hostile)
    for (key, value), option in zip(hostile.items(), options, strict=True):
        assert option == f"--{key.replace('_', '-')}={value}"
        assert set(value) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.,:&|-")
        assert not value.startswith("-")


@pytest.mark.parametrize("name", ["TMPDIR", "VIRNUC_UP_HOME", "SLURM_JOB_ID", "SBATCH_PARTITION"])
def test_variables_that_are_not_a_jobs_are_refused(name: str) -> None:
    with pytest.raises(VirnucError, match=f"{name} cannot be passed on"):
        launcher(environment=[name])


def test_dagster_yaml_has_no_unknown_keys() -> None:
    with pytest.raises(dg.DagsterInvalidConfigError, match="gpus"):
        launcher(resources={"gpus": 1})
    with pytest.raises(VirnucError, match=r"dagster.yaml.*'mem': 'much'"):
        launcher(resources={"mem": "much"})


ALIVE = ["PENDING", "RUNNING", "CONFIGURING", "COMPLETING", "SUSPENDED", "REQUEUED", "STAGE_OUT", "A_NEW_STATE"]
DEAD = ["COMPLETED", "FAILED", "TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL", "CANCELLED", "BOOT_FAIL", "PREEMPTED"]


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
    assert status(home, run) is DagsterRunStatus.STARTED


def test_a_job_that_the_controller_forgot(home: dg.DagsterInstance, answers: Callable[..., None]) -> None:
    answers()
    run = new_run(home, ["on_cpu"])
    health = launcher(home).check_run_worker_health(run)
    assert health == (WorkerStatus.RUNNING, "its job is being submitted", None, None)
    home.add_run_tags(run.run_id, {JOB_TAG: "6", SUBMITTED_TAG: "the run that this one is a retry of"})
    retry = home.get_run_by_id(run.run_id)
    assert retry is not None
    assert launcher(home).check_run_worker_health(retry).status is WorkerStatus.RUNNING
    home.add_run_tags(run.run_id, {JOB_TAG: "7", SUBMITTED_TAG: run.run_id})
    submitted = home.get_run_by_id(run.run_id)
    assert submitted is not None
    health = launcher(home).check_run_worker_health(submitted)
    assert health.status is WorkerStatus.FAILED
    assert str(health.msg).startswith("Slurm knows no job of this run; its log is /")
    answers(sacct=f"7|CANCELLED by 0|None|dagster-{run.run_id}")
    health = launcher(home).check_run_worker_health(submitted)
    assert str(health.msg).startswith("Slurm job 7 is CANCELLED (reason None), exit code not known")


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
            assert status(home, run) is expected


def test_deployed_launcher() -> None:
    deployed = yaml.safe_load((CHECKOUT / "deploy/slurm/dagster.yaml").read_text())
    launcher(**deployed["run_launcher"]["config"])


def status(home: dg.DagsterInstance, run: dg.DagsterRun) -> DagsterRunStatus:
    now = home.get_run_by_id(run.run_id)
    assert now is not None
    return now.status
