"""The two forms of assets: one per shard, with an event for each partition, and one without partitions."""

import contextlib
import inspect
import itertools
import logging
import resource
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
from dagster._core.definitions.data_version import extract_data_version_from_entry
from dagster._core.definitions.source_asset import SYSTEM_METADATA_KEY_SOURCE_ASSET_OBSERVATION as NO_EVENT

from virnuc_assets.defs.automation import retraining_condition
from virnuc_assets.defs.partitions import REFERENCE, ShardSet
from virnuc_assets.defs.resources import Workspace
from virnuc_assets.errors import VirnucError
from virnuc_assets.storage.digests import digest_of
from virnuc_assets.storage.tables import Provenance, TableWriter, content_digest, is_made_by, read_rows
from virnuc_assets.workstation.device_lock import DeviceLock

OWNERS = ["team:virnuc"]
DATA_VERSION = "dagster/data_version"
INPUTS_TAG = "virnuc/inputs"
_SHOWN = 10
_TRIES = 3
_NOT_ADDED = frozenset({"peak_memory_mb", "dim", "dna_dim", "protein_dim", "merged_dim", "rows_per_s", "token_budget"})
_WITHOUT_PARTITIONS = ("shard_plan", "refseq_release")


@dataclass(frozen=True)
class Outcome:
    """What was made of a shard: the digest of its rows, and the metadata to show."""

    data_version: str
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def with_metadata(self, **facts: Any) -> "Outcome":  # noqa: ANN401
        """The same outcome with more metadata."""
        return Outcome(self.data_version, {**self.metadata, **facts})


Work = Callable[[str], Outcome]
# Called once for a run with all its shards, in the order in which they are made, and its log, of which each line costs
# an event; gives the work for one of them.
Body = Callable[[Sequence[str], logging.Logger], Work]


def sharded_asset(
    workspace: Workspace,
    shards: ShardSet,
    name: str,
    body: Body,
    threads: int = 1,
    whole: bool = False,
    **options: Any,  # noqa: ANN401 - those of dg.asset
) -> dg.AssetsDefinition:
    """A partitioned asset, described by the docstring of its body.

    Each partition is recorded when it is done, with a data version from its content, and stays recorded if the run
    dies. The result of the step would record all of them again, with one version for all: NO_EVENT prevents that.

    At most `threads`, and no more than there are cores, make shards of a run at the same time. With `whole` the work is
    called once for a partition and not for each of its shards. Of the options, deps and code_version are required.
    """
    deps, code_version = list(options["deps"]), str(options["code_version"])

    def per_shard(context: dg.AssetExecutionContext) -> Iterator[dg.AssetMaterialization | dg.MaterializeResult[Any]]:
        from joblib import cpu_count

        of_partition = {key: [key] if whole else shards.shards(workspace.layout, key) for key in context.partition_keys}
        units = [(key, shard) for key, found in of_partition.items() for shard in found]
        work = body([shard for _, shard in units], context.log)
        failures = {
            key: VirnucError(f"sample {key!r} is not planned; materialize samples/shard_plan first")
            for key, found in of_partition.items()
            if not found
        }
        for key, outcome in _made(units, work, failures, min(threads, cpu_count())):
            _require_in_progress(context)
            inputs = _inputs(context.instance, workspace, shards, deps, key)
            tags = {DATA_VERSION: outcome.data_version, "dagster/code_version": code_version, **inputs}
            yield dg.AssetMaterialization(context.asset_key, partition=key, metadata=outcome.metadata, tags=tags)
        raise_failures(failures, f"{context.asset_key.to_user_string()}: some failed; all others are recorded")
        yield dg.MaterializeResult(metadata={NO_EVENT: True})

    asset: dg.AssetsDefinition = dg.asset(
        key=shards.key(name),
        partitions_def=shards.partitions,
        backfill_policy=dg.BackfillPolicy.multi_run(workspace.settings.automation.partitions_per_run),
        description=inspect.getdoc(body),
        owners=OWNERS,
        **options,
    )(per_shard)
    return asset


