"""Group `shards`: plans the files of the watched folder into sample shards, and notes the status of each file."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import dagster as dg

from virnuc_assets.defs.assets.shards import PLAN, SHARDS, changed_partitions, shards_spec
from virnuc_assets.defs.metadata import shown_table
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
    logged_state,
    read_intake_log,
    visible_files,
    write_intake_log,
)
from virnuc_assets.sequences.opening import SequenceFileError, SourceChanged
from virnuc_assets.sequences.plan_table import SameRecords, plan_sample, read_shard
from virnuc_assets.sequences.planning import ShardPlan, whole_records
from virnuc_assets.storage.digests import digest_of

# One such run at a time: files that came together are compared, and none is planned twice.
POOL = "plan_samples"


class PlanSamples(dg.Config):
    """Which files of the watched folder to plan: the sensor names those that are complete; a person plans all."""

    files: list[str] | None = None


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

        If it fails, correct or remove the files that it names, and the sensor plans them; if its check fails,
        materialize it again.
        """
        files = visible_files(settings.incoming)
        chosen = {name: path for name, path in files.items() if config.files is None or name in config.files}
        found = _Planned(workspace, files, file_states(chosen, settings.sequences))
        added = register(context.instance, SAMPLES, list(found.plans))
        refused = {entry.sample for entry in found.entries if entry.status == "refused"}
        others = set(SAMPLES.keys(context.instance)) - refused
        # A sample whose plan and file are gone can never be made.
        planned = [name for name in others if layout.plan("samples", name).is_file()]
        removed = unregister_all_but(context.instance, SAMPLES, planned)
        versions = {name: _shard_digests(workspace, name, plan) for name, plan in found.plans.items()}
        yield from changed_partitions(context.instance, SAMPLES, versions)
        write_intake_log(layout, found.entries, files)
        raise_failures(found.failures, "samples that cannot be read; all others are planned")
        facts: dict[str, Any] = {
            "samples": len(found.plans),
            "records": sum(whole_records(plan.table).num_rows for plan in found.plans.values()),
            "shards": sum(map(len, versions.values())),
            "samples_added": len(added),
            "samples_removed": len(removed),
            "duplicates": _files(found.duplicates),
            "still_written": _files(found.still_written),
        }
        yield dg.MaterializeResult(metadata=facts, data_version=dg.DataVersion(digest_of(versions)))

    return [sample_plan, shards_spec(SAMPLES, "Samples, as their files were planned.")]


def _files(reasons: Mapping[str, str]) -> dg.TableMetadataValue:
    return shown_table(({"file": file, "reason": why} for file, why in reasons.items()), ("file", "reason"))


def _shard_digests(workspace: Workspace, sample: str, plan: ShardPlan) -> list[str]:
    path = workspace.layout.plan("samples", sample)
    return [plan_digest(read_shard(path, shard)) for shard in plan.shards]


class _Planned:
    """What becomes of the chosen files, one after the other; a failure that is not the file's leaves it waiting."""

    def __init__(self, workspace: Workspace, files: Mapping[str, Path], states: Mapping[str, str]) -> None:
        """Plan the files whose states are given; `files` are all of the folder, whose names they must not have."""
        self.plans: dict[str, ShardPlan] = {}  # by sample
        self.entries: list[IncomingFile] = []
        self.failures: dict[str, VirnucError] = {}  # and what follows: by file
        self.duplicates: dict[str, str] = {}
        self.still_written: dict[str, str] = {}
        self._workspace, self._intake = workspace, read_intake_log(workspace.layout)
        self._known = known_contents(workspace.layout, self._intake)  # of several new files alike the first is planned
        names, owners = self._named(files)
        for file, state in states.items():
            if isinstance(name := names[file], VirnucError):
                self._refused(file, state, "refused", None, name)
            elif (owner := owners[name]) != file:
                error = VirnucError(f"{file}: named {name!r} as {owner!r} is; rename one")
                self._refused(file, state, "name_collision", name, error)
            else:
                self._plan(file, files[file], name, state)

    def _named(self, files: Mapping[str, Path]) -> tuple[dict[str, str | VirnucError], dict[str, str]]:
        """Sample name of every file, or why it has none; and the file that has the name: who had it, keeps it."""
        names: dict[str, str | VirnucError] = {}
        owners: dict[str, str] = {}
        planned = {name for name, entry in self._intake.items() if entry.status == "planned"}
        for file in sorted(files, key=lambda file: (file not in planned, file)):
            try:
                names[file] = source_name(files[file])
                owners.setdefault(str(names[file]), file)
            except VirnucError as error:
                names[file] = error
        return names, owners

    def _plan(self, file: str, path: Path, name: str, state: str) -> None:
        layout, settings = self._workspace.layout, self._workspace.settings.sequences
        try:
            plan = plan_sample(layout.plan("samples", name), Source(name, path), settings, self._known)
        except SameRecords as error:
            self.duplicates[file] = str(error)
            self.entries.append(IncomingFile(file, state, "duplicate", error.source, error.content, None))
        except SourceChanged as error:
            self.still_written[file] = str(error)
        except SequenceFileError as error:
            self._refused(file, state, "refused", name, error)
        except VirnucError as error:
            self.failures[file] = error
        else:
            self.plans[name], self._known[plan.content] = plan, name
            self.entries.append(IncomingFile(file, state, "planned", name, plan.content, None))

    def _refused(
        self, file: str, state: str, status: Literal["refused", "name_collision"], name: str | None, error: VirnucError
    ) -> None:
        self.failures[file] = error
        self.entries.append(IncomingFile(file, logged_state(state, status), status, name, None, str(error)))
