"""Group `shards`: plans the files of the watched folder into sample shards, and notes the status of each file."""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import dagster as dg

from virnuc_assets.defs.assets.shards import PLAN, SHARDS, changed_partitions, shards_spec
from virnuc_assets.defs.partitions import SAMPLES, group_of, register, unregister_all_but
from virnuc_assets.defs.provenance import plan_digest
from virnuc_assets.defs.resources import Workspace
from virnuc_assets.defs.sharded_asset import OWNERS, raise_failures
from virnuc_assets.errors import VirnucError
from virnuc_assets.sequences.catalogue import Source, source_name
from virnuc_assets.sequences.incoming import (
    IncomingFile,
    file_states,
    known_contents,
    read_intake_log,
    visible_files,
    write_intake_log,
)
from virnuc_assets.sequences.opening import SequenceFileError, SourceChanged
from virnuc_assets.sequences.plan_table import SameRecords, ShardPlan, plan_sample, read_shard
from virnuc_assets.sequences.planning import records_digest, whole_records
from virnuc_assets.storage.digests import digest_of

# One such run at a time: files that came together are compared, and none is planned twice.
POOL = "plan_samples"
E = TypeVar("E", bound=VirnucError)


class PlanSamples(dg.Config):
    """Which files of the watched folder to plan: the sensor names those that are complete; a person plans all."""

    files: list[str] | None = None


class NameRefused(VirnucError):
    """A file whose name no sample can have."""


class NameTaken(VirnucError):
    """A file whose name is, as a sample, that of another file."""


def build_assets(workspace: Workspace) -> list[dg.AssetsDefinition | dg.AssetSpec]:
    """The plan of the samples, and the samples."""
    layout, settings = workspace.layout, workspace.settings

    @dg.asset(
        key=SAMPLES.key(PLAN),
        group_name=group_of(SHARDS, SAMPLES.domain),
        kinds={"fasta", "parquet"},
        owners=OWNERS,
        code_version="2",
        pool=POOL,
    )
    def sample_plan(
        context: dg.AssetExecutionContext, config: PlanSamples
    ) -> Iterator[dg.AssetMaterialization | dg.MaterializeResult[Any]]:
        """Plans the files of the watched folder into shards and registers the samples as partitions.

        A broken file fails this asset by name, and is no sample any more if it was one; the others are planned and
        registered all the same. A new file with the records of another sample is a duplicate: it is noted with that
        sample's name, and has no shards. A file that is written to while it is read stays what it was, and waits.
        """
        files = visible_files(settings.incoming)
        chosen = {name: path for name, path in files.items() if config.files is None or name in config.files}
        states, intake = file_states(chosen, settings.sequences), read_intake_log(layout)
        names, failures = _sample_names(files, chosen, intake)
        sources = {file: Source(names[file], chosen[file]) for file in states if file not in failures}
        plans = _plan_each(workspace, sources, known_contents(layout, intake), failures)
        samples = {names[file]: plan for file, plan in plans.items()}
        growing, duplicates = _taken_out(failures, SourceChanged), _taken_out(failures, SameRecords)
        refused = {names[file] for file, error in failures.items() if isinstance(error, SequenceFileError)}
        added = register(context.instance, SAMPLES, list(samples))
        others = set(SAMPLES.keys(context.instance)) - refused
        # A sample whose plan and file are gone can never be made.
        planned = [name for name in others if layout.plan("samples", name).is_file()]
        removed = unregister_all_but(context.instance, SAMPLES, planned)
        versions = {name: _shard_digests(workspace, name, plan) for name, plan in samples.items()}
        yield from changed_partitions(context.instance, SAMPLES, versions)
        write_intake_log(layout, _entries(states, names, plans, failures | duplicates), files)
        raise_failures(failures, "samples that cannot be read; all others are planned")
        facts: dict[str, Any] = {
            **_totals(samples.values()),
            "samples_added": len(added),
            "samples_removed": len(removed),
            "duplicates": _told(duplicates),
            "still_written": _told(growing),
        }
        yield dg.MaterializeResult(metadata=facts, data_version=dg.DataVersion(digest_of(versions)))

    return [sample_plan, shards_spec(SAMPLES, "Samples, as their files were planned.")]


def _totals(plans: Collection[ShardPlan]) -> dict[str, int]:
    records = sum(len(whole_records(plan.pieces)) for plan in plans)
    return {"samples": len(plans), "records": records, "shards": sum(len(plan.shards) for plan in plans)}


def _plan_each(
    workspace: Workspace, sources: Mapping[str, Source], known: Mapping[str, str], failures: dict[str, VirnucError]
) -> dict[str, ShardPlan]:
    """Plans by file; of several new files with the same records the first is planned."""
    contents, plans = dict(known), dict[str, ShardPlan]()
    for file, source in sources.items():
        path = workspace.layout.plan("samples", source.name)
        try:
            plans[file] = plan_sample(path, source, workspace.settings.sequences, contents)
        except VirnucError as error:
            failures[file] = error
        else:
            contents[records_digest(plans[file].pieces)] = source.name
    return plans


def _shard_digests(workspace: Workspace, sample: str, plan: ShardPlan) -> list[str]:
    path = workspace.layout.plan("samples", sample)
    return [plan_digest(read_shard(path, shard)) for shard in plan.shards]


def _sample_names(
    files: Mapping[str, Path], chosen: Mapping[str, Path], intake: Mapping[str, IncomingFile]
) -> tuple[dict[str, str], dict[str, VirnucError]]:
    """Sample name of every file that has one; of chosen files that are named alike one is taken, others are refused."""
    failures: dict[str, VirnucError] = {}
    owners: dict[str, str] = {}  # by sample; who has the name already, keeps it
    names: dict[str, str] = {}
    planned_first = sorted(files, key=lambda file: (file not in intake or intake[file].fate != "planned", file))
    for file in planned_first:
        try:
            names[file] = source_name(files[file])
        except VirnucError as error:
            failures[file] = NameRefused(str(error))
            continue
        owner = owners.setdefault(names[file], file)
        if owner != file:
            failures[file] = NameTaken(f"{file}: named {names[file]!r} as {owner!r} is; rename one")
    return names, {file: error for file, error in failures.items() if file in chosen}


def _entries(
    states: Mapping[str, str],
    names: Mapping[str, str],
    plans: Mapping[str, ShardPlan],
    failures: Mapping[str, VirnucError],
) -> list[IncomingFile]:
    """Entries of the intake log; a failure that is not the file's, e.g. a full disk, is none, and the file waits."""
    entries = []
    for file, state in states.items():
        sample, error = names.get(file), failures.get(file)
        if file in plans:
            entries.append(IncomingFile(file, state, "planned", sample, records_digest(plans[file].pieces), None))
        elif isinstance(error, SameRecords):
            entries.append(IncomingFile(file, state, "duplicate", error.source, error.content, None))
        elif isinstance(error, NameTaken):
            entries.append(IncomingFile(file, state, "namesake", sample, None, str(error)))
        elif isinstance(error, SequenceFileError | NameRefused):
            entries.append(IncomingFile(file, state, "refused", sample, None, str(error)))
    return entries


def _taken_out(failures: dict[str, VirnucError], kind: type[E]) -> dict[str, E]:
    """Failures of one kind, which are none of the run's."""
    found = {file: error for file, error in failures.items() if isinstance(error, kind)}
    for file in found:
        del failures[file]
    return found


def _told(errors: Mapping[str, VirnucError]) -> dict[str, str]:
    return {file: str(error) for file, error in errors.items()}
