"""What a change costs, and what none costs: the platform's own share of a project's time.

Three parts, of which `--only` runs one:

- bundled: `virnuc demo` twice on the bundled genomes; the second finds nothing to do.
- files: thousands of files of one record, planned and embedded by the miniatures through the servers of `virnuc up`,
  started by one launch of plan_reference and continued by the automation conditions; then one file is replaced, one is
  added, and the reference is planned again.
- partitions: so many reference partitions as Dagster knows them when all is made, and what a page's query and a tick of
  all sensors cost then.

The status is 1 if a figure misses its limit.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import logging
import os
import random
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import dagster as dg
from dagster import DagsterRun, DagsterRunStatus
from dagster._core.storage.dagster_run import RunRecord
from rich.console import Console
from rich.table import Table

from benchmarks.many_partitions import fill, ticks, webserver
from benchmarks.small_project import ROOT, VIRNUC, Servers, free_ports, wait_for
from benchmarks.soak_verdict import is_settled
from benchmarks.ui_queries import answers, launch, time_pages
from virnuc_assets.definitions import build_defs
from virnuc_assets.defs.assets.shards import SHARDS
from virnuc_assets.defs.jobs import PLAN_REFERENCE_JOB
from virnuc_assets.defs.partitions import REFERENCE
from virnuc_assets.defs.provenance import CHUNKS, FRAMES
from virnuc_assets.defs.resources import Workspace
from virnuc_assets.sequences.catalogue import write_manifest
from virnuc_assets.sequences.plan_table import planned_shards
from virnuc_assets.settings import Settings, load_settings
from virnuc_assets.storage.tables import read_table
from virnuc_assets.workstation.setup import dagster_home

LIMITS: dict[str, float] = {
    "reference_shards": 8,
    "events_first_demo": 900,
    "events_second_demo": 30,
    "second_to_first_demo": 0.15,
    "files_shards": 12,
    "files_overhead_share": 0.15,
    "files_touched_shards": 2,
    "query_s_at_10000_partitions": 1.0,
    "tick_s_at_10000_partitions": 1.0,
    "requests_when_idle": 0,
}
_RECORD_NT = 3_000
_CODONS = [a + b + c for a, b, c in itertools.product("ACGT", repeat=3) if a + b + c not in ("TAA", "TAG", "TGA")]
_ENCODER = "fastesm2_650_embeddings"
_START_SECONDS, _MADE_SECONDS = 300, 3_600
_SERVERS = "[servers]\ndagster_port = {}\nmlflow_port = {}\n"
Figures = dict[str, float]


def main() -> int:
    """Measure, print a table, write the figures; 1 if a limit is missed."""
    given, parts = _arguments(), {"bundled": _bundled, "files": _files, "partitions": _partitions}
    logging.disable(logging.WARNING)  # Dagster's event log goes to its store, not to the terminal
    given.out.parent.mkdir(parents=True, exist_ok=True)
    figures: Figures = {}
    for name in [given.only] if given.only else parts:
        with tempfile.TemporaryDirectory(prefix=f"change-{name}-", ignore_cleanup_errors=True) as scratch:
            figures |= parts[name](Path(scratch), given)
    given.out.write_text(json.dumps(figures, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    table = Table("metric", "value", "at most", title="miniature profile")
    for name in sorted(figures):
        table.add_row(name, f"{figures[name]:.6g}", f"{LIMITS[name]:g}" if name in LIMITS else "")
    console = Console(width=120, highlight=False)
    console.print(table, f"written to {given.out}")
    if missed := missed_limits(figures):
        console.print(f"missed: {', '.join(missed)}")
    return bool(missed)


def missed_limits(figures: Mapping[str, float]) -> list[str]:
    """Names of the figures that are not as they have to be."""
    missed = [name for name, limit in LIMITS.items() if figures.get(name, 0) > limit]
    if figures.get("files_reembedded_frames") != figures.get("files_changed_frames"):
        missed.append("files_reembedded_frames")
    return missed


def _bundled(scratch: Path, given: argparse.Namespace) -> Figures:
    """The demo twice, as processes; its set-up does not count."""
    project = scratch / "project"
    shutil.copytree(ROOT / "data", project / "data", ignore=shutil.ignore_patterns("incoming"))
    shutil.copyfile(ROOT / "virnuc.toml", project / "virnuc.toml")
    settings = load_settings(project / "virnuc.toml")
    seconds, events = list[float](), [0]
    for command in ("setup", "demo", "demo"):
        started = time.perf_counter()
        _virnuc(project, command, given)
        seconds.append(time.perf_counter() - started)
        events.append(_event_rows(dagster_home(settings)))
    return {
        "reference_shards": float(len(planned_shards(Workspace(settings).layout.plan("reference")))),
        "first_demo_s": seconds[1],
        "second_demo_s": seconds[2],
        "second_to_first_demo": seconds[2] / seconds[1],
        "events_first_demo": float(events[2] - events[1]),
        "events_second_demo": float(events[3] - events[2]),
    }


def _virnuc(project: Path, command: str, given: argparse.Namespace) -> None:
    with given.out.with_suffix(".log").open("ab") as log:
        offline = {**os.environ, "HF_HUB_OFFLINE": "1"}
        subprocess.run([*VIRNUC, command], cwd=project, check=True, stdout=log, stderr=log, env=offline)  # noqa: S603


def _event_rows(home: Path) -> int:
    """Rows of all of Dagster's event tables: of each run, and of the index that repeats what is asked across runs."""
    rows = 0
    for path in home.rglob("*.db"):
        with contextlib.closing(sqlite3.connect(path)) as database:
            if database.execute("SELECT 1 FROM sqlite_master WHERE name = 'event_logs'").fetchone():
                rows += database.execute("SELECT count(*) FROM event_logs").fetchone()[0]
    return rows


