"""The command line: the domain functions on single files, and the servers.

No Dagster process is needed for a prediction.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from virnuc_assets import catalogue_cli, exchange_cli
from virnuc_assets.errors import VirnucError
from virnuc_assets.foreign_text import printable
from virnuc_assets.resources import Workspace
from virnuc_assets.settings import load_settings

app = typer.Typer(
    help="Viral or not: frames, embeddings and predictions for short nucleotide sequences.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
out = Console()
err = Console(stderr=True)

Config = Annotated[Path, typer.Option("--config", help="Settings file.")]
Input = Annotated[Path, typer.Argument(help="FASTA or GenBank file, plain or gzip.")]
DEFAULT_CONFIG = Path("virnuc.toml")


def _command(function: Callable[..., Any], name: str | None = None) -> Callable[..., None]:
    """Register a command; an error that a person can mend is one message on stderr and exit status 1.

    What the function returns, if anything, is printed as pairs.
    """

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        try:
            if pairs := function(*args, **kwargs):
                _print_pairs(pairs)
        except (VirnucError, OSError) as error:  # an --out that cannot be written is a person's to mend, too
            message = printable(f"error: {error}", keep="\n")
            err.print(message, style="red", markup=False, highlight=False, soft_wrap=True)
            raise typer.Exit(1) from error

    return app.command(name)(run)


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=err)


@_command
def frames(
    source: Input,
    to: Annotated[Path, typer.Option("--out", help="Frames table to write (Parquet).")],
    chunk_length: Annotated[int, typer.Option("--chunk-length", help="300 or 500 nt.")] = 500,
) -> None:
    """Cut records into chunks, translate six frames, keep the open ones."""
    from virnuc_assets.single_file import frame_file, require_chunk_length

    require_chunk_length(chunk_length)
    with _progress() as progress:
        counts = frame_file(source, to, chunk_length, _reporter(progress, "chunks"))
    _print_pairs({**counts, "written to": to})


@_command
def embed(
    table: Annotated[Path, typer.Argument(metavar="FRAMES", help="Frames table, as `virnuc frames` writes it.")],
    encoder: Annotated[str, typer.Option("--encoder", help="Name in the registry, e.g. fastesm2_650_miniature.")],
    to: Annotated[Path, typer.Option("--out", help="Embeddings table to write (Parquet).")],
    config: Config = DEFAULT_CONFIG,
) -> None:
    """Embed the frames of a table with one encoder."""
    from virnuc_assets.single_file import embed_file

    workspace = Workspace(load_settings(config))
    with _progress() as progress:
        counts = embed_file(workspace, table, encoder, to, _reporter(progress, "frames"), _say)
    _print_pairs({**counts, "written to": to})


@_command
def attention(
    table: Annotated[Path, typer.Argument(metavar="FRAMES", help="Frames table, as `virnuc frames` writes it.")],
    encoder: Annotated[str, typer.Option("--encoder", help="An ESM or MosaicBERT encoder of the registry.")],
    frame: Annotated[list[str], typer.Option("--frame", metavar="ID", help="Id of a frame; may be repeated.")],
    to: Annotated[Path, typer.Option("--out", help="Arrays to write (.npz); a picture (.png) goes next to them.")],
    config: Config = DEFAULT_CONFIG,
) -> None:
    """Write attention maps of chosen frames, and a picture of them.

    Each frame has two arrays: attention/ID (layers, heads, tokens, tokens), float32, in which row i says how much token
    i attends to each token; and tokens/ID, its tokens. The array provenance is JSON: frames table and encoder.
    """
    from virnuc_assets.attention_file import attention_file

    workspace = Workspace(load_settings(config))
    with _progress() as progress:
        counts = attention_file(workspace, table, encoder, frame, to, _reporter(progress, "frames"), _say)
    _print_pairs({**counts, "written to": to})


@_command
def predict(
    source: Input,
    to: Annotated[Path, typer.Option("--out", help="Folder for the results.")],
    config: Config = DEFAULT_CONFIG,
) -> None:
    """Call every frame, chunk and record of a file with the serving classifier."""
    from virnuc_assets.single_file import predict_file

    workspace = Workspace(load_settings(config))
    with _progress() as progress:
        counts = predict_file(workspace, source, to, _reporter(progress, "embeddings"), _say)
    _print_pairs({**counts, "written to": to})


@_command
def fasta(
    table: Annotated[Path, typer.Argument(help="A chunks or frames table.")],
    column: Annotated[str, typer.Option("--column", help="sequence, nucleotides or protein.")] = "sequence",
) -> None:
    """Print a chunks or frames table as FASTA."""
    from virnuc_assets.sequences.chunk_table import as_fasta
    from virnuc_assets.storage.tables import read_table

    rows = read_table(table)
    if column not in rows.column_names:
        raise VirnucError(f"{table}: no column {column!r}; it has {', '.join(rows.column_names)}")
    for text in as_fasta(rows, rows.column_names[0], column):
        typer.echo(text, nl=False)


@_command
def decide(
    source: Annotated[
        Path | None, typer.Option("--from", help="Folder of a decision; without it, that of this project.")
    ] = None,
    config: Config = DEFAULT_CONFIG,
) -> None:
    """Compute a migration decision again from its stored predictions, and compare every page byte for byte."""
    from virnuc_assets.assets.migration import DECISION
    from virnuc_assets.migration.bundle import recompute

    folder = source or Workspace(load_settings(config)).layout.whole(DECISION).parent
    decision, faults = recompute(folder)
    _print_pairs({"decision": decision.outcome, **{c.name: c.outcome for c in decision.criteria}})
    for reason in decision.reasons:
        out.print(f"  {reason}", highlight=False, markup=False, soft_wrap=True)
    if faults:
        raise VirnucError(f"{folder}: not reproduced:\n" + "\n".join(faults))
    out.print(f"Reproduced, byte for byte: {folder}", highlight=False, soft_wrap=True)


@_command
def doctor(
    verify: Annotated[
        bool, typer.Option("--verify", help="Compare every byte of the checkpoints with virnuc.lock.")
    ] = False,
    config: Config = DEFAULT_CONFIG,
) -> None:
    """Show versions, attention backend, device, memory, golden vectors, and whether the checkpoints are there.

    The job check_environment shows what a step finds where the launcher puts it.
    """
    from virnuc_assets.doctor import examine

    facts, problems = examine(Workspace(load_settings(config)), every_byte=verify)
    _print_pairs(facts)
    if problems:
        raise VirnucError("\n".join(problems))


@_command
def setup(
    config: Config = DEFAULT_CONFIG,
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

    def say(step: str) -> None:
        out.print(step, highlight=False, soft_wrap=True)

    set_up(load_settings(config), say, encoder or (), update or ())


@_command
def demo(config: Config = DEFAULT_CONFIG) -> None:
    """Materialize every asset on the bundled genomes, from FASTA to the decision and a sample's predictions."""
    from virnuc_assets.demo import run_demo

    run_demo(load_settings(config), out)


