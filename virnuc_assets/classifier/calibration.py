"""Temperature scaling."""

from __future__ import annotations

import numpy as np


def calibrated(score_other: np.ndarray, score_virus: np.ndarray, temperature: float) -> np.ndarray:
    """Probability of virus from softmax scores, (n,) float64."""
    tiny = np.finfo(np.float32).tiny
    other, virus = (np.maximum(np.asarray(s, dtype=np.float64), tiny) for s in (score_other, score_virus))
    log_odds = (np.log(virus) - np.log(other)) / temperature
    return np.asarray(1.0 / (1.0 + np.exp(-log_odds)))
