"""VirNucPro's classifier on the test rows of our split, from VirNucPro's merged files alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from virnuc_assets.classifier.checkpoint import ServingClassifier
from virnuc_assets.classifier.datasets import evaluation_table
from virnuc_assets.settings import VirnucproSettings
from virnuc_assets.storage.merging import features_table, rows_of
from virnuc_assets.storage.schemas import frames_schema, predictions_schema
from virnuc_assets.storage.tables import read_table
from virnuc_assets.virnucpro.exchange import require_label
from virnuc_assets.virnucpro.model import describe_model, imported_fingerprint, model_in
from virnuc_assets.virnucpro.torch_files import ImportRefused, read_torch_file
from virnuc_assets.virnucpro.vectors import VectorFile, read_vectors


def imported_classifier(model: Path, merged: Path, settings: VirnucproSettings) -> ServingClassifier:
    """A model for features as a merged file holds them."""
    width = _read_merged(merged).vectors.shape[1]
    dims = {"dna": settings.dna_dim, "protein": width - settings.dna_dim}
    if dims["protein"] < 1:
        raise ImportRefused(f"{merged}: {width} columns, of which {settings.dna_dim} cannot be the nucleotides'")
    names = {"dna": "dnabert_s", "protein": settings.protein_encoder}
    encoders = {side: imported_fingerprint(name, side, dims[side]) for side, name in names.items()}
    file = read_torch_file(model)
    mlp = model_in(file)
    return ServingClassifier(mlp, describe_model(file, mlp, encoders, dims, settings.chunk_length))


def imported_evaluation(
    classifier: ServingClassifier,
    merged: Sequence[Path],
    frames: Sequence[Path],
    split: pa.Table,
    length_of: Mapping[str, int],
) -> tuple[pa.Table, dict[str, int]]:
    """Evaluation table of all test rows, in the order of the frames tables; one merged file is in memory at a time.

    Also how many rows the files have, and how many of those are no test rows.

    Raises:
        MergeMismatch: test rows are missing in the files, or there twice; all are counted, with examples.
    """
    tested = {row["record_id"] for row in split.to_pylist() if row["split"] == "test"}
    columns = ["frame_id", "chunk_id", "record_id", "label", "group"]
    known = pa.concat_tables(read_table(path, frames_schema(), columns=columns) for path in frames)
    label_of = dict(zip(known.column("frame_id").to_pylist(), known.column("label").to_pylist(), strict=True))
    is_tested = [record in tested for record in known.column("record_id").to_pylist()]
    rows = known.filter(pa.array(is_tested, pa.bool_()))
    row_of = {frame_id: row for row, frame_id in enumerate(rows.column("frame_id").to_pylist())}
    predicted, count = [predictions_schema().empty_table()], 0
    for path in merged:
        file = _read_merged(path)
        count += len(file.ids)
        if (width := file.vectors.shape[1]) != classifier.description.merged_dim:
            raise ImportRefused(
                f"{path}: {width} columns; the classifier reads {classifier.description.pair()}, as {merged[0].name} "
                "holds. Name a folder with the files of one pair of encoders"
            )
        require_label(file, label_of)
        chosen = [place for place, frame_id in enumerate(file.ids) if frame_id in row_of]
        found = pa.array([row_of[file.ids[place]] for place in chosen], pa.int64())
        predicted.append(classifier.predictions(features_table(rows.take(found), file.vectors[chosen])))
    predictions = pa.concat_tables(predicted)
    what = f"test rows in {merged[0].parent}"
    remedy = (
        "A fair comparison needs all test rows, once: extract them with VirNucPro, or take the genomes that it has no "
        "features of out of the catalogue."
    )
    order = rows_of(list(row_of), predictions.column("frame_id").to_pylist(), what, remedy)
    counts = {"rows_of_merged_files": count, "rows_that_are_no_test_rows": count - predictions.num_rows}
    return evaluation_table(rows, predictions.take(order), split, length_of), counts


def _read_merged(path: Path) -> VectorFile:
    file = read_vectors(path)
    if file.kind != "merged":
        raise ImportRefused(f"{path}: expected a merged file, found {file.kind} vectors")
    return file