def _files(scratch: Path, given: argparse.Namespace) -> Figures:
    """All files through the servers, and what a replaced and an added one cost then."""
    project = scratch / "project"
    genomes, names = project / "data/genomes", [f"genome_{number:05d}" for number in range(given.files)]
    _write_catalogue(genomes, names)
    (project / "virnuc.toml").write_text(_SERVERS.format(*free_ports(2)), encoding="utf-8")
    _virnuc(project, "setup", given)
    settings = load_settings(project / "virnuc.toml")
    servers, url = Servers(project, given.out.with_suffix(".log")), settings.servers.dagster_url
    servers.ensure()
    try:
        wait_for("servers up", lambda: answers(url), _START_SECONDS, servers)
        first = _plan_and_follow(settings, servers)
        shards = planned_shards(Workspace(settings).layout.plan("reference"))
        replaced, added = names[0], f"genome_{given.files:05d}"  # of one label
        _write_catalogue(genomes, [*names, added], [replaced, added])
        second = _plan_and_follow(settings, servers)
    finally:
        servers.stop()
    return {
        "files": float(given.files),
        "files_shards": float(len(shards)),
        "files_wall_s": first["wall_s"],
        "files_plan_s": first["plan_s"],
        "files_work_s": first["work_s"],
        "files_embedded_frames": first["embedded"],
        "files_overhead_share": 1 - first["work_s"] / first["wall_s"],
        "files_change_wall_s": second["wall_s"],
        "files_touched_shards": second["shards"],
        "files_reembedded_frames": second["embedded"],
        "files_changed_frames": float(_frames_of(settings, {replaced, added})),
    }


