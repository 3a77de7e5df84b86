"""The watched folder under fire: files dropped in random ways while processes of every kind are killed at random.

The bundled project is trained and its real servers are started. Those that execute runs, every server, `virnuc up`, and
all of them at once get SIGKILLs. Then the servers are left alone until nothing is left to do, and the project is
compared with a copy in which `virnuc demo` predicted the same files undisturbed.
"""

from __future__ import annotations

import argparse
import gzip
import random
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import dagster as dg
import psutil

from benchmarks import common
from benchmarks.common import CONSOLE, ROOT, Figures, Limits
from benchmarks.project import UNFINISHED, Project
from virnuc_assets.defs.assets.predictions import PROVENANCE_FILE
from virnuc_assets.defs.partitions import SAMPLES
from virnuc_assets.defs.provenance import PREDICTIONS
from virnuc_assets.reports.sample_results import FRAMES_TABLE, PAGE_FILE, RUN_FILE
from virnuc_assets.sequences.catalogue import source_name
from virnuc_assets.sequences.incoming import read_intake_log
from virnuc_assets.storage.tables import read_table
from virnuc_assets.text import printable
from virnuc_assets.workstation.setup import make_project
from virnuc_assets.workstation.up import processes_of

OPTIONS = {
    "good": (35, "files that can be read, a duplicate among them"),
    "bad": (25, "broken files"),
    "kills": (40, "how many times something is killed"),
    "minutes": (13.0, "over which the kills are spread"),
    "seed": (1, "of files, ways, pauses and targets"),
}
SETTINGS = """
[training]
max_epochs = 5
[benchmark]
rows = 32
max_rounds = 6
[decision]
bootstrap_rounds = 100
power_studies = 20
"""
WAYS = ("at once", "renamed", "slowly")
NONE = ("rows_lost", "rows_doubled", "slots_stuck", "orphans", "temporary_files", "partitions_missing")
_ALL = "all"
# Workers more often: they do the work.
_TARGETS = ("worker", "worker", "worker", "code_server", "webserver", "daemon", "mlflow", "up", _ALL, "helper")
_NOT_COMPARED = {PROVENANCE_FILE, RUN_FILE, PAGE_FILE, FRAMES_TABLE}
_WORKING, _SERVERS = {"worker", "helper"}, 5  # `virnuc up` is one of them
_ENDING_SECONDS = 30.0  # of a process that is just ending, and a slot that is about to be freed
_PAUSES_S = (0.5, 2.0, 8.0)  # between the parts of a slow copy; the last is longer than two polls of the sensor
_GOOD_NAMES = (
    *("sample_{}.fasta", "with space {}.fna", "semi;colon & {}.fa", "größe_{}.fasta", "quote'\"$(x)_{}.fasta"),
    *("new\nline_{}.fasta", "-rf_{}.fasta", "=cmd_{}.fasta", "zipped_{}.fasta.gz"),
)
_NASTY = ROOT / "virnuc_assets_tests/nasty"
_BROKEN = (
    *("zero_bytes.fa", "html_error_page.fasta", "nul_bytes.fasta", "truncated.fna.gz", "corrupt_crc.fna.gz"),
    *("first_line_not_header.fasta", "no_id_header_only_gt.fasta", "gapped_alignment.fas", "protein_genbank_faa.faa"),
)


class Dropped(NamedTuple):
    """A file to drop."""

    name: str
    content: bytes
    good: bool  # has predictions in the end; else it is refused
    way: str  # of WAYS
    before: bytes | None = None  # content that is in the folder for a while, until the file replaces it
    duplicate: bool = False  # of a file with the same records, which alone has predictions


def measure(given: argparse.Namespace, scratch: Path) -> tuple[Figures, Limits]:
    """Counts, of which those of `NONE` must be 0."""
    log = given.out.with_suffix(".log")
    make_project(scratch / "project", bundled=True)
    project = Project(scratch / "project", log, SETTINGS)
    project.virnuc("setup")
    project.virnuc("demo")
    files = make_files(given.good, given.bad, given.seed)
    CONSOLE.log("trained; the same files go through an undisturbed copy")
    shutil.copytree(scratch / "project", scratch / "undisturbed")
    undisturbed = Project(scratch / "undisturbed", log, None)
    for file in files:
        if file.good and not file.duplicate:
            (undisturbed.settings.incoming / file.name).write_bytes(file.content)
    undisturbed.virnuc("demo")
    try:
        figures = _latency(project) | _fire(project, files, given)
        project.wait_for("all files done", lambda: project.is_settled(SAMPLES), 900)
        _wait(project, _ENDING_SECONDS)
        with project.instance() as instance:  # before anything cleans up
            figures |= {"orphans": len(orphans(project.home)), "slots_stuck": slots_in_use(instance)}
        status = project.stop()
    finally:
        project.stop()
    figures |= _verdict(project, undisturbed, files)
    figures["orphans"] += len(processes_of(project.home)) + (status != 0)
    expected = {"files_good": given.good, "files_bad_reported": given.bad, **dict.fromkeys(NONE, 0)}
    return figures, {name: (count, count) for name, count in expected.items()}


