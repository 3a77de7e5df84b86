"""Shards beside each other: in order, each error against its own shard, and never more begun than there are threads."""

from __future__ import annotations

import threading
import time

import pytest

from virnuc_assets.assets.attempts import attempt_each

SHARDS = [f"s-{number:06d}" for number in range(20)]


@pytest.mark.parametrize("threads", [1, 2, 5, 50])
def test_outcomes_come_in_order_and_errors_stop_no_neighbour(threads: int) -> None:
    def work(shard: str) -> str:
        time.sleep(0.002 * (hash(shard) % 3))
        if shard.endswith(("3", "7")):
            raise ValueError(shard)
        return shard.upper()

    failures: dict[str, Exception] = {}
    done = list(attempt_each(SHARDS, work, failures, threads))
    bad = [shard for shard in SHARDS if shard.endswith(("3", "7"))]
    assert done == [(shard, shard.upper()) for shard in SHARDS if shard not in bad]
    assert {shard: str(error) for shard, error in failures.items()} == {shard: shard for shard in bad}


def test_as_many_shards_as_threads_are_made_at_once() -> None:
    """Three wait for each other; were fewer begun, none would go on."""
    meeting = threading.Barrier(3, timeout=20)
    assert [shard for shard, _ in attempt_each(SHARDS[:9], lambda _: meeting.wait(), {}, 3)] == SHARDS[:9]


def test_no_more_shards_are_begun_than_there_are_threads() -> None:
    begun: list[str] = []
    outcomes = attempt_each(SHARDS, begun.append, {}, 2)
    for taken in range(1, 6):
        next(outcomes)
        assert len(begun) <= taken + 2
    outcomes.close()
    assert len(begun) <= 7


@pytest.mark.parametrize("threads", [1, 3])
def test_an_interrupt_is_no_failure_of_a_shard(threads: int) -> None:
    def work(shard: str) -> str:
        if shard == SHARDS[4]:
            raise KeyboardInterrupt
        return shard

    failures: dict[str, Exception] = {}
    with pytest.raises(KeyboardInterrupt):
        list(attempt_each(SHARDS, work, failures, threads))
    assert failures == {}