def _write_catalogue(genomes: Path, names: Sequence[str], written: Sequence[str] | None = None) -> None:
    """A file of one record each, every other one viral; of a list that is longer only what is new is written.

    A record is a random row of codons without stops, so that a chunk has one open frame, as in a bacterial genome.
    """
    rows = []
    for number, name in enumerate(names):
        label, group = ("host", "bacteria") if number % 2 else ("viral", "some virus")
        path = genomes / label / f"{name}.fna"
        path.parent.mkdir(parents=True, exist_ok=True)
        if written is None or name in written:
            letters = random.Random(f"{name} {written}").choices(_CODONS, k=_RECORD_NT // 3)  # noqa: S311
            path.write_text(f">{name}\n{''.join(letters)}\n", encoding="ascii")
        rows.append({"name": name, "label": label, "group": group, "fasta": f"{label}/{path.name}"})
    write_manifest(genomes, rows)


def _plan_and_follow(settings: Settings, servers: Servers) -> Figures:
    """Plan the reference, wait until everything that follows is made, and tell what it took.

    Wall time is from the launch of the plan to the end of the last run. Work in it is the step of the plan, which reads
    the files, and what chunked_fasta, translated_proteins and embeddings note as `seconds`: reading the records,
    framing, and embedding with loading the model, looking up known vectors and writing the tables. Of shards that a
    step made side by side no more counts than the step took. All else is overhead: sensors, queue and start of
    processes, what Dagster does for a run or a step, that each made table is looked at once more, checks, and the
    merging of features.
    """
    known = {run.run_id for run in _instance_runs(settings)}
    run_id = launch(settings.servers.dagster_url, PLAN_REFERENCE_JOB)

    def is_planned() -> bool:
        status = {run.run_id: run.status for run in _instance_runs(settings)}[run_id]
        if status in (DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED):
            raise SystemExit(f"run {run_id} of {PLAN_REFERENCE_JOB}: {status.value}")
        return status == DagsterRunStatus.SUCCESS

    wait_for("reference planned", is_planned, _MADE_SECONDS, servers)
    wait_for("reference embedded", lambda: is_settled(settings, REFERENCE), _MADE_SECONDS, servers)
    with _instance(settings) as instance:
        records = [record for record in instance.get_run_records() if record.dagster_run.run_id not in known]
        plan = next(record for record in records if record.dagster_run.run_id == run_id)
        figures = _told(instance, records)
    began, ended = plan.create_timestamp.timestamp(), max(record.end_time or 0.0 for record in records)
    return figures | {"wall_s": ended - began, "plan_s": (plan.end_time or 0.0) - began}


def _instance_runs(settings: Settings) -> Sequence[DagsterRun]:
    with _instance(settings) as instance:
        return instance.get_runs()


def _told(instance: dg.DagsterInstance, records: Sequence[RunRecord]) -> Figures:
    """Seconds of work, frames embedded by one encoder, and changed shards, by the events of the runs."""
    work = embedded = shards = 0.0
    for record in records:
        noted: defaultdict[str, float] = defaultdict(float)
        for entry in instance.all_logs(record.dagster_run.run_id, dg.DagsterEventType.ASSET_MATERIALIZATION):
            event = entry.get_dagster_event()
            key, metadata = event.asset_key, event.step_materialization_data.materialization.metadata
            if key is None:
                continue
            shards += float(key == REFERENCE.key(SHARDS))
            if key.path[-1] in (CHUNKS, FRAMES) or key.path[-1].endswith("_embeddings"):
                noted[str(event.step_key)] += float(metadata["seconds"].value)  # type: ignore[arg-type]
            if key == REFERENCE.key(_ENCODER):
                embedded += float(metadata["embedded"].value)  # type: ignore[arg-type]
        for step in instance.get_run_step_stats(record.dagster_run.run_id):
            taken = (step.end_time or 0.0) - (step.start_time or 0.0)
            work += taken if step.step_key.endswith("shard_plan") else min(taken, noted[step.step_key])
    return {"work_s": work, "embedded": embedded, "shards": shards}


def _frames_of(settings: Settings, records: set[str]) -> int:
    layout = Workspace(settings).layout
    tables = [layout.table("reference", FRAMES, shard) for shard in planned_shards(layout.plan("reference"))]
    return sum(record in records for table in tables for record in read_table(table).column("record_id").to_pylist())


def _partitions(scratch: Path, given: argparse.Namespace) -> Figures:
    """Ticks and pages of a home that knows so many partitions, all of them made."""
    project = scratch / "project"
    _write_catalogue(project / "data/genomes", ["genome_1"])
    (project / "virnuc.toml").write_text(_SERVERS.format(*free_ports(2)), encoding="utf-8")
    _virnuc(project, "setup", given)
    settings = load_settings(project / "virnuc.toml")
    defs = build_defs(settings)
    with _instance(settings) as instance:
        fill(instance, defs, given.partitions)
        seconds, requests = ticks(instance, defs)
    assets = [list(key.path) for key in defs.resolve_asset_graph().toposorted_asset_keys]
    with webserver(settings, given.out.with_suffix(".log")) as url:
        pages = time_pages(url, assets, REFERENCE.key(_ENCODER).path, given.rounds)
    queries = {f"query_{page}_s": statistics.median(taken) for page, taken in pages.items()}
    return {
        **queries,
        "query_s_at_10000_partitions": max(queries.values()),
        "first_tick_s_at_10000_partitions": seconds[0],  # reads everything; once after an upgrade of the conditions
        "tick_s_at_10000_partitions": statistics.median(seconds[1:]),
        "requests_when_idle": float(requests),
        "partitions": float(given.partitions),
    }


def _instance(settings: Settings) -> dg.DagsterInstance:
    return dg.DagsterInstance.from_config(str(dagster_home(settings)))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make bench-change, or python -m benchmarks.bench_change", description=__doc__
    )
    parser.add_argument("--only", choices=("bundled", "files", "partitions"), help="run one part (default all)")
    parser.add_argument("--files", type=int, default=5_000, help="files of one record (default 5000)")
    parser.add_argument("--partitions", type=int, default=10_000, help="reference partitions (default 10000)")
    parser.add_argument("--rounds", type=int, default=5, help="queries of each page (default 5)")
    parser.add_argument("--out", type=Path, default=ROOT / "var" / "bench" / "change.json", help="file of figures")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
