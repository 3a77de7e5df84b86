"""The command that catalogues a user's own genomes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from virnuc_assets.cli.terminal import HERE, Project, command
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

_SETTABLE = ("name", "organism", "relatives", "origin", "date")


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
