"""The watched folder under fire: files dropped in random ways while processes of every kind are killed at random.

The bundled project is trained, its real servers are started on loopback, good and broken files are dropped, and
processes are killed with SIGKILL: those that execute runs, every server, `virnuc up` itself, and all of them at once.
Then the servers are left alone until nothing is left to do, and the project is compared with a copy in which
`virnuc demo` predicted the same files undisturbed.
"""

from __future__ import annotations

import argparse
import gzip
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import dagster as dg
import psutil
from Bio.Data.CodonTable import standard_dna_table
from dagster import DagsterRunStatus, RunsFilter

from benchmarks.common import CONSOLE, ROOT, Figures, options, publish
from benchmarks.project import (
    UNFINISHED,
    Servers,
    configured,
    instance_of,
    is_settled,
    missing_partitions,
    virnuc,
    wait_for,
)
from virnuc_assets.defs.assets.predictions import PROVENANCE_FILE
from virnuc_assets.defs.partitions import SAMPLES
from virnuc_assets.defs.provenance import PREDICTIONS
from virnuc_assets.defs.resources import Workspace
from virnuc_assets.sequences.catalogue import source_name
from virnuc_assets.sequences.incoming import read_intake_log
from virnuc_assets.settings import Settings, load_settings
from virnuc_assets.storage.tables import read_table
from virnuc_assets.text import printable
from virnuc_assets.workstation.setup import dagster_home, make_project
from virnuc_assets.workstation.up import processes_of

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
Way = Literal["at once", "renamed", "slowly"]
NONE = ("rows_lost", "rows_doubled", "slots_stuck", "orphans", "temporary_files", "partitions_missing")
_ALL = "all"
# Workers more often: they do the work.
_TARGETS = ("worker", "worker", "worker", "code_server", "webserver", "daemon", "mlflow", "up", _ALL, "helper")
_WORKING, _SERVERS = {"worker", "helper"}, 5  # `virnuc up` is one of them
_ENDING_SECONDS = 30.0
# Without stops, so that every chunk has an open frame: of random bases hardly one in a hundred has one.
_CODONS = sorted(standard_dna_table.forward_table)
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
    way: Way
    before: bytes | None = None  # content that is in the folder for a while, until the file replaces it
    same_as: str | None = None  # name of the file with the same records, which alone has predictions


def main() -> int:
    """Soak, print a table, write the figures; 1 if anything is not as it should be."""
    parser = options("soak", __doc__)
    parser.add_argument("--good", type=int, default=35, help="files that can be read, a duplicate among them")
    parser.add_argument("--bad", type=int, default=25, help="broken files")
    parser.add_argument("--kills", type=int, default=40, help="how many times something is killed")
    parser.add_argument("--minutes", type=float, default=13.0, help="over which the kills are spread")
    parser.add_argument("--seed", type=int, default=1, help="of files, ways, pauses and targets")
    given = parser.parse_args()
    given.out.parent.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="soak-", ignore_cleanup_errors=True) as scratch:
        figures = _soak(Path(scratch), given)
    figures["wall_s"] = round(time.monotonic() - started, 1)
    expected = {"files_good": given.good, "files_bad_reported": given.bad, **dict.fromkeys(NONE, 0)}
    return publish(figures, given.out, {name: (count, count) for name, count in expected.items()})


