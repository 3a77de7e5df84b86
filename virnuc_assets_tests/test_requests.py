"""Runs are asked for once at a time, again after a failure, and not for ever."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import dagster as dg
import pytest
from dagster import DagsterRunStatus
from hypothesis import given
from hypothesis import strategies as st

from virnuc_assets.partitions import MAX_PARTITIONS_PER_RUN
from virnuc_assets.requests import (
    MAX_ATTEMPTS,
    MAX_RETRIES_QUEUED,
    RANGE_END,
    RANGE_START,
    Attempts,
    Unit,
    contiguous_ranges,
    goes_on,
    keys_of_range,
    range_tags,
    unit_requests,
)

JOB = "some_job"
SHARDS = ["a-1", "a-2", "b-1", "c-1", "d-1"]
A, B, C = Unit("a", ["a-1", "a-2"], 0.0), Unit("b", ["b-1"], 0.0), Unit("c", ["c-1"], 0.0)
LATER = 10**6


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


def ran(
    instance: dg.DagsterInstance, keys: list[str], status: DagsterRunStatus, step_failed: bool = False, job: str = JOB
) -> None:
    tags = {**range_tags(keys), **({"dagster/failure_reason": "STEP_FAILURE"} if step_failed else {})}
    instance.add_run(dg.DagsterRun(job_name=job, status=status, tags=tags))


def asked(instance: dg.DagsterInstance, *units: Unit, after: float = 0.0) -> list[tuple[str, str]]:
    """Ranges asked for some seconds from now."""
    attempts = Attempts(instance, JOB, keys_of_range(SHARDS), now=time.time() + after)
    return [(request.tags[RANGE_START], request.tags[RANGE_END]) for request in unit_requests(attempts, SHARDS, units)]


@given(st.data())
def test_ranges_hold_each_wanted_key_once_in_order(data: st.DataObject) -> None:
    partitions = [f"shard-{number:06d}" for number in range(data.draw(st.integers(0, 3 * MAX_PARTITIONS_PER_RUN)))]
    wanted = data.draw(st.sets(st.sampled_from(partitions))) if partitions else set()
    ranges = list(contiguous_ranges(partitions, sorted(wanted)))
    assert [key for keys in ranges for key in keys] == [key for key in partitions if key in wanted]
    for keys in ranges:
        first = partitions.index(keys[0])
        assert 1 <= len(keys) <= MAX_PARTITIONS_PER_RUN
        assert partitions[first : first + len(keys)] == keys


@given(st.integers(0, 3 * MAX_PARTITIONS_PER_RUN))
def test_neighbours_are_only_parted_where_a_run_is_full(count: int) -> None:
    partitions = [f"shard-{number:06d}" for number in range(count)]
    sizes = [len(keys) for keys in contiguous_ranges(partitions, partitions)]
    assert sizes[:-1] == [MAX_PARTITIONS_PER_RUN] * (len(sizes) - 1)
    assert len(sizes) == -(-count // MAX_PARTITIONS_PER_RUN)


def test_ranges_follow_the_order_of_the_partitions_and_skip_what_is_not_wanted() -> None:
    partitions = ["b-000001", "b-000002", "a-000001", "a-000002", "c-000001"]
    wanted = ["a-000001", "b-000002", "c-000001", "gone-000001"]
    assert list(contiguous_ranges(partitions, wanted)) == [["b-000002", "a-000001"], ["c-000001"]]


def test_what_was_never_tried_shares_a_run(instance: dg.DagsterInstance) -> None:
    assert asked(instance, A, B) == [("a-1", "b-1")]
    assert asked(instance, A, C) == [("a-1", "a-2"), ("c-1", "c-1")]


@pytest.mark.parametrize("status", [DagsterRunStatus.NOT_STARTED, DagsterRunStatus.STARTED])
def test_what_a_run_is_over_is_not_asked_for_meanwhile(instance: dg.DagsterInstance, status: DagsterRunStatus) -> None:
    ran(instance, ["a-1", "a-2"], status)
    assert asked(instance, A, B, after=LATER) == [("b-1", "b-1")]
    assert goes_on(instance, JOB)
    assert not goes_on(instance, "another_job")


def test_a_run_of_another_job_is_not_in_the_way(instance: dg.DagsterInstance) -> None:
    ran(instance, ["a-1", "a-2"], DagsterRunStatus.STARTED, job="another_job")
    assert asked(instance, A) == [("a-1", "a-2")]


def test_a_run_over_one_partition_is_known_by_it(instance: dg.DagsterInstance) -> None:
    instance.add_run(dg.DagsterRun(job_name=JOB, status=DagsterRunStatus.STARTED, tags={"dagster/partition": "a-2"}))
    assert asked(instance, A, B) == [("b-1", "b-1")]


def test_after_a_crash_all_are_tried_again_within_seconds_and_after_a_third_each_alone(
    instance: dg.DagsterInstance,
) -> None:
    """The process may have been killed for no fault of a sample, or by one that is too large, which is then alone."""
    ran(instance, ["a-1", "b-1"], DagsterRunStatus.FAILURE)
    assert asked(instance, A, B) == []
    assert asked(instance, A, B, after=6) == [("a-1", "b-1")]
    ran(instance, ["a-1", "b-1"], DagsterRunStatus.FAILURE)
    assert asked(instance, A, B, after=6) == []
    assert asked(instance, A, B, after=11) == [("a-1", "b-1")]
    ran(instance, ["a-1", "b-1"], DagsterRunStatus.FAILURE)
    assert asked(instance, A, B, C, after=21) == [("c-1", "c-1"), ("a-1", "a-2"), ("b-1", "b-1")]


def test_after_a_failed_step_each_is_tried_alone_with_more_patience(instance: dg.DagsterInstance) -> None:
    ran(instance, ["a-1", "b-1"], DagsterRunStatus.FAILURE, step_failed=True)
    assert asked(instance, A, B, after=50) == []
    assert asked(instance, A, B, after=61) == [("a-1", "a-2"), ("b-1", "b-1")]


def test_what_a_person_stopped_is_not_tried_again_at_once(instance: dg.DagsterInstance) -> None:
    ran(instance, ["a-1", "a-2"], DagsterRunStatus.CANCELED)
    assert asked(instance, A, after=50) == []


def test_after_so_many_failed_steps_it_is_given_up_until_it_is_another(instance: dg.DagsterInstance) -> None:
    for _ in range(MAX_ATTEMPTS):
        ran(instance, ["a-1", "b-1"], DagsterRunStatus.FAILURE, step_failed=True)
    assert asked(instance, A, B, C, after=LATER) == [("c-1", "c-1")]
    attempts = Attempts(instance, JOB, keys_of_range(SHARDS), now=time.time() + LATER)
    assert attempts.ready([A, B, C])[2] == ["a", "b"]
    replaced = replace(A, since=time.time() + 1)
    assert asked(instance, replaced, B, after=LATER) == [("a-1", "a-2")]


def test_crashes_are_never_given_up_and_tried_less_and_less_often(instance: dg.DagsterInstance) -> None:
    """Whoever ends the servers each evening crashes a run that is well."""
    for _ in range(2 * MAX_ATTEMPTS):
        ran(instance, ["a-1", "a-2"], DagsterRunStatus.FAILURE)
    assert asked(instance, A, after=10_000) == []
    assert asked(instance, A, after=10_300) == [("a-1", "a-2")]
    for _ in range(100):
        ran(instance, ["a-1", "a-2"], DagsterRunStatus.FAILURE)
    assert asked(instance, A, after=86_300) == []
    assert asked(instance, A, after=86_500) == [("a-1", "a-2")]


def test_runs_over_other_parts_of_a_unit_are_not_counted_together(instance: dg.DagsterInstance) -> None:
    """A large sample is in several runs at once, and a full disk fails all of them."""
    large = Unit("large", [f"l-{number}" for number in range(2 * MAX_ATTEMPTS)], 0.0)
    for key in large.keys:
        ran(instance, [key], DagsterRunStatus.FAILURE, step_failed=True)
    attempts = Attempts(instance, JOB, keys_of_range(large.keys), now=time.time() + 61)
    assert attempts.ready([large]) == ([], [large], [])


def test_a_success_is_the_end_of_what_failed_before(instance: dg.DagsterInstance) -> None:
    for _ in range(MAX_ATTEMPTS):
        ran(instance, ["a-1", "a-2"], DagsterRunStatus.FAILURE, step_failed=True)
    ran(instance, ["a-1", "a-2"], DagsterRunStatus.SUCCESS)
    assert asked(instance, A) == [("a-1", "a-2")]


def test_what_is_wanted_after_a_success_is_asked_for_at_once_and_then_with_patience(
    instance: dg.DagsterInstance,
) -> None:
    """A table may have been deleted; but where runs succeed and help nothing, there are few of them."""
    ran(instance, ["a-1", "a-2"], DagsterRunStatus.SUCCESS)
    assert asked(instance, A) == [("a-1", "a-2")]
    ran(instance, ["a-1", "a-2"], DagsterRunStatus.SUCCESS)
    assert asked(instance, A, after=50) == []
    assert asked(instance, A, after=61) == [("a-1", "a-2")]
    ran(instance, ["a-1", "a-2"], DagsterRunStatus.SUCCESS)
    assert asked(instance, A, after=230) == []
    assert asked(instance, A, after=250) == [("a-1", "a-2")]


def test_what_a_run_does_while_it_is_looked_is_not_asked_for_once_more(instance: dg.DagsterInstance) -> None:
    ran(instance, ["a-1", "a-2"], DagsterRunStatus.STARTED)
    attempts = Attempts(instance, JOB, keys_of_range(SHARDS))
    (run,) = instance.get_runs()
    instance.report_run_failed(run)
    assert unit_requests(attempts, SHARDS, [A, B])[0].tags[RANGE_START] == "b-1"


MANY = [f"m-{number}" for number in range(10 * MAX_RETRIES_QUEUED)]
ONE_EACH = [Unit(key, [key], 0.0) for key in MANY]


def retried(instance: dg.DagsterInstance, units: list[Unit], after: float) -> list[str]:
    attempts = Attempts(instance, JOB, keys_of_range(MANY), now=time.time() + after)
    return [request.tags[RANGE_START] for request in unit_requests(attempts, MANY, units)]


def test_a_failure_that_many_share_does_not_fill_the_queue(instance: dg.DagsterInstance) -> None:
    ran(instance, MANY, DagsterRunStatus.FAILURE, step_failed=True)
    first = retried(instance, ONE_EACH, after=61)
    assert first == MANY[:MAX_RETRIES_QUEUED]
    for key in first[1:]:
        ran(instance, [key], DagsterRunStatus.NOT_STARTED)
    assert retried(instance, ONE_EACH, after=61) == [first[0]]


def test_where_all_fails_one_is_tried_now_and_then_until_it_succeeds(instance: dg.DagsterInstance) -> None:
    for key in MANY[:MAX_RETRIES_QUEUED]:
        ran(instance, [key], DagsterRunStatus.FAILURE, step_failed=True)
    tried, fresh = ONE_EACH[:MAX_RETRIES_QUEUED], ONE_EACH[-1]
    assert retried(instance, tried, after=590) == []
    assert retried(instance, [*tried, fresh], after=590) == [fresh.name]
    assert retried(instance, tried, after=610) == [MANY[0]]
    ran(instance, [MANY[0]], DagsterRunStatus.SUCCESS)
    assert retried(instance, tried[1:], after=61) == MANY[1:MAX_RETRIES_QUEUED]
