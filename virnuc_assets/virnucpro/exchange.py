"""VirNucPro's files as tables of ours, in the order of the frames and compared with them; our tables as its files.

Each file of VirNucPro is one object, read or written as a whole. Of many that are imported, one is in memory at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa

from virnuc_assets.classifier.checkpoint import WEIGHTS_FILE, save_classifier
from virnuc_assets.encoders.registry import registered
from virnuc_assets.errors import VirnucError
from virnuc_assets.storage.digests import sequence_digests
from virnuc_assets.storage.layout import CLASSIFIER_FILE
from virnuc_assets.storage.merging import ScratchVectors, features_table, rows_of, vector_column, vectors_of
from virnuc_assets.storage.outputs import require_output, require_outputs
from virnuc_assets.storage.schemas import embeddings_schema, features_schema, frames_schema, vector_dim
from virnuc_assets.storage.tables import (
    TableWriter,
    content_digest,
    read_ids,
    read_recipe,
    read_schema,
    read_table,
    read_windows,
)
from virnuc_assets.virnucpro.model import VIRNUCPRO, describe_model, imported_fingerprint, model_in
from virnuc_assets.virnucpro.torch_files import ImportRefused, PickledModule, TorchFile, read_torch_file
from virnuc_assets.virnucpro.vectors import Kind, VectorFile, named, read_vectors, vectors_in, write_vectors

FilesOfKind = Mapping[Kind, Sequence[VectorFile]]
Windows = Iterator[tuple[pa.Table, dict[Kind, np.ndarray]]]
_WINDOW_ROWS = 256
_REMEDY = "Give all files of these frames and no others, and the frames table of the same genomes and chunk length."


class ExportRefused(VirnucError):
    """A table that VirNucPro's layouts cannot hold."""


def import_files(
    sources: Sequence[Path],
    to: Path,
    *,
    frames: Path | None = None,
    dna_dim: int | None = None,
    protein_encoder: str = "esm2_3b",
    features: Path | None = None,
    chunk_length: int | None = None,
) -> dict[str, Any]:
    """Write a table, or for a model a classifier's folder; returns what a person should see.

    Files of one side become embeddings, files of both sides features, merged files features that are compared with
    the sides given with them. Which of the options is needed, the content of the files decides.

    Args:
        sources: VirNucPro's files.
        to: what to write.
        frames: frames table of the vectors.
        dna_dim: nucleotide columns of merged files that come without either side.
        protein_encoder: whose vectors the protein side is; VirNucPro's own is ESM2-3B.
        features: features table that a model is to score.
        chunk_length: nt that a model was trained on.

    Raises:
        VirnucError: the files are refused, do not fit each other, an option is missing, or `to` cannot be written.
    """
    first = read_torch_file(sources[0])
    if isinstance(first.content, PickledModule):
        if len(sources) > 1:
            raise VirnucError(f"{first.path}: a model is imported alone, found {len(sources) - 1} more files")
        return _import_model(first, to, features, chunk_length)
    require_output(to, [*sources, *([frames] if frames else [])])
    file = vectors_in(first)
    if frames is None:
        raise VirnucError(f"{file.path}: {file.kind} vectors; give their frames: --frames FRAMES.parquet")
    stored: dict[Kind, ScratchVectors] = {}
    files = [_without_vectors(file, stored)]
    del first, file  # as large as the file
    files += [_without_vectors(read_vectors(path), stored) for path in sources[1:]]
    return _import_vectors(files, stored, to, frames, dna_dim, protein_encoder)


def export_file(table: Path, to: Path) -> dict[str, Any]:
    """Write a table of ours in VirNucPro's layout; returns what a person should see.

    Embeddings of a nucleotide encoder become a DNABERT_S file, of a protein encoder an ESM file; features become a
    merged file. Such a file holds one label for all its rows. The table is read in windows; what is written is one
    object, in memory at once: 4 bytes for each value, in a DNABERT_S file 32 (Python's floats).

    Raises:
        TableMismatch: it is no table of ours.
        ExportRefused: it is neither embeddings nor features, has no rows, or rows of several labels.
    """
    require_output(to, [table])
    recipe, label = read_recipe(table), None
    match recipe:
        case {"table": "embeddings", "encoder": {"alphabet": "dna" | "protein" as alphabet}}:
            kind: Kind = "DNABERT_S" if alphabet == "dna" else "ESM"
        case {"table": "features"}:
            kind = "merged"
            labels = read_table(table, columns=["label"]).column("label").value_counts().to_pylist()
            if len(labels) > 1:
                found = ", ".join(f"{each['counts']} {each['values'] or 'without label'}" for each in labels)
                raise ExportRefused(f"{table}: rows of several labels ({found}); a merged file of VirNucPro has one")
            label = labels[0]["values"] if labels else None
        case _:
            raise ExportRefused(
                f"{table}: a table of {recipe.get('table', 'unknown kind')}; VirNucPro has files of embeddings and of "
                "features"
            )
    ids, dim = read_ids(table).to_pylist(), vector_dim(read_schema(table))
    if not ids:
        raise ExportRefused(f"{table}: has no rows; VirNucPro's files have at least one")
    windows = read_windows(table, _WINDOW_ROWS, columns=["vector"])
    write_vectors(to, kind, ids, dim, map(vectors_of, windows), label)
    return {"kind": kind, "rows": len(ids), "columns": dim}


