"""Group `shards`: packs the records of the reference, and of the files of the watched folder, into shards."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import dagster as dg

from virnuc_assets.defs.assets import refseq
from virnuc_assets.defs.automation import plan_condition
from virnuc_assets.defs.metadata import shown_pairs
from virnuc_assets.defs.partitions import REFERENCE, SAMPLES, ShardSet, group_of, register, unregister_all_but
from virnuc_assets.defs.provenance import plan_digest, reference_version
from virnuc_assets.defs.resources import Workspace
from virnuc_assets.defs.sharded_asset import DATA_VERSION, OWNERS, joined_version, raise_failures, recorded_versions
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
from virnuc_assets.sequences.plan_table import LABELS, SameRecords, plan_reference, plan_sample, read_shard
from virnuc_assets.sequences.planning import ShardPlan, rows_of, whole_records
from virnuc_assets.storage.digests import digest_of

PLAN, SHARDS = "shard_plan", "shards"


class PlanReference(dg.Config):
    """What to pack again: labels (`viral`, `host`) whose records all go into new shards, e.g. after many were removed.

    All of their frames and features are written again; known vectors are copied.
    """

    repack: list[str] = []


def build(workspace: Workspace) -> list[dg.AssetsDefinition | dg.AssetSpec]:
    """The plans of the reference and of the watched folder, and the partitions that they make."""
    return [
        _reference_plan(workspace),
        _shards_spec(REFERENCE, "Packs of reference records of one label, as they were planned."),
        _sample_plan(workspace),
        _shards_spec(SAMPLES, "Samples, as their files were planned."),
    ]


def _reference_plan(workspace: Workspace) -> dg.AssetsDefinition:
    layout, settings = workspace.layout, workspace.settings

    @dg.asset(
        key=REFERENCE.key(PLAN),
        deps=[refseq.RELEASE] if settings.refseq else [],
        group_name=group_of(SHARDS, REFERENCE.domain),
        kinds={"fasta", "parquet"},
        owners=OWNERS,
        code_version=digest_of(settings.sequences.of_plans),
        automation_condition=plan_condition(settings.automation.reembed_cron),
    )
    def reference_plan(
        context: dg.AssetExecutionContext, config: PlanReference
    ) -> Iterator[dg.AssetMaterialization | dg.MaterializeResult[Any]]:
        """Packs the catalogue's records into shards of one label across source files, and registers them as partitions.

        Unchanged records keep their shard; new ones go into new shards. Files that nobody wrote to are not read again.
        A broken source fails this asset by name; the others are planned and registered all the same, and its records
        of before stay planned. `repack: ["viral"]` in the run's config packs a label again.

        If it fails, correct or remove the files that it names; if its check fails, materialize it again.
        """
        if unknown := sorted(set(config.repack) - set(LABELS)):
            raise VirnucError(f"repack: {unknown[0]!r} is no label; expected some of {', '.join(LABELS)}")
        repack = [label for label in LABELS if label in config.repack]
        path = layout.plan("reference")
        plan, failures = plan_reference(path, workspace.catalogue(), settings.sequences, repack)
        added = register(context.instance, REFERENCE, plan.shards)
        removed = unregister_all_but(context.instance, REFERENCE, plan.shards)
        versions = {shard: _digests(path, [shard]) for shard in plan.shards}
        yield from _changed_partitions(context.instance, REFERENCE, versions)
        raise_failures(failures, "reference sources that cannot be read; all others are planned")
        facts = {"shards_added": len(added), "shards_removed": len(removed)}
        version = dg.DataVersion(reference_version(path))
        yield dg.MaterializeResult(metadata={**_facts(plan), **facts}, data_version=version)

    return reference_plan


def _shards_spec(shards: ShardSet, description: str) -> dg.AssetSpec:
    """The partitions that a plan makes: a materialization of one says that its records changed."""
    return dg.AssetSpec(
        shards.key(SHARDS),
        deps=[shards.key(PLAN)],
        description=f"{description} Recorded by the run of shard_plan, for each partition whose records changed.\n\n"
        "If its check fails, tables were removed or inputs changed: materialize what it names.",
        group_name=group_of(SHARDS, shards.domain),
        kinds={"parquet"},
        owners=OWNERS,
        partitions_def=shards.partitions,
    )


def _changed_partitions(
    instance: dg.DagsterInstance, shards: ShardSet, versions: Mapping[str, list[str]]
) -> Iterator[dg.AssetMaterialization]:
    """An event for each partition the digests of whose shards are not those of its latest event.

    Compared with what Dagster recorded, so that what a killed run did not record is recorded by the next.
    """
    key = shards.key(SHARDS)
    recorded = recorded_versions(instance, key, list(versions))
    for partition, digests in versions.items():
        if recorded.get(partition) != (version := joined_version(digests)):
            yield dg.AssetMaterialization(
                key, partition=partition, metadata={"shards": len(digests)}, tags={DATA_VERSION: version}
            )


def _digests(plan: Path, shards: Iterable[str]) -> list[str]:
    return [plan_digest(read_shard(plan, shard)) for shard in shards]


def _facts(plan: ShardPlan) -> dict[str, Any]:
    """What a person sees of a plan."""
    records = rows_of(whole_records(plan.table))
    statuses = Counter(record.status for record in records)
    cds: Counter[str] = Counter()
    for source in plan.sources.values():
        cds.update(source.cds or {})
    return {
        "sources": len(plan.sources),
        "records": len(records),
        "records_skipped": statuses["skipped"],
        "records_failed": statuses["failed"],
        "records_by_evidence": shown_pairs(
            Counter(one.evidence for one in records if one.evidence), "evidence", "count"
        ),
        "cds_by_treatment": shown_pairs(cds, "treatment", "count"),
        "genbank_records_ignored": sum(source.genbank_records_ignored for source in plan.sources.values()),
        "chunks": sum(record.chunks for record in records),
        "shards": len(plan.shards),
        "sources_sha256": digest_of({name: source.sha256 for name, source in plan.sources.items()}),
    }


class PlanSamples(dg.Config):
    """Which files of the watched folder to plan: the sensor names those that are complete; a person plans all."""

    files: list[str] | None = None


def _sample_plan(workspace: Workspace) -> dg.AssetsDefinition:
    layout, settings = workspace.layout, workspace.settings

    @dg.asset(
        key=SAMPLES.key(PLAN),
        group_name=group_of(SHARDS, SAMPLES.domain),
        kinds={"fasta", "parquet"},
        owners=OWNERS,
        code_version="2",
        pool="plan_samples",  # one run at a time: files that came together are compared, and none is planned twice
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
        versions = {name: _digests(layout.plan("samples", name), plan.shards) for name, plan in found.plans.items()}
        yield from _changed_partitions(context.instance, SAMPLES, versions)
        write_intake_log(layout, found.entries, files)
        raise_failures(found.failures, "samples that cannot be read; all others are planned")
        facts: dict[str, Any] = {
            "samples": len(found.plans),
            "records": sum(whole_records(plan.table).num_rows for plan in found.plans.values()),
            "shards": sum(map(len, versions.values())),
            "samples_added": len(added),
            "samples_removed": len(removed),
            "duplicates": shown_pairs(found.duplicates, "file", "reason"),
            "still_written": shown_pairs(found.still_written, "file", "reason"),
        }
        yield dg.MaterializeResult(metadata=facts, data_version=dg.DataVersion(digest_of(versions)))

    return sample_plan


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
