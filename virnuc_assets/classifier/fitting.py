"""One fit: the features and the split of a branch, trained on, and described so that it can be recognised."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from virnuc_assets.classifier.checkpoint import (
    ClassifierDescription,
    ClassifierMismatch,
    load_classifier,
)
from virnuc_assets.classifier.datasets import balanced, rows_of_split
from virnuc_assets.classifier.split import Split, split_schema
from virnuc_assets.classifier.training import OnEpoch, TrainedClassifier, train
from virnuc_assets.encoders.registry import Branch
from virnuc_assets.settings import TrainingSettings
from virnuc_assets.storage.digests import digest_of
from virnuc_assets.storage.layout import CLASSIFIER_FILE
from virnuc_assets.storage.merging import vectors_of
from virnuc_assets.storage.tables import content_digest, read_recipe, read_schema, read_table

_EXAMPLE_ROWS = 2


def data_digest(features: Mapping[str, Path], split: Path, training: TrainingSettings) -> str:
    """Digest of all that decides a classifier's weights: feature rows, split, recipe."""
    contents = {shard: content_digest(path) for shard, path in features.items()}
    return digest_of({"features": contents, "split": content_digest(split), "training": training.model_dump()})


@dataclass(frozen=True)
class Fit:
    """What a branch's classifier is trained on.

    Attributes:
        branch: the pair of encoder slots.
        encoders: their fingerprints, by side.
        features: features tables by shard, already found to be current.
        split: the split table.
        chunk_length: nt.
        training: the recipe.
    """

    branch: Branch
    encoders: Mapping[str, Mapping[str, str]]
    features: Mapping[str, Path]
    split: Path
    chunk_length: int
    training: TrainingSettings

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

    def train(self, on_epoch: OnEpoch) -> TrainedClassifier:
        """Train on balanced rows of the training split, stopped on balanced rows of the validation split."""
        rows, _ = balanced(self._rows("train"), self.training.seed)
        validation, _ = balanced(self._rows("validation"), self.training.seed)
        return train(rows, validation, self.training, on_epoch)

    def describe(self, trained: TrainedClassifier) -> ClassifierDescription:
        """What is written beside the weights."""
        return ClassifierDescription(
            branch=self.branch.name,
            encoders={"dna": dict(self.encoders["dna"]), "protein": dict(self.encoders["protein"])},
            **self.dims,
            chunk_length=self.chunk_length,
            seed=self.training.seed,
            training=self.training,
            split_digest=content_digest(self.split),
            data_digest=self.data_digest,
            best_epoch=trained.best_epoch,
        )

    def params(self) -> dict[str, Any]:
        """What a tracking server should show of the fit; the digests of its tables included."""
        drawn = {split: balanced(self._rows(split), self.training.seed)[1] for split in ("train", "validation")}
        return {
            "branch": self.branch.name,
            "dna_encoder": self.encoders["dna"]["encoder"],
            "protein_encoder": self.encoders["protein"]["encoder"],
            **self.dims,
            "chunk_length": self.chunk_length,
            "precision": self.encoders["protein"]["precision"],
            **{f"training.{name}": value for name, value in self.training.model_dump().items()},
            "data_digest": self.data_digest,
            "split_digest": content_digest(self.split),
            **{f"{split}_rows": sum(counts.values()) for split, counts in drawn.items()},
            **{f"{split}_rows_by_group": dict(counts) for split, counts in drawn.items()},
        }

    def example(self) -> np.ndarray:
        """A few training rows, (b, merged dim) float32."""
        return vectors_of(self._rows("train").slice(0, _EXAMPLE_ROWS)).copy()

    @cached_property
    def data_digest(self) -> str:
        """As the module's function."""
        return data_digest(self.features, self.split, self.training)

    @cached_property
    def dims(self) -> dict[str, int]:
        """dna_dim, protein_dim and merged_dim, as the tables tell them."""
        recipe = read_recipe(next(iter(self.features.values())))
        dna_dim, protein_dim = recipe["dims"]["dna"], recipe["dims"]["protein"]
        return {"dna_dim": dna_dim, "protein_dim": protein_dim, "merged_dim": dna_dim + protein_dim}

    def _rows(self, split: Split) -> pa.Table:
        schema = read_schema(next(iter(self.features.values())))
        return rows_of_split(self.features.values(), schema, read_table(self.split, split_schema()), split)