def _made(
    units: Sequence[tuple[str, str]], work: Work, failures: dict[str, VirnucError], workers: int
) -> Iterator[tuple[str, Outcome]]:
    """Partitions whose shards were all made, in order; of another the first error is noted, and the next continue."""

    def attempt(unit: tuple[str, str]) -> Outcome | VirnucError:
        try:
            return _settled(work, unit[1])
        except VirnucError as error:
            return error

    pool = ThreadPoolExecutor(workers)
    # One worker is this thread, where torch and CUDA are used in it only.
    results: Iterator[Outcome | VirnucError] = pool.map(attempt, units) if workers > 1 else map(attempt, units)
    try:
        for key, group in itertools.groupby(units, key=lambda unit: unit[0]):
            outcomes: list[Outcome] = []
            for _, found in zip(group, results, strict=False):  # no result of the next before this one is recorded
                if isinstance(found, Outcome):
                    outcomes.append(found)
                else:
                    failures.setdefault(key, found)
            if key not in failures:
                yield key, _joined(outcomes)
    finally:
        pool.shutdown(cancel_futures=True)


def _settled(work: Work, shard: str) -> Outcome:
    """The outcome for inputs that did not change while it was made; else a change would be lost, as it came before."""
    made: Outcome | None = None
    for _ in range(_TRIES):
        outcome = work(shard)
        if not outcome.metadata.get("rows_made"):  # there was nothing to make, as the inputs are those of `made`
            return made or outcome
        made = outcome
    raise VirnucError(f"{shard}: its inputs changed {_TRIES} times while it was made; materialize it again")


def _joined(outcomes: Sequence[Outcome]) -> Outcome:
    """One outcome of a partition's shards: counts are added, of what else there is the last is shown."""
    if len(outcomes) == 1:
        return outcomes[0]
    metadata: dict[str, Any] = {"shards": len(outcomes)}
    for outcome in outcomes:
        for name, value in outcome.metadata.items():
            counts = isinstance(value, int | float) and not isinstance(value, bool) and name not in _NOT_ADDED
            metadata[name] = metadata.get(name, 0) + value if counts else value
    return Outcome(joined_version([outcome.data_version for outcome in outcomes]), metadata)


def joined_version(versions: Sequence[str]) -> str:
    """Data version of a partition from those of its shards."""
    return versions[0] if len(versions) == 1 else digest_of(list(versions))


def raise_failures(failures: Mapping[str, VirnucError], what: str) -> None:
    """Fail an asset by the names of what failed in it; nothing without any."""
    if failures:
        shown = "\n".join(f"  {name}: {error}" for name, error in list(failures.items())[:_SHOWN])
        more = f"\n  and {len(failures) - _SHOWN} more" if len(failures) > _SHOWN else ""
        raise VirnucError(f"{what}:\n{shown}{more}")


def _require_in_progress(context: dg.AssetExecutionContext) -> None:
    """A host that was cut off may come back when its run is failed and another does its work: it records no more."""
    run = context.instance.get_run_by_id(context.run.run_id)
    if run is not None and run.is_finished:
        raise VirnucError(
            f"run {run.run_id} is {run.status.value} already, as its host was cut off or it was canceled by force; "
            "expected one in progress. Nothing is to be done: its tables are whole, and a retry keeps them"
        )


def _inputs(
    instance: dg.DagsterInstance, workspace: Workspace, shards: ShardSet, deps: Sequence[dg.AssetKey], key: str
) -> dict[str, str]:
    """What Dagster itself would note of a partition's inputs: their versions."""
    tags = {"dagster/data_version_is_user_provided": "true"}
    of_partition = shards.shards(workspace.layout, key)
    for dep in deps:
        tables = [workspace.layout.table(shards.domain, dep.path[-1], shard) for shard in of_partition]
        if all(path.is_file() for path in tables):
            version = joined_version([content_digest(path) for path in tables])
        else:
            version = recorded_version(instance, dep, key if dep.path[0] == shards.domain else None)
        tags[f"dagster/input_data_version/{dep.to_user_string()}"] = version
        tags[f"dagster/input_event_pointer/{dep.to_user_string()}"] = "NULL"
    return tags


def recorded_version(instance: dg.DagsterInstance, dep: dg.AssetKey, partition: str | None = None) -> str:
    """Data version of the latest materialization; INITIAL where there is none."""
    record = instance.get_latest_data_version_record(dep, partition_key=partition)
    version = extract_data_version_from_entry(record.event_log_entry) if record else None
    return version.value if version else "INITIAL"


