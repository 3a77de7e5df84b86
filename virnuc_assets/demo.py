"""The whole pipeline on the bundled genomes, in one process: every asset, the decision, and a sample's predictions."""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dagster as dg
from rich.console import Console
from rich.table import Table

from virnuc_assets import automation
from virnuc_assets.assets import finetuning
from virnuc_assets.assets.migration import DECISION
from virnuc_assets.bootstrap import dagster_home
from virnuc_assets.definitions import build_defs
from virnuc_assets.errors import VirnucError
from virnuc_assets.partitions import REFERENCE, REPORTS, SAMPLES, ShardSet
from virnuc_assets.requests import contiguous_ranges, range_tags
from virnuc_assets.resources import Workspace
from virnuc_assets.sequences.shard_keys import source_name
from virnuc_assets.settings import Settings
from virnuc_assets.storage.schemas import vector_dim
from virnuc_assets.storage.tables import read_schema

DEMO_SAMPLE = "data/samples/demo_sample.fasta"
_METRICS = ("rows", "accuracy", "precision", "recall", "f1", "mcc", "auroc", "average_precision", "brier", "ece")


def run_demo(settings: Settings, out: Console) -> None:
    """Materialize every asset of the graph and print what came of it.

    Raises:
        VirnucError: a run failed; the message names it.
    """
    os.environ["DAGSTER_HOME"] = str(dagster_home(settings))
    sample = _drop_sample(settings)
    started = time.perf_counter()
    with dg.DagsterInstance.get() as instance:
        run = Runs(build_defs(settings), instance, out)
        if settings.refseq:
            run.job(automation.FETCH_JOB)
        run.job(automation.PLAN_REFERENCE_JOB)
        run.shards(automation.REFERENCE_JOB, REFERENCE)
        for name in settings.finetuning.encoders:
            run.job(f"{finetuning.JOB}{name}")
            run.shards(f"{automation.ENCODER_JOB}{finetuning.asset_name(name)}", REFERENCE)
        run.job(automation.DECISION_JOB)
        run.job(automation.PLAN_SAMPLES_JOB)
        run.shards(automation.SAMPLE_JOB, SAMPLES)
        run.shards(automation.OTHER_VARIANT_JOB, SAMPLES)
        run.shards(automation.REPORT_JOB, REPORTS)
    workspace = Workspace(settings)
    _print_rows(workspace, run, out)
    _print_decision(workspace, out)
    out.print(f"Predictions for {sample}: {workspace.layout.sample_report(sample)}", soft_wrap=True, highlight=False)
    out.print(f"Finished in {time.perf_counter() - started:.0f} s. See it all: make up", highlight=False)


class Runs:
    """Runs jobs one after the other in this process, and counts rows made and reused for each asset.

    Attributes:
        made: rows of tables written now.
        reused: rows of tables that were there already.
        embedded: vectors that an encoder computed now; a table written now may hold others, which were copied.
        found: vectors of embedding tables that no encoder computed now.
    """

    def __init__(self, defs: dg.Definitions, instance: dg.DagsterInstance, out: Console) -> None:
        self._repository = defs.get_repository_def()
        self._instance, self._out = instance, out
        self.made: Counter[str] = Counter()
        self.reused: Counter[str] = Counter()
        self.embedded = self.found = 0

    def shards(self, job: str, shards: ShardSet) -> None:
        """A job over all shards of a set, in runs of contiguous ranges."""
        keys = self._instance.get_dynamic_partitions(str(shards.partitions.name))
        for chosen in contiguous_ranges(keys, keys):
            self.job(job, tags=range_tags(chosen))

    def job(self, job: str, tags: dict[str, str] | None = None) -> None:
        """One run of a job.

        Raises:
            VirnucError: a step failed.
        """
        self._out.print(f"… {job}", highlight=False)
        definition = self._repository.get_job(job)
        with _quiet():
            result = definition.execute_in_process(instance=self._instance, tags=tags, raise_on_error=False)
        if not result.success:
            failed = [event for event in result.all_events if event.is_step_failure]
            reasons = "\n".join(str(event.step_failure_data.error_display_string) for event in failed)
            raise VirnucError(f"run {result.run_id} of job {job} failed:\n{reasons}")
        latest = {
            (event.asset_key.to_user_string(), event.partition): event.materialization.metadata
            for event in result.all_events
            if event.is_step_materialization and event.asset_key
        }
        for (asset, _), metadata in latest.items():
            self.made[asset] += _number(metadata, "rows_made")
            self.reused[asset] += _number(metadata, "rows_reused")
            self.embedded += _number(metadata, "embedded")
            self.found += _number(metadata, "reused")


