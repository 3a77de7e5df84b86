"""What a soaked project holds in the end, against one that nobody disturbed."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
from dagster import DagsterRunStatus, RunsFilter
from dagster._core.execution.backfill import BULK_ACTION_TERMINAL_STATUSES, BulkActionsFilter, BulkActionStatus
from rich.console import Console

from benchmarks.dropped_files import Dropped
from virnuc_assets.cli.demo import Runs, bars
from virnuc_assets.definitions import build_defs
from virnuc_assets.defs import jobs
from virnuc_assets.defs.assets.predictions import PROVENANCE_FILE, REPORT
from virnuc_assets.defs.partitions import SAMPLES, ShardSet
from virnuc_assets.defs.provenance import CHUNKS, FRAMES, PREDICTIONS, vectors
from virnuc_assets.defs.resources import Workspace
from virnuc_assets.defs.stale import files_to_plan, stale_partitions
from virnuc_assets.sequences.catalogue import source_name
from virnuc_assets.sequences.incoming import read_intake_log
from virnuc_assets.settings import Settings, load_settings
from virnuc_assets.storage.tables import read_table
from virnuc_assets.text import printable
from virnuc_assets.workstation.cleanup import processes_of
from virnuc_assets.workstation.setup import dagster_home

_REFUSED = {"refused", "namesake"}
_FINISHED = {DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED}
_UNFINISHED = [status for status in DagsterRunStatus if status not in _FINISHED]


def undisturbed(project: Path, copy: Path, files: Sequence[Dropped]) -> Settings:
    """A copy of a trained project after the good files went through it in one process, one run after the other."""
    shutil.copytree(project, copy)
    settings = load_settings(copy / "virnuc.toml")
    for file in files:
        if file.good and file.same_as is None:
            (settings.incoming / file.name).write_bytes(file.content)
    os.environ["DAGSTER_HOME"] = str(dagster_home(settings))
    logging.getLogger("dagster").setLevel(logging.ERROR)
    with (
        dg.DagsterInstance.get() as instance,
        Path(os.devnull).open("w") as nowhere,
        bars(Console(file=nowhere)) as progress,
    ):
        run = Runs(build_defs(settings), instance, progress)
        run.job(jobs.PLAN_SAMPLES_JOB)
        run.stages("samples", Workspace(settings), SAMPLES, _kept(settings, SAMPLES))
    return settings


def _kept(settings: Settings, shards: ShardSet) -> list[str]:
    """What is made of every partition without being asked for; predictions and reports are of samples only."""
    return [CHUNKS, FRAMES, *vectors(Workspace(settings).kept_variants(shards.domain)), PREDICTIONS, REPORT]


def is_settled(settings: Settings, shards: ShardSet = SAMPLES) -> bool:
    """Whether every file is in the intake log, every partition's tables are today's, and no run goes on."""
    with dg.DagsterInstance.from_config(str(dagster_home(settings))) as instance:
        active = BulkActionsFilter(statuses=[s for s in BulkActionStatus if s not in BULK_ACTION_TERMINAL_STATUSES])
        return not (
            instance.get_runs_count(RunsFilter(statuses=_UNFINISHED))
            or instance.get_backfills_count(active)
            or files_to_plan(Workspace(settings))
            or _missing(instance, settings, shards)
        )


def _missing(instance: dg.DagsterInstance, settings: Settings, shards: ShardSet) -> int:
    """Partitions of which something is missing or stale, or is not visible as materialized."""
    found = stale_partitions(instance, Workspace(settings), shards, _kept(settings, shards))
    return sum(map(len, found.values()))


def left_over(settings: Settings, seconds: float) -> dict[str, float]:
    """Orphans, and slots that are taken, of a settled project whose servers run: before anybody clears them away.

    Args:
        settings: the project's.
        seconds: how long a process that is just ending, and a slot that is about to be freed, may take.
    """
    home, deadline = dagster_home(settings), time.monotonic() + seconds
    while True:
        with dg.DagsterInstance.from_config(str(home)) as instance:
            figures = {"orphans": float(len(orphans(home))), "slots_stuck": float(slots_taken(instance))}
        if not any(figures.values()) or time.monotonic() > deadline:
            return figures
        time.sleep(0.5)


def orphans(home: Path) -> list[psutil.Process]:
    """Processes of a home that should not be there where no run goes on.

    Those are the ones that execute runs, and whatever does not descend from the living `virnuc up`, as its servers
    and Python's resource trackers do.
    """
    living = processes_of(home)
    served = {process.pid for kind, process in living if kind == "up"}
    return [process for kind, process in living if kind != "up" and (kind == "worker" or _is_astray(process, served))]


def _is_astray(process: psutil.Process, served: set[int]) -> bool:
    try:
        return not served & {parent.pid for parent in process.parents()}
    except psutil.NoSuchProcess:  # it ended meanwhile
        return False


def slots_taken(instance: dg.DagsterInstance) -> int:
    """Slots of pools that are taken, and runs that have not ended."""
    storage = instance.event_log_storage
    infos = [storage.get_concurrency_info(key) for key in storage.get_concurrency_keys()]
    unfinished = instance.get_runs_count(RunsFilter(statuses=_UNFINISHED))
    return int(unfinished + sum(info.active_slot_count for info in infos))


def verdict(settings: Settings, expected: Settings, files: Sequence[Dropped]) -> dict[str, float]:
    """Counts of what is right and wrong with every file that was dropped."""
    layout, intake = Workspace(settings).layout, read_intake_log(Workspace(settings).layout)
    figures = dict.fromkeys(("files_good", "files_bad_reported", "files_duplicate", "rows_lost", "rows_doubled"), 0.0)
    for file in files:
        entry = intake.get(printable(file.name))
        if not file.good:
            figures["files_bad_reported"] += entry is not None and entry.fate in _REFUSED and bool(entry.reason)
        elif file.same_as is not None:
            figures["files_duplicate"] += entry is not None and entry.fate == "duplicate"
            figures["files_good"] += entry is not None and entry.fate == "duplicate"
        else:
            sample = source_name(settings.incoming / file.name)
            found, wanted = rows_of(settings, sample), rows_of(expected, sample)
            figures["rows_lost"] += (wanted - found).total()
            figures["rows_doubled"] += (found - wanted).total()
            figures["files_good"] += found == wanted and _same_report(settings, expected, sample)
    figures["temporary_files"] = len([*layout.var.rglob("*.partial"), *layout.var.rglob("*.copy")])
    with dg.DagsterInstance.from_config(str(dagster_home(settings))) as instance:
        figures["slots_stuck"] = slots_taken(instance)
        figures["runs"] = instance.get_runs_count()
        figures["runs_failed"] = instance.get_runs_count(RunsFilter(statuses=[DagsterRunStatus.FAILURE]))
        figures["partitions_missing"] = _missing(instance, settings, SAMPLES)
    return figures


def rows_of(settings: Settings, sample: str) -> Counter[tuple[Any, ...]]:
    """Every predicted row of a sample with how often it is there, scores to the last bit."""
    layout, rows = Workspace(settings).layout, Counter[tuple[Any, ...]]()
    for shard in SAMPLES.shards(layout, sample):
        path = layout.table("samples", PREDICTIONS, shard)
        if path.is_file():
            rows.update(tuple(row.values()) for row in read_table(path).to_pylist())
    return rows


def _same_report(settings: Settings, expected: Settings, sample: str) -> bool:
    """Whether a sample's user received the same files, byte for byte but for the order of lines of shards.

    Shards are not compared: a file that was replaced meanwhile has others than one that was not.
    """
    folders = [Workspace(one).layout.sample_report(sample) for one in (settings, expected)]
    names = [sorted(path.name for path in folder.glob("*")) for folder in folders]
    return names[0] == names[1] != [] and all(
        sorted((folders[0] / name).read_bytes().splitlines()) == sorted((folders[1] / name).read_bytes().splitlines())
        for name in names[0]
        if name != PROVENANCE_FILE
    )
