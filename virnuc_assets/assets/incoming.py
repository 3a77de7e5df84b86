"""Group `shards`: plans the files of the watched folder into sample shards, and books what became of each file."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

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
from virnuc_assets.sequences.opening import SequenceFileError, SourceChanged
from virnuc_assets.sequences.plan_table import SameRecords, make_plan
from virnuc_assets.sequences.planning import Plan, records_digest
from virnuc_assets.sequences.shard_keys import source_name, source_of

# One such run at a time: files that came together are told apart, and none is planned twice.
POOL = "plan_samples"
E = TypeVar("E", bound=Exception)


class PlanSamples(dg.Config):
    """Which files of the watched folder to plan: the sensor names those that are complete; a person plans all."""

    files: list[str] | None = None


class NameRefused(VirnucError):
    """A file whose name no sample can have."""


class NameTaken(VirnucError):
    """A file whose name is, as a sample, that of another file."""


def build_assets(workspace: Workspace) -> list[dg.AssetsDefinition]:
    """The plan of the samples."""
    layout, settings = workspace.layout, workspace.settings

    def plan_samples(context: dg.AssetExecutionContext, config: PlanSamples) -> dg.MaterializeResult[Any]:
        """Plans the files of the watched folder into shards and registers samples and shards as partitions.

        A broken file fails this asset by name, and is no sample any more if it was one; the others are planned and
        registered all the same. A new file with the records of another sample is a duplicate: it is noted with that
        sample's name, and has no shards. A file that is written to while it is read stays what it was, and waits.
        """
        files = visible_files(settings.incoming)
        chosen = {name: path for name, path in files.items() if config.files is None or name in config.files}
        states, book = file_states(chosen, settings.sequences), read_book(layout)
        names, failures = _sample_names(files, chosen, book)
        sources = {file: Source(names[file], chosen[file]) for file in states if file not in failures}
        plans = _plan_each(workspace, sources, known_contents(layout, book), failures)
        samples = {names[file]: made for file, made in plans.items()}
        growing, duplicates = _taken_out(failures, SourceChanged), _taken_out(failures, SameRecords)
        refused = {names[file] for file, error in failures.items() if isinstance(error, SequenceFileError)}
        added, removed = _register(context.instance, samples, refused)
        write_into_book(layout, _entries(states, names, plans, failures | duplicates), files)
        raise_failures(failures, "samples that cannot be read; all others are planned")
        result = plan_result(workspace, SAMPLES, samples, added, removed)
        told = {"duplicates": _told(duplicates), "still_written": _told(growing)}
        return result._replace(metadata={**(result.metadata or {}), **told})

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
    """Sample name of every file that has one; of chosen files that are named alike one is taken, others are refused."""
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
            failures[file] = NameTaken(f"{file}: named {names[file]!r} as {owner!r} is; rename one")
    return names, {file: error for file, error in failures.items() if file in chosen}


def _entries(
    states: Mapping[str, str], names: Mapping[str, str], plans: Mapping[str, Plan], failures: Mapping[str, Exception]
) -> list[IncomingFile]:
    """The book's entries; a failure that is not the file's, as a full disk, is none: the file goes on waiting."""
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


def _taken_out(failures: dict[str, Exception], kind: type[E]) -> dict[str, E]:
    """Failures of one kind, which are none of the run's."""
    found = {file: error for file, error in failures.items() if isinstance(error, kind)}
    for file in found:
        del failures[file]
    return found


def _told(errors: Mapping[str, Exception]) -> dict[str, str]:
    return {file: str(error) for file, error in errors.items()}
