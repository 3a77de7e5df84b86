"""The command that tells the state of a project; `cli` registers it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from virnuc_assets.foreign_text import printable
from virnuc_assets.resources import Workspace
from virnuc_assets.settings_file import load_settings


def status(
    as_json: Annotated[bool, typer.Option("--json", help="Print the same as one JSON object.")] = False,
    examples: Annotated[int, typer.Option("--examples", min=0, help="Names to tell of each reason.")] = 3,
    config: Annotated[Path, typer.Option("--config", help="Settings file.")] = Path("virnuc.toml"),
) -> None:
    """Tell shards by state, what is stale and why, what runs and what failed, and what will be asked for next.

    Told from what lies on disk and in Dagster's home; no server need run, and nothing is changed.
    """
    from virnuc_assets.status import examine

    told = examine(Workspace(load_settings(config)), examples)
    if as_json:
        typer.echo(json.dumps(told, indent=1))
        return
    console = Console(highlight=False)
    for table in _tables(told):
        console.print(table)
    if not told["daemon"]:
        console.print("The daemon does not run: nothing ticks, and queued runs wait. `virnuc up` starts it.")


def _tables(told: Mapping[str, Any]) -> Iterator[Table]:
    for domain, shards in told["shards"].items():
        title = f"{domain}: {shards['planned']} shards planned, {shards['to_do']} with something to make"
        rows = [
            (f"{asset} (on demand)" if of["on_demand"] else asset, of["made"], of["stale"], of["missing"])
            for asset, of in shards["assets"].items()
        ]
        yield _table(title, ("asset", "made", "stale", "missing"), rows)
    named = {"stale tables": "stale", "changed sources": "changed_sources", "files without shards": "watched_files"}
    for title, key in named.items():
        if lines := told[key]:
            whys = [(line.get("asset", ""), line["reason"], line["count"], _listed(line)) for line in lines]
            yield _table(title, ("", "why", "count", "among them"), whys)
    yield _table("runs", ("", "count", "job", "reason", "run"), list(_runs(told["runs"])))
    ticks = [
        (line["name"], line["kind"], "on" if line["on"] else "off", line["next_tick"] or "", _asked(line))
        for line in told["automation"]
    ]
    yield _table("schedules and sensors", ("", "kind", "", "next tick", "would ask for"), ticks)


def _runs(runs: Mapping[str, Any]) -> Iterator[Sequence[object]]:
    for state, of in runs.items():
        name = state.replace("_", " ")
        for run in of["newest"] or [{}]:
            yield name, of["count"], run.get("job", ""), run.get("reason", ""), run.get("see") or run.get("run", "")


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Table:
    table = Table(*columns, title=title, title_justify="left")
    for row in rows:
        table.add_row(*(Text(printable(str(cell)), overflow="fold") for cell in row))
    return table


def _listed(line: Mapping[str, Any]) -> str:
    more = ", …" if line["count"] > len(line["examples"]) else ""
    return ", ".join(line["examples"]) + more


def _asked(line: Mapping[str, Any]) -> str:
    return ", ".join(f"{count} {what.replace('_', ' ')}" for what, count in line.get("asks_for", {}).items())
