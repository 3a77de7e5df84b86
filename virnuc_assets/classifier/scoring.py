"""Probabilities of (other, virus) for feature rows (upstream: prediction.py)."""

from __future__ import annotations

import numpy as np
import torch

from virnuc_assets.classifier.checkpoint import Mlp
from virnuc_assets.errors import VirnucError


class ScoringError(VirnucError):
    """Feature rows that do not fit the classifier."""


@torch.inference_mode()  # type: ignore[untyped-decorator]
def score(model: Mlp, features: np.ndarray, batch_rows: int = 4096) -> np.ndarray:
    """Softmax over (other, virus), each row by itself.

    Args:
        model: put into eval mode; scores on the device it lies on.
        features: (n, d) float32; may be memory-mapped.
        batch_rows: rows scored at once; changes no score by more than rounding.

    Returns:
        (n, 2) float32: score_other, score_virus.

    Raises:
        ScoringError: the rows have another width or type, or a score is not finite.
    """
    if features.ndim != 2 or features.shape[1] != model.dim or features.dtype != np.float32:
        raise ScoringError(
            f"expected features (n, {model.dim}) float32 as the classifier was trained on, "
            f"found {features.shape} {features.dtype}; use features made by the same pair of encoders"
        )
    model.eval()
    device = model.hidden_layer.weight.device
    scores = np.empty((len(features), 2), dtype=np.float32)
    for start in range(0, len(features), batch_rows):
        logits = model(torch.tensor(features[start : start + batch_rows], device=device))  # (b, 2)
        scores[start : start + batch_rows] = torch.softmax(logits, dim=1).cpu().numpy()
    if bad := np.flatnonzero(~np.isfinite(scores).all(axis=1)).tolist():
        raise ScoringError(f"{len(bad)} of {len(scores)} scores are not finite, e.g. of rows {bad[:5]}")
    return scores
