"""Commands on single files, VirNucPro's among them: the domain functions of the assets, without an orchestrator."""

from __future__ import annotations

import functools
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from virnuc_assets.cli.choices import Choices, with_choices
from virnuc_assets.cli.terminal import HERE, Project, command, log, no_progress, print_pairs, progress
from virnuc_assets.defs.resources import Workspace
from virnuc_assets.errors import VirnucError
from virnuc_assets.settings import FrameRuleName, SequenceSettings, load_settings

_PRINTED_ROWS = 1024


Frames = Annotated[Path, typer.Argument(metavar="FRAMES", help="Frames table, as `virnuc frames` writes it.")]
Input = Annotated[Path, typer.Argument(help="FASTA, FASTQ or GenBank file, plain or compressed; - for standard input.")]


def _finish(counts: dict[str, Any], sources: list[Path], to: Path, quiet: bool = False) -> None:
    """Print what was counted; then an error, if no record was scored."""
    from virnuc_assets.cli.stages import shown_as
    from virnuc_assets.sequences.ledger import require_scored

    if not quiet:
        print_pairs({**counts, "written to": to})
    require_scored(counts, ", ".join(map(shown_as, sources)))


@command
def frames(
    source: Input,
    to: Annotated[Path, typer.Option("--out", help="Frames table to write (Parquet).")],
    chunk_length: Annotated[int, typer.Option("--chunk-length", help="300 or 500 nt.")] = 500,
    frame_rule: Annotated[
        FrameRuleName, typer.Option("--frame-rule", help="Whole frames without a stop, or the longest stretch of each.")
    ] = "stop_free",
    min_orf_aa: Annotated[
        int, typer.Option("--min-orf-aa", min=1, help="Of longest_orf: residues at least.")
    ] = SequenceSettings().min_orf_aa,
) -> None:
    """Cut records into chunks, translate six frames, keep the open ones."""
    from virnuc_assets.cli.stages import frame_file, require_chunk_length, shown_as, spooled
    from virnuc_assets.sequences.frame_rule import FrameRule
    from virnuc_assets.sequences.ledger import ledger_totals

    require_chunk_length(chunk_length)
    with tempfile.TemporaryDirectory(prefix="virnuc-") as scratch, progress("chunks") as report:
        copy = spooled(source, Path(scratch, "stdin"))
        settings = SequenceSettings(frame_rule=frame_rule, min_orf_aa=min_orf_aa)
        ledger = frame_file(copy, to, chunk_length, report, FrameRule.of(settings), shown_as(source))
    _finish(ledger_totals(ledger), [source], to)


@command
def embed(
    table: Frames,
    encoder: Annotated[str, typer.Option("--encoder", help="Name in the registry, e.g. fastesm2_650_miniature.")],
    to: Annotated[Path, typer.Option("--out", help="Embeddings table to write (Parquet).")],
    project: Project = HERE,
) -> dict[str, Any]:
    """Embed the frames of a table with one encoder."""
    from virnuc_assets.cli.stages import embed_file

    workspace = Workspace(load_settings(project))
    with progress("frames") as report:
        return {**embed_file(workspace, table, encoder, to, report, log), "written to": to}


@command
def attention(
    table: Frames,
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
        return {**attention_file(workspace, table, encoder, frame, to, report, log), "written to": to}


@command
@with_choices
def predict(
    sources: Annotated[
        list[Path],
        typer.Argument(metavar="INPUT", help="Files or folders of FASTA, FASTQ or GenBank; - for standard input."),
    ],
    to: Annotated[Path, typer.Option("--out", help="Folder for the results, new or empty.")],
    choices: Choices,
    project: Project = HERE,
) -> None:
    """Classify records as viral or not with the serving classifier.

    Of a folder the sequence files in it are read, not those of folders below.
    If one input cannot be read, nothing is written. A run that was stopped is continued by the same command.

    Exit status: 0 done; 1 error, or no record could be scored; 2 wrong usage; 128 + N ended by signal N.
    """
    from virnuc_assets.cli.stages import predict_files

    workspace, line = Workspace(load_settings(project)), shlex.join(["virnuc", *sys.argv[1:]])
    counts = predict_files(workspace, sources, to, choices, line, no_progress if choices.quiet else progress, log)
    _finish(counts, sources, to, choices.quiet)


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


@functools.partial(command, name="import")
def import_(
    sources: Annotated[
        list[Path],
        typer.Argument(metavar="FILE...", help="*_DNABERT_S.pt, *_ESM.pt or *_merged.pt, or a model's .pth."),
    ],
    to: Annotated[Path, typer.Option("--out", help="Table to write (Parquet); for a model, the classifier's folder.")],
    frames: Annotated[
        Path | None, typer.Option("--frames", help="Vectors: the frames table that gives rows, order and labels.")
    ] = None,
    dna_dim: Annotated[
        int | None, typer.Option("--dna-dim", help="Merged files alone: columns of the nucleotides.")
    ] = None,
    protein_encoder: Annotated[
        str, typer.Option("--protein-encoder", help="Whose the protein vectors are; VirNucPro's own are ESM2-3B's.")
    ] = "esm2_3b",
    features: Annotated[
        Path | None, typer.Option("--features", help="Model: a features table that it is to score.")
    ] = None,
    chunk_length: Annotated[
        int | None, typer.Option("--chunk-length", help="Model: 300 or 500 nt, as it was trained on.")
    ] = None,
) -> dict[str, Any]:
    """Turn VirNucPro's files into tables, or its model into a classifier. Nothing of a file is executed.

    Files of one side (DNABERT_S or ESM) become an embeddings table, those of both sides a features table; so do merged
    files, which are compared with the files of one side that are given with them.
    """
    from virnuc_assets.cli.stages import require_chunk_length
    from virnuc_assets.virnucpro.exchange import import_files

    if chunk_length is not None:
        require_chunk_length(chunk_length)
    more: dict[str, Any] = {"features": features, "chunk_length": chunk_length, "protein_encoder": protein_encoder}
    return {**import_files(sources, to, frames=frames, dna_dim=dna_dim, **more), "written to": to}


@command
def export(
    table: Annotated[Path, typer.Argument(help="An embeddings or features table.")],
    to: Annotated[Path, typer.Option("--to", help="File of VirNucPro's layout to write (.pt).")],
) -> dict[str, Any]:
    """Write embeddings or features in the layout of VirNucPro's .pt files."""
    from virnuc_assets.virnucpro.exchange import export_file

    return {**export_file(table, to), "written to": to}
