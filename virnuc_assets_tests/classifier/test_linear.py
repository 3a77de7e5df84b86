"""The linear model of composition: folds leave clusters out, and the model is the regression without its scaler."""

import numpy as np
import pyarrow.compute as pc
import pytest
import torch

from virnuc_assets.classifier.linear import STRENGTHS, CompositionRows, LinearError, fit_linear
from virnuc_assets.classifier.record_rule import MOST_LOG_ODDS


def rows_of(clusters: int = 12, rows: int = 30, signal: float = 1.0, dim: int = 8) -> CompositionRows:
    """Clusters in turn viral and host; the first column sets them apart, the second is the cluster's own."""
    generator = np.random.default_rng(3)
    cluster = np.repeat(np.arange(clusters), rows)
    features = generator.normal(size=(clusters * rows, dim))
    features[:, 0] += signal * (2 * (cluster % 2) - 1)
    features[:, 1] += 5 * generator.normal(size=clusters)[cluster]
    records = np.array([f"r{c}{half}" for c in range(clusters) for half in "ab" for _ in range(rows // 2)])
    return CompositionRows(features.astype(np.float32), cluster % 2, records, np.array([f"c{c}" for c in cluster]))


def test_a_signal_is_found_and_noise_is_not() -> None:
    found, noise = fit_linear(rows_of(signal=2.0), 0), fit_linear(rows_of(signal=0.0), 0)
    best = max(found.history, key=lambda entry: -entry["validation_loss"])
    assert found.strength == best["strength"] and best["validation_auroc"] > 0.85
    assert [entry["strength"] for entry in found.history] == list(STRENGTHS)
    assert min(entry["validation_loss"] for entry in noise.history) > 0.69 - 0.02  # no better than a coin


def test_the_model_gives_the_log_odds_of_the_regression_and_repeats() -> None:
    rows = rows_of()
    fit, again = fit_linear(rows, 0), fit_linear(rows, 0)
    logits = fit.model(torch.from_numpy(rows.features)).detach().numpy()
    assert logits[:, 0] == pytest.approx(-logits[:, 1], abs=1e-5)
    right = (logits[:, 1] > 0) == (rows.labels == 1)
    assert right.mean() > 0.8
    assert torch.equal(fit.model.output_layer.weight, again.model.output_layer.weight)
    assert (fit.log_odds == again.log_odds).all()


def test_scores_out_of_fold_never_saw_the_cluster() -> None:
    """Columns that only name a cluster's rows: no use for clusters left out, all the use where a relative was seen."""
    rows = rows_of(signal=0.0)
    features = np.zeros((len(rows.labels), 12), np.float32)
    features[np.arange(len(features)), np.array([int(c[1:]) for c in rows.clusters])] = 1.0
    fit = fit_linear(CompositionRows(features, rows.labels, rows.records, rows.clusters), 0)
    assert (np.abs(fit.log_odds) < 0.3).all()
    viral = rows.labels == 1
    assert np.nanmin(fit.known[viral]) > np.nanmax(fit.known[~viral])
    table = fit.out_of_fold(rows, 2.0)
    assert table.num_rows == len(rows.labels) + np.isfinite(fit.known).sum() and set(table["known"].to_pylist()) == {
        False,
        True,
    }
    assert table["log_odds"][:3].to_pylist() == pytest.approx((fit.log_odds[:3] / 2.0).tolist())
    assert pc.min_max(fit.out_of_fold(rows, 1e-9)["log_odds"]).as_py() == {"min": -MOST_LOG_ODDS, "max": MOST_LOG_ODDS}
    first = table.slice(0, 15)
    assert first["position"].to_pylist() == list(range(15)) and set(first["label"].to_pylist()) == {"host"}


def test_clusters_weigh_by_the_root_of_their_rows_and_labels_equally() -> None:
    labels = np.array([1] * 4 + [1] + [0] * 5)
    clusters = np.array(["a"] * 4 + ["b"] + ["c"] * 5)
    weights = CompositionRows(np.zeros((10, 1), np.float32), labels, clusters, clusters).weights
    assert weights[labels == 1].sum() == pytest.approx(weights[labels == 0].sum()) and weights.sum() == pytest.approx(
        10
    )
    assert weights[:4].sum() == pytest.approx(2 * weights[4])


def test_one_cluster_of_a_label_is_refused() -> None:
    with pytest.raises(LinearError, match="at least two clusters of unrelated records, found 1 of a label; add"):
        fit_linear(rows_of(clusters=3), 0)


def test_folds_without_a_label_are_refused() -> None:
    clusters = np.array(["a"] * 2 + ["b"] * 301 + ["a"] * 4 + ["c"] * 9 + ["d"] * 23)
    labels = np.array([0] * 303 + [1] * 36)
    features = np.random.default_rng(0).normal(size=(len(labels), 3)).astype(np.float32)
    with pytest.raises(LinearError, match="clusters of relatives that hold viruses and hosts leave a fold without one"):
        fit_linear(CompositionRows(features, labels, clusters, clusters), 0)
