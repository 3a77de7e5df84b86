"""Rows of VirNucPro's files as tables of ours, in the order of the frames and held to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from virnuc_assets.classifier.virnucpro_vectors import ImportRefused, Kind, VectorFile, named
from virnuc_assets.encoders.registry import registered
from virnuc_assets.storage.digests import sequence_digests
from virnuc_assets.storage.merging import features_table, rows_of
from virnuc_assets.storage.schemas import embeddings_schema

FilesOfKind = Mapping[Kind, Sequence[VectorFile]]
_REMEDY = "Give all files of these frames and no others, and the frames table of the same genomes and chunk length."


def imported_embeddings(frames: pa.Table, files: Sequence[VectorFile], encoder: str) -> pa.Table:
    """Embeddings table of DNABERT_S or ESM files.

    Args:
        frames: frames table; tells rows, order and the sequences whose digests stand beside the vectors.
        files: all of one kind.
        encoder: whose vectors they are; a name of the registry, which tells what it reads.

    Raises:
        ImportRefused: the files are not equally wide.
        MergeMismatch: ids are missing, extra, or stand there twice; all are counted.
    """
    vectors = _in_order(frames, files)
    sequences = frames.column(registered(encoder).column).to_pylist()
    columns = [
        frames.column("frame_id"),
        sequence_digests(sequences),
        pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1]),
    ]
    return pa.Table.from_arrays(columns, schema=embeddings_schema(vectors.shape[1]))


def imported_features(frames: pa.Table, files: FilesOfKind) -> pa.Table:
    """Features table of merged files, or of both sides where none is given, with label and group of the frames.

    Raises:
        ImportRefused: files of a kind are not equally wide, a merged file's label is not that of its frames, or its
            rows are not those of the sides that are given.
        MergeMismatch: as `imported_embeddings`.
    """
    if not files["merged"]:
        sides = [_in_order(frames, files["DNABERT_S"]), _in_order(frames, files["ESM"])]
        return features_table(frames, np.concatenate(sides, axis=1))
    vectors = _in_order(frames, files["merged"])
    if files["DNABERT_S"]:
        _require_merged_of(files["merged"], files["DNABERT_S"], slice(None, _width(files, "DNABERT_S")))
    if files["ESM"]:
        _require_merged_of(files["merged"], files["ESM"], slice(-_width(files, "ESM"), None))
    label_of = dict(zip(frames.column("frame_id").to_pylist(), frames.column("label").to_pylist(), strict=True))
    for file in files["merged"]:
        require_label(file, label_of)
    return features_table(frames, vectors)


def side_dims(files: FilesOfKind, dna_dim: int | None) -> dict[str, int]:
    """Columns of the nucleotides and of the proteins, as the sides tell them.

    Args:
        files: both sides, or merged files with or without sides.
        dna_dim: columns of the nucleotides by another's word; needed where neither side is given.

    Raises:
        ImportRefused: the columns of merged files are not told, or contradict each other.
    """
    dna, protein = _width(files, "DNABERT_S"), _width(files, "ESM")
    merged = _width(files, "merged") or dna + protein
    told = {
        **({f"{dna} by {files['DNABERT_S'][0].path.name}": dna} if dna else {}),
        **({f"{merged} - {protein} by {files['ESM'][0].path.name}": merged - protein} if protein else {}),
        **({f"{dna_dim} by --dna-dim": dna_dim} if dna_dim is not None else {}),
    }
    found = next(iter(told.values()), 0)
    if set(told.values()) != {found} or not 0 < found < merged:
        raise ImportRefused(
            f"{(files['merged'] or files['DNABERT_S'])[0].path}: {merged} columns; expected how many of them are the "
            "nucleotides', by the DNABERT_S or ESM files that were merged or by --dna-dim; found "
            f"{', '.join(told) or 'neither'}"
        )
    return {"dna": found, "protein": merged - found}


def require_label(file: VectorFile, label_of: Mapping[str, str | None]) -> None:
    """Refuse a merged file whose label is not that of its frames; ids that have no label here are let pass."""
    wrong = [frame_id for frame_id in file.ids if file.label and label_of.get(frame_id) not in (None, file.label)]
    if wrong:
        raise ImportRefused(
            f"{file.path}: its rows are labelled {file.label}, {len(wrong)} of {len(file.ids)} frames are not "
            f"({named(wrong)})"
        )


def common_width(files: Sequence[VectorFile]) -> int:
    """Width of all files' vectors.

    Raises:
        ImportRefused: they differ; each width is told with a file.
    """
    widths = {file.vectors.shape[1]: file.path.name for file in files}
    if len(widths) != 1:
        told = ", ".join(f"{width} columns in {name}" for width, name in sorted(widths.items()))
        raise ImportRefused(f"files of different encoders: {told}; import those of one pair of encoders at a time")
    return int(next(iter(widths)))


def _width(files: FilesOfKind, kind: Kind) -> int:
    return common_width(files[kind]) if files[kind] else 0


def _require_merged_of(merged: Sequence[VectorFile], side: Sequence[VectorFile], columns: slice) -> None:
    """Refuse merged files whose rows do not hold, in these columns, the vectors of one side's files by id."""
    vector_of = {frame_id: row for file in side for frame_id, row in zip(file.ids, file.vectors, strict=True)}
    for file in merged:
        lacking = [frame_id for frame_id in file.ids if frame_id not in vector_of]
        wrong = [
            frame_id
            for frame_id, row in zip(file.ids, file.vectors[:, columns], strict=True)
            if frame_id in vector_of and not np.array_equal(row, vector_of[frame_id])
        ]
        if lacking or wrong:
            raise ImportRefused(
                f"{file.path}: misaligned with its {side[0].kind} side: of {len(file.ids)} rows {len(wrong)} hold "
                f"other values than their id's vector{f' ({named(wrong)})' if wrong else ''}, {len(lacking)} ids have "
                f"no vector there{f' ({named(lacking)})' if lacking else ''}; import both sides without the merged file"
            )


def _in_order(frames: pa.Table, files: Sequence[VectorFile]) -> np.ndarray:
    common_width(files)
    found = [frame_id for file in files for frame_id in file.ids]
    what = f"rows of {files[0].path.name}" + (f" and {len(files) - 1} more files" if len(files) > 1 else "")
    rows = rows_of(frames.column("frame_id").to_pylist(), found, what, _REMEDY)
    return np.concatenate([file.vectors for file in files])[rows]  # (n, d)
