"""Our embeddings and features in the layouts of VirNucPro's `.pt` files, as upstream's own code reads them."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import torch

from virnuc_assets.classifier.virnucpro_vectors import LABELS, Kind
from virnuc_assets.errors import VirnucError
from virnuc_assets.storage.aside import written_aside
from virnuc_assets.storage.merging import vectors_of
from virnuc_assets.storage.tables import read_recipe, read_table

_KIND_OF_ALPHABET: dict[str, Kind] = {"dna": "DNABERT_S", "protein": "ESM"}


class ExportRefused(VirnucError):
    """A table that VirNucPro's layouts cannot hold."""


def export_table(table: Path, to: Path) -> tuple[Kind, pa.Table]:
    """Write a table in VirNucPro's layout; the file appears under its name only when it is whole.

    Embeddings of a nucleotide encoder become a DNABERT_S file, of a protein encoder an ESM file; features become a
    merged file. Such a file holds one label for all its rows.

    Returns:
        The kind of file and the table that was written.

    Raises:
        TableMismatch: it is no table of ours.
        ExportRefused: it is neither embeddings nor features, has no rows, or rows of both labels.
    """
    recipe = read_recipe(table)
    kind = _kind(table, recipe)
    rows = read_table(table)
    if not rows.num_rows:
        raise ExportRefused(f"{table}: has no rows; VirNucPro's files have at least one")
    ids, vectors = rows.column("frame_id").to_pylist(), torch.tensor(vectors_of(rows))  # (n, d)
    content: dict[str, object]
    if kind == "DNABERT_S":
        data = [{"label": i, "mean_representation": row} for i, row in zip(ids, vectors.tolist(), strict=True)]
        content = {"nucleotide": ids, "data": data}
    elif kind == "ESM":
        content = {"proteins": ids, "data": list(vectors)}
    else:
        content = {"ids": ids, "data": vectors, **_labels(table, rows)}
    with written_aside(to) as aside, aside.open("wb") as handle:  # by its path, torch would write the name into it
        torch.save(content, handle)
    return kind, rows


def _kind(table: Path, recipe: dict[str, object]) -> Kind:
    match recipe:
        case {"table": "embeddings", "encoder": {"alphabet": str(alphabet)}} if alphabet in _KIND_OF_ALPHABET:
            return _KIND_OF_ALPHABET[alphabet]
        case {"table": "features"}:
            return "merged"
    raise ExportRefused(
        f"{table}: a table of {recipe.get('table', 'unknown kind')}; VirNucPro has files of embeddings and of features"
    )


def _labels(table: Path, rows: pa.Table) -> dict[str, list[int]]:
    counts = {row["values"]: row["counts"] for row in rows.column("label").value_counts().to_pylist()}
    if set(counts) == {None}:
        return {}
    if len(counts) > 1:
        told = ", ".join(f"{count} {label or 'without label'}" for label, count in counts.items())
        raise ExportRefused(f"{table}: rows of several labels ({told}); a merged file of VirNucPro has one for all")
    return {"labels": [LABELS.index(next(iter(counts)))]}