def require_label(file: VectorFile, label_of: Mapping[str, str | None]) -> None:
    """Refuse a merged file whose label is not that of its frames; ids that have no label here pass."""
    wrong = [frame_id for frame_id in file.ids if file.label and label_of.get(frame_id) not in (None, file.label)]
    if wrong:
        raise ImportRefused(
            f"{file.path}: its rows are labelled {file.label}, {len(wrong)} of {len(file.ids)} frames are not"
            f"{named(wrong)}"
        )


def _import_model(file: TorchFile, to: Path, features: Path | None, chunk_length: int | None) -> dict[str, Any]:
    model = model_in(file)
    if features is None or chunk_length is None:
        raise VirnucError(
            f"{file.path}: a model of {model.dim} columns; it does not say on what it was trained: give --features "
            "TABLE (features that it is to score, which name the encoders and their dims) and --chunk-length"
        )
    require_outputs(to, (CLASSIFIER_FILE, WEIGHTS_FILE), [file.path, features])
    recipe = read_recipe(features)
    if recipe.get("table") != "features":
        raise VirnucError(f"{features}: expected a features table, found {recipe.get('table', 'another')}")
    description = describe_model(file, model, recipe["encoders"], recipe["dims"], chunk_length)
    saved = save_classifier(to, model, description)
    return {"kind": "model", "reads": saved.pair(), "hidden": model.hidden, "weights sha256": saved.weights_sha256}


def _without_vectors(file: VectorFile, stored: dict[Kind, ScratchVectors]) -> VectorFile:
    """The file with its ids alone; its vectors are stored after those of the files of its kind before it."""
    vectors = stored.setdefault(file.kind, ScratchVectors())
    vectors.write(range(vectors.count, vectors.count + len(file.ids)), file.vectors)
    return replace(file, vectors=file.vectors[:0].copy())


def _import_vectors(
    files: Sequence[VectorFile],
    stored: Mapping[Kind, ScratchVectors],
    to: Path,
    framed: Path,
    dna_dim: int | None,
    protein_encoder: str,
) -> dict[str, Any]:
    of_kind = {kind: [file for file in files if file.kind == kind] for kind in get_args(Kind)}
    kinds = [kind for kind, found in of_kind.items() if found]
    encoders = {"dna": "dnabert_s", "protein": protein_encoder}
    recipe: dict[str, Any] = {
        "frames": content_digest(framed),
        "origin": VIRNUCPRO,
        "kind": " + ".join(kinds),
        "sources": [{"file": file.path.name, "sha256": file.sha256} for file in files],
    }
    windows = _windows(framed, of_kind, stored)
    if kinds in (["DNABERT_S"], ["ESM"]):
        side, dim = "dna" if kinds == ["DNABERT_S"] else "protein", _width(files)
        recipe |= {"table": "embeddings", "encoder": imported_fingerprint(encoders[side], side, dim)}
        tables = _embeddings(windows, registered(encoders[side]).column)
        schema = embeddings_schema(dim)
    else:
        dims = _dims(of_kind, dna_dim)
        fingerprints = {side: imported_fingerprint(name, side, dims[side]) for side, name in encoders.items()}
        recipe |= {"table": "features", "encoders": fingerprints, "dims": dims}
        tables = _features(windows, of_kind["merged"], dims["dna"])
        schema = features_schema(dim := sum(dims.values()))
    known = read_table(framed, frames_schema(), columns=["frame_id", "label"])
    label_of = dict(zip(*(column.to_pylist() for column in known.columns), strict=True))
    for file in files:
        require_label(file, label_of)
    with TableWriter(to, schema, recipe) as writer:
        for table in tables:
            writer.write(table)
    return {"kind": recipe["kind"], "rows": writer.rows, "columns": dim, "files": len(files)}


