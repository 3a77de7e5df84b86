"""The whole pipeline on the bundled genomes, in one process: every asset, the decision, and a sample's predictions.

Only what is missing or stale is run, by the provenance that is stored in the tables.
"""

from __future__ import annotations

import filecmp
import functools
import logging
import os
import shutil
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import dagster as dg
from rich.console import Console
from rich.markdown import Markdown
from rich.progress import Progress
from rich.table import Table

from virnuc_assets.cli.terminal import BAR
from virnuc_assets.definitions import build_defs
from virnuc_assets.defs import jobs
from virnuc_assets.defs.assets import finetuning, refseq
from virnuc_assets.defs.assets.migration import DECISION, stored_decision
from virnuc_assets.defs.assets.shards import PlanSamples
from virnuc_assets.defs.checks import plan_is_current, stale_assets, stale_partitions
from virnuc_assets.defs.partitions import REFERENCE, SAMPLES, ShardSet, contiguous_ranges, range_tags
from virnuc_assets.defs.provenance import stages
from virnuc_assets.defs.resources import Workspace
from virnuc_assets.defs.sensors import files_to_plan
from virnuc_assets.encoders.registry import Variant
from virnuc_assets.errors import VirnucError
from virnuc_assets.sequences.catalogue import source_name
from virnuc_assets.sequences.incoming import read_intake_log
from virnuc_assets.settings import Settings
from virnuc_assets.storage.atomic import atomic_write
from virnuc_assets.workstation.setup import DEMO_SAMPLE, dagster_home, require_set_up

_METRICS = ("rows", "accuracy", "precision", "recall", "f1", "mcc", "auroc", "average_precision", "brier", "ece")


def run_demo(settings: Settings, out: Console) -> None:
    """Materialize every asset of the graph that is missing or stale, and print the results."""
    os.environ["DAGSTER_HOME"] = str(dagster_home(settings))
    workspace = Workspace(settings)
    require_set_up(settings, functools.partial(out.print, soft_wrap=True, highlight=False, markup=False))
    sample = _drop_sample(settings)
    started = time.perf_counter()
    with dg.DagsterInstance.get() as instance, Progress(*BAR, console=out) as progress:
        run = Runs(build_defs(settings), instance, progress)
        run_everything(workspace, run, out)
    if run.count:
        _print_rows(run, out)
    else:
        out.print("Nothing is missing or stale: no run was started.", highlight=False)
    _print_metrics(stored_decision(workspace), out)
    out.print(Markdown(workspace.layout.whole(DECISION, ".md").read_text(encoding="utf-8")))
    out.print(f"Report: {workspace.layout.whole(DECISION, '.html')}", soft_wrap=True, highlight=False)
    out.print(f"Predictions for {sample}: {workspace.layout.sample_report(sample)}", soft_wrap=True, highlight=False)
    out.print(f"Finished in {time.perf_counter() - started:.0f} s. See it all: virnuc up", highlight=False)


def run_everything(workspace: Workspace, run: Runs, out: Console) -> None:
    """All phases in order; of each what is missing or stale. A file that is no sample is named, and stops nothing."""
    settings = workspace.settings
    if settings.refseq and not refseq.is_downloaded(workspace):
        run.job(jobs.FETCH_JOB)
    if not plan_is_current(run.instance, workspace):
        run.job(jobs.PLAN_REFERENCE_JOB)
    run.stages("frames and vectors of the reference", workspace, REFERENCE, workspace.kept_variants("reference"))
    for name in settings.finetuning.encoders:
        run.whole(f"{finetuning.JOB}{name}", workspace)
    run.stages("vectors of fine-tuned encoders", workspace, REFERENCE, workspace.variants())
    run.whole(jobs.DECISION_JOB, workspace)
    _plan_samples(workspace, run, out)
    run.stages("samples", workspace, SAMPLES, workspace.kept_variants("samples"))


def _plan_samples(workspace: Workspace, run: Runs, out: Console) -> None:
    if not (files := list(files_to_plan(workspace))):
        return
    try:
        run.job(jobs.PLAN_SAMPLES_JOB, dg.RunConfig(ops={jobs.PLAN_SAMPLES_OP: PlanSamples(files=files)}))
    except VirnucError:
        if files_to_plan(workspace):  # not for the sake of refused files, which are in the intake log
            raise
    intake = read_intake_log(workspace.layout)
    for entry in (intake[file] for file in files if file in intake and intake[file].reason):
        out.print(f"Not a sample: {entry.reason}", highlight=False, markup=False, soft_wrap=True)


