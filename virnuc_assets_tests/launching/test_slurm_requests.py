"""What a job asks for: by defaults, steps and tags; what is refused. No Slurm is needed."""

import json
import logging
import time
from collections.abc import Mapping
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster._core.execution.api import create_execution_plan
from dagster._core.storage.dagster_run import DagsterRunStatus
from dagster._core.system_config.objects import ResolvedRunConfig
from dagster._daemon.monitoring.run_monitoring import monitor_starting_run
from hypothesis import given
from hypothesis import strategies as st

from virnuc_assets.defs.launchers import slurm
from virnuc_assets.defs.launchers.slurm import FORMS
from virnuc_assets.errors import VirnucError
from virnuc_assets_tests.launching.slurm_fakes import home, launcher, new_run, status, steps
from virnuc_assets_tests.running import CHECKOUT

__all__ = ["home"]  # a fixture


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
        options = slurm.options(slurm.request(json.dumps(hostile), "tag"))
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
