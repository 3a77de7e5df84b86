"""One fit: the features and the split of a variant, trained on, and described so that it can be recognised."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from virnuc_assets.classifier.checkpoint import (
    ClassifierDescription,
    ClassifierMismatch,
    Side,
    load_classifier,
)
from virnuc_assets.classifier.datasets import Drawn, draw, records_of_split
from virnuc_assets.classifier.mlp import Mlp
from virnuc_assets.classifier.row_store import WINDOW_ROWS, Rows, rows_at, store_rows
from virnuc_assets.classifier.scoring import score
from virnuc_assets.classifier.training import OnEpoch, TrainedClassifier, train
from virnuc_assets.encoders.registry import Variant
from virnuc_assets.errors import VirnucError
from virnuc_assets.settings import TrainingSettings
from virnuc_assets.split.assignment import Split, split_schema
from virnuc_assets.storage.digests import digest_of
from virnuc_assets.storage.layout import CLASSIFIER_FILE
from virnuc_assets.storage.merging import vectors_of
from virnuc_assets.storage.tables import content_digest, read_recipe, read_schema, read_table, read_windows

Sides = tuple[Side, ...]
BOTH: Sides = ("dna", "protein")
_EXAMPLE_ROWS = 2


def data_digest(features: Mapping[str, Path], split: Path, training: TrainingSettings, sides: Sides = BOTH) -> str:
    """Digest of all that decides a classifier's weights: feature rows and their columns, split, recipe."""
    contents = {shard: content_digest(path) for shard, path in features.items()}
    recipe = {"training": training.model_dump(), "sides": sides}
    return digest_of({"features": contents, "split": content_digest(split), **recipe})


