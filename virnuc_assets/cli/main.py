"""`virnuc`: the commands of a project on this machine, and by their import those on single files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from virnuc_assets.cli import files
from virnuc_assets.cli.terminal import HERE, Project, app, command, echo, out, print_pairs
from virnuc_assets.defs.resources import Workspace
from virnuc_assets.errors import VirnucError
from virnuc_assets.sequences.catalogue import (
    MANIFEST,
    append_rows,
    fasta_files,
    genbank_of,
    read_catalogue,
    row_of,
    source_name,
)
from virnuc_assets.settings import SETTINGS_FILE, load_settings
from virnuc_assets.storage.outputs import require_output

__all__ = ["app", "files"]

_SETTABLE = ("name", "organism", "relatives", "origin", "date")


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
    from virnuc_assets.workstation.setup import examine

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
    from virnuc_assets.workstation.setup import make_project

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


@command
def catalogue(
    paths: Annotated[
        list[Path], typer.Argument(metavar="PATH...", help="FASTA files; of a folder, every FASTA file in it.")
    ],
    label: Annotated[Literal["viral", "host"], typer.Option("--label", help="What all records of the files are.")],
    group: Annotated[
        str,
        typer.Option(
            "--group",
            help="A virus group in words of your own; or a host's: bacteria, archaea, fungi, protozoa, plant, "
            "invertebrate, vertebrate.",
        ),
    ],
    genbank: Annotated[
        Path | None,
        typer.Option(
            "--genbank", help="GenBank file of the one FASTA; without, the one of its stem in its folder, if any."
        ),
    ] = None,
    more: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="COLUMN=TEXT",
            help="name (of the one FASTA; without, its stem), organism (if all records are of one genome), relatives "
            "(a word that close relatives share), origin (a URL or words), date (YYYY-MM-DD); may be repeated.",
        ),
    ] = None,
    to: Annotated[
        Path | None, typer.Option("--to", help="Folder of the MANIFEST.tsv; without, that of the project's genomes.")
    ] = None,
    project: Project = HERE,
) -> dict[str, Any]:
    """Append your own genomes to a catalogue of reference sequence, a row with checksums for each FASTA file.

    The files stay where they are. All rows are written or none.
    """
    settings, shared = load_settings(project), {**_columns(more or ()), "label": label, "group": group}
    files = [file for path in paths for file in fasta_files(path)]
    if len(files) > 1 and (genbank or "name" in shared):
        raise VirnucError(f"a name and a GenBank file are of one FASTA, found {len(files)}; catalogue them one by one")
    folder = to or settings.genomes
    require_output(folder / MANIFEST, files)
    rows = [row_of(folder, file, genbank or genbank_of(file), {"name": source_name(file), **shared}) for file in files]
    others = [path for path in settings.catalogues if path.resolve() != folder.resolve()]
    sources = [source for path in others if (path / MANIFEST).is_file() for source in read_catalogue(path)]
    append_rows(folder, rows, taken=[source.name for source in sources])
    pairs: dict[str, Any] = {"rows": len(rows), "with GenBank": sum(bool(row["genbank"]) for row in rows)}
    if len(others) == len(settings.catalogues):
        pairs["not read yet"] = f"add {folder.resolve()} to catalogues under [paths] of {project / SETTINGS_FILE}"
    return {**pairs, "written to": folder / MANIFEST}


def _columns(texts: Iterable[str]) -> dict[str, str]:
    columns: dict[str, str] = {}
    for text in texts:
        column, equals, value = text.partition("=")
        if not equals or column not in _SETTABLE or column in columns:
            raise VirnucError(f"--set {text!r}: expected COLUMN=TEXT with a column once, of {', '.join(_SETTABLE)}")
        columns[column] = value
    return columns