def _fire(project: Project, files: Sequence[Dropped], given: argparse.Namespace) -> Figures:
    """Drop all files in the first half of the time, and kill in all of it."""
    chance, seconds, kills = random.Random(given.seed), given.minutes * 60, list[str]()  # noqa: S311
    delays = sorted(chance.uniform(0, seconds / 2) for _ in files)
    delays[-1] += 60  # of two files with the same records, the one that is planned first counts
    with ThreadPoolExecutor(len(files)) as dropping:
        for file, delay in zip(files, delays, strict=True):
            dropping.submit(_drop, project.settings.incoming, file, delay, chance.choice(_PAUSES_S))
        for number in range(given.kills):
            _wait(project, seconds / given.kills * chance.uniform(0.5, 1.5))
            kills.append(_kill(project.home, chance))
            CONSOLE.log(f"{number + 1} of {given.kills}: killed {kills[-1]}")
    CONSOLE.log("left alone until nothing is left to do")
    _wait_for_servers(project)  # the last kill may have taken them
    return {"kills": len(kills)}


def make_files(good: int, bad: int, seed: int) -> list[Dropped]:
    """Good and bad files, shuffled; every eighth good one replaces another content, the last is a duplicate of one."""
    chance, files = random.Random(seed), list[Dropped]()  # noqa: S311
    for number in range(good - 1):
        name = _GOOD_NAMES[number % len(_GOOD_NAMES)].format(number)
        content = _fasta(chance, f"r{number}", chance.randint(1, 6))
        before = content + _fasta(chance, f"s{number}", 1) if number % 8 == 3 else None
        if name.endswith(".gz"):
            content = gzip.compress(content, mtime=0)
        files.append(Dropped(name, content, True, chance.choice(WAYS), before))
    original = next(file for file in files if file.before is None and not file.name.endswith(".gz"))
    for number in range(bad):
        name = _BROKEN[number % len(_BROKEN)]
        files.append(Dropped(f"bad_{number}_{name}", (_NASTY / name).read_bytes(), False, chance.choice(WAYS)))
    chance.shuffle(files)
    copy = original.content[:-1]  # without its last line end: other bytes, same records
    return [*files, original._replace(name=f"z_copy_of_{good}.fasta", content=copy, duplicate=True)]


def _fasta(chance: random.Random, prefix: str, records: int) -> bytes:
    sequences = [common.coding(chance, chance.randint(100, 2_000)) for _ in range(records)]
    return "".join(f">{prefix}_{row} of the soak\n{sequence}\n" for row, sequence in enumerate(sequences)).encode()


def _drop(folder: Path, file: Dropped, delay_s: float, pause_s: float) -> None:
    """Write a file into the folder in its way, after a while."""
    time.sleep(delay_s)
    path, part = folder / file.name, folder / f".{file.name}.part"
    if file.before is not None:
        path.write_bytes(file.before)
        time.sleep(4 * pause_s + 10)
    if file.way == "slowly":
        third = len(file.content) // 3 + 1
        with path.open("wb", buffering=0) as handle:
            for start in range(0, len(file.content), third):
                handle.write(file.content[start : start + third])
                time.sleep(pause_s)
    elif file.way == "renamed":
        part.write_bytes(file.content)
        part.replace(path)
    else:
        path.write_bytes(file.content)


def _kill(home: Path, chance: random.Random) -> str:
    """Kill a random process of those that are there, or all at once, as when a machine goes down; returns its kind."""
    while not (living := processes_of(home)):
        time.sleep(0.2)
    kinds = {kind for kind, _ in living} | {_ALL}
    target = chance.choice([kind for kind in _TARGETS if kind in kinds])
    own = [process for kind, process in living if target in (kind, _ALL)]
    for process in own if target == _ALL else [chance.choice(own)]:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    return target


