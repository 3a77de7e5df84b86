"""Commands on single files: the domain functions of the assets, without an orchestrator."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from virnuc_assets.cli.terminal import HERE, Project, command, log, print_pairs, progress
from virnuc_assets.defs.resources import Workspace
from virnuc_assets.errors import VirnucError
from virnuc_assets.settings import load_settings

STDIN = Path("-")
_PRINTED_ROWS = 1024
Input = Annotated[Path, typer.Argument(help="FASTA or GenBank file, plain or gzip; - for standard input.")]


@contextmanager
def _spooled(source: Path) -> Iterator[Path]:
    """The file; of what comes through a pipe (`-`, `<(…)`) a temporary copy for the block, as it is read twice."""
    if source != STDIN and not source.is_fifo():
        yield source
        return
    with tempfile.TemporaryDirectory(prefix="virnuc-") as folder:
        copy = Path(folder) / "stdin"
        with nullcontext(sys.stdin.buffer) if source == STDIN else source.open("rb") as pipe, copy.open("wb") as file:
            shutil.copyfileobj(pipe, file)
        yield copy


def _finish(counts: dict[str, Any], source: Path, to: Path) -> None:
    """Print what was counted; then an error, if no record was scored."""
    from virnuc_assets.sequences.ledger import require_scored

    print_pairs({**counts, "written to": to})
    require_scored(counts, "standard input" if source == STDIN else str(source))


@command
def frames(
    source: Input,
    to: Annotated[Path, typer.Option("--out", help="Frames table to write (Parquet).")],
    chunk_length: Annotated[int, typer.Option("--chunk-length", help="300 or 500 nt.")] = 500,
) -> None:
    """Cut records into chunks, translate six frames, keep the open ones."""
    from virnuc_assets.cli.single_file import frame_file, require_chunk_length

    require_chunk_length(chunk_length)
    with _spooled(source) as file, progress("chunks") as report:
        counts = frame_file(file, to, chunk_length, report)
    _finish(counts, source, to)


@command
def embed(
    table: Annotated[Path, typer.Argument(metavar="FRAMES", help="Frames table, as `virnuc frames` writes it.")],
    encoder: Annotated[str, typer.Option("--encoder", help="Name in the registry, e.g. fastesm2_650_miniature.")],
    to: Annotated[Path, typer.Option("--out", help="Embeddings table to write (Parquet).")],
    project: Project = HERE,
) -> dict[str, Any]:
    """Embed the frames of a table with one encoder."""
    from virnuc_assets.cli.single_file import embed_file

    workspace = Workspace(load_settings(project))
    with progress("frames") as report:
        counts = embed_file(workspace, table, encoder, to, report, log)
    return {**counts, "written to": to}


@command
def attention(
    table: Annotated[Path, typer.Argument(metavar="FRAMES", help="Frames table, as `virnuc frames` writes it.")],
    encoder: Annotated[str, typer.Option("--encoder", help="An ESM or MosaicBERT encoder of the registry.")],
    frame: Annotated[list[str], typer.Option("--frame", metavar="ID", help="Id of a frame; may be repeated.")],
    to: Annotated[Path, typer.Option("--out", help="Arrays to write (.npz); a picture (.png) goes next to them.")],
    project: Project = HERE,
) -> dict[str, Any]:
    """Write attention maps of chosen frames, and a picture of them.

    Each frame has two arrays: attention/ID (layers, heads, tokens, tokens), float32, in which row i says how much token
    i attends to each token; and tokens/ID, its tokens. The array provenance is JSON: frames table and encoder.
    """
    from virnuc_assets.cli.attention import attention_file

    workspace = Workspace(load_settings(project))
    with progress("frames") as report:
        counts = attention_file(workspace, table, encoder, frame, to, report, log)
    return {**counts, "written to": to}


@command
def predict(
    source: Input,
    to: Annotated[Path, typer.Option("--out", help="Folder for the results.")],
    project: Project = HERE,
) -> None:
    """Call every frame, chunk and record of a file with the serving classifier."""
    from virnuc_assets.cli.single_file import predict_file

    workspace = Workspace(load_settings(project))
    with _spooled(source) as file, progress("embeddings") as report:
        counts = predict_file(workspace, file, to, report, log)
    _finish(counts, source, to)


@command
def fasta(
    table: Annotated[Path, typer.Argument(help="A chunks or frames table.")],
    column: Annotated[str, typer.Option("--column", help="sequence, nucleotides or protein.")] = "sequence",
) -> None:
    """Print a chunks or frames table as FASTA."""
    from virnuc_assets.sequences.chunk_table import as_fasta
    from virnuc_assets.storage.tables import read_schema, read_windows

    names = read_schema(table).names
    if column not in names:
        raise VirnucError(f"{table}: no column {column!r}; it has {', '.join(names)}")
    for rows in read_windows(table, _PRINTED_ROWS, columns=[names[0], column]):
        for text in as_fasta(rows, names[0], column):
            typer.echo(text, nl=False)
