"""How a per-shard asset runs: one event for a partition, with its rows' digest, whatever becomes of the others."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pyarrow as pa
import pytest

from virnuc_assets.defs.assets.embeddings import Progress
from virnuc_assets.defs.partitions import REFERENCE, range_tags, register
from virnuc_assets.defs.resources import Workspace
from virnuc_assets.defs.sharded_asset import DATA_VERSION, Outcome, Work, made_table, sharded_asset
from virnuc_assets.errors import VirnucError
from virnuc_assets.settings import Settings
from virnuc_assets.storage.tables import content_digest, read_table
from virnuc_assets_tests.assets.project import failures, quiet

KEYS = ["viral-0001", "viral-0002", "viral-0003"]


def path_of(root: Path, shard: str) -> Path:
    return Workspace(Settings(root=root)).layout.table("reference", "made", shard)


def table(root: Path, shard: str, number: int = 0) -> Outcome:
    return made_table(path_of(root, shard), {"of": [shard, number]}, lambda: iter([pa.table({"n": [number]})]))


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        register(instance, REFERENCE, KEYS)
        yield instance


def run(instance: dg.DagsterInstance, root: Path, work: Work, threads: int = 1) -> tuple[list[str], dict[str, str]]:
    """A run over all partitions: errors, and the version of each that was recorded, in order."""

    def body(*_: object) -> Work:
        """Made by a test."""
        return work

    asset = sharded_asset(Workspace(Settings(root=root)), REFERENCE, "made", body, threads, deps=[], code_version="1")
    with quiet():
        result = dg.materialize([asset], instance=instance, tags=range_tags(KEYS), raise_on_error=False)
    events = [event.step_materialization_data.materialization for event in result.get_asset_materialization_events()]
    stored = instance.fetch_materializations(REFERENCE.key("made"), limit=100).records
    assert len(stored) == len(events)  # each run of a test has an instance of its own
    return failures(result), {str(event.partition): (event.tags or {})[DATA_VERSION] for event in events}


@pytest.mark.parametrize("threads", [1, 3])
def test_each_partition_is_recorded_once_in_order(instance: dg.DagsterInstance, tmp_path: Path, threads: int) -> None:
    def work(shard: str) -> Outcome:
        time.sleep(0.02 * (3 - KEYS.index(shard)))
        return table(tmp_path, shard)

    text, recorded = run(instance, tmp_path, work, threads)
    assert text == [] and list(recorded) == KEYS
    assert recorded == {shard: content_digest(path_of(tmp_path, shard)) for shard in KEYS}


@pytest.mark.parametrize(
    ("error", "recorded"), [(VirnucError("of no use"), [KEYS[0], KEYS[2]]), (ValueError("of no use"), KEYS[:1])]
)
def test_what_is_refused_stops_no_other_and_a_bug_stops_the_run(
    instance: dg.DagsterInstance, tmp_path: Path, error: Exception, recorded: list[str]
) -> None:
    def work(shard: str) -> Outcome:
        if shard == KEYS[1]:
            raise error
        return table(tmp_path, shard)

    (text,), found = run(instance, tmp_path, work)
    assert list(found) == recorded
    named = f"reference/made: some failed; all others are recorded:\n  {KEYS[1]}: of no use"
    assert (named in text) == isinstance(error, VirnucError)


def test_what_is_recorded_is_made_from_inputs_that_changed_meanwhile(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.write_text("1")

    def work(shard: str) -> Outcome:
        number = int(source.read_text())
        source.write_text("2")  # somebody else does
        return table(tmp_path, shard, number)

    text, recorded = run(instance, tmp_path, work)
    assert text == []
    assert read_table(path_of(tmp_path, KEYS[0])).column("n").to_pylist() == [2]
    assert recorded[KEYS[0]] == content_digest(path_of(tmp_path, KEYS[0]))


def test_inputs_that_change_all_the_time_are_an_error(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    (text,), recorded = run(instance, tmp_path, lambda shard: table(tmp_path, shard, time.monotonic_ns()))
    assert recorded == {}
    assert f"{KEYS[0]}: its inputs changed 3 times while it was made; materialize it again" in text


def test_a_run_that_was_failed_meanwhile_records_no_more(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    def work(shard: str) -> Outcome:
        if shard == KEYS[1]:
            (of_this,) = instance.get_runs()
            instance.report_run_failed(of_this)
        return table(tmp_path, shard)

    text, recorded = run(instance, tmp_path, work)
    assert list(recorded) == KEYS[:1]
    assert "is FAILURE already" in text[0] and "expected one in progress" in text[0]


def test_progress_is_logged_every_half_minute(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with caplog.at_level(logging.INFO):
        progress = Progress(KEYS, logging.getLogger("run"), "esm2_3b", 40_000)
        for _ in range(5):
            now += 15
            progress.advance(KEYS[1], 6_150)
    assert caplog.messages == [
        "esm2_3b: shard 2 of 3 (viral-0002): 12,300 of 40,000 sequences of this run, 410/s, about 0:01:08 left",
        "esm2_3b: shard 2 of 3 (viral-0002): 24,600 of 40,000 sequences of this run, 410/s, about 0:00:38 left",
    ]