class Runs:
    """Runs what is missing or stale in this process, and counts runs, and rows and vectors of each asset."""

    def __init__(self, defs: dg.Definitions, instance: dg.DagsterInstance, bars: Progress) -> None:
        self._defs, self.instance, self._bars = defs, instance, bars
        self.made, self.reused = Counter[str](), Counter[str]()  # rows of tables that were written, or up to date
        self.dims = dict[str, int]()
        # Vectors that an encoder computed, and others of embedding tables.
        self.count = self.embedded = self.copied = 0

    def stages(self, phase: str, workspace: Workspace, shards: ShardSet, variants: list[Variant]) -> None:
        """Per-shard assets for some variants, of partitions that are missing or stale, in ranges of neighbours."""
        longest, ranges = workspace.settings.automation.partitions_per_run, []
        wanted = stages(shards.domain, variants)
        for chosen, partitions in stale_partitions(self.instance, workspace, shards, wanted).items():
            selection = [shards.key(name) for name in chosen]
            ranges += [(selection, keys) for keys in contiguous_ranges(self.instance, shards, partitions, longest)]
        job = self._defs.resolve_implicit_global_asset_job_def()
        with self._bar(phase, sum(len(selection) * len(keys) for selection, keys in ranges)) as step:
            for selection, keys in ranges:
                self._run(job, step, asset_selection=selection, tags=range_tags(keys))

    def whole(self, name: str, workspace: Workspace) -> None:
        """The missing and stale assets of a job whose assets have no partitions."""
        job, graph = self._defs.resolve_job_def(name), self._defs.resolve_asset_graph()
        keys = [key for key in graph.toposorted_asset_keys if key in job.asset_layer.executable_asset_keys]
        specs = {spec.key: spec for spec in self._defs.resolve_all_asset_specs()}
        stale = stale_assets(self.instance, workspace, [specs[key] for key in keys])
        with self._bar(name.replace("_", " "), len(stale)) as step:
            if stale:
                self._run(job, step, asset_selection=stale)

    def job(self, name: str, config: dg.RunConfig | None = None) -> None:
        """One run of a job."""
        with self._bar(name.replace("_", " "), 1) as step:
            self._run(self._defs.resolve_job_def(name), lambda _: None, run_config=config)
            step(None)

    @contextmanager
    def _bar(self, phase: str, total: int) -> Iterator[Callable[[object], None]]:
        if not total:
            yield lambda _: None
            return
        task = self._bars.add_task(phase, total=total)
        yield lambda _: self._bars.advance(task)
        self._bars.update(task, completed=total)

    def _run(self, job: dg.JobDefinition, step: Callable[[object], None], **arguments: Any) -> None:  # noqa: ANN401
        """One run; `step` is called after each materialization, a step that fails is a VirnucError."""
        run_id = str(uuid.uuid4())

        def on_event(entry: dg.EventLogEntry) -> None:
            if entry.dagster_event and entry.dagster_event.is_step_materialization:
                step(entry)

        self.instance.add_event_listener(run_id, on_event)
        logging.disable(logging.ERROR)  # events go to Dagster's store, and what failed into the error below
        try:
            result = job.execute_in_process(instance=self.instance, run_id=run_id, raise_on_error=False, **arguments)
        finally:
            logging.disable(logging.NOTSET)
        self.count += 1
        if not result.success:
            failed = [event for event in result.all_events if event.is_step_failure]
            reasons = "\n".join(str(event.step_failure_data.error_display_string) for event in failed)
            raise VirnucError(f"run {result.run_id} of job {job.name} failed:\n{reasons}")
        for event in result.all_events:
            if event.is_step_materialization and event.asset_key:
                asset, metadata = event.asset_key.to_user_string(), event.materialization.metadata
                self.made[asset] += _number(metadata, "rows_made")
                self.reused[asset] += _number(metadata, "rows_reused")
                self.dims[asset] = _number(metadata, "dim") or _number(metadata, "merged_dim")
                self.embedded += _number(metadata, "embedded")
                self.copied += _number(metadata, "reused")


def _number(metadata: Any, name: str) -> int:  # noqa: ANN401
    return int(metadata[name].value) if name in metadata else 0


def _drop_sample(settings: Settings) -> str:
    """Put the bundled sample into the watched folder as a person would: whole, under its name at once."""
    target = settings.incoming / DEMO_SAMPLE.name
    if not (target.is_file() and filecmp.cmp(DEMO_SAMPLE, target, shallow=False)):  # else it would be a new file
        with atomic_write(target) as part:
            shutil.copyfile(DEMO_SAMPLE, part)
    return source_name(target)


def _print_rows(run: Runs, out: Console) -> None:
    table = Table(title="Rows per stage", title_justify="left")
    table.add_column("asset")
    for column in ("rows", "written", "up to date", "dim"):
        table.add_column(column, justify="right")
    for asset in sorted(run.made):
        made, reused = run.made[asset], run.reused[asset]
        if made or reused:
            table.add_row(asset, f"{made + reused:,}", f"{made:,}", f"{reused:,}", str(run.dims[asset] or ""))
    out.print(table)
    out.print(f"Vectors embedded: {run.embedded:,}. Copied or up to date: {run.copied:,}.", highlight=False)


def _print_metrics(decision: dict[str, Any], out: Console) -> None:
    metrics = Table(title="Test metrics of frames (k-mer baseline: of chunks)", title_justify="left")
    metrics.add_column("")
    first = ("candidate", "baseline", "kmer_baseline")  # JSON sorts its keys
    roles = [*first, *(role for role in decision["variants"] if role not in first)]
    variants = [decision["variants"][role] for role in roles]
    for role, variant in zip(roles, variants, strict=True):
        metrics.add_column(role if role == variant["variant"] else f"{role} ({variant['variant']})", justify="right")
    for name in ("dna_dim", "protein_dim", "merged_dim"):
        metrics.add_row(name, *(str((variant["description"] or {}).get(name, "–")) for variant in variants))
    for name in _METRICS:
        values = [variant["performance"] and variant["performance"]["levels"]["frame"][name] for variant in variants]
        metrics.add_row(name, *("–" if value is None else f"{value:.4g}" for value in values))
    out.print(metrics)
