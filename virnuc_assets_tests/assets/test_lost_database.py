"""A step that fails as the database of Dagster went away has its run retried; one that fails for itself has not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest
import sqlalchemy

from virnuc_assets.assets.lost_database import RETRY_TAG
from virnuc_assets.assets.per_shard import Outcome, ShardRun, ShardStage, Work, shard_asset
from virnuc_assets.errors import VirnucError
from virnuc_assets.partitions import SAMPLES, register
from virnuc_assets.requests import range_tags
from virnuc_assets.storage.layout import Layout
from virnuc_assets_tests.assets.project import quiet

KEYS = [f"s-{number:06}" for number in range(3)]


def lost(folder: Path) -> None:
    """A connection that cannot be made, of a real driver."""
    sqlalchemy.create_engine(f"sqlite:///{folder}/nowhere/dagster.db").connect()


def refused(_: Path) -> None:
    raise VirnucError("what a step refuses, it refuses again")


def tags_after(fate: Callable[[Path], None], folder: Path, keys: list[str]) -> dict[str, str]:
    """Tags of a run whose second shard meets its fate."""
    stage = ShardStage(deps=[], group="g", kinds=frozenset(), code_version="1")

    def body(_: ShardRun) -> Work:
        def work(shard: str) -> Outcome:
            if shard == KEYS[1]:
                fate(folder)
            return Outcome("made", {"rows": 1})

        return work

    asset = shard_asset(Layout(folder, "p"), SAMPLES, "made", stage, body)
    with dg.DagsterInstance.ephemeral() as instance, quiet():
        register(instance, SAMPLES.partitions, KEYS)
        alone = keys[0] if len(keys) == 1 else None
        tags = {} if alone else range_tags(keys)
        dg.materialize([asset], instance=instance, partition_key=alone, tags=tags, raise_on_error=False)
        (run,) = instance.get_runs()
        assert run.status is dg.DagsterRunStatus.FAILURE
        return dict(run.tags)


@pytest.mark.parametrize("keys", [KEYS, KEYS[1:2]], ids=["a range", "one shard"])
def test_a_run_is_retried_that_lost_its_database_and_no_other(keys: list[str], tmp_path: Path) -> None:
    assert tags_after(lost, tmp_path, keys)[RETRY_TAG] == "true"
    assert RETRY_TAG not in tags_after(refused, tmp_path, keys)