def _number(metadata: Any, name: str) -> int:  # noqa: ANN401
    return int(metadata[name].value) if name in metadata else 0


@contextmanager
def _quiet() -> Iterator[None]:
    """Dagster's event log goes to its store, not to the terminal."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def _drop_sample(settings: Settings) -> str:
    """Put the bundled sample into the watched folder as a person would: whole, under its name at once."""
    bundled = settings.root / DEMO_SAMPLE
    if not bundled.is_file():
        raise VirnucError(f"{bundled}: the bundled sample is missing; restore it from the repository")
    target = settings.incoming / bundled.name
    aside = target.with_name(f".{target.name}.copy")
    shutil.copyfile(bundled, aside)
    aside.replace(target)
    return source_name(target)


def _print_rows(workspace: Workspace, run: Runs, out: Console) -> None:
    table = Table(title="Rows per stage", title_justify="left")
    for column, justify in (
        ("asset", "left"),
        ("rows", "right"),
        ("made now", "right"),
        ("reused", "right"),
        ("dim", "right"),
    ):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    for asset in sorted(run.made):
        if run.made[asset] or run.reused[asset]:
            rows = run.made[asset] + run.reused[asset]
            table.add_row(asset, f"{rows:,}", f"{run.made[asset]:,}", f"{run.reused[asset]:,}", _dim(workspace, asset))
    out.print(table)
    if run.embedded:
        out.print(f"Embedded now: {run.embedded:,} vectors. There already: {run.found:,}.", highlight=False)
    else:
        out.print(f"Nothing was embedded anew: all {run.found:,} vectors were there already.", highlight=False)


def _dim(workspace: Workspace, asset: str) -> str:
    """Width of an asset's vectors, as its tables' schema tells; empty for tables without vectors."""
    tables = sorted((workspace.layout.results / asset).glob("*.parquet"))
    schema = read_schema(tables[0]) if tables else None
    return str(vector_dim(schema)) if schema is not None and "vector" in schema.names else ""


def _print_decision(workspace: Workspace, out: Console) -> None:
    decision = json.loads(workspace.layout.whole(DECISION, ".json").read_text(encoding="utf-8"))
    _print_metrics(decision, out)
    criteria = Table(title=f"Decision: {decision['outcome']}", title_justify="left")
    for column in ("criterion", "number", "interval", "threshold", "outcome"):
        criteria.add_column(column, overflow="fold")
    for criterion in decision["criteria"]:
        number, threshold = criterion["value"], criterion["threshold"]
        low, high = criterion["low"], criterion["high"]
        criteria.add_row(
            criterion["name"],
            "–" if number is None else f"{number:.4g}",
            "–" if low is None or high is None else f"{low:.4g} to {high:.4g}",
            "–" if threshold is None else f"{criterion['comparison']} {threshold:g}",
            criterion["outcome"],
        )
    out.print(criteria)
    for reason in decision["reasons"]:
        out.print(f"  {reason}", highlight=False, markup=False)
    if decision["miniatures"]:
        out.print(
            "The miniature encoders' weights are random numbers: this verdict shows that the machinery works, "
            "and says nothing about FastESM2 or ESM2.",
            style="bold",
        )
    out.print(f"Report: {workspace.layout.whole(DECISION, '.html')}", soft_wrap=True, highlight=False)


def _print_metrics(decision: dict[str, Any], out: Console) -> None:
    metrics = Table(title="Test metrics of frames", title_justify="left")
    metrics.add_column("")
    first = ("candidate", "baseline", "floor")  # JSON sorts its keys
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
