"""VirNucPro's files as tables of ours, in the order of the frames and compared with them; our tables as its files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from virnuc_assets.classifier.checkpoint import WEIGHTS_FILE, save_classifier
from virnuc_assets.encoders.registry import registered
from virnuc_assets.errors import VirnucError
from virnuc_assets.storage.digests import sequence_digests
from virnuc_assets.storage.layout import CLASSIFIER_FILE
from virnuc_assets.storage.merging import features_table, rows_of, vectors_of
from virnuc_assets.storage.outputs import require_output, require_outputs
from virnuc_assets.storage.schemas import embeddings_schema, frames_schema, vector_dim
from virnuc_assets.storage.tables import content_digest, read_provenance, read_table, write_table
from virnuc_assets.virnucpro.model import VIRNUCPRO, describe_model, imported_fingerprint, model_in
from virnuc_assets.virnucpro.torch_files import ImportRefused, PickledModule, TorchFile, read_torch_file
from virnuc_assets.virnucpro.vectors import Kind, VectorFile, named, read_vectors, vectors_in, write_vectors

FilesOfKind = Mapping[Kind, Sequence[VectorFile]]
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
    files = [vectors_in(first), *map(read_vectors, sources[1:])]
    if frames is None:
        raise VirnucError(f"{first.path}: {files[0].kind} vectors; give their frames: --frames FRAMES.parquet")
    return _import_vectors(files, to, frames, dna_dim, protein_encoder)


def export_file(table: Path, to: Path) -> dict[str, Any]:
    """Write a table of ours in VirNucPro's layout; returns what a person should see.

    Embeddings of a nucleotide encoder become a DNABERT_S file, of a protein encoder an ESM file; features become a
    merged file. Such a file holds one label for all its rows.

    Raises:
        TableMismatch: it is no table of ours.
        ExportRefused: it is neither embeddings nor features, has no rows, or rows of several labels.
    """
    require_output(to, [table])
    provenance, rows, label = read_provenance(table), read_table(table), None
    match provenance:
        case {"table": "embeddings", "encoder": {"alphabet": "dna" | "protein" as alphabet}}:
            kind: Kind = "DNABERT_S" if alphabet == "dna" else "ESM"
        case {"table": "features"}:
            kind = "merged"
            counts = {row["values"]: row["counts"] for row in rows.column("label").value_counts().to_pylist()}
            if len(counts) > 1:
                found = ", ".join(f"{count} {label or 'without label'}" for label, count in counts.items())
                raise ExportRefused(f"{table}: rows of several labels ({found}); a merged file of VirNucPro has one")
            label = next(iter(counts), None)
        case _:
            raise ExportRefused(
                f"{table}: a table of {provenance.get('table', 'unknown kind')}; VirNucPro has files of embeddings and of "
                "features"
            )
    if not rows.num_rows:
        raise ExportRefused(f"{table}: has no rows; VirNucPro's files have at least one")
    write_vectors(to, kind, rows.column("frame_id").to_pylist(), vectors_of(rows), label)
    return {"kind": kind, "rows": rows.num_rows, "columns": vector_dim(rows.schema)}


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
    description = describe_model(file, model, provenance["encoders"], provenance["dims"], chunk_length)
    saved = save_classifier(to, model, description)
    return {"kind": "model", "reads": saved.pair(), "hidden": model.hidden, "weights sha256": saved.weights_sha256}


def _import_vectors(
    files: Sequence[VectorFile], to: Path, framed: Path, dna_dim: int | None, protein_encoder: str
) -> dict[str, Any]:
    frames = read_table(framed, frames_schema())
    of_kind: dict[Kind, list[VectorFile]] = {"DNABERT_S": [], "ESM": [], "merged": []}
    for file in files:
        of_kind[file.kind].append(file)
    kinds = [kind for kind, found in of_kind.items() if found]
    encoders = {"dna": "dnabert_s", "protein": protein_encoder}
    provenance: dict[str, Any] = {
        "frames": content_digest(framed),
        "origin": VIRNUCPRO,
        "kind": " + ".join(kinds),
        "sources": [{"file": file.path.name, "sha256": file.sha256} for file in files],
    }
    if kinds in (["DNABERT_S"], ["ESM"]):
        side = "dna" if kinds == ["DNABERT_S"] else "protein"
        table = _embeddings(frames, files, encoders[side])
        fingerprint = imported_fingerprint(encoders[side], side, vector_dim(table.schema))
        provenance |= {"table": "embeddings", "encoder": fingerprint}
    else:
        dims = _dims(of_kind, dna_dim)
        fingerprints = {side: imported_fingerprint(name, side, dims[side]) for side, name in encoders.items()}
        table = _features(frames, of_kind, dims)
        provenance |= {"table": "features", "encoders": fingerprints, "dims": dims}
    write_table(to, table, provenance)
    return {
        "kind": provenance["kind"],
        "rows": table.num_rows,
        "columns": vector_dim(table.schema),
        "files": len(files),
    }


def _embeddings(frames: pa.Table, files: Sequence[VectorFile], encoder: str) -> pa.Table:
    """Embeddings table of files of one side, with the digests of what the encoder reads of the frames."""
    _width(files)
    vectors = _in_order(frames, files)
    columns = [
        frames.column("frame_id"),
        sequence_digests(frames.column(registered(encoder).column).to_pylist()),
        pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1]),
    ]
    return pa.Table.from_arrays(columns, schema=embeddings_schema(vectors.shape[1]))


def _features(frames: pa.Table, files: FilesOfKind, dims: Mapping[str, int]) -> pa.Table:
    """Features table of merged files, or of both sides where none is given, with label and group of the frames."""
    places: dict[Kind, slice] = {"DNABERT_S": slice(None, dims["dna"]), "ESM": slice(dims["dna"], None)}
    sides = {kind: _in_order(frames, files[kind]) for kind in places if files[kind]}
    if not files["merged"]:
        return features_table(frames, np.concatenate(list(sides.values()), axis=1))
    vectors, ids = _in_order(frames, files["merged"]), frames.column("frame_id").to_pylist()
    for kind, side in sides.items():
        if wrong := [ids[row] for row in np.flatnonzero((vectors[:, places[kind]] != side).any(axis=1))]:
            raise ImportRefused(
                f"{files['merged'][0].path}: misaligned with its {kind} side: of {len(ids)} rows {len(wrong)} hold "
                f"other values than their id's vector{named(wrong)}; import both sides without the merged file"
            )
    label_of = dict(zip(ids, frames.column("label").to_pylist(), strict=True))
    for file in files["merged"]:
        require_label(file, label_of)
    return features_table(frames, vectors)


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


def _in_order(frames: pa.Table, files: Sequence[VectorFile]) -> np.ndarray:
    found = [frame_id for file in files for frame_id in file.ids]
    what = f"rows of {files[0].path.name}" + (f" and {len(files) - 1} more files" if len(files) > 1 else "")
    rows = rows_of(frames.column("frame_id").to_pylist(), found, what, _REMEDY)
    return np.concatenate([file.vectors for file in files])[rows]  # (n, d)
