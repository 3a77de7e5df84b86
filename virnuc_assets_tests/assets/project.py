"""Small projects in temporary folders: made of bundled data, run in this process, copied."""

from __future__ import annotations

import csv
import gzip
import logging
import shutil
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import dagster as dg
from Bio import SeqIO

from virnuc_assets.definitions import build_defs
from virnuc_assets.defs import jobs
from virnuc_assets.defs.partitions import REFERENCE, SAMPLES, ShardSet, contiguous_ranges, range_tags, register
from virnuc_assets.defs.resources import Workspace
from virnuc_assets.sequences.catalogue import write_manifest
from virnuc_assets.settings import Settings, load_settings
from virnuc_assets.workstation.setup import dagster_home, follow_move, tracking_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient

DATA = Path(__file__).parents[2] / "data"
PLAN_REFERENCE_JOB = "plan_reference"
SAMPLE = "sample_one"
SAMPLE_RECORDS = (
    *("rabies_N", "yellow_fever_350nt", "hepatitis_delta", "fluA_PB2"),
    *("soybean_leghemoglobin", "frog_rhodopsin", "two_nt"),
)
# Three clusters of relatives for each label at least: one for each split.
GENOMES = (
    *("phiX174", "HIV1", "dengue1", "dengue2"),
    *("plasmid_pPCP1", "plasmid_pBGR3", "Buchnera", "Saureus_NCTC8325"),
)
LONGEST_NT = 12_500
MAX_PARTITIONS = 200  # of a run
SETTINGS: dict[str, dict[str, Any]] = {
    "sequences": {"chunk_length": 500, "shard_chunks": 30},
    "training": {"max_epochs": 5},
    "serving": {"variant": "fastesm2"},
    "benchmark": {"rows": 32, "max_rounds": 6},
    "decision": {
        **{"bootstrap_rounds": 100, "power_studies": 20},
        **{"min_test_rows": 20, "min_test_clusters": 2, "min_clusters_per_label": 1},
    },
}


