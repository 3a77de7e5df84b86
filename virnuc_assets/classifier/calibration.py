"""Temperature scaling: one number that turns a classifier's scores into probabilities that keep what they promise.

Source: Guo, Pleiss, Sun, Weinberger, "On Calibration of Modern Neural Networks", ICML 2017, arXiv:1706.04599. Log-odds
are divided by a temperature that is chosen on validation rows. No call changes: which of two scores is higher, also
among the frames of a chunk, is the same at every temperature; calls are made from the scores themselves.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit

# Where all rows are called right, ever lower temperatures are ever likelier; few rows carry no such certainty.
LOWEST, HIGHEST = 0.05, 20.0


def fit_temperature(log_odds: np.ndarray, viral: np.ndarray) -> float:
    """The temperature at which the rows are likeliest, between `LOWEST` and `HIGHEST`.

    The log-likelihood is concave in the inverse of the temperature, so its slope has at most one root.

    Args:
        log_odds: (n,) natural logarithm of score_virus / score_other, finite.
        viral: (n,) truth, True or 1 for viral.
    """
    odds, truth = np.asarray(log_odds, dtype=np.float64), np.asarray(viral).astype(bool)
    margin = np.where(truth, odds, -odds)  # (n,), positive where the call is right

    def slope(sharpness: float) -> float:
        return float(np.mean(margin * expit(-sharpness * margin)))

    lowest, highest = 1.0 / HIGHEST, 1.0 / LOWEST
    if slope(lowest) <= 0.0:
        return HIGHEST
    if slope(highest) >= 0.0:
        return LOWEST
    return float(1.0 / brentq(slope, lowest, highest, xtol=1e-14, rtol=1e-14))


def calibrated(score_other: np.ndarray, score_virus: np.ndarray, temperature: float) -> np.ndarray:
    """Probability of virus (n,) float64 from softmax scores (n,) each, 0 and 1 where a score is 0.

    It is one for as many viral as host rows, as the validation rows are.
    """
    with np.errstate(divide="ignore"):  # the logarithm of 0 is minus infinity, which is meant
        log_odds = np.log(score_virus, dtype=np.float64) - np.log(score_other, dtype=np.float64)
    return np.asarray(expit(log_odds / temperature), dtype=np.float64)
