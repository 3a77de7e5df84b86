"""A project of many tiny shards in a folder of its own, with real servers on loopback."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import dagster as dg

from benchmarks.ui_queries import BACKFILL, LAUNCH, ask
from virnuc_assets.assets.recipes import predictions_recipe, read_shard_inputs
from virnuc_assets.defs.jobs import PLAN_SAMPLES_JOB
from virnuc_assets.bootstrap import dagster_home, set_up
from virnuc_assets.definitions import build_defs
from virnuc_assets.defs.partitions import SAMPLES
from virnuc_assets.resources import Workspace
from virnuc_assets.sequences.cataloguing import write_manifest
from virnuc_assets.sequences.shard_keys import source_of
from virnuc_assets.settings import Settings
from virnuc_assets.settings_file import load_settings
from virnuc_assets.storage.layout import CLASSIFIER_FILE, RECORDS_FILE
from virnuc_assets.storage.schemas import predictions_schema
from virnuc_assets.storage.tables import write_table

ROOT = Path(__file__).parents[1]
CHUNK_NT = 500
_SOURCES, _SAMPLE_SHARDS = 10, 10
_START_SECONDS, _POLL_SECONDS, _GRACE_SECONDS = 180, 1.0, 60


def write_project(root: Path, records: int, shard_chunks: int = 1) -> Settings:
    """A project whose catalogue has so many records of one chunk, some in a shard; nothing is planned yet."""
    genomes = root / "data" / "genomes"
    rows = []
    for number, path in enumerate(_write_records(genomes, "source", "fna", records, _SOURCES)):
        label, group = ("viral", "some virus") if number % 2 else ("host", "bacteria")
        rows.append({"name": path.stem, "label": label, "group": group, "fasta": path.name})
    write_manifest(genomes, rows)
    ports = _free_ports()
    servers = f"[servers]\ndagster_port = {ports[0]}\nmlflow_port = {ports[1]}\n"
    sequences = f"[sequences]\nchunk_length = {CHUNK_NT}\nshard_chunks = {shard_chunks}\n"
    (root / "virnuc.toml").write_text(sequences + servers, encoding="utf-8")
    shutil.copyfile(ROOT / "workspace.yaml", root / "workspace.yaml")
    settings = load_settings(root / "virnuc.toml")
    set_up(settings, lambda _: None)
    return settings


def write_samples(settings: Settings, shards: int, predicted: int) -> None:
    """Samples of ten shards each, planned; some of them, of so many shards, have empty predictions and a report.

    A classifier is described, and nothing is predicted by it.
    """
    _write_records(settings.incoming, "sample", "fasta", shards, max(shards // _SAMPLE_SHARDS, 1))
    plan(settings, PLAN_SAMPLES_JOB)
    layout = Workspace(settings).layout
    folder = layout.classifier(settings.serving.variant)
    folder.mkdir(parents=True)
    (folder / CLASSIFIER_FILE).write_text(json.dumps({"weights_sha256": "none"}), encoding="utf-8")
    with dg.DagsterInstance.from_config(str(dagster_home(settings))) as instance:
        done = list(instance.get_dynamic_partitions(str(SAMPLES.partitions.name)))[:predicted]
        for shard in done:
            planned = read_shard_inputs(layout.plan("samples", source_of(shard)))[shard].digest
            recipe = predictions_recipe("none", "none", planned)
            write_table(layout.table("samples", "predictions", shard), predictions_schema().empty_table(), recipe)
            instance.report_runless_asset_event(dg.AssetMaterialization(SAMPLES.key("predictions"), partition=shard))
        for sample in {source_of(shard) for shard in done}:
            report = layout.sample_report(sample) / RECORDS_FILE
            report.parent.mkdir(parents=True)
            report.write_text("", encoding="utf-8")
            instance.report_runless_asset_event(dg.AssetMaterialization(SAMPLES.key("report"), partition=sample))


def plan(settings: Settings, job: str, **tags: str) -> None:
    """Run a planning job in this process.

    Raises:
        dagster.DagsterError: it failed.
    """
    definition = build_defs(settings).resolve_job_def(job)
    with dg.DagsterInstance.from_config(str(dagster_home(settings))) as instance:
        definition.execute_in_process(instance=instance, tags=tags)


def _write_records(folder: Path, name: str, ending: str, records: int, files: int) -> list[Path]:
    """Some files with so many records of one chunk in all; no letter of a stop codon, so that each has six frames."""
    generator, paths = random.Random(name), []  # noqa: S311
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(files):
        paths.append(folder / f"{name}{number}.{ending}")
        letters = ["".join(generator.choices("ACG", k=CHUNK_NT)) for _ in range(records // files)]
        text = "".join(f">{name}{number}_{place}\n{chunk}\n" for place, chunk in enumerate(letters))
        paths[-1].write_text(text, encoding="ascii")
    return paths


@contextlib.contextmanager
def serving(settings: Settings) -> Iterator[str]:
    """`virnuc up` in a session of its own; gives the URL of the webserver once it answers, and ends all of it."""
    command = [sys.executable, "-c", "from virnuc_assets.cli import app; app()", "up"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with (settings.root / "up.log").open("wb") as log:
        process = subprocess.Popen(  # noqa: S603
            command, cwd=settings.root, env=environment, stdout=log, stderr=log, start_new_session=True
        )
        try:
            _wait_for(settings.servers.dagster_url, process, settings.root / "up.log")
            yield settings.servers.dagster_url
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(_GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


def run_backfill(url: str, assets: Sequence[Sequence[str]], partitions: Sequence[str], limit_s: float) -> float:
    """Launch a backfill of all assets over the partitions and wait until it is through; returns its seconds.

    Raises:
        SystemExit: it failed, or it took longer than the limit.
    """
    params = {"assetSelection": [{"path": list(path)} for path in assets], "partitionNames": list(partitions)}
    started = time.perf_counter()
    launched: dict[str, Any] = ask(url, LAUNCH, params=params)["launchPartitionBackfill"]
    if "backfillId" not in launched:
        raise SystemExit(f"the backfill was not launched: {launched}")
    while time.perf_counter() - started < limit_s:
        time.sleep(_POLL_SECONDS)
        told = ask(url, BACKFILL, id=launched["backfillId"])["partitionBackfillOrError"]
        if told["status"] == "COMPLETED_SUCCESS":
            return time.perf_counter() - started
        if told["status"].startswith(("COMPLETED", "FAIL", "CANCEL")):
            raise SystemExit(f"the backfill ended as {told}")
    raise SystemExit(f"the backfill was not through after {limit_s:.0f} s; use fewer --shards")


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(urllib.error.URLError, ConnectionError):
            loaded = ask(url, "{ repositoriesOrError { __typename } }")["repositoriesOrError"]
            if loaded["__typename"] == "RepositoryConnection":
                return
        time.sleep(_POLL_SECONDS)
    raise SystemExit(f"the webserver did not answer:\n{log.read_text(errors='replace')[-2000:]}")


def _free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as other:
        for probe in (one, other):
            probe.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]
