"""A run that is failed while its process goes on, as on a host that was cut off, records nothing from then on."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest

from virnuc_assets.assets.per_shard import Outcome, ShardRun, ShardStage, Work, shard_asset
from virnuc_assets.partitions import SAMPLES, register
from virnuc_assets.requests import range_tags
from virnuc_assets.storage.layout import Layout
from virnuc_assets_tests.assets.project import failures, quiet

KEYS = [f"s-{number:06}" for number in range(4)]


@pytest.mark.parametrize(("keys", "recorded"), [(KEYS, {KEYS[0]}), (KEYS[1:2], set())], ids=["a range", "one shard"])
def test_what_is_made_after_its_run_was_failed_is_not_recorded(
    keys: list[str], recorded: set[str], tmp_path: Path
) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        register(instance, SAMPLES.partitions, KEYS)

        def body(_: ShardRun) -> Work:
            def work(shard: str) -> Outcome:
                if shard == KEYS[1]:
                    (run,) = instance.get_runs()
                    instance.report_run_failed(run)
                return Outcome("made", {"rows": 1})

            return work

        stage = ShardStage(deps=[], group="g", kinds=frozenset(), code_version="1", threads=1)
        asset = shard_asset(Layout(tmp_path, "p"), SAMPLES, "made", stage, body)
        alone = keys[0] if len(keys) == 1 else None
        with quiet():
            result = dg.materialize(
                [asset],
                instance=instance,
                partition_key=alone,
                tags={} if alone else range_tags(keys),
                raise_on_error=False,
            )
        (told,) = failures(result)
        assert "is FAILURE already" in told
        assert instance.get_materialized_partitions(asset.key) == recorded
        assert [run.status for run in instance.get_runs()] == [dg.DagsterRunStatus.FAILURE]
