"""Group `shards`: plans the files of the watched folder into sample shards, and books what became of each file."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from virnuc_assets.assets.attempts import attempt_each, raise_failures
from virnuc_assets.assets.shards import plan_asset, plan_result, shard_keys
from virnuc_assets.errors import VirnucError
from virnuc_assets.partitions import SAMPLE_NAMES, SAMPLES, register, unregister_all_but
from virnuc_assets.resources import Workspace
from virnuc_assets.sequences.catalogue import Source
from virnuc_assets.sequences.incoming import (
    IncomingFile,
    file_states,
    known_contents,
    read_book,
    visible_files,
    write_into_book,
)
from virnuc_assets.sequences.opening import SequenceFileError
from virnuc_assets.sequences.plan_table import SameRecords, make_plan
from virnuc_assets.sequences.planning import Plan, records_digest
from virnuc_assets.sequences.shard_keys import source_name, source_of

# One such run at a time: files that came together are told apart, and none is planned twice.
POOL = "plan_samples"


class PlanSamples(dg.Config):
    """Which files of the watched folder to plan: the sensor names those that are complete; a person plans all."""

    files: list[str] | None = None


class NameRefused(VirnucError):
    """A file whose name no sample can have."""


def build_assets(workspace: Workspace) -> list[dg.AssetsDefinition]:
    """The plan of the samples."""
    layout, settings = workspace.layout, workspace.settings

    def plan_samples(context: dg.AssetExecutionContext, config: PlanSamples) -> dg.MaterializeResult[Any]:
        """Plans the files of the watched folder into shards and registers samples and shards as partitions.

        A broken file fails this asset by name, and is no sample any more if it was one; the others are planned and
        registered all the same. A new file with the records of another sample is a duplicate: it is noted with that
        sample's name, and has no shards.
        """
        files = visible_files(settings.incoming)
        chosen = {name: path for name, path in files.items() if config.files is None or name in config.files}
        states, book = file_states(chosen, settings.sequences), read_book(layout)
        names, failures = _sample_names(files, chosen, book)
        sources = {file: Source(names[file], chosen[file]) for file in names if file in states}
        plans = _plan_each(workspace, sources, known_contents(layout, book), failures)
        samples = {names[file]: made for file, made in plans.items()}
        refused = {names[file] for file, error in failures.items() if isinstance(error, SequenceFileError)}
        added, removed = _register(context.instance, samples, refused)
        duplicates = {file: failures.pop(file) for file in list(failures) if isinstance(failures[file], SameRecords)}
        entries = _entries(states, {file: (names[file], made) for file, made in plans.items()}, failures | duplicates)
        write_into_book(layout, entries, files)
        raise_failures(failures, "samples that cannot be read; all others are planned")
        result = plan_result(workspace, SAMPLES, samples, added, removed)
        told = {file: str(duplicate) for file, duplicate in duplicates.items()}
        return result._replace(metadata={**(result.metadata or {}), "duplicates": told})

    return [plan_asset(SAMPLES, plan_samples, [], pool=POOL)]


def _plan_each(
    workspace: Workspace, sources: Mapping[str, Source], known: Mapping[str, str], failures: dict[str, Exception]
) -> dict[str, Plan]:
    """Plans by file; of several new files with the same records the first is planned."""
    contents = dict(known)

    def plan(file: str) -> Plan:
        path = workspace.layout.plan("samples", sources[file].name)
        made = make_plan(path, sources[file], workspace.settings.sequences, contents)
        contents[records_digest(made.pieces)] = sources[file].name
        return made

    return dict(attempt_each(sources, plan, failures))


def _register(
    instance: dg.DagsterInstance, plans: Mapping[str, Plan], refused: Collection[str]
) -> tuple[list[str], list[str]]:
    """Samples and shards become partitions; those of a file that was replaced by a broken one are none any more.

    Returns:
        The shards that were added and removed.
    """
    added = register(instance, SAMPLES.partitions, shard_keys(plans))
    registered = instance.get_dynamic_partitions(str(SAMPLES.partitions.name))
    others = [key for key in registered if source_of(key) not in plans and source_of(key) not in refused]
    removed = unregister_all_but(instance, SAMPLES.partitions, [*shard_keys(plans), *others])
    register(instance, SAMPLE_NAMES, list(plans))
    names = instance.get_dynamic_partitions(str(SAMPLE_NAMES.name))
    unregister_all_but(instance, SAMPLE_NAMES, [name for name in names if name not in refused])
    return added, removed


def _sample_names(
    files: Mapping[str, Path], chosen: Mapping[str, Path], book: Mapping[str, IncomingFile]
) -> tuple[dict[str, str], dict[str, Exception]]:
    """Sample name of every chosen file; of files that would be named alike one is taken, the others are refused."""
    failures: dict[str, Exception] = {}
    owners: dict[str, str] = {}  # by sample; who has the name already, keeps it
    names: dict[str, str] = {}
    planned_first = sorted(files, key=lambda file: (file not in book or book[file].fate != "planned", file))
    for file in planned_first:
        try:
            names[file] = source_name(files[file])
        except VirnucError as error:
            failures[file] = NameRefused(str(error))
            continue
        owner = owners.setdefault(names[file], file)
        if owner != file:
            failures[file] = NameRefused(f"{file}: named {names[file]!r} as {owner!r} is; rename one")
    refused = {file: error for file, error in failures.items() if file in chosen}
    return {file: names[file] for file in sorted(names) if file in chosen and file not in refused}, refused


def _entries(
    states: Mapping[str, str], planned: Mapping[str, tuple[str, Plan]], failures: Mapping[str, Exception]
) -> list[IncomingFile]:
    """The book's entries; a failure that is not the file's, as a full disk, is none: the file goes on waiting."""
    entries = []
    for file, state in states.items():
        if file in planned:
            sample, plan = planned[file]
            entries.append(IncomingFile(file, state, "planned", sample, records_digest(plan.pieces), None))
        elif isinstance(error := failures.get(file), SameRecords):
            entries.append(IncomingFile(file, state, "duplicate", error.source, error.content, None))
        elif isinstance(error, SequenceFileError | NameRefused):
            entries.append(IncomingFile(file, state, "refused", None, None, str(error)))
    return entries
