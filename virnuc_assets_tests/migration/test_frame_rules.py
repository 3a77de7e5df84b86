"""Both frame rules on hand-made test chunks whose figures can be counted by eye."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from virnuc_assets.migration.frame_rules import (
    Coverage,
    Estimate,
    FrameRules,
    GroupVerdicts,
    LengthBin,
    RuleFigures,
    compare_rules,
    frames_by_rule,
    recommendation,
    unambiguous,
    weighted_auroc,
)
from virnuc_assets.settings import DecisionSettings
from virnuc_assets.storage.schemas import chunks_schema
from virnuc_assets_tests.migration.evidence_fakes import FRAME_RULES_ROWS, FrameRulesRow, frame_rules_table

approx: Any = pytest.approx
SETTINGS = DecisionSettings(bootstrap_rounds=200)


def found(chunks: Sequence[FrameRulesRow] = FRAME_RULES_ROWS) -> FrameRules:
    compared = compare_rules(frame_rules_table(chunks), SETTINGS)
    assert compared is not None
    return compared


def test_coverage_counts_chunks_bases_and_records_with_a_frame() -> None:
    rules = found().rules
    assert rules["stop_free"].coverage == {
        "all": Coverage(chunks=3 / 8, bases=1100 / 3200, records=3 / 5),
        "viral": Coverage(chunks=1 / 4, bases=500 / 1600, records=1 / 2),
        "host": Coverage(chunks=2 / 4, bases=600 / 1600, records=2 / 3),
    }
    assert rules["longest_orf"].coverage["all"] == Coverage(chunks=6 / 8, bases=3000 / 3200, records=4 / 5)
    assert [rules[name].frames_per_chunk for name in rules] == [4 / 8, 15 / 8]
    assert [rules[name].residues_per_chunk for name in rules] == [160 * 4 / 8, 40 * 15 / 8]
    assert (found().records, found().clusters, found().chunks) == (5, 4, 8)


def test_accuracy_is_that_of_chunks_with_a_verdict_and_auroc_that_of_all_records() -> None:
    """By stop_free v1 has 0.9 and h1 0.6, all others 0.5; by longest_orf v1 > v2 > h3 (0.5) > h2 > h1."""
    compared = found()
    values = {name: (one.accuracy.value, one.auroc.value) for name, one in compared.rules.items()}
    # Of the six pairs v1 wins three; v2 loses one and has two ties.
    assert values == {"stop_free": (1 / 2, 4 / 6), "longest_orf": (5 / 6, 1.0)}
    assert (compared.accuracy_gain.value, compared.auroc_gain.value) == (5 / 6 - 1 / 2, 1 - 4 / 6)
    gain = compared.auroc_gain
    assert gain.low is not None and gain.high is not None and gain.low <= 1 - 4 / 6 <= gain.high


def test_calibration_is_by_residues_with_equal_labels_and_groups_are_counted() -> None:
    """Three chunks of each label have a probability, so that each weighs the same."""
    compared = found()
    assert compared.rules["stop_free"].lengths == (LengthBin(160, None, 2, 0.75, 0.5),)
    assert compared.rules["longest_orf"].lengths == (
        LengthBin(0, 50, 1, 0.7, 1.0),
        LengthBin(50, 80, 3, approx(0.4), approx(1 / 3)),
        LengthBin(160, None, 2, 0.75, 0.5),
    )
    host, viral = compared.groups
    assert (host.label, host.group, host.records, host.chunks) == ("host", "(no group)", 3, 4)
    assert host.rules == {"stop_free": GroupVerdicts(2, 1, 0, 0.6), "longest_orf": GroupVerdicts(3, 3, 2, approx(0.4))}
    assert viral.rules["longest_orf"] == GroupVerdicts(3, 3, 3, approx(2.2 / 3))


def test_labels_of_unequal_size_weigh_the_same_in_calibration() -> None:
    more = [*FRAME_RULES_ROWS, *(("h4", "e", "host", 0, 1, 45, 0.1),) * 3]
    weighted = found(more).rules["longest_orf"].lengths[0]
    assert (weighted.chunks, weighted.viral_share) == (4, pytest.approx(2 / 5))  # 1/3 against 3/6
    assert weighted.mean_probability == pytest.approx((0.7 / 3 + 0.3 / 6) / (1 / 3 + 1 / 2))


def test_the_order_of_rows_changes_nothing_and_one_label_is_not_compared() -> None:
    assert compare_rules(frame_rules_table().take(list(range(7, -1, -1))), SETTINGS) == found()
    assert compare_rules(frame_rules_table(FRAME_RULES_ROWS[:4]), SETTINGS) is None


def test_one_cluster_of_a_label_gives_figures_without_intervals() -> None:
    compared = found([(*chunk[:1], chunk[2], *chunk[2:]) for chunk in FRAME_RULES_ROWS])
    assert compared.auroc_gain == Estimate(1 - 4 / 6)
    assert compared.recommendation.startswith("No recommendation, as a label has one cluster of test records only: ")


def test_where_no_chunk_has_a_frame_by_a_rule_it_has_no_accuracy() -> None:
    compared = found([(*chunk[:3], 0, *chunk[4:]) for chunk in FRAME_RULES_ROWS])
    assert compared.rules["stop_free"].accuracy == compared.accuracy_gain == Estimate(None)
    assert compared.rules["stop_free"].auroc.value == 0.5
    assert compared.recommendation.endswith("embeds 1.88 frames instead of 0.00 with 75.00 residues instead of 0.00.")


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0.01, 0.2, "longest_orf is recommended: "),
        (-0.01, 0.2, "The evidence does not decide between the rules: "),
        (-0.2, -0.01, "stop_free is recommended: "),
    ],
)
def test_the_paired_interval_decides_and_all_figures_are_named(low: float, high: float, words: str) -> None:
    def figures(share: float, auroc: float, frames: float, residues: float) -> RuleFigures:
        coverage = {label: Coverage(share, share, share) for label in ("all", "viral", "host")}
        return RuleFigures(coverage, Estimate(0.7), Estimate(auroc), frames, residues, ())

    both = {"stop_free": figures(0.5, 0.7, 0.8, 64), "longest_orf": figures(0.99, 0.8, 4.0, 160)}
    assert recommendation(both, Estimate(0.1, low, high), 0.95) == (  # type: ignore[arg-type]
        f"{words}record AUROC 0.8000 by longest_orf, 0.7000 by stop_free (difference +0.1000, 95 % interval "
        f"{low:+.4f} to {high:+.4f}). longest_orf gives a verdict for 99.0 % of the viral chunks instead of 50.0 % and "
        "99.0 % of the host chunks instead of 50.0 %. Its cost: per chunk an encoder embeds 4.00 frames instead of "
        "0.80 (5.0 times as many) with 160.00 residues instead of 64.00 (2.5 times as many)."
    )


def test_a_rule_that_is_better_in_every_cluster_is_recommended() -> None:
    """Without a stop-free frame all records are at 0.5; by their stretches they are apart."""
    apart = [
        (f"{label}{n}", f"{label}{n}", label, 0, 1, 60, p)
        for label, p in (("viral", 0.9), ("host", 0.1))
        for n in range(5)
    ]
    compared = found(apart)
    assert compared.auroc_gain == Estimate(0.5, 0.5, 0.5)
    assert compared.recommendation.startswith("longest_orf is recommended: record AUROC 1.0000 by longest_orf, 0.5000")


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans(), st.integers(0, 3)), min_size=1, max_size=20))
def test_weighted_auroc_is_that_of_repeated_records(rows: list[tuple[int, bool, int]]) -> None:
    score, viral, weight = (np.array(column) for column in zip(*rows, strict=True))
    with np.errstate(invalid="ignore"):
        (ours,) = weighted_auroc(score.astype(np.float64), viral, weight[None].astype(np.float64))
    repeated = np.repeat(viral, weight)
    if repeated.all() or not repeated.any():
        assert np.isnan(ours)
    else:
        assert ours == pytest.approx(roc_auc_score(repeated, np.repeat(score, weight)))


def test_frames_are_those_of_both_rules_and_ambiguous_chunks_are_left_out() -> None:
    open_all, one_stop = "ATG" * 40, "ATG" * 4 + "TAA" + "ATG" * 35
    sequences = [open_all, one_stop, "N" + open_all, "TAA" * 3]
    rows = [
        {"chunk_id": f"r_chunk_{n}", "record_id": "r", "start_nt": 0, "end_nt": len(each), "sequence": each}
        for n, each in enumerate(sequences)
    ]
    chunks = unambiguous(pa.Table.from_pylist(rows, schema=chunks_schema()))
    assert chunks["chunk_id"].to_pylist() == ["r_chunk_0", "r_chunk_1", "r_chunk_3"]
    counted = {name: of.to_pylist() for name, of in frames_by_rule(chunks, 30).items()}
    # F2 of both reads TGA, F1 of the second one TAA after four codons; the last is short.
    assert counted == {
        **{"stop_free": [5, 4, 5], "stop_free_aa": [197, 157, 11]},
        **{"longest_orf": [5, 5, 0], "longest_orf_aa": [197, 192, 0], "longest_aa": [40, 40, 0]},
    }
