"""The linear model of composition: folds leave clusters out, and the model is the regression without its scaler."""

import numpy as np
import pandas as pd
import pytest
import torch

from virnuc_assets.classifier.linear import INVERSE_STRENGTHS, fit_linear, row_weights
from virnuc_assets.classifier.record_rule import MOST_LOG_ODDS
from virnuc_assets.errors import VirnucError


def facts_of(viral: list[int] | np.ndarray, clusters: list[str], records: list[str] | None = None) -> pd.DataFrame:
    labels = np.where(np.array(viral) == 1, "viral", "host")
    return pd.DataFrame({"record_id": records or clusters, "cluster": clusters, "label": labels})


def rows_of(clusters: int = 12, rows: int = 30, signal: float = 1.0, dim: int = 8) -> tuple[np.ndarray, pd.DataFrame]:
    """Clusters in turn viral and host; the first column sets them apart, the second is the cluster's own."""
    generator = np.random.default_rng(3)
    cluster = np.repeat(np.arange(clusters), rows)
    features = generator.normal(size=(clusters * rows, dim))
    features[:, 0] += signal * (2 * (cluster % 2) - 1)
    features[:, 1] += 5 * generator.normal(size=clusters)[cluster]
    records = [f"r{c}{half}" for c in range(clusters) for half in "ab" for _ in range(rows // 2)]
    return features.astype(np.float32), facts_of(cluster % 2, [f"c{c}" for c in cluster], records)


def test_a_signal_is_found_and_noise_is_not() -> None:
    found, noise = fit_linear(*rows_of(signal=2.0), 0), fit_linear(*rows_of(signal=0.0), 0)
    best = max(found.history, key=lambda entry: -entry["validation_loss"])
    assert found.inverse_strength == best["inverse_strength"] and best["validation_auroc"] > 0.85
    assert [entry["inverse_strength"] for entry in found.history] == list(INVERSE_STRENGTHS)
    assert min(entry["validation_loss"] for entry in noise.history) > 0.69 - 0.02  # no better than a coin


def test_the_model_gives_the_log_odds_of_the_regression_and_repeats() -> None:
    features, facts = rows_of()
    fit, again = fit_linear(features, facts, 0), fit_linear(features, facts, 0)
    logits = fit.model(torch.from_numpy(features)).detach().numpy()
    assert logits[:, 0] == pytest.approx(-logits[:, 1], abs=1e-5)
    assert ((logits[:, 1] > 0) == (facts["label"] == "viral")).mean() > 0.8
    assert torch.equal(fit.model.output_layer.weight, again.model.output_layer.weight)
    assert (fit.log_odds == again.log_odds).all()


def test_scores_out_of_fold_never_saw_the_cluster() -> None:
    """Columns that only name a cluster's rows: no use for clusters left out, all the use where a relative was seen."""
    _, facts = rows_of(signal=0.0)
    alone = facts["cluster"] == "c11"  # one record, of which no model saw a relative
    facts.loc[alone, "record_id"] = "r11"
    features = np.eye(12, dtype=np.float32)[facts["cluster"].str[1:].astype(int)]
    fit, viral = fit_linear(features, facts, 0), (facts["label"] == "viral").to_numpy()
    assert (np.abs(fit.log_odds) < 0.3).all()
    assert np.nanmin(fit.known[viral]) > np.nanmax(fit.known[~viral])
    assert np.isnan(fit.known[alone]).all()
    table = fit.out_of_fold(facts, 2.0)
    assert len(table) == len(facts) + np.isfinite(fit.known).sum() and set(table["known"]) == {False, True}
    assert table["log_odds"][:3].tolist() == pytest.approx((fit.log_odds[:3] / 2.0).tolist())
    bounded = fit.out_of_fold(facts, 1e-9)["log_odds"]
    assert (bounded.min(), bounded.max()) == (-MOST_LOG_ODDS, MOST_LOG_ODDS)
    assert table["position"][:15].tolist() == list(range(15)) and set(table["label"][:15]) == {"host"}


def test_clusters_weigh_by_the_root_of_their_rows_and_labels_equally() -> None:
    labels = np.array([1] * 4 + [1] + [0] * 5)
    weights = row_weights(facts_of(labels, ["a"] * 4 + ["b"] + ["c"] * 5))
    assert weights[labels == 1].sum() == pytest.approx(weights[labels == 0].sum())
    assert weights.sum() == pytest.approx(10) and weights[:4].sum() == pytest.approx(2 * weights[4])


def test_rows_that_cannot_be_left_out_are_refused() -> None:
    with pytest.raises(VirnucError, match="at least two clusters of unrelated records, found 1 of a label; add"):
        fit_linear(*rows_of(clusters=3), 0)
    clusters, labels = ["a"] * 2 + ["b"] * 301 + ["a"] * 4 + ["c"] * 9 + ["d"] * 23, [0] * 303 + [1] * 36
    features = np.random.default_rng(0).normal(size=(len(labels), 3)).astype(np.float32)
    with pytest.raises(VirnucError, match="clusters of relatives that hold viruses and hosts leave a fold without one"):
        fit_linear(features, facts_of(labels, clusters), 0)
