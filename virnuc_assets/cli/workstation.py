"""Commands of a project on this machine: make one, set-up, demo, servers, examination, the decision computed again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from virnuc_assets.cli.terminal import HERE, Project, command, echo, out, print_pairs
from virnuc_assets.defs.resources import Workspace
from virnuc_assets.errors import VirnucError
from virnuc_assets.settings import load_settings


@command
def decide(
    source: Annotated[
        Path | None, typer.Option("--from", help="Folder of a decision; without it, that of this project.")
    ] = None,
    project: Project = HERE,
) -> None:
    """Compute a migration decision again from its stored predictions, and compare every page byte for byte."""
    from virnuc_assets.defs.assets.migration import DECISION
    from virnuc_assets.reports.decision_bundle import recompute

    folder = source or Workspace(load_settings(project)).layout.whole(DECISION).parent
    decision, faults = recompute(folder)
    print_pairs({"decision": decision.outcome, **{c.name: c.outcome for c in decision.criteria}})
    for reason in decision.reasons:
        echo(f"  {reason}")
    if faults:
        raise VirnucError(f"{folder}: not reproduced:\n" + "\n".join(faults))
    echo(f"Reproduced, byte for byte: {folder}")


@command
def doctor(
    verify: Annotated[
        bool, typer.Option("--verify", help="Compare every byte of the checkpoints with virnuc.lock.")
    ] = False,
    project: Project = HERE,
) -> None:
    """Show versions, attention backend, device, memory, golden vectors, and whether the checkpoints are there.

    The job check_environment shows the same where the run launcher puts a step.
    """
    from virnuc_assets.workstation.doctor import examine

    facts, problems = examine(Workspace(load_settings(project)), every_byte=verify)
    print_pairs(facts)
    if problems:
        raise VirnucError("\n".join(problems))


@command
def init(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder to make the project in.")],
    genomes: Annotated[bool, typer.Option("--genomes", help="With the bundled genomes and sample.")] = False,
) -> dict[str, str]:
    """Make a project: virnuc.toml, workspace.yaml for Dagster, and data/ for genomes and samples."""
    from virnuc_assets.workstation.project import make_project

    make_project(folder, genomes)
    first = "virnuc demo" if genomes else "virnuc catalogue"
    return {"project": str(folder.resolve()), "next": f"in that folder `virnuc setup`, then `{first}`"}


@command
def setup(
    project: Project = HERE,
    encoder: Annotated[
        list[str] | None, typer.Option("--encoder", help="Only this checkpoint; may be repeated.")
    ] = None,
    update: Annotated[
        list[str] | None,
        typer.Option("--update", metavar="NAME", help="Move this encoder's lock to what its source has now."),
    ] = None,
) -> None:
    """Make the profile's checkpoints, Dagster's home and MLflow's store, once, before anything starts.

    The first set-up with a network writes the commit and the sha256 of every file into virnuc.lock; later ones take
    exactly that.
    """
    from virnuc_assets.workstation.setup import set_up

    set_up(load_settings(project), echo, encoder or (), update or ())


@command
def demo(project: Project = HERE) -> None:
    """Materialize every asset on the bundled genomes, from FASTA to the decision and a sample's predictions."""
    from virnuc_assets.cli.demo import run_demo

    run_demo(load_settings(project), out)


@command
def up(project: Project = HERE) -> None:
    """Start the Dagster UI with its daemon, and the MLflow server, on loopback. Ctrl-C stops all.

    Cleans up after a killed one first; a server that dies is started again.
    """
    from virnuc_assets.workstation.up import serve

    raise typer.Exit(serve(load_settings(project), echo))