@dataclass(frozen=True)
class Fit:
    """What a variant's classifier is trained on.

    Attributes:
        variant: the pair of encoders.
        encoders: their fingerprints, by side.
        features: features tables by shard, already found to be current.
        split: the split table.
        chunk_length: nt.
        training: the recipe.
        sides: whose columns are trained on and scored by; a classifier that is saved reads both.
    """

    variant: Variant
    encoders: Mapping[str, Mapping[str, str]]
    features: Mapping[str, Path]
    split: Path
    chunk_length: int
    training: TrainingSettings
    sides: Sides = BOTH

    def found_in(self, folder: Path) -> ClassifierDescription | None:
        """The description of a classifier that this very fit made, if it lies in the folder."""
        if not (folder / CLASSIFIER_FILE).is_file():
            return None
        try:
            _, description = load_classifier(folder)
        except ClassifierMismatch:  # damaged: it is not this fit's, and training replaces it
            return None
        same = description.data_digest == self.data_digest and description.encoders == self.encoders
        return description if same and description.chunk_length == self.chunk_length else None

    def train(self, scratch: Path, on_epoch: OnEpoch | None = None, device: str = "cpu") -> TrainedClassifier:
        """Train on balanced rows of the training split, stopped on balanced rows of the validation split.

        Args:
            scratch: an empty folder with room for the rows.
            on_epoch: as of `train`.
            device: as of `train`.

        Raises:
            RowStoreError: too little room.
            TrainingError: rows that cannot be trained on, or a training that diverged.
        """
        rows = {split: self._stored(split, scratch / f"{split}.npy") for split in self.drawn}
        return train(rows["train"], rows["validation"], self.training, on_epoch, device)

    def scored(self, model: Mlp, split: Split) -> pa.Table:
        """All rows of a split, scored by the columns that are trained on.

        Returns:
            The features' columns but the vector, then score_other and score_virus, float32; in the features' order.
        """
        wanted = pa.array(self._records(split), pa.string())
        parts = []
        for path in self.features.values():
            for window in read_windows(path, WINDOW_ROWS, self._schema):
                rows = window.filter(pc.is_in(window["record_id"], wanted))
                scores = score(model, np.ascontiguousarray(vectors_of(rows)[:, self.columns]))  # (b, 2)
                known = rows.drop_columns("vector")
                for column, name in enumerate(("score_other", "score_virus")):
                    known = known.append_column(name, pa.array(scores[:, column]))
                parts.append(known)
        return pa.concat_tables(parts)

    def describe(self, trained: TrainedClassifier) -> ClassifierDescription:
        """What is written beside the weights."""
        return ClassifierDescription(
            variant=self.variant.name,
            encoders={"dna": dict(self.encoders["dna"]), "protein": dict(self.encoders["protein"])},
            **self.dims,
            chunk_length=self.chunk_length,
            seed=self.training.seed,
            training=self.training,
            split_digest=content_digest(self.split),
            data_digest=self.data_digest,
            best_epoch=trained.best_epoch,
            temperature=trained.temperature,
        )

    def params(self) -> dict[str, Any]:
        """What a tracking server should show of the fit; the digests of its tables included."""
        return {
            "variant": self.variant.name,
            "dna_encoder": self.encoders["dna"]["encoder"],
            "protein_encoder": self.encoders["protein"]["encoder"],
            **self.dims,
            "chunk_length": self.chunk_length,
            "precision": self.encoders["protein"]["precision"],
            **{f"training.{name}": value for name, value in self.training.model_dump().items()},
            "data_digest": self.data_digest,
            "split_digest": content_digest(self.split),
            **self.row_counts,
        }

    @cached_property
    def row_counts(self) -> dict[str, Any]:
        """Of training and validation: rows, rows by label and group, and those that could have been drawn."""
        found: dict[str, Any] = {}
        for split, drawn in self.drawn.items():
            found[f"{split}_rows"] = len(drawn.labels)
            found[f"{split}_rows_by_group"] = dict(drawn.counts)
            found[f"{split}_rows_available"] = dict(drawn.available)
        return found

    def example(self) -> np.ndarray:
        """A training row, more than once because a batch is exported: (b, dim) float32."""
        path, positions = next((path, rows) for path, rows in self.drawn["train"].positions.items() if len(rows))
        (row,) = rows_at(path, positions[:1], self._schema)
        return np.repeat(row[:, self.columns], _EXAMPLE_ROWS, axis=0)

    @cached_property
    def drawn(self) -> dict[Split, Drawn]:
        """The balanced rows of training and validation, drawn once."""
        tables, seed = list(self.features.values()), self.training.seed
        splits: tuple[Split, ...] = ("train", "validation")
        return {split: draw(tables, self._schema, self._records(split), seed) for split in splits}

    @property
    def columns(self) -> slice:
        """Columns of the features that are trained on.

        Raises:
            VirnucError: the sides are not dna, protein, or dna and protein.
        """
        edges = {"dna": (0, self.dims["dna_dim"]), "protein": (self.dims["dna_dim"], self.dims["merged_dim"])}
        if self.sides not in (BOTH, *((side,) for side in BOTH)):
            raise VirnucError(f"sides of a fit: expected ('dna',), ('protein',) or {BOTH}, found {self.sides}")
        return slice(edges[self.sides[0]][0], edges[self.sides[-1]][1])

    @cached_property
    def data_digest(self) -> str:
        """As the module's function."""
        return data_digest(self.features, self.split, self.training, self.sides)

    @cached_property
    def dims(self) -> dict[str, int]:
        """dna_dim, protein_dim and merged_dim, as the tables tell them."""
        recipe = read_recipe(next(iter(self.features.values())))
        dna_dim, protein_dim = recipe["dims"]["dna"], recipe["dims"]["protein"]
        return {"dna_dim": dna_dim, "protein_dim": protein_dim, "merged_dim": dna_dim + protein_dim}

    @cached_property
    def _schema(self) -> pa.Schema:
        return read_schema(next(iter(self.features.values())))

    def _records(self, split: Split) -> list[str]:
        return records_of_split(read_table(self.split, split_schema()), split)

    def _stored(self, split: Split, path: Path) -> Rows:
        drawn = self.drawn[split]
        return Rows(store_rows(path, drawn.positions, self._schema, self.columns), drawn.labels)