def _latency(project: Project) -> Figures:
    """Seconds from a file of 100 kb, dropped when all servers are up, to its report."""
    _wait_for_servers(project)
    path, layout = project.settings.incoming / "latency_100kb.fasta", project.workspace.layout
    path.write_text(f">latency\n{''.join(random.Random(0).choices('ACGT', k=100_000))}\n")  # noqa: S311
    started, report = time.monotonic(), layout.sample_report(source_name(path)) / "summary.tsv"
    project.wait_for("report of the first file", report.is_file, 300)
    return {"drop_to_report_s": time.monotonic() - started}


def _wait(project: Project, seconds: float) -> None:
    end = time.monotonic() + seconds
    project.wait_for("time", lambda: time.monotonic() > end, 2 * seconds + 1)


def _wait_for_servers(project: Project) -> None:
    """Wait until there is one of each, and they had time to end what a killed `virnuc up` left."""

    def all_there() -> bool:
        return len({kind for kind, _ in processes_of(project.home)} - _WORKING) >= _SERVERS

    project.wait_for("servers up", all_there, 180)
    _wait(project, 15)


def orphans(home: Path) -> list[psutil.Process]:
    """Processes of a home that should not be there where no run is active.

    They execute a run, or do not descend from the living `virnuc up`, as its servers and Python's resource trackers do.
    """
    living, found = processes_of(home), []
    up = {process.pid for kind, process in living if kind == "up"}
    for kind, process in living:
        with suppress(psutil.NoSuchProcess):  # it ended meanwhile
            if kind == "worker" or kind != "up" and not up & {parent.pid for parent in process.parents()}:
                found.append(process)
    return found


def slots_in_use(instance: dg.DagsterInstance) -> int:
    """Slots of pools that are in use, and runs that have not ended."""
    storage = instance.event_log_storage
    pools = [storage.get_concurrency_info(key) for key in storage.get_concurrency_keys()]
    return int(instance.get_runs_count(UNFINISHED) + sum(pool.active_slot_count for pool in pools))


def _verdict(project: Project, undisturbed: Project, files: Sequence[Dropped]) -> Figures:
    """Counts of what is right and wrong with every file that was dropped."""
    layout = project.workspace.layout
    intake = read_intake_log(layout)
    figures = Counter[str](dict.fromkeys(("files_good", "files_bad_reported", "rows_lost", "rows_doubled"), 0))
    for file in files:
        entry = intake.get(printable(file.name))
        if not file.good:
            refused = entry is not None and entry.status in ("refused", "name_collision")
            figures["files_bad_reported"] += refused and bool(entry and entry.reason)
        elif file.duplicate:
            figures["files_good"] += entry is not None and entry.status == "duplicate"
        else:
            sample = source_name(project.settings.incoming / file.name)
            found, expected, report = _rows(project, sample), _rows(undisturbed, sample), _report(project, sample)
            figures["rows_lost"] += (expected - found).total()
            figures["rows_doubled"] += (found - expected).total()
            if found != expected:
                CONSOLE.log(f"{sample}: lost", dict(expected - found), "in place of them", dict(found - expected))
            figures["files_good"] += found == expected and report == _report(undisturbed, sample) != {}
    figures["temporary_files"] = len([*layout.var.rglob("*.partial"), *layout.var.rglob("*.copy")])
    with project.instance() as instance:
        figures["partitions_missing"] = project.missing_partitions(instance, SAMPLES)
    return dict(figures)


def _rows(project: Project, sample: str) -> Counter[tuple[Any, ...]]:
    """Every predicted row of a sample with how often it is there, scores to the last bit."""
    layout = project.workspace.layout
    paths = [layout.table("samples", PREDICTIONS, shard) for shard in SAMPLES.shards(layout, sample)]
    return Counter(tuple(row.values()) for path in paths if path.is_file() for row in read_table(path).to_pylist())


def _report(project: Project, sample: str) -> dict[str, list[bytes]]:
    """A sample's files, by their sorted lines: a file that was replaced has other shards than one that was not.

    Without those that tell when they were made, and the table of frames, whose rows are compared.
    """
    files = project.workspace.layout.sample_report(sample).glob("*")
    return {file.name: sorted(file.read_bytes().splitlines()) for file in files if file.name not in _NOT_COMPARED}
