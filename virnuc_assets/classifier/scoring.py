"""A trained classifier applied to features: probabilities of (other, virus) for each row (upstream: prediction.py)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from virnuc_assets.classifier.calls import frame_calls
from virnuc_assets.classifier.checkpoint import ClassifierDescription, ClassifierMismatch, Model, load_classifier
from virnuc_assets.classifier.novelty import load_sketch
from virnuc_assets.errors import VirnucError
from virnuc_assets.sequences.frame_rule import FrameRule
from virnuc_assets.storage.merging import vectors_of
from virnuc_assets.storage.schemas import features_schema, predictions_schema, vector_dim


class ScoringError(VirnucError):
    """Scores that are not finite."""


@torch.inference_mode()  # type: ignore[untyped-decorator]
def score(model: Model, features: np.ndarray, batch_rows: int = 4096) -> np.ndarray:
    """Softmax over (other, virus), (n, 2) float32, of features (n, d) float32, which may be memory-mapped.

    The model is put into eval mode; `batch_rows` changes no score by more than rounding.

    Raises:
        ScoringError: a score is not finite.
    """
    model.eval()
    device = model.output_layer.weight.device
    scores = np.empty((len(features), 2), dtype=np.float32)
    for start in range(0, len(features), batch_rows):
        logits = model(torch.tensor(features[start : start + batch_rows], device=device))  # (b, 2)
        scores[start : start + batch_rows] = torch.softmax(logits, dim=1).cpu().numpy()
    if bad := np.flatnonzero(~np.isfinite(scores).all(axis=1)).tolist():
        raise ScoringError(f"{len(bad)} of {len(scores)} scores are not finite, e.g. of rows {bad[:5]}")
    return scores


@dataclass(frozen=True)
class ServingClassifier:
    """A classifier that was found to fit the encoders and the chunk length in use."""

    model: Model
    description: ClassifierDescription

    @classmethod
    def load(
        cls,
        folder: Path,
        encoders: Mapping[str, Mapping[str, str]],
        dims: Mapping[str, int],
        chunk_length: int,
        rule: FrameRule | None,
    ) -> ServingClassifier:
        """Load a classifier for features of these encoders (arguments as of `require_match`).

        Without a rule the features are yet to be made, by the classifier's.

        Raises:
            ClassifierMismatch: it is absent, damaged, or was trained for others; all mismatches are listed.
        """
        model, description = load_classifier(folder)
        load_sketch(folder, description.sketch)  # refused here, not where it is read
        description.require_match(encoders, dims, chunk_length, rule or description.rule)
        return cls(model, description)

    @property
    def digest(self) -> str:
        """Digest of the weights."""
        return self.description.weights_sha256

    @property
    def features_schema(self) -> pa.Schema:
        """The only features table it can read; the width is part of the type."""
        return features_schema(self.description.merged_dim)

    def predictions(self, features: pa.Table) -> pa.Table:
        """Predictions table of a features table, row for row.

        Raises:
            ClassifierMismatch: the features are of another width.
        """
        if (found := vector_dim(features.schema)) != self.description.merged_dim:
            raise ClassifierMismatch(
                f"the {self.description.variant} classifier reads {self.description.pair()}; these features have "
                f"{found} columns. Make them with its encoders, or use the classifier of theirs."
            )
        scores = score(self.model, vectors_of(features))  # (n, 2)
        known = features.select(["frame_id", "chunk_id", "record_id"])
        columns = {"score_other": scores[:, 0], "score_virus": scores[:, 1], "call": frame_calls(scores)}
        for name, values in columns.items():
            known = known.append_column(name, pa.array(values, predictions_schema().field(name).type))
        return known.cast(predictions_schema())
