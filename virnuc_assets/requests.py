"""Asking for runs: over ranges of partitions, not twice at a time, and again, with patience, after a failure.

Nobody keeps count: what was tried is told by the runs themselves. So it makes no difference who was killed when.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import dagster as dg
from dagster import DagsterRunStatus, RunRecord, RunsFilter

from virnuc_assets.partitions import MAX_PARTITIONS_PER_RUN
from virnuc_assets.storage.digests import digest_of

RANGE_START = "dagster/asset_partition_range_start"
RANGE_END = "dagster/asset_partition_range_end"
# Such runs are asked for again by who asked for them; Dagster's own retries are for runs that a person launched.
NOT_RETRIED = {"dagster/max_retries": "0"}
MAX_ATTEMPTS = 6
# Processes are killed for many reasons; one that is killed again and again may be so for what it does.
_CRASHES_FORGIVEN = 2
_FAILURE_REASON = "dagster/failure_reason"
_STEP_FAILED = "STEP_FAILURE"
_RUNS_LOOKED_AT = 500
_UNFINISHED = [
    *(DagsterRunStatus.NOT_STARTED, DagsterRunStatus.QUEUED, DagsterRunStatus.STARTING, DagsterRunStatus.STARTED),
    *(DagsterRunStatus.MANAGED, DagsterRunStatus.CANCELING),
]


def contiguous_ranges(partitions: Sequence[str], wanted: Collection[str]) -> Iterator[list[str]]:
    """The wanted keys as runs of neighbours in partition order, cut at MAX_PARTITIONS_PER_RUN."""
    chosen, keys = set(wanted), list[str]()
    for partition in [*partitions, None]:
        if partition is not None and partition in chosen and len(keys) < MAX_PARTITIONS_PER_RUN:
            keys.append(partition)
            continue
        if keys:
            yield keys
        keys = [partition] if partition is not None and partition in chosen else []


def range_tags(keys: Sequence[str]) -> dict[str, str]:
    """Tags of a run over the partitions from the first to the last of these."""
    return {RANGE_START: keys[0], RANGE_END: keys[-1]}


def range_requests(partitions: Sequence[str], wanted: Collection[str], reason: str) -> Iterator[dg.RunRequest]:
    """Run requests over contiguous ranges of at most MAX_PARTITIONS_PER_RUN partitions, once for a reason."""
    for keys in contiguous_ranges(partitions, wanted):
        yield dg.RunRequest(run_key=f"{reason} {keys[0]}..{keys[-1]}", tags=range_tags(keys))


def keys_of_range(partitions: Sequence[str]) -> Callable[[dg.DagsterRun], Collection[str]]:
    """A function that tells the partitions of a run: one, or a range of those given; none where they are gone."""
    places = {key: place for place, key in enumerate(partitions)}

    def keys(run: dg.DagsterRun) -> Collection[str]:
        alone = run.tags.get("dagster/partition")
        first, last = places.get(run.tags.get(RANGE_START, "")), places.get(run.tags.get(RANGE_END, ""))
        if first is None or last is None:
            return [alone] if alone else []
        return partitions[first : last + 1]

    return keys


def goes_on(instance: dg.DagsterInstance, job: str) -> bool:
    """Whether a run of a job is queued or running."""
    return bool(instance.get_run_records(RunsFilter(job_name=job, statuses=_UNFINISHED), limit=1))


@dataclass(frozen=True)
class Unit:
    """Something to be done by a run, as a sample: what it is called, its partitions, and since when it is what it is.

    Attributes:
        name: of the unit.
        keys: partitions, or what else a run may be over.
        since: seconds since the epoch; a run that is older tried something else.
    """

    name: str
    keys: Sequence[str]
    since: float


@dataclass(frozen=True)
class _Attempt:
    keys: frozenset[str]
    began: float
    ended: float
    crashed: bool  # the process was gone, and nobody knows why; else a step failed or a person stopped it


class Attempts:
    """Runs of one job that go on or failed, by what they were over."""

    def __init__(
        self,
        instance: dg.DagsterInstance,
        job: str,
        covers: Callable[[dg.DagsterRun], Collection[str]],
        now: float | None = None,
    ) -> None:
        self._instance, self._job, self._covers = instance, job, covers
        self._now = time.time() if now is None else now

    def _records(self, statuses: Sequence[DagsterRunStatus]) -> Sequence[RunRecord]:
        chosen = RunsFilter(job_name=self._job, statuses=list(statuses))
        return self._instance.get_run_records(chosen, limit=_RUNS_LOOKED_AT)

    @cached_property
    def _busy(self) -> set[str]:
        return {key for record in self._records(_UNFINISHED) for key in self._covers(record.dagster_run)}

    @cached_property
    def _failed(self) -> list[_Attempt]:
        found = []
        for record in self._records([DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED]):
            run = record.dagster_run
            crashed = run.status == DagsterRunStatus.FAILURE and run.tags.get(_FAILURE_REASON) != _STEP_FAILED
            began, ended = record.create_timestamp.timestamp(), record.end_time or record.update_timestamp.timestamp()
            found.append(_Attempt(frozenset(self._covers(run)), began, ended, crashed))
        return found

    def busy(self, keys: Collection[str]) -> bool:
        """Whether an unfinished run is over one of these."""
        return not self._busy.isdisjoint(keys)

    def ready(self, units: Sequence[Unit]) -> tuple[list[Unit], list[Unit], list[str]]:
        """Which units to ask for now.

        Returns:
            Those that may share a run; those that a run failed with, each to be tried by itself, so that one that is
            broken holds up no other; and names of those that were given up after MAX_ATTEMPTS.
        """
        together, alone, given_up = list[Unit](), list[Unit](), list[str]()
        for unit in units:
            past = self._past(unit)
            if len(past) >= MAX_ATTEMPTS:
                given_up.append(unit.name)
            elif not self.busy(unit.keys) and not (past and self._now < _again_at(past)):
                blamed = len(past) > _CRASHES_FORGIVEN or any(not attempt.crashed for attempt in past)
                (alone if blamed else together).append(unit)
        return together, alone, given_up

    def request_key(self, units: Sequence[Unit]) -> str:
        """Equal as long as the same is asked for the same time; Dagster launches one run for each."""
        return digest_of(
            [self._job, [[unit.name, list(unit.keys), unit.since, len(self._past(unit))] for unit in units]]
        )

    def _past(self, unit: Unit) -> list[_Attempt]:
        tried = (attempt for attempt in self._failed if not attempt.keys.isdisjoint(unit.keys))
        return [attempt for attempt in tried if attempt.began >= unit.since]


def _again_at(past: Sequence[_Attempt]) -> float:
    """A crash is tried again within seconds; a step that failed within a minute, then less and less often."""
    last = max(past, key=lambda attempt: attempt.ended)
    patience = (5.0, 2.0) if last.crashed else (60.0, 4.0)
    return float(last.ended + patience[0] * patience[1] ** (len(past) - 1))


def unit_requests(attempts: Attempts, partitions: Sequence[str], units: Sequence[Unit]) -> list[dg.RunRequest]:
    """Runs over ranges for the units that are ready: as few as can be, and one for each that failed before."""
    together, alone, _ = attempts.ready(units)
    requests = []
    for group in [together, *([unit] for unit in alone)]:
        owner = {key: unit for unit in group for key in unit.keys}
        for keys in contiguous_ranges(partitions, owner):
            own = list({owner[key].name: owner[key] for key in keys}.values())
            key = f"{attempts.request_key(own)} {keys[0]}..{keys[-1]}"
            requests.append(dg.RunRequest(run_key=key, tags={**range_tags(keys), **NOT_RETRIED}))
    return requests
