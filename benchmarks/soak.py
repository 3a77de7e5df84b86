"""The watched folder under fire: files dropped in random ways while processes of every kind are killed at random.

A small project is trained, its real servers are started on loopback, good and broken files are dropped, and processes
are killed with SIGKILL: those that execute runs, every server, `virnuc up` itself, and all of them at once. Then the
servers are left alone until nothing is left to do, and what lies there is held against a copy of the project through
which the same files went undisturbed.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.dropped_files import Dropper, make_files
from benchmarks.small_project import ROOT, Servers, make_project, wait_for
from benchmarks.soak_verdict import is_settled, left_over, undisturbed, verdict
from virnuc_assets.defs.resources import Workspace
from virnuc_assets.sequences.catalogue import source_name
from virnuc_assets.settings import Settings
from virnuc_assets.workstation.cleanup import processes_of
from virnuc_assets.workstation.setup import dagster_home

_ALL = "all"
# Workers more often: they do the work.
_TARGETS = ("worker", "worker", "worker", "code_server", "webserver", "daemon", "mlflow", "up", _ALL, "helper")
_WORKING, _SERVERS = {"worker", "helper"}, 5  # `virnuc up` is one of them
_ENDING_SECONDS = 30.0
_CONSOLE = Console(width=120, highlight=False)


def main() -> int:
    """Soak, print a table, write the figures; 1 if anything is not as it should be."""
    given = _arguments()
    given.out.parent.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="soak-", ignore_cleanup_errors=True) as scratch:
        figures = _soak(Path(scratch), given)
    figures["wall_s"] = round(time.monotonic() - began, 1)
    given.out.write_text(json.dumps(figures, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    table = Table("metric", "value", title=f"{given.good} good and {given.bad} broken files, {given.kills} kills")
    for name in sorted(figures):
        table.add_row(name, f"{figures[name]:.6g}")
    _CONSOLE.print(table, f"written to {given.out}")
    wrong = ("rows_lost", "rows_doubled", "slots_stuck", "orphans", "temporary_files", "partitions_missing")
    right = figures["files_good"] == given.good and figures["files_bad_reported"] == given.bad
    return 0 if right and not any(figures[name] for name in wrong) else 1


def _soak(scratch: Path, given: argparse.Namespace) -> dict[str, float]:
    settings = make_project(scratch / "project")
    files = make_files(given.good, given.bad, given.seed)
    _say("trained; the same files go through an undisturbed copy")
    expected = undisturbed(scratch / "project", scratch / "undisturbed", files)
    servers = Servers(scratch / "project", given.out.with_suffix(".log"))
    servers.ensure()
    try:
        figures = _latency(settings, servers)
        dropper, killer = Dropper(settings.incoming, given.seed), Killer(settings, given.seed)
        pause_s = given.minutes * 60 / max(given.kills, 1)
        waiting = list(files)
        for number in range(given.kills):
            left = given.kills - number
            for _ in range(-(-len(waiting) // max(left // 2, 1))):
                if waiting:
                    dropper.drop(waiting.pop())
            _rest(servers, pause_s * killer.chance.uniform(0.5, 1.5))
            _say(f"{number + 1} of {given.kills}: killed {killer.kill()}")
        for file in waiting:  # where nothing is to be killed
            dropper.drop(file)
        dropper.finish()
        _say("left alone until nothing is left to do")
        _servers_up(settings, servers)  # the last kill may have taken them
        figures["settled_after_s"] = round(wait_for("all files done", lambda: is_settled(settings), 900, servers), 1)
        found = left_over(settings, _ENDING_SECONDS)
        status = servers.stop()
    finally:
        servers.stop()
    figures |= verdict(settings, expected, files)
    figures["slots_stuck"] += found["slots_stuck"]
    figures["orphans"] = found["orphans"] + len(processes_of(dagster_home(settings))) + (status != 0)
    figures["kills"] = killer.kills.total()
    figures["starts"] = servers.starts
    return figures | {f"kills_{kind}": count for kind, count in killer.kills.items()}


class Killer:
    """Kills a random process of a project's servers, or all of them at once, as when a machine goes down."""

    def __init__(self, settings: Settings, seed: int) -> None:
        self._home = dagster_home(settings)
        self.chance = random.Random(seed)  # noqa: S311
        self.kills: Counter[str] = Counter()

    def kill(self) -> str:
        """Kill one target, of those that are there; returns what it was."""
        while not (living := processes_of(self._home)):
            time.sleep(0.2)
        kinds = {kind for kind, _ in living} | {_ALL}
        target = self.chance.choice([kind for kind in _TARGETS if kind in kinds])
        own = [process for kind, process in living if kind == target] or [process for _, process in living]
        for process in own if target == _ALL else [self.chance.choice(own)]:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        self.kills[target] += 1
        return target


def _latency(settings: Settings, servers: Servers) -> dict[str, float]:
    """Seconds from a file of 100 kb, dropped when all servers are up, to its predictions and its report."""
    letters = "".join(random.Random(0).choices("ACGT", k=100_000))  # noqa: S311
    _servers_up(settings, servers)
    path, began = settings.incoming / "latency_100kb.fasta", time.monotonic()
    path.write_text(f">latency\n{letters}\n", encoding="utf-8")
    layout = Workspace(settings).layout
    predictions = layout.table("samples", "predictions", f"{source_name(path)}-000001")
    report = layout.sample_report(source_name(path)) / "records.tsv"
    wait_for("predictions of the first file", predictions.is_file, 300, servers)
    predicted = time.monotonic() - began
    wait_for("its report", report.is_file, 300, servers)
    _say(f"100 kb: predictions after {predicted:.1f} s, report after {time.monotonic() - began:.1f} s")
    return {
        "drop_to_predictions_s": round(predicted, 1),
        "drop_to_report_s": round(time.monotonic() - began, 1),
    }


def _servers_up(settings: Settings, servers: Servers) -> None:
    """Wait until there is one of each, and they had time to end what a killed `virnuc up` left."""
    home = dagster_home(settings)
    wait_for("servers up", lambda: len({kind for kind, _ in processes_of(home)} - _WORKING) >= _SERVERS, 180, servers)
    _rest(servers, 15)


def _rest(servers: Servers, seconds: float) -> None:
    """Wait, and keep `virnuc up` alive meanwhile."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        servers.ensure()
        time.sleep(0.5)


def _say(text: str) -> None:
    _CONSOLE.print(f"{time.strftime('%H:%M:%S')} {text}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--good", type=int, default=35, help="files that can be read, a duplicate among them")
    parser.add_argument("--bad", type=int, default=25, help="broken files")
    parser.add_argument("--kills", type=int, default=40, help="how many times something is killed")
    parser.add_argument("--minutes", type=float, default=13.0, help="over which the kills are spread")
    parser.add_argument("--seed", type=int, default=1, help="of files, ways, pauses and targets")
    parser.add_argument("--out", type=Path, default=ROOT / "var/bench/soak.json")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
