"""Commands for VirNucPro's files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


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
    from virnuc_assets.cli.single_file import require_chunk_length
    from virnuc_assets.virnucpro.exchange import import_files

    if chunk_length is not None:
        require_chunk_length(chunk_length)
    options: dict[str, Any] = {"frames": frames, "dna_dim": dna_dim, "protein_encoder": protein_encoder}
    made = import_files(sources, to, **options, features=features, chunk_length=chunk_length)
    return {**made, "written to": to}


def export(
    table: Annotated[Path, typer.Argument(help="An embeddings or features table.")],
    to: Annotated[Path, typer.Option("--to", help="File of VirNucPro's layout to write (.pt).")],
) -> dict[str, Any]:
    """Write embeddings or features in the layout of VirNucPro's .pt files."""
    from virnuc_assets.virnucpro.exchange import export_file

    return {**export_file(table, to), "written to": to}
