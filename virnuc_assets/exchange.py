"""Import from and export to VirNucPro's files, for the command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from virnuc_assets.cli.single_file import require_chunk_length
from virnuc_assets.errors import VirnucError
from virnuc_assets.storage.schemas import frames_schema, vector_dim
from virnuc_assets.storage.tables import content_digest, read_recipe, read_table, write_table

if TYPE_CHECKING:
    from virnuc_assets.classifier.virnucpro_vectors import Kind, VectorFile
    from virnuc_assets.storage.torch_files import TorchFile


@dataclass(frozen=True)
class ImportOptions:
    """What the files do not tell; which of it is needed, their content decides.

    Attributes:
        frames: frames table of the vectors.
        dna_dim: nucleotide columns of merged files that come without either side.
        protein_encoder: whose vectors the protein side is; VirNucPro's own is ESM2-3B.
        features: features table that a model is to score.
        chunk_length: nt that a model was trained on.
    """

    frames: Path | None = None
    dna_dim: int | None = None
    protein_encoder: str = "esm2_3b"
    features: Path | None = None
    chunk_length: int | None = None


def import_files(sources: Sequence[Path], to: Path, options: ImportOptions) -> dict[str, Any]:
    """Write a table, or for a model a classifier's folder; returns what a person should see.

    Files of one side become embeddings, files of both sides features, merged files features that are compared with
    the sides given beside them.

    Raises:
        VirnucError: the files are refused, do not fit each other, or an option is missing.
    """
    from virnuc_assets.classifier.virnucpro_vectors import read_virnucpro, vectors_in
    from virnuc_assets.storage.torch_files import PickledModule

    first = read_virnucpro(sources[0])
    if isinstance(first.content, PickledModule):
        if len(sources) > 1:
            raise VirnucError(f"{first.path}: a model is imported alone, found {len(sources) - 1} more files")
        return _import_model(first, to, options)
    files = [vectors_in(first), *(vectors_in(read_virnucpro(path)) for path in sources[1:])]
    return _import_vectors(files, to, options)


def _import_model(file: TorchFile, to: Path, options: ImportOptions) -> dict[str, Any]:
    from virnuc_assets.classifier.checkpoint import save_classifier
    from virnuc_assets.classifier.virnucpro_model import describe_model, model_in

    model = model_in(file)
    if options.features is None or options.chunk_length is None:
        raise VirnucError(
            f"{file.path}: a model of {model.dim} columns; it does not tell on what it was trained: give --features "
            "TABLE (features that it is to score, which tell the encoders and their dims) and --chunk-length"
        )
    require_chunk_length(options.chunk_length)
    recipe = read_recipe(options.features)
    if recipe.get("table") != "features":
        raise VirnucError(f"{options.features}: expected a features table, found {recipe.get('table', 'another')}")
    description = describe_model(file, model, recipe["encoders"], recipe["dims"], options.chunk_length)
    saved = save_classifier(to, model, description)
    return {"kind": "model", "reads": saved.pair(), "hidden": model.hidden, "weights sha256": saved.weights_sha256}


def _import_vectors(files: Sequence[VectorFile], to: Path, options: ImportOptions) -> dict[str, Any]:
    from virnuc_assets.classifier.virnucpro_model import VIRNUCPRO, imported_fingerprint
    from virnuc_assets.classifier.virnucpro_tables import imported_embeddings, imported_features, side_dims

    if options.frames is None:
        raise VirnucError(f"{files[0].path}: {files[0].kind} vectors; give their frames: --frames FRAMES.parquet")
    frames = read_table(options.frames, frames_schema())
    of_kind: dict[Kind, list[VectorFile]] = {"DNABERT_S": [], "ESM": [], "merged": []}
    for file in files:
        of_kind[file.kind].append(file)
    kinds = [kind for kind, found in of_kind.items() if found]
    encoders = {"dna": "dnabert_s", "protein": options.protein_encoder}
    recipe: dict[str, Any] = {
        "frames": content_digest(options.frames),
        "origin": VIRNUCPRO,
        "kind": " + ".join(kinds),
        "sources": [{"file": file.path.name, "sha256": file.sha256} for file in files],
    }
    if kinds in (["DNABERT_S"], ["ESM"]):
        side = "dna" if kinds == ["DNABERT_S"] else "protein"
        table = imported_embeddings(frames, files, encoders[side])
        fingerprint = imported_fingerprint(encoders[side], side, vector_dim(table.schema))
        recipe |= {"table": "embeddings", "encoder": fingerprint}
    else:
        dims = side_dims(of_kind, options.dna_dim)
        fingerprints = {side: imported_fingerprint(name, side, dims[side]) for side, name in encoders.items()}
        table = imported_features(frames, of_kind)
        recipe |= {"table": "features", "encoders": fingerprints, "dims": dims}
    write_table(to, table, recipe)
    return {"kind": recipe["kind"], "rows": table.num_rows, "columns": vector_dim(table.schema), "files": len(files)}


def export_file(table: Path, to: Path) -> dict[str, Any]:
    """Write a table of ours in VirNucPro's layout; returns what a person should see."""
    from virnuc_assets.classifier.virnucpro_export import export_table

    kind, rows = export_table(table, to)
    return {"kind": kind, "rows": rows.num_rows, "columns": vector_dim(rows.schema)}
