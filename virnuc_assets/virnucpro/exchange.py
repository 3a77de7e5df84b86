"""VirNucPro's files as our tables, in the order of the frames and compared with them; our tables as its files.

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
    TableMismatch,
    TableWriter,
    content_digest,
    read_ids,
    read_provenance,
    read_schema,
    read_table,
    read_windows,
)
from virnuc_assets.virnucpro.model import VIRNUCPRO, describe_model, imported_fingerprint, model_in
from virnuc_assets.virnucpro.torch_files import ImportRefused, PickledModule, TorchFile, read_torch_file
from virnuc_assets.virnucpro.vectors import Kind, VectorFile, named, read_vectors, vectors_in, write_vectors

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
    the sides given with them. Which of the options (those of `virnuc import`) is needed, the files' content decides.
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
    """Write one of our tables in VirNucPro's layout; returns what a person should see.

    Embeddings of a nucleotide encoder become a DNABERT_S file, of a protein encoder an ESM file; features become a
    merged file. The table is read in windows; what is written is one object, in memory at once: 4 bytes for each value,
    in a DNABERT_S file 32 (Python's floats).

    Raises:
        TableMismatch: it is not one of our tables.
        ExportRefused: it is neither embeddings nor features, has no rows, or rows of several labels.
    """
    require_output(to, [table])
    provenance, label = read_provenance(table), None
    match provenance:
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
                f"{table}: a table of {provenance.get('table', 'unknown kind')}; VirNucPro has files of embeddings and "
                "of features"
            )
    ids, dim = read_ids(table).to_pylist(), vector_dim(read_schema(table))
    if not ids:
        raise ExportRefused(f"{table}: has no rows; VirNucPro's files have at least one")
    write_vectors(to, kind, ids, dim, exported_vectors(table, ids), label)
    return {"kind": kind, "rows": len(ids), "columns": dim}


def exported_vectors(table: Path, ids: Sequence[str]) -> Iterator[np.ndarray]:
    """Vectors of a table in windows; it has exactly these ids, unless it was replaced since they were read."""
    start = 0
    for window in read_windows(table, _WINDOW_ROWS, columns=["frame_id", "vector"]):
        if window.column("frame_id").to_pylist() != ids[start : start + window.num_rows]:
            break
        start += window.num_rows
        yield vectors_of(window)
    if start != len(ids):
        raise TableMismatch(f"{table}: replaced while it was exported; run this again")


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
    provenance = read_provenance(features)
    if provenance.get("table") != "features":
        raise VirnucError(f"{features}: expected a features table, found {provenance.get('table', 'another')}")
    if rule := provenance.get("frame_rule"):
        raise VirnucError(
            f"{features}: features of frames by {rule}; a model of {VIRNUCPRO} reads those of stop_free frames. Make "
            "them with frame_rule = 'stop_free'"
        )
    description = describe_model(file, model, provenance["encoders"], provenance["dims"], chunk_length)
    saved = save_classifier(to, model, description)
    return {"kind": "model", "reads": saved.pair(), "hidden": model.hidden, "weights sha256": saved.weights_sha256}


def _without_vectors(file: VectorFile, stored: dict[Kind, ScratchVectors]) -> VectorFile:
    """The file with its ids alone; its vectors are stored after those of the files of its kind before it."""
    vectors, dim = stored.setdefault(file.kind, ScratchVectors()), file.vectors.shape[1]
    if vectors.count and dim != vectors.dim:
        raise ImportRefused(
            f"{file.path}: {dim} columns, the {file.kind} files before it have {vectors.dim}, of another encoder; "
            "import those of one pair of encoders at a time"
        )
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
    kinds = [kind for kind in get_args(Kind) if kind in stored]
    encoders = {"dna": "dnabert_s", "protein": protein_encoder}
    provenance: dict[str, Any] = {
        "frames": content_digest(framed),
        "origin": VIRNUCPRO,
        "kind": " + ".join(kinds),
        "sources": [{"file": file.path.name, "sha256": file.sha256} for file in files],
    }
    windows = _windows(framed, files, stored)
    if kinds in (["DNABERT_S"], ["ESM"]):
        side, dim = "dna" if kinds == ["DNABERT_S"] else "protein", stored[kinds[0]].dim
        provenance |= {"table": "embeddings", "encoder": imported_fingerprint(encoders[side], side, dim)}
        schema, tables = embeddings_schema(dim), _embeddings(windows, registered(encoders[side]).column)
    else:
        merged = next((file.path for file in files if file.kind == "merged"), None)
        dims = _dims(stored, merged or files[0].path, dna_dim)
        fingerprints = {side: imported_fingerprint(name, side, dims[side]) for side, name in encoders.items()}
        provenance |= {"table": "features", "encoders": fingerprints, "dims": dims}
        dim = sum(dims.values())
        schema, tables = features_schema(dim), _features(windows, merged, dims["dna"])
    known = read_table(framed, frames_schema(), columns=["frame_id", "label"])
    label_of = dict(zip(*(column.to_pylist() for column in known.columns), strict=True))
    for file in files:
        require_label(file, label_of)
    with TableWriter(to, schema, provenance) as writer:
        for table in tables:
            writer.write(table)
    return {"kind": provenance["kind"], "rows": writer.rows, "columns": dim, "files": len(files)}


def _dims(stored: Mapping[Kind, ScratchVectors], path: Path, dna_dim: int | None) -> dict[str, int]:
    """Columns of the nucleotides and of the proteins, as the files of one side have them, or as a person says."""
    width = {kind: vectors.dim for kind, vectors in stored.items()}
    merged = width.get("merged") or sum(width.values())
    protein = merged - width["ESM"] if "ESM" in width else None
    known = {"the DNABERT_S files": width.get("DNABERT_S"), "the ESM files": protein, "--dna-dim": dna_dim}
    found = {dim for dim in known.values() if dim is not None}
    if len(found) != 1 or not 0 < min(found) < merged:
        listed = ", ".join(f"{dim} by {what}" for what, dim in known.items() if dim is not None)
        raise ImportRefused(
            f"{path}: {merged} columns; expected how many of them are the nucleotides', by the DNABERT_S or ESM files "
            f"that were merged or by --dna-dim; found {listed or 'neither'}"
        )
    return {"dna": min(found), "protein": merged - min(found)}


def _windows(framed: Path, files: Sequence[VectorFile], stored: Mapping[Kind, ScratchVectors]) -> Windows:
    """Frames and their vectors of each kind, (n, d)."""
    ids = read_ids(framed, frames_schema()).to_pylist()
    order = {}
    for kind in stored:
        mine = [file for file in files if file.kind == kind]
        found = [frame_id for file in mine for frame_id in file.ids]
        what = f"rows of {mine[0].path.name}" + (f" and {len(mine) - 1} more files" if mine[1:] else "")
        order[kind] = rows_of(ids, found, what, _REMEDY)
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


def _features(windows: Windows, merged: Path | None, dna_dim: int) -> Iterator[pa.Table]:
    """Features of merged files, or of both sides where none is given, with label and group of the frames."""
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
                f"{merged}: misaligned with its {kind} side: of {count} rows {len(ids)} hold other values than "
                f"their id's vector{named(ids)}; import both sides without the merged file"
            )
