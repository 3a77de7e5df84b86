"""When the reference is planned, embedded and trained anew."""

from __future__ import annotations

import datetime as dt
import os
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster import DagsterRunStatus

from virnuc_assets import automation, reembedding
from virnuc_assets.definitions import build_defs
from virnuc_assets.partitions import REFERENCE
from virnuc_assets.requests import NOT_RETRIED
from virnuc_assets_tests.assets.project import Project
from virnuc_assets_tests.watching_fakes import look, ranges_of

pytest_plugins = ["virnuc_assets_tests.assets.finished"]


def planned(project: Project, status: DagsterRunStatus = DagsterRunStatus.SUCCESS, by_hand: bool = False) -> None:
    """A run of the plan as the schedule launches it."""
    tags = {} if by_hand else {"dagster/schedule_name": reembedding.SCHEDULE}
    project.instance.add_run(dg.DagsterRun(job_name=automation.PLAN_REFERENCE_JOB, status=status, tags=tags))


def stale_asked(project: Project, cursor: str | None = None) -> tuple[list[tuple[str, str]], str | None]:
    requests, cursor = look(project.defs, project.instance, "stale_reference", cursor)
    return ranges_of(requests), cursor


def remove(project: Project, asset: str, *shards: str) -> None:
    for shard in shards:
        project.workspace.layout.table("reference", asset, shard).unlink()


def test_every_week_the_reference_is_planned(tmp_path: Path) -> None:
    from virnuc_assets.settings import Settings

    instance = dg.DagsterInstance.local_temp(str(tmp_path))  # a schedule's context opens the instance by its folder
    schedule = build_defs(Settings(root=tmp_path)).resolve_schedule_def(reembedding.SCHEDULE)
    keys = []
    for day in (1, 8):
        context = dg.build_schedule_context(instance, dt.datetime(2026, 11, day, 3, tzinfo=dt.UTC))
        keys += [request.run_key for request in schedule.evaluate_tick(context).run_requests or []]
    assert schedule.cron_schedule == "0 3 * * 0"
    assert schedule.job_name == automation.PLAN_REFERENCE_JOB
    assert keys == ["2026-11-01 03:00", "2026-11-08 03:00"]


def test_after_the_weekly_plan_stale_shards_are_embedded_and_no_others(copied: Project) -> None:
    first, *_, last = copied.keys(REFERENCE)
    remove(copied, "fastesm2_650_embeddings", first, last)
    assert stale_asked(copied)[0] == []
    planned(copied, by_hand=True)
    assert stale_asked(copied)[0] == []
    planned(copied)
    assert stale_asked(copied)[0] == [(first, first), (last, last)]


def test_a_plan_with_a_broken_source_is_followed_for_the_others(copied: Project) -> None:
    remove(copied, "translated_proteins", copied.keys(REFERENCE)[1])
    planned(copied, DagsterRunStatus.FAILURE)
    assert len(stale_asked(copied)[0]) == 1


def test_when_nothing_is_stale_the_plan_is_done_with(copied: Project) -> None:
    planned(copied)
    asked, cursor = stale_asked(copied)
    assert asked == []
    assert cursor
    remove(copied, "fastesm2_650_embeddings", copied.keys(REFERENCE)[0])
    assert stale_asked(copied, cursor) == ([], cursor)  # until next week
    planned(copied)
    assert len(stale_asked(copied, cursor)[0]) == 1


def test_shards_that_a_run_is_over_are_not_asked_for_meanwhile(copied: Project) -> None:
    first, second, *_ = copied.keys(REFERENCE)
    remove(copied, "fastesm2_650_embeddings", first, second)
    planned(copied)
    tags = {"dagster/partition": first}
    copied.instance.add_run(
        dg.DagsterRun(job_name=automation.REFERENCE_JOB, status=DagsterRunStatus.STARTED, tags=tags)
    )
    assert stale_asked(copied)[0] == [(second, second)]


@pytest.fixture
def trained(copied: Project) -> Iterator[Project]:
    """A project whose features are all older than its classifier."""
    os.utime(copied.workspace.layout.classifier("fastesm2") / "classifier.json")
    yield copied


def make_newer(project: Project, *shards: str) -> None:
    later = time.time() + 1  # a file system's clock may not have ticked since the classifier was touched
    for shard in shards:
        os.utime(project.workspace.layout.table("reference", "fastesm2_features", shard), (later, later))


def training_asked(project: Project) -> list[dg.RunRequest]:
    return look(project.defs, project.instance, "changed_reference")[0]


def test_enough_change_asks_for_training_once(trained: Project) -> None:
    assert training_asked(trained) == []
    trained.configure(automation={"retrain_changed_share": 1.0})
    make_newer(trained, trained.keys(REFERENCE)[0])
    assert training_asked(trained) == []
    trained.configure(automation={"retrain_changed_share": 0.0001})
    (request,) = training_asked(trained)
    (again,) = training_asked(trained)
    assert request.run_key == again.run_key
    assert request.tags == NOT_RETRIED


@pytest.mark.parametrize("job", [automation.PLAN_REFERENCE_JOB, automation.REFERENCE_JOB, automation.DECISION_JOB])
def test_training_waits_for_what_goes_on(trained: Project, job: str) -> None:
    make_newer(trained, *trained.keys(REFERENCE))
    trained.instance.add_run(dg.DagsterRun(job_name=job, status=DagsterRunStatus.STARTED))
    assert training_asked(trained) == []


def test_training_waits_until_nothing_is_stale(trained: Project) -> None:
    make_newer(trained, *trained.keys(REFERENCE))
    assert len(training_asked(trained)) == 1
    remove(trained, "kmer_features", trained.keys(REFERENCE)[0])
    assert training_asked(trained) == []


def test_the_first_training_is_a_persons(trained: Project) -> None:
    make_newer(trained, *trained.keys(REFERENCE))
    (trained.workspace.layout.classifier("fastesm2") / "classifier.json").unlink()
    assert training_asked(trained) == []
