"""The one way in which a per-shard asset runs: shard by shard, each recorded as it is done, finished ones reused."""

import functools
import inspect
import itertools
import logging
import resource
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa

from virnuc_assets.assets.attempts import attempt_each, raise_failures
from virnuc_assets.assets.lost_database import retried_if_database_was_away
from virnuc_assets.cores import usable_cores
from virnuc_assets.errors import VirnucError
from virnuc_assets.partitions import MAX_PARTITIONS_PER_RUN, ShardSet
from virnuc_assets.storage.layout import Layout
from virnuc_assets.storage.tables import Recipe, TableWriter, content_digest, is_made_by, read_rows

OWNERS = ["team:virnuc"]
DATA_VERSION = "dagster/data_version"
Work = Callable[[str], "Outcome"]


@dataclass(frozen=True)
class Outcome:
    """What became of one unit of work: the rows' digest, and what a person should see of it."""

    data_version: str
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def with_metadata(self, **facts: Any) -> "Outcome":  # noqa: ANN401
        """The same outcome with more to see."""
        return Outcome(self.data_version, {**self.metadata, **facts})

    def as_result(self) -> dg.MaterializeResult[Any]:
        """The result of an asset, or of its only shard in a run."""
        return dg.MaterializeResult(metadata=self.metadata, data_version=dg.DataVersion(self.data_version))


@dataclass(frozen=True)
class ShardRun:
    """What the body of a per-shard asset may know of its run, and how it says what it is doing.

    Attributes:
        shards: all shards of the run, in the order in which they are made.
        log: the run's log; every line costs an event.
        observe: shows facts on the asset's page, beside a shard, while the run goes on; costs an event.
    """

    shards: Sequence[str]
    log: logging.Logger
    observe: Callable[[str, Mapping[str, Any]], None]


Body = Callable[[ShardRun], Work]


@dataclass(frozen=True)
class ShardStage:
    """How a per-shard asset presents itself and runs; its description is the docstring of its body.

    At most `threads`, and no more than there are cores, make the shards of a run beside each other. An `AssetDep` is
    an input that is partitioned in another way.
    """

    deps: Sequence[dg.AssetKey | dg.AssetDep]
    group: str
    kinds: frozenset[str]
    code_version: str
    threads: int = 1
    pool: str | None = None
    op_tags: Mapping[str, Any] = field(default_factory=dict)


def shard_asset(layout: Layout, shards: ShardSet, name: str, stage: ShardStage, body: Body) -> dg.AssetsDefinition:
    """A partitioned asset from a body that, called once for a run, returns the work for one of its shards."""

    @dg.asset(
        key=shards.key(name),
        deps=list(stage.deps),
        partitions_def=shards.partitions,
        backfill_policy=dg.BackfillPolicy.multi_run(MAX_PARTITIONS_PER_RUN),
        description=inspect.getdoc(body),
        group_name=stage.group,
        kinds=set(stage.kinds),
        owners=OWNERS,
        code_version=stage.code_version,
        pool=stage.pool,
        op_tags=dict(stage.op_tags),
        hooks={retried_if_database_was_away},
    )
    def per_shard(context: dg.AssetExecutionContext) -> Iterator[dg.AssetMaterialization | dg.MaterializeResult[Any]]:
        work = body(_run_of(context))
        if len(context.partition_keys) == 1:
            outcome = work(context.partition_keys[0])
            _require_in_progress(context)
            yield outcome.as_result()
        else:
            provenance = functools.partial(_provenance, context, layout, shards, stage)
            yield from _many(context, work, min(stage.threads, usable_cores()), provenance)

    return per_shard


def _run_of(context: dg.AssetExecutionContext) -> ShardRun:
    def observe(shard: str, facts: Mapping[str, Any]) -> None:
        context.log_event(dg.AssetObservation(context.asset_key, partition=shard, metadata=facts))

    return ShardRun(list(context.partition_keys), context.log, observe)


def _many(
    context: dg.AssetExecutionContext, work: Work, workers: int, provenance: Callable[[str], dict[str, str]]
) -> Iterator[dg.AssetMaterialization | dg.MaterializeResult[Any]]:
    """Several shards in one run: each is recorded when it is done, and stays recorded if the run dies.

    The step's one result marks every partition of the range again, with a data version that is not theirs;
    so the shards' own records are yielded once more after it, and are the latest.
    """
    failures: dict[str, Exception] = {}
    records = []
    for shard, outcome in attempt_each(context.partition_keys, work, failures, workers):
        _require_in_progress(context)
        tags = {DATA_VERSION: outcome.data_version, **provenance(shard)}
        record = dg.AssetMaterialization(context.asset_key, partition=shard, metadata=outcome.metadata, tags=tags)
        context.add_asset_metadata(outcome.metadata, partition_key=shard)
        records.append(record)
        yield record
    raise_failures(failures, f"{context.asset_key.to_user_string()}: shards failed; all others are recorded")
    yield dg.MaterializeResult()
    yield from records


def _require_in_progress(context: dg.AssetExecutionContext) -> None:
    """A host that was cut off may come back when its run is failed and another does its work: it records no more."""
    run = context.instance.get_run_by_id(context.run.run_id)
    if run is not None and run.is_finished:
        raise VirnucError(
            f"run {run.run_id} is {run.status.value} already, as its host was cut off or it was canceled by force; "
            "expected one in progress. Nothing is to be done: its tables are whole, and a retry keeps them"
        )


def _provenance(
    context: dg.AssetExecutionContext, layout: Layout, shards: ShardSet, stage: ShardStage, shard: str
) -> dict[str, str]:
    """What Dagster itself would note of a single partition: code version and the versions of the inputs."""
    tags = {"dagster/data_version_is_user_provided": "true", "dagster/code_version": stage.code_version}
    for dep in (dep for dep in stage.deps if isinstance(dep, dg.AssetKey)):
        path = layout.table(shards.domain, dep.path[-1], shard)
        version = content_digest(path) if path.is_file() else _latest_version(context.instance, dep)
        tags[f"dagster/input_data_version/{dep.to_user_string()}"] = version
        tags[f"dagster/input_event_pointer/{dep.to_user_string()}"] = "NULL"
    return tags


def _latest_version(instance: dg.DagsterInstance, dep: dg.AssetKey) -> str:
    event = instance.get_latest_materialization_event(dep)
    materialization = event.asset_materialization if event else None
    return (materialization.tags or {}).get(DATA_VERSION, "INITIAL") if materialization else "INITIAL"


def made_table(path: Path, recipe: Recipe, batches: Callable[[], Iterator[pa.Table]]) -> Outcome:
    """Write a table unless it lies there made by the same recipe.

    Args:
        path: the table.
        recipe: what its rows follow from.
        batches: called only if the table is to be made; yields at least one table, an empty one if need be.
    """
    started = time.perf_counter()
    reused = is_made_by(path, recipe)
    if not reused:
        source = batches()
        first = next(source)
        with TableWriter(path, first.schema, recipe) as writer:
            for batch in itertools.chain([first], source):
                writer.write(batch)
    seconds, rows, digest = time.perf_counter() - started, read_rows(path), content_digest(path)
    metadata = {
        "rows": rows,
        "rows_made": 0 if reused else rows,
        "rows_reused": rows if reused else 0,
        "rows_per_s": 0.0 if reused else round(rows / seconds, 1),
        "seconds": round(seconds, 3),
        "peak_memory_mb": peak_memory_mb(),
        "digest": digest,
        "table": dg.MetadataValue.path(str(path)),
    }
    return Outcome(digest, metadata)


def peak_memory_mb() -> float:
    """Highest resident memory of this process so far."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)