def recorded_versions(instance: dg.DagsterInstance, asset: dg.AssetKey, partitions: Sequence[str]) -> dict[str, str]:
    """Data version of the latest materialization of each partition that has one, by one query."""
    tags = instance.event_log_storage.get_latest_tags_by_partition(
        asset, dg.DagsterEventType.ASSET_MATERIALIZATION, tag_keys=[DATA_VERSION], asset_partitions=list(partitions)
    )
    return {partition: found[DATA_VERSION] for partition, found in tags.items() if DATA_VERSION in found}


def made_table(path: Path, provenance: Provenance, batches: Callable[[], Iterable[pa.Table]]) -> Outcome:
    """Write a table unless the one that is there has the same provenance.

    `batches` is called only if the table is to be made, and gives at least one table, an empty one if need be.
    """
    started = time.perf_counter()
    reused = is_made_by(path, provenance)
    if not reused:
        source = iter(batches())
        first = next(source)
        with TableWriter(path, first.schema, provenance) as writer:
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


def retrained_asset(
    workspace: Workspace,
    **options: Any,  # noqa: ANN401 - those of dg.asset
) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """`dg.asset` with what those without partitions share that the calendar has made again."""
    condition = retraining_condition(workspace.settings.automation.retrain_cron)
    shared = {"group_name": "classifiers", "owners": OWNERS, "automation_condition": condition}
    decorate: Callable[[Callable[..., Any]], dg.AssetsDefinition] = dg.asset(**{**shared, **options})
    return decorate


def code_version(version: str, *follows: Any) -> str:  # noqa: ANN401
    """Version of an asset's code, and of the settings sections and encoders that its result follows from."""
    return digest_of([version, *(part if isinstance(part, str) else part.model_dump(mode="json") for part in follows)])


def inputs_of(context: dg.AssetExecutionContext) -> str:
    """Digest of the running asset's inputs; to be asked before anything is read."""
    return _inputs_digest(context.instance, context.assets_def.get_asset_spec(context.asset_key))


def _inputs_digest(instance: dg.DagsterInstance, spec: dg.AssetSpec) -> str:
    """Digest of code version and data versions of all that an asset depends on, as Dagster recorded them."""
    versions = {}
    for dep in spec.deps:
        key = dep.asset_key
        if key.path[0] == REFERENCE.domain and key.path[-1] not in _WITHOUT_PARTITIONS:
            found = recorded_versions(instance, key, REFERENCE.keys(instance))
            versions[key.to_user_string()] = digest_of(dict(sorted(found.items())))
        else:
            versions[key.to_user_string()] = recorded_version(instance, key)
    return digest_of([spec.code_version, versions])


def latest(instance: dg.DagsterInstance, key: dg.AssetKey) -> dg.AssetMaterialization | None:
    """The latest materialization of an asset without partitions."""
    event = instance.get_latest_materialization_event(key)
    return event.asset_materialization if event else None


def is_current(instance: dg.DagsterInstance, spec: dg.AssetSpec) -> bool:
    """Whether the latest event of an asset without partitions says that it was made from today's inputs."""
    made = latest(instance, spec.key)
    return made is not None and (made.tags or {}).get(INPUTS_TAG) == _inputs_digest(instance, spec)


def whole_result(inputs: str, version: str, metadata: Mapping[str, Any]) -> dg.MaterializeResult[Any]:
    """The one event of an asset without partitions: data version from content, and the digest of its inputs."""
    return dg.MaterializeResult(metadata=metadata, data_version=dg.DataVersion(version), tags={INPUTS_TAG: inputs})


@contextlib.contextmanager
def training_place(workspace: Workspace, name: str, log: Callable[[str], None]) -> Iterator[Path]:
    """The scratch folder for the training of a classifier; waits for other trainings of it, and for its device.

    The device comes first, for all: two that took the locks in different orders would wait for each other.
    """
    from virnuc_assets.classifier.datasets import scratch_next_to

    device = DeviceLock(workspace.layout.locks, workspace.settings.encoding.device, log)
    with device.computing(), scratch_next_to(workspace.layout.training(name)) as scratch:
        yield scratch
