"""The command that tells what a number of sequences takes; `cli` registers it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from virnuc_assets.errors import VirnucError
from virnuc_assets.resources import Workspace
from virnuc_assets.settings_file import load_settings

if TYPE_CHECKING:
    from virnuc_assets.capacity import Measured


def plan(
    sequences: Annotated[int, typer.Option("--sequences", min=1, max=10**9, help="Frames to call, up to 10^9.")],
    devices: Annotated[int, typer.Option("--devices", min=1, help="GPUs, or machines without.")] = 1,
    domain: Annotated[
        Literal["samples", "reference"], typer.Option("--for", help="Samples are called, reference is trained on.")
    ] = "samples",
    as_json: Annotated[bool, typer.Option("--json", help="Print the same as one JSON object.")] = False,
    config: Annotated[Path, typer.Option("--config", help="Settings file.")] = Path("virnuc.toml"),
) -> None:
    """Tell device-hours, disk, shards and wall time for a number of sequences, from what was measured here.

    A sequence is a frame: nucleotides and their protein, as one row of `translated_proteins`.
    """
    from dagster import DagsterInstance

    from virnuc_assets.bootstrap import dagster_home
    from virnuc_assets.capacity import estimate, measure

    workspace = Workspace(load_settings(config))
    home = dagster_home(workspace.settings)
    if not (home / "dagster.yaml").is_file():
        raise VirnucError(f"{home}: nothing has run here yet; run `virnuc setup` and `virnuc demo`, or see `virnuc up`")
    with DagsterInstance.from_config(str(home)) as instance:
        measured = measure(workspace, instance, domain)
    found = estimate(measured, sequences, devices)
    if as_json:
        typer.echo(json.dumps({"estimate": asdict(found), "measured": asdict(measured)}, indent=1))
        return
    console = Console(highlight=False)
    console.print(_stages(measured, sequences))
    console.print(f"{sequences:,} sequences on {devices} of: {measured.device}")
    console.print(f"  wall time      {_hours(found.wall_hours)}")
    console.print(f"  device-hours   {found.device_hours:,.2f} computing, {found.held_hours:,.2f} held")
    console.print(f"  shards         {found.shards:,} in {found.runs:,} runs")
    console.print(f"  disk           {found.disk_bytes / 1e9:,.2f} GB")
    console.print("Assumed:")
    for line in _assumptions(measured):
        console.print(f"  - {line}", soft_wrap=True)


def _stages(measured: Measured, sequences: int) -> Table:
    table = Table(title=None, box=None, pad_edge=False)
    table.add_column("asset")
    for name in ("sequences/s", "hours", "bytes a sequence", "GB"):
        table.add_column(name, justify="right")
    for stage in measured.stages:
        hours, gigabytes = stage.seconds * sequences / 3600, stage.bytes * sequences / 1e9
        rate = f"{1 / stage.seconds:,.1f}" if stage.seconds else "-"
        table.add_row(stage.asset, rate, f"{hours:,.2f}", f"{stage.bytes:,.0f}", f"{gigabytes:,.2f}")
    return table


def _assumptions(measured: Measured) -> list[str]:
    return [
        f"language models as fast as in encoder_benchmark: {measured.device}, {measured.precision}",
        f"all else as in the latest {measured.runs} whole runs, of {measured.shards} shards together: "
        f"{measured.start_seconds:.1f} s a run to load models, {measured.overhead_seconds:.2f} s a shard around it",
        f"shards of {measured.rows_a_shard:,.0f} sequences, as now; larger ones have less overhead",
        "all devices are alike, and as many runs go on at a time; a device is held while its run does anything",
        "every sequence is another one, and none has a vector yet; nothing is killed",
        "network, storage and the database keep up; disk is that of the tables, without events and logs",
    ]


def _hours(hours: float) -> str:
    if hours < 1:
        return f"{hours * 60:.1f} minutes"
    return f"{hours:.1f} hours" if hours < 48 else f"{hours:,.0f} hours ({hours / 24:,.1f} days)"
