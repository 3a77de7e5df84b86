"""Asking for runs: over ranges of partitions, not twice at a time, and again, with patience, after a failure.

Nobody keeps count: what was tried is told by the runs themselves. So it makes no difference who was killed when, and
no request needs a run key, which would forbid for ever to ask for the same again.
"""

from __future__ import annotations

import itertools
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum, auto
from functools import cached_property

import dagster as dg
from dagster import DagsterRunStatus, RunRecord, RunsFilter

from virnuc_assets.partitions import MAX_PARTITIONS_PER_RUN

RANGE_START = "dagster/asset_partition_range_start"
RANGE_END = "dagster/asset_partition_range_end"
# Such runs are asked for again by who asked for them; Dagster's own retries are for runs that a person launched.
NOT_RETRIED = {"dagster/max_retries": "0"}
MAX_ATTEMPTS = 6
# Runs for what failed before, at once: a cause that all share must not fill the queue with a run for each.
MAX_RETRIES_QUEUED = 20
# Processes are killed for many reasons; one that is killed again and again may be so for what it does.
_CRASHES_FORGIVEN = 2
_PROBE_SECONDS, _MAX_PATIENCE_SECONDS = 600.0, 86_400.0
_FAILURE_REASON = "dagster/failure_reason"
_STEP_FAILED = "STEP_FAILURE"
_RUNS_LOOKED_AT = 2_000
_FINISHED = [DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED]
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


class Outcome(Enum):
    """How a run ended: its step failed or a person stopped it; or its process was gone, and nobody knows why."""

    SUCCEEDED = auto()
    FAILED = auto()
    CRASHED = auto()


@dataclass(frozen=True)
class _Attempt:
    keys: frozenset[str]
    began: float
    ended: float
    outcome: Outcome


@dataclass(frozen=True)
class _Past:
    """What was tried of one key in vain, the latest first."""

    attempts: Sequence[_Attempt]

    @cached_property
    def since_success(self) -> list[Outcome]:
        outcomes = (attempt.outcome for attempt in self.attempts)
        return list(itertools.takewhile(lambda outcome: outcome is not Outcome.SUCCEEDED, outcomes))

    @property
    def given_up(self) -> bool:
        """A crash is no reason to: whoever ends the servers each evening crashes runs that are well."""
        return self.since_success.count(Outcome.FAILED) >= MAX_ATTEMPTS

    @property
    def blamed(self) -> bool:
        return Outcome.FAILED in self.since_success or len(self.since_success) > _CRASHES_FORGIVEN

    @property
    def again_at(self) -> float:
        """A crash is tried again within seconds; a step that failed within a minute, then less and less often.

        Who succeeded and is wanted all the same is so for another reason, at first: a table was deleted, or settings
        were changed and changed back. Where that goes on, something is wrong that runs do not mend.
        """
        if not self.attempts:
            return 0.0
        if not (tries := len(self.since_success)):
            seconds, factor, tries = 60.0, 4.0, sum(a.outcome is Outcome.SUCCEEDED for a in self.attempts) - 1
        else:
            seconds, factor = (5.0, 2.0) if self.since_success[0] is Outcome.CRASHED else (60.0, 4.0)
        patience = seconds * factor ** min(tries - 1, 20) if tries else 0.0
        return self.attempts[0].ended + min(patience, _MAX_PATIENCE_SECONDS)


class Attempts:
    """Runs of one job, by what they were over.

    Those that go on are looked up when this is made: before what there is to do, so that what a run does meanwhile is
    not asked for once more.
    """

    def __init__(
        self,
        instance: dg.DagsterInstance,
        job: str,
        covers: Callable[[dg.DagsterRun], Collection[str]],
        now: float | None = None,
    ) -> None:
        self._instance, self._job, self._covers = instance, job, covers
        unfinished = instance.get_runs(RunsFilter(job_name=job, statuses=_UNFINISHED))
        self._busy = {key for run in unfinished for key in covers(run)}
        self._free = max(MAX_RETRIES_QUEUED - len(unfinished), 0)
        self._now = time.time() if now is None else now

    def ready(self, units: Sequence[Unit]) -> tuple[list[Unit], list[Unit], list[str]]:
        """Which units to ask for now.

        Returns:
            Those that may share a run; those that a run failed with, each to be tried by itself, so that one that is
            broken holds up no other; and names of those that were given up after MAX_ATTEMPTS. Where the latest
            runs failed all, only one of the second is tried now and then, until one succeeds.
        """
        together, alone, given_up = list[Unit](), list[Unit](), list[str]()
        finished = self._finished(units)
        by_key = _by_key(finished, {key for unit in units for key in unit.keys})
        for unit in units:
            pasts = [_Past([a for a in by_key.get(key, ()) if a.began >= unit.since]) for key in unit.keys]
            if any(past.given_up for past in pasts):
                given_up.append(unit.name)
            elif self._busy.isdisjoint(unit.keys) and all(past.again_at <= self._now for past in pasts):
                (alone if any(past.blamed for past in pasts) else together).append(unit)
        return together, alone[: self._retries(finished)], given_up

    def _retries(self, finished: Sequence[_Attempt]) -> int:
        """How many runs to ask for now for what failed before."""
        latest = finished[:MAX_RETRIES_QUEUED]
        if len(latest) < MAX_RETRIES_QUEUED or any(attempt.outcome is not Outcome.FAILED for attempt in latest):
            return self._free
        return int(self._now >= latest[0].ended + _PROBE_SECONDS)

    def _finished(self, units: Sequence[Unit]) -> list[_Attempt]:
        """Runs since the oldest unit is what it is, the latest first."""
        if not units:
            return []
        after = datetime.fromtimestamp(min(unit.since for unit in units), UTC)
        chosen = RunsFilter(job_name=self._job, statuses=_FINISHED, created_after=after)
        return [self._attempt(record) for record in self._instance.get_run_records(chosen, limit=_RUNS_LOOKED_AT)]

    def _attempt(self, record: RunRecord) -> _Attempt:
        run, began = record.dagster_run, record.create_timestamp.timestamp()
        outcome = Outcome.FAILED
        if run.status == DagsterRunStatus.SUCCESS:
            outcome = Outcome.SUCCEEDED
        elif run.status == DagsterRunStatus.FAILURE and run.tags.get(_FAILURE_REASON) != _STEP_FAILED:
            outcome = Outcome.CRASHED
        ended = record.end_time or record.update_timestamp.timestamp()
        return _Attempt(frozenset(self._covers(run)), began, ended, outcome)


def _by_key(attempts: Iterable[_Attempt], wanted: Set[str]) -> dict[str, list[_Attempt]]:
    found = defaultdict[str, list[_Attempt]](list)
    for attempt in attempts:
        for key in attempt.keys & wanted:
            found[key].append(attempt)
    return found


def unit_requests(attempts: Attempts, partitions: Sequence[str], units: Sequence[Unit]) -> list[dg.RunRequest]:
    """Runs over ranges for the units that are ready: as few as can be, and one for each that failed before."""
    together, alone, _ = attempts.ready(units)
    requests = []
    for group in [together, *([unit] for unit in alone)]:
        wanted = [key for unit in group for key in unit.keys]
        for keys in contiguous_ranges(partitions, wanted):
            requests.append(dg.RunRequest(tags={**range_tags(keys), **NOT_RETRIED}))
    return requests