def _soak(scratch: Path, given: argparse.Namespace) -> Figures:
    log, chance = given.out.with_suffix(".log"), random.Random(given.seed)  # noqa: S311
    make_project(scratch / "project", bundled=True)
    settings = configured(scratch / "project", SETTINGS)
    for command in ("setup", "demo"):
        virnuc(settings, command, log)
    files = make_files(given.good, given.bad, given.seed)
    CONSOLE.log("trained; the same files go through an undisturbed copy")
    shutil.copytree(scratch / "project", scratch / "undisturbed")
    undisturbed = load_settings(scratch / "undisturbed")
    for file in files:
        if file.good and file.same_as is None:
            (undisturbed.incoming / file.name).write_bytes(file.content)
    virnuc(undisturbed, "demo", log)
    servers, kills, waiting = Servers(settings, log), Counter[str](), list(files)
    try:
        figures = _latency(settings, servers)
        with ThreadPoolExecutor(len(files)) as dropping:
            for number in range(given.kills):
                for _ in range(-(-len(waiting) // max((given.kills - number) // 2, 1))):
                    if waiting:
                        dropping.submit(_drop, settings.incoming, waiting.pop(), chance.choice(_PAUSES_S))
                servers.wait(given.minutes * 60 / given.kills * chance.uniform(0.5, 1.5))
                kills[target := _kill(settings, chance)] += 1
                CONSOLE.log(f"{number + 1} of {given.kills}: killed {target}")
            for file in waiting:  # where nothing is to be killed
                dropping.submit(_drop, settings.incoming, file, 0.5)
        CONSOLE.log("left alone until nothing is left to do")
        _wait_for_servers(settings, servers)  # the last kill may have taken them
        settled_s = wait_for("all files done", lambda: is_settled(settings, SAMPLES), 900, servers)
        left = left_over(settings, _ENDING_SECONDS)
        status = servers.stop()
    finally:
        servers.stop()
    figures |= _verdict(settings, undisturbed, files)
    figures["settled_after_s"] = round(settled_s, 1)
    figures["slots_stuck"] += left["slots_stuck"]
    figures["orphans"] = left["orphans"] + len(processes_of(dagster_home(settings))) + (status != 0)
    figures |= {"kills": kills.total(), "starts": servers.starts}
    return figures | {f"kills_{kind}": count for kind, count in kills.items()}


def make_files(good: int, bad: int, seed: int) -> list[Dropped]:
    """Good and bad files, shuffled, to be dropped from the end; every eighth good one replaces another content.

    The first is a duplicate of a good one.
    """
    chance, files = random.Random(seed), list[Dropped]()  # noqa: S311
    ways: tuple[Way, ...] = get_args(Way)
    for number in range(good - 1):
        name = _GOOD_NAMES[number % len(_GOOD_NAMES)].format(number)
        content = _fasta(chance, f"r{number}", chance.randint(1, 6))
        before = content + _fasta(chance, f"s{number}", 1) if number % 8 == 3 else None
        if name.endswith(".gz"):
            content = gzip.compress(content, mtime=0)
        files.append(Dropped(name, content, True, chance.choice(ways), before))
    original = next(file for file in files if file.before is None and not file.name.endswith(".gz"))
    copy = original.content[:-1]  # without its last line end: other bytes, same records
    files.append(original._replace(name=f"z_copy_of_{good}.fasta", content=copy, same_as=original.name))
    for number in range(bad):
        name = _BROKEN[number % len(_BROKEN)]
        files.append(Dropped(f"bad_{number}_{name}", (_NASTY / name).read_bytes(), False, chance.choice(ways)))
    chance.shuffle(files)
    # Dropped last, i.e. taken from the end: of two files with the same records, the one that is planned first counts.
    return sorted(files, key=lambda file: file.same_as is None)


def _fasta(chance: random.Random, prefix: str, records: int) -> bytes:
    sequences = ["".join(chance.choices(_CODONS, k=chance.randint(100, 2_000))) for _ in range(records)]
    return "".join(f">{prefix}_{row} of the soak\n{sequence}\n" for row, sequence in enumerate(sequences)).encode()


def _drop(folder: Path, file: Dropped, pause_s: float) -> None:
    """Write a file into the folder in its way."""
    path, part = folder / file.name, folder / f".{file.name}.part"
    for content in (file.before, file.content):
        if content is None:
            continue
        if file.way != "slowly":
            written = part if file.way == "renamed" else path
            written.write_bytes(content)
            written.replace(path)
        else:
            with path.open("wb", buffering=0) as handle:
                for start in range(0, len(content), third := len(content) // 3 + 1):
                    handle.write(content[start : start + third])
                    time.sleep(pause_s)
        if content is file.before:
            time.sleep(4 * pause_s + 10)


def _kill(settings: Settings, chance: random.Random) -> str:
    """Kill a random process of those that are there, or all at once, as when a machine goes down; returns its kind."""
    while not (living := processes_of(dagster_home(settings))):
        time.sleep(0.2)
    kinds = {kind for kind, _ in living} | {_ALL}
    target = chance.choice([kind for kind in _TARGETS if kind in kinds])
    own = [process for kind, process in living if target in (kind, _ALL)]
    for process in own if target == _ALL else [chance.choice(own)]:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    return target


def _latency(settings: Settings, servers: Servers) -> Figures:
    """Seconds from a file of 100 kb, dropped when all servers are up, to its predictions and its report."""
    sequence = "".join(random.Random(0).choices("ACGT", k=100_000))  # noqa: S311
    _wait_for_servers(settings, servers)
    path, started, layout = settings.incoming / "latency_100kb.fasta", time.monotonic(), Workspace(settings).layout
    path.write_text(f">latency\n{sequence}\n", encoding="utf-8")
    sample, figures = source_name(path), Figures()
    for what, file in {
        "predictions": layout.table("samples", PREDICTIONS, f"{sample}-000001"),
        "report": layout.sample_report(sample) / "summary.tsv",
    }.items():
        wait_for(f"{what} of the first file", file.is_file, 300, servers)
        figures[f"drop_to_{what}_s"] = round(time.monotonic() - started, 1)
    CONSOLE.log(f"100 kb: {figures}")
    return figures


def _wait_for_servers(settings: Settings, servers: Servers) -> None:
    """Wait until there is one of each, and they had time to end what a killed `virnuc up` left."""
    home = dagster_home(settings)
    wait_for("servers up", lambda: len({kind for kind, _ in processes_of(home)} - _WORKING) >= _SERVERS, 180, servers)
    servers.wait(15)


def left_over(settings: Settings, seconds: float) -> Figures:
    """Orphans, and slots in use, of a settled project whose servers run, before anything cleans up.

    Args:
        settings: the project's.
        seconds: how long a process that is just ending, and a slot that is about to be freed, may take.
    """
    deadline = time.monotonic() + seconds
    while True:
        with instance_of(settings) as instance:
            found = {"orphans": len(orphans(dagster_home(settings))), "slots_stuck": slots_in_use(instance)}
        if not any(found.values()) or time.monotonic() > deadline:
            return dict(found)
        time.sleep(0.5)


def orphans(home: Path) -> list[psutil.Process]:
    """Processes of a home that should not be there where no run is active.

    Those are the ones that execute runs, and whatever does not descend from the living `virnuc up`, as its servers
    and Python's resource trackers do.
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


def _verdict(settings: Settings, undisturbed: Settings, files: Sequence[Dropped]) -> Figures:
    """Counts of what is right and wrong with every file that was dropped."""
    layout = Workspace(settings).layout
    intake = read_intake_log(layout)
    figures = Counter[str](dict.fromkeys(("files_good", "files_bad_reported", "files_duplicate", *NONE), 0))
    for file in files:
        entry = intake.get(printable(file.name))
        if not file.good:
            refused = entry is not None and entry.status in ("refused", "name_collision")
            figures["files_bad_reported"] += refused and bool(entry and entry.reason)
        elif file.same_as is not None:
            duplicate = entry is not None and entry.status == "duplicate"
            figures["files_duplicate"] += duplicate
            figures["files_good"] += duplicate
        else:
            sample = source_name(settings.incoming / file.name)
            found, expected = _rows(settings, sample), _rows(undisturbed, sample)
            report = _report(settings, sample)
            figures["rows_lost"] += (expected - found).total()
            figures["rows_doubled"] += (found - expected).total()
            figures["files_good"] += found == expected and report == _report(undisturbed, sample) != {}
    figures["temporary_files"] = len([*layout.var.rglob("*.partial"), *layout.var.rglob("*.copy")])
    with instance_of(settings) as instance:
        figures["slots_stuck"] = slots_in_use(instance)
        figures["runs"] = instance.get_runs_count()
        figures["runs_failed"] = instance.get_runs_count(RunsFilter(statuses=[DagsterRunStatus.FAILURE]))
        figures["partitions_missing"] = missing_partitions(instance, settings, SAMPLES)
    return dict(figures)


def _rows(settings: Settings, sample: str) -> Counter[tuple[Any, ...]]:
    """Every predicted row of a sample with how often it is there, scores to the last bit."""
    layout = Workspace(settings).layout
    paths = [layout.table("samples", PREDICTIONS, shard) for shard in SAMPLES.shards(layout, sample)]
    return Counter(tuple(row.values()) for path in paths if path.is_file() for row in read_table(path).to_pylist())


def _report(settings: Settings, sample: str) -> dict[str, list[bytes]]:
    """A sample's files, by their sorted lines: a file that was replaced has other shards than one that was not."""
    files = Workspace(settings).layout.sample_report(sample).glob("*")
    return {file.name: sorted(file.read_bytes().splitlines()) for file in files if file.name != PROVENANCE_FILE}


if __name__ == "__main__":
    raise SystemExit(main())