class Project:
    """A project folder with its Dagster instance; jobs run in this process, one after the other.

    The instance is that of the project's Dagster home, or one in memory, which costs a tenth of the time. It ends with
    the project.
    """

    def __init__(self, root: Path, in_memory: bool = False) -> None:
        self.root, self._in_memory = root, in_memory

    @property
    def settings(self) -> Settings:
        return load_settings(self.root)

    @property
    def defs(self) -> dg.Definitions:
        """The graph of today's settings, built once for each."""
        return _defs_of(self.settings.model_dump_json())

    @property
    def workspace(self) -> Workspace:
        return Workspace(self.settings)

    @cached_property
    def instance(self) -> dg.DagsterInstance:
        home, in_memory = str(dagster_home(self.settings)), self._in_memory
        instance = dg.DagsterInstance.ephemeral() if in_memory else dg.DagsterInstance.from_config(home)
        weakref.finalize(self, instance.dispose)
        return instance

    def job(self, name: str, **arguments: Any) -> dg.ExecuteInProcessResult:
        """One run by today's settings; a failed step does not raise."""
        job = self.defs.resolve_job_def(name)
        with quiet():
            return job.execute_in_process(instance=self.instance, raise_on_error=False, **arguments)

    def range(self, name: str, keys: Sequence[str]) -> dg.ExecuteInProcessResult:
        """One run over all keys from the first to the last."""
        return self.job(name, tags=range_tags(keys))

    def materialize(
        self, *keys: dg.AssetKey | str, partition: str | tuple[str, str] | ShardSet | None = None
    ) -> dg.ExecuteInProcessResult:
        """One run of some assets with their checks, for a partition, a range of them, or all of a set."""
        selection = dg.AssetSelection.assets(*(key if isinstance(key, dg.AssetKey) else [key] for key in keys))
        defs = self.defs
        if isinstance(partition, ShardSet):
            (every,) = contiguous_ranges(self.instance, partition, self.keys(partition), MAX_PARTITIONS)
            partition = every[0], every[-1]
        tags = range_tags(partition) if isinstance(partition, tuple) else {}
        with quiet():
            return dg.materialize(
                [*(defs.assets or ()), *(defs.asset_checks or ())],
                selection=selection,
                instance=self.instance,
                resources=defs.resources,
                partition_key=partition if isinstance(partition, str) else None,
                tags=tags,
                raise_on_error=False,
            )

    def check(self, *assets: dg.AssetKey | str) -> dict[tuple[str, str], dg.AssetCheckEvaluation]:
        """The checks of some assets by asset and name, run by themselves; none of them raises."""
        defs, selection = self.defs, dg.AssetSelection.checks_for_assets(*assets)
        with quiet():
            checked = dg.materialize(
                defs.asset_checks or (),
                instance=self.instance,
                resources=defs.resources,
                selection=selection,
                raise_on_error=False,  # which a blocking check that fails would
            )
        found = checked.get_asset_check_evaluations()
        assert len(found) == len(selection.resolve_checks(defs.resolve_asset_graph()))
        return {(check.asset_key.to_user_string(), check.check_name): check for check in found}

    def keys(self, shards: ShardSet) -> list[str]:
        return shards.keys(self.instance)

    def shards(self, of: ShardSet) -> list[str]:
        """Shards of all partitions."""
        return [shard for key in self.keys(of) for shard in of.shards(self.workspace.layout, key)]

    def run_shards(self, job: str, shards: ShardSet) -> list[dg.ExecuteInProcessResult]:
        ranges = contiguous_ranges(self.instance, shards, self.keys(shards), MAX_PARTITIONS)
        return [self.range(job, chosen) for chosen in ranges]

    def run_reference(self) -> list[dg.ExecuteInProcessResult]:
        """Plan and embed the reference."""
        return [self.job(PLAN_REFERENCE_JOB), *self.run_shards(jobs.REFERENCE_JOB, REFERENCE)]

    def run_samples(self) -> list[dg.ExecuteInProcessResult]:
        """Plan, predict and report the watched folder."""
        results = [self.job(jobs.PLAN_SAMPLES_JOB)]
        for job in (jobs.SAMPLE_JOB, jobs.OTHER_VARIANT_JOB):
            results += self.run_shards(job, SAMPLES)
        return results

    def run_everything(self) -> list[dg.ExecuteInProcessResult]:
        """All jobs in the order of the demo."""
        return [*self.run_reference(), self.job(jobs.DECISION_JOB), *self.run_samples()]

    def configure(self, **sections: Mapping[str, Any] | str) -> None:
        """Write virnuc.toml: the sections given, over those of `SETTINGS`."""
        merged: dict[str, Any] = {**SETTINGS, **sections}
        tables = {name: {**SETTINGS.get(name, {}), **v} for name, v in merged.items() if isinstance(v, Mapping)}
        lines = [f'{name} = "{value}"' for name, value in merged.items() if isinstance(value, str)]
        for name, values in tables.items():
            lines += [f"[{name}]", *(f"{key} = {_toml(value)}" for key, value in values.items())]
        (self.root / "virnuc.toml").write_text("\n".join(lines) + "\n")

    def tables(self) -> dict[str, Path]:
        """Every asset's tables, by path below the results; not the copies that a decision keeps."""
        folder = self.workspace.layout.results
        found = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*.parquet"))}
        return {name: path for name, path in found.items() if not name.startswith("migration_decision/")}

    def copy(self, to: Path, in_memory: bool = True, with_history: bool = False) -> Self:
        """The project as it is, elsewhere.

        Args:
            to: folder of the copy.
            in_memory: as of `Project`.
            with_history: whether its instance knows what made the tables, and not only the partitions.
        """
        shutil.copytree(self.root, to)
        copied = type(self)(to, in_memory)
        follow_move(copied.settings, lambda _: None)
        for shards in (REFERENCE, SAMPLES):
            register(copied.instance, shards, self.keys(shards))
        for run in reversed(self.instance.get_runs()) if with_history else ():
            for event in self.instance.all_logs(run.run_id):
                copied.instance.store_event(event)
        return copied