def _windows(framed: Path, files: FilesOfKind, stored: Mapping[Kind, ScratchVectors]) -> Windows:
    """Frames and their vectors of each kind, (n, d)."""
    ids = read_ids(framed, frames_schema()).to_pylist()
    order = {kind: _order(ids, files[kind]) for kind in stored}
    start = 0
    for frames in read_windows(framed, _WINDOW_ROWS, frames_schema()):
        here = slice(start, start + frames.num_rows)
        yield frames, {kind: stored[kind].read(rows[here]) for kind, rows in order.items()}
        start = here.stop


def _embeddings(windows: Windows, column: str) -> Iterator[pa.Table]:
    """Embeddings of one side, with the digests of what its encoder reads of the frames."""
    for frames, vectors in windows:
        (values,) = vectors.values()
        digests = sequence_digests(frames.column(column).to_pylist())
        columns = [frames.column("frame_id"), digests, vector_column(values)]
        yield pa.table(columns, schema=embeddings_schema(values.shape[1]))


def _features(windows: Windows, merged: Sequence[VectorFile], dna_dim: int) -> Iterator[pa.Table]:
    """Features of merged files, or of both sides where none is given, with label and group of the frames.

    Raises:
        ImportRefused: after the last window, if merged rows are not those of a side.
    """
    columns: dict[Kind, slice] = {"DNABERT_S": slice(None, dna_dim), "ESM": slice(dna_dim, None)}
    count, wrong = 0, {kind: list[str]() for kind in columns}
    for frames, vectors in windows:
        whole = vectors.pop("merged") if merged else np.concatenate([vectors[kind] for kind in columns], axis=1)
        for kind, side in vectors.items():
            differing = np.flatnonzero((whole[:, columns[kind]] != side).any(axis=1))
            wrong[kind] += frames.column("frame_id").take(differing).to_pylist()
        count += len(whole)
        yield features_table(frames, whole)
    for kind, ids in wrong.items():
        if ids:
            raise ImportRefused(
                f"{merged[0].path}: misaligned with its {kind} side: of {count} rows {len(ids)} hold other values than "
                f"their id's vector{named(ids)}; import both sides without the merged file"
            )


def _dims(files: FilesOfKind, dna_dim: int | None) -> dict[str, int]:
    """Columns of the nucleotides and of the proteins, as the sides have them, or as a person says.

    Raises:
        ImportRefused: the columns of merged files are not known, or contradict each other.
    """
    dna, protein = _width(files["DNABERT_S"]), _width(files["ESM"])
    merged = _width(files["merged"]) or dna + protein
    known = {
        **({f"{dna} by {files['DNABERT_S'][0].path.name}": dna} if dna else {}),
        **({f"{merged} - {protein} by {files['ESM'][0].path.name}": merged - protein} if protein else {}),
        **({f"{dna_dim} by --dna-dim": dna_dim} if dna_dim is not None else {}),
    }
    found = next(iter(known.values()), 0)
    if set(known.values()) != {found} or not 0 < found < merged:
        raise ImportRefused(
            f"{(files['merged'] or files['DNABERT_S'])[0].path}: {merged} columns; expected how many of them are the "
            "nucleotides', by the DNABERT_S or ESM files that were merged or by --dna-dim; found "
            f"{', '.join(known) or 'neither'}"
        )
    return {"dna": found, "protein": merged - found}


def _width(files: Sequence[VectorFile]) -> int:
    """Width of all files' vectors, 0 without any.

    Raises:
        ImportRefused: they differ; each width is shown with a file.
    """
    widths = {file.vectors.shape[1]: file.path.name for file in files}
    if len(widths) > 1:
        found = ", ".join(f"{width} columns in {name}" for width, name in sorted(widths.items()))
        raise ImportRefused(f"files of different encoders: {found}; import those of one pair of encoders at a time")
    return next(iter(widths), 0)


def _order(ids: Sequence[str], files: Sequence[VectorFile]) -> list[int]:
    """Row of each id among those of all files."""
    found = [frame_id for file in files for frame_id in file.ids]
    what = f"rows of {files[0].path.name}" + (f" and {len(files) - 1} more files" if len(files) > 1 else "")
    return rows_of(ids, found, what, _REMEDY)
