"""Progress is told rarely, and truly: what is done, of how much, how fast, and how long it will take."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import dagster as dg
import pytest

from virnuc_assets.assets.per_shard import Outcome, ShardRun, ShardStage, Work, shard_asset
from virnuc_assets.assets.progress import Progress, spoken
from virnuc_assets.partitions import SAMPLES
from virnuc_assets.storage.layout import Layout

SHARDS = [f"s-{number:06d}" for number in range(1, 13)]


class Told(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.facts: list[tuple[str, Mapping[str, Any]]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())

    def run(self) -> ShardRun:
        log = logging.Logger("progress", logging.INFO)
        log.addHandler(self)
        return ShardRun(SHARDS, log, lambda shard, facts: self.facts.append((shard, facts)))


def advanced(told: Told, steps: int, seconds: float, count: int, total: int) -> None:
    now = 1000.0
    progress = Progress(told.run(), "esm2_3b", total, lambda: now)
    for _ in range(steps):
        now += seconds
        progress.advance(SHARDS[2], count)


def test_a_line_tells_shard_count_rate_and_remaining_time() -> None:
    told = Told()
    advanced(told, steps=1, seconds=30, count=12_300, total=40_000)
    line = "esm2_3b: shard 3 of 12 (s-000003): 12,300 of 40,000 sequences of this run, 410/s, about 1 min 8 s left"
    assert told.lines == [line]
    assert told.facts == [
        (
            "s-000003",
            {
                **{"sequences_done": 12_300, "sequences_total": 40_000, "sequences_per_s": 410.0},
                **{"seconds_left": 68, "progress": line},
            },
        )
    ]


def test_short_runs_tell_nothing() -> None:
    told = Told()
    advanced(told, steps=9999, seconds=0.001, count=1, total=9999)
    assert (told.lines, told.facts) == ([], [])


def test_lines_come_every_ten_seconds_and_observations_every_thirty() -> None:
    told = Told()
    advanced(told, steps=100, seconds=1, count=2, total=100)
    assert (len(told.lines), len(told.facts)) == (10, 3)
    assert "100 of 100 sequences" not in told.lines[3] and "80 of 100" in told.lines[3]
    assert told.lines[-1].endswith("about 0 s left")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (59.6, "1 min 0 s"), (67, "1 min 7 s"), (3599, "59 min 59 s"), (7500, "2 h 5 min")],
)
def test_durations_are_spoken_in_two_units(seconds: float, words: str) -> None:
    assert spoken(seconds) == words


def test_a_run_shows_it_in_its_log_and_on_the_page_of_the_asset(tmp_path: Any) -> None:
    def body(run: ShardRun) -> Work:
        """Does nothing, slowly by its clock."""
        times = iter(range(0, 10_000, 40))
        progress = Progress(run, "name", 6, lambda: float(next(times)))

        def work(shard: str) -> Outcome:
            progress.advance(shard, 3)
            return Outcome("v")

        return work

    stage = ShardStage(deps=[], group="g", kinds=frozenset(), code_version="1")
    asset = shard_asset(Layout(tmp_path, "p"), SAMPLES, "made", stage, body)
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions(str(SAMPLES.partitions.name), SHARDS[:2])
        tags = {"dagster/asset_partition_range_start": SHARDS[0], "dagster/asset_partition_range_end": SHARDS[1]}
        logging.disable(logging.NOTSET)
        result = dg.materialize([asset], instance=instance, tags=tags)
        assert result.success
        observed = instance.fetch_observations(SAMPLES.key("made"), limit=10).records
        lines = [entry.user_message for entry in instance.all_logs(result.run_id) if not entry.is_dagster_event]
    shown = {
        (record.partition_key, record.asset_observation.metadata["sequences_done"].value)  # type: ignore[union-attr]
        for record in observed
    }
    assert shown == {(SHARDS[0], 3), (SHARDS[1], 6)}
    assert [line.split(":")[1].strip() for line in lines if "sequences of this run" in line] == [
        f"shard {n} of 2 ({SHARDS[n - 1]})" for n in (1, 2)
    ]