@_command
def up(config: Config = DEFAULT_CONFIG) -> None:
    """Start the Dagster UI with its daemon, and the MLflow server, on loopback. Ctrl-C ends all.

    Clears what a killed one left, first; a server that dies is started anew.
    """
    from virnuc_assets.workstation.up import serve

    if config.name != DEFAULT_CONFIG.name:
        raise VirnucError(f"--config {config}: Dagster's code location reads {DEFAULT_CONFIG}; name the file so")
    status = serve(load_settings(config), lambda text: out.print(text, highlight=False, soft_wrap=True))
    raise typer.Exit(status)


_command(catalogue_cli.catalogue)
_command(exchange_cli.import_, "import")
_command(exchange_cli.export)


def _reporter(progress: Progress, what: str) -> Callable[[int, int], None]:
    """A callback (done now, total) that moves one bar."""
    task = progress.add_task(what, total=None)
    return lambda done, total: progress.update(task, advance=done, total=total)


def _say(text: str) -> None:
    err.print(printable(text), markup=False, highlight=False, soft_wrap=True)


def _print_pairs(pairs: dict[str, Any]) -> None:
    width = max(map(len, pairs))
    for name, value in pairs.items():
        out.print(Text(f"{name:<{width}}  {printable(str(value))}"), soft_wrap=True)