def new_project(
    root: Path,
    blank: Path,
    genomes: Sequence[str] = (),
    samples: Mapping[str, Sequence[str]] | None = None,
    in_memory: bool = True,
) -> Project:
    """A project with some of the bundled genomes, and samples made of records of the bundled sample.

    Args:
        root: its folder.
        blank: folder of a project that is set up and has not run.
        genomes: names in the bundled catalogue.
        samples: sample to records.
        in_memory: as of `Project`.
    """
    shutil.copytree(blank, root)
    with (DATA / "genomes/MANIFEST.tsv").open(newline="") as handle:
        chosen = [row for row in csv.DictReader(handle, delimiter="\t") if row["name"] in genomes]
    assert len(chosen) == len(genomes)
    rows = [_copy_genome(row, root / "data/genomes") for row in chosen]
    if rows:
        write_manifest(root / "data/genomes", rows, list(rows[0]))
    for name, records in (samples or {}).items():
        write_sample(root / f"data/incoming/{name}.fasta", records)
    project = Project(root, in_memory)
    follow_move(project.settings, lambda _: None)
    return project


@lru_cache(maxsize=4)
def _defs_of(settings: str) -> dg.Definitions:
    return build_defs(Settings.model_validate_json(settings, strict=False))


def _copy_genome(row: Mapping[str, str], folder: Path) -> dict[str, str]:
    """Copy what is annotated whole; of others the first bases are enough. Files that tests change are not checked."""
    (folder / row["label"]).mkdir(parents=True, exist_ok=True)
    copied = {**row, "fasta_sha256": "", "genbank_sha256": ""}
    if row["genbank"]:
        for name in (row["fasta"], row["genbank"]):
            shutil.copyfile(DATA / "genomes" / name, folder / name)
        return copied
    copied["fasta"] = row["fasta"].removesuffix(".gz")
    with gzip.open(DATA / "genomes" / row["fasta"], "rt") as handle:
        records = [record[:LONGEST_NT] for record in SeqIO.parse(handle, "fasta")]
    SeqIO.write(records, folder / copied["fasta"], "fasta")
    return copied


def write_sample(path: Path, records: Sequence[str]) -> None:
    """Records of the bundled sample as a FASTA file."""
    bundled = {record.id: record for record in SeqIO.parse(DATA / "samples/demo_sample.fasta", "fasta")}
    SeqIO.write([bundled[name] for name in records], path, "fasta")


def failures(*results: dg.ExecuteInProcessResult) -> list[str]:
    """Error text of every failed step."""
    events = [event for result in results for event in result.all_events if event.is_step_failure]
    return [str(event.step_failure_data.error_display_string) for event in events]


def facts(result: dg.ExecuteInProcessResult, asset: dg.AssetKey | str) -> dict[str, Any]:
    """Metadata of the one materialization of an asset in a run without failures."""
    assert failures(result) == []
    key = dg.AssetKey(asset) if isinstance(asset, str) else asset
    (event,) = (each for each in result.get_asset_materialization_events() if each.asset_key == key)
    return {name: entry.value for name, entry in event.materialization.metadata.items()}


def client_of(project: Project) -> MlflowClient:
    """A client of the project's MLflow store, which is now the store of this process, too."""
    import mlflow  # heavy, and most projects of tests need none

    uri = tracking_uri(project.settings)
    mlflow.set_tracking_uri(uri)
    return mlflow.MlflowClient(tracking_uri=uri)


def _toml(value: Any) -> str:
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Mapping):
        return "{" + ", ".join(f'"{key}" = {_toml(entry)}' for key, entry in value.items()) + "}"
    return str(value).lower() if isinstance(value, bool) else repr(value).replace("'", '"')


@contextmanager
def quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


class Finished(Project):
    """The finished project; read it, change nothing. Its runs are in `results`, in order."""

    results: list[dg.ExecuteInProcessResult]
