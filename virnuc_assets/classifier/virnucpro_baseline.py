"""VirNucPro's classifier on the test rows of our split, from VirNucPro's merged files alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from virnuc_assets.classifier.checkpoint import ClassifierDescription, save_classifier
from virnuc_assets.classifier.datasets import evaluation_table
from virnuc_assets.classifier.scoring import ServingClassifier
from virnuc_assets.classifier.virnucpro_model import describe_model, imported_fingerprint, model_in
from virnuc_assets.classifier.virnucpro_tables import require_label
from virnuc_assets.classifier.virnucpro_vectors import ImportRefused, VectorFile, named, read_vectors, read_virnucpro
from virnuc_assets.storage.merging import features_table
from virnuc_assets.storage.schemas import frames_schema, predictions_schema
from virnuc_assets.storage.tables import read_table


@dataclass
class Baseline:
    """An imported classifier and the merged files that it scores.

    Attributes:
        classifier: the classifier, found to be as wide as the first file.
        merged: paths of the merged files.
        counts: what `evaluation` counted: rows of the files, and those that are no test rows.
    """

    classifier: ServingClassifier
    merged: Sequence[Path]
    counts: dict[str, int] = field(default_factory=dict)

    @classmethod
    def load(
        cls, model: Path, merged: Sequence[Path], *, dna_dim: int, protein_encoder: str, chunk_length: int
    ) -> Baseline:
        """Read the model for features as the first merged file holds them.

        Raises:
            TorchFileRefused, ImportRefused: a file is refused, or the model is of another width than the features;
                both widths and encoders are named.
        """
        width = _read_merged(merged[0]).vectors.shape[1]
        dims = {"dna": dna_dim, "protein": width - dna_dim}
        if dims["protein"] < 1:
            raise ImportRefused(f"{merged[0]}: {width} columns, of which {dna_dim} cannot be the nucleotides'")
        names = {"dna": "dnabert_s", "protein": protein_encoder}
        encoders = {side: imported_fingerprint(name, side, dims[side]) for side, name in names.items()}
        file = read_virnucpro(model)
        mlp = model_in(file)
        return cls(ServingClassifier(mlp, describe_model(file, mlp, encoders, dims, chunk_length)), merged)

    def save(self, folder: Path) -> ClassifierDescription:
        """Write the classifier as one of ours; returns its description."""
        return save_classifier(folder, self.classifier.model, self.classifier.description)

    def evaluation(
        self, frames: Sequence[Path], split: pa.Table, sha256: Mapping[str, str], length_of: Mapping[str, int]
    ) -> pa.Table:
        """Evaluation table of all test rows, in the order of the frames tables; one merged file is held at a time.

        Args:
            frames: frames tables of the reference.
            split: split table.
            sha256: digests of the merged files, by name, as they are meant to be.
            length_of: length in nt of every test record.

        Raises:
            ImportRefused: test rows are missing in the files (counted, with examples), an id stands in two files, a
                label is not that of the frames, or a file changed.
            ClassifierMismatch: a file is of another width than the first.
        """
        tested = {row["record_id"] for row in split.to_pylist() if row["split"] == "test"}
        parts = [frames_schema().empty_table(), *(read_table(path, frames_schema()) for path in frames)]
        known = pa.concat_tables(parts)
        label_of = dict(zip(known.column("frame_id").to_pylist(), known.column("label").to_pylist(), strict=True))
        rows = known.filter(
            pa.array([record in tested for record in known.column("record_id").to_pylist()], pa.bool_())
        )
        row_of = {frame_id: row for row, frame_id in enumerate(rows.column("frame_id").to_pylist())}
        predicted = [predictions_schema().empty_table()]
        places: list[int] = []
        self.counts = {"rows_of_merged_files": 0, "rows_that_are_no_test_rows": 0}
        for path in self.merged:
            file = _read_merged(path)
            if file.sha256 != sha256.get(path.name):
                raise ImportRefused(f"{path}: changed while it was read; materialize again")
            self._require_fitting(file)
            require_label(file, label_of)
            chosen = [place for place, frame_id in enumerate(file.ids) if frame_id in row_of]
            found = [row_of[file.ids[place]] for place in chosen]
            features = features_table(rows.take(pa.array(found, pa.int64())), file.vectors[chosen])
            predicted.append(self.classifier.predictions(features))
            places += found
            self.counts["rows_of_merged_files"] += len(file.ids)
            self.counts["rows_that_are_no_test_rows"] += len(file.ids) - len(chosen)
        self._require_each_once(places, list(row_of))
        ordered = pa.concat_tables(predicted).take(np.argsort(places, kind="stable"))
        return evaluation_table(rows, ordered, split, length_of)

    def _require_fitting(self, file: VectorFile) -> None:
        if (width := file.vectors.shape[1]) != self.classifier.description.merged_dim:
            raise ImportRefused(
                f"{file.path}: {width} columns; the classifier reads {self.classifier.description.pair()}, as "
                f"{self.merged[0].name} holds. Name a folder with the files of one pair of encoders"
            )

    def _require_each_once(self, places: list[int], ids: list[str]) -> None:
        times = np.bincount(places, minlength=len(ids))
        missing = [ids[row] for row in np.flatnonzero(times == 0)]
        twice = [ids[row] for row in np.flatnonzero(times > 1)]
        if missing or twice:
            raise ImportRefused(
                f"{self.merged[0].parent}: of {len(ids)} test rows {len(missing)} are in none of {len(self.merged)} "
                f"merged files{f' ({named(missing)})' if missing else ''}, {len(twice)} in more than one"
                f"{f' ({named(twice)})' if twice else ''}; a fair comparison needs all test rows, once. Extract them "
                "with VirNucPro, or take the genomes that it has no features of out of the catalogue"
            )


def _read_merged(path: Path) -> VectorFile:
    file = read_vectors(path)
    if file.kind != "merged":
        raise ImportRefused(f"{path}: expected a merged file, found {file.kind} vectors")
    return file
