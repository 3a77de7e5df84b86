"""The rule of records: learnt from planted chunks, it keeps what it promises, and knows what it does not know."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from virnuc_assets.classifier.record_rule import (
    MOST_LOG_ODDS,
    Auroc,
    Curve,
    RecordRule,
    chunk_evidence,
    chunk_log_odds,
    fit_record_rule,
    novel_chunks,
    record_probability,
)
from virnuc_assets.storage.schemas import predictions_schema

MAX_ERROR = 0.2
FLAT = Curve(slope=0.0, slope_per_doubling=0.0, intercept=0.0)
AUROC = {"share_of_chunks": Auroc(windows=0.5, records=0.5), "mean_log_odds": Auroc(windows=0.5, records=0.5)}


def rule(kind: str = "mean_log_odds", **more: object) -> RecordRule:
    curve = Curve(slope=1.0, slope_per_doubling=0.5, intercept=-0.25)
    values = {"kind": kind, "novel": curve, "most_chunks": 64, "auroc": AUROC, "records": 9, "clusters": 9, **more}
    return RecordRule.model_validate(values)


def planted(
    clusters: int, seed: int, log_odds: Callable[[np.random.Generator, bool, int], np.ndarray], known: bool = False
) -> pd.DataFrame:
    """One to three records of 1 to 40 chunks for each of so many clusters of each label."""
    generator, rows = np.random.default_rng(seed), list[dict[str, object]]()
    for cluster in range(2 * clusters):
        viral = cluster % 2 == 0
        for record in range(generator.integers(1, 4)):
            values = log_odds(generator, viral, int(generator.integers(1, 41)))
            rows += [
                {
                    "record_id": f"c{seed}.{cluster}.{record}",
                    "cluster": f"c{cluster}",
                    "label": "viral" if viral else "host",
                    "position": position,
                    "log_odds": value,
                    "known": known,
                }
                for position, value in enumerate(values.tolist())
            ]
    return pd.DataFrame(rows, columns=["record_id", "cluster", "label", "position", "log_odds", "known"]).astype(
        {"known": bool}
    )


def informative(generator: np.random.Generator, viral: bool, chunks: int) -> np.ndarray:
    """Neighbours err together: what they have in common is as large as the truth."""
    truth, common = (0.6 if viral else -0.6), generator.normal(0.0, 0.6)
    return truth + common + generator.normal(0.0, 1.0, chunks)


def noise(generator: np.random.Generator, viral: bool, chunks: int) -> np.ndarray:
    del viral
    return generator.normal(0.0, 1.0) + generator.normal(0.0, 1.0, chunks)


def judged(found: RecordRule, table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probability of each record of a table, its truth, and whether its call is certain."""
    record, viral = (
        table["record_id"].factorize()[0],
        table.groupby("record_id", sort=False)["label"].first() == "viral",
    )
    probability = record_probability(found, expit(table["log_odds"].to_numpy()), record, np.zeros(len(viral), bool))
    certain = np.maximum(probability, 1 - probability) >= 1 - MAX_ERROR
    return probability, viral.to_numpy(), certain


def test_probabilities_are_those_computed_by_hand() -> None:
    chunks = np.array([1, 4, 64, 4096, 0])
    found = rule().probability(np.array([0.5, -1.0, 0.25, 0.25, 0.0]), chunks, np.zeros(5, bool))
    expected = [1 / (1 + math.exp(-odds)) for odds in (0.25, -2.25, 0.75, 0.75)]  # 4096 chunks are as sure as 64
    assert found[:4].tolist() == pytest.approx(expected) and math.isnan(found[4])
    of_known = rule(known=FLAT).probability(np.array([3.0, 3.0]), np.array([2, 2]), np.array([True, False]))
    assert of_known.tolist() == pytest.approx([0.5, 1 / (1 + math.exp(-4.25))])
    log_odds = np.array([-0.1, 0.0, 7.0])
    assert chunk_evidence("share_of_chunks", log_odds).tolist() == [-0.5, 0.5, 0.5]
    assert chunk_evidence("mean_log_odds", log_odds).tolist() == log_odds.tolist()


@given(
    st.floats(0, 50),
    st.floats(0, 50),
    st.floats(-50, 50),
    st.lists(st.floats(-16, 16), min_size=2, max_size=9),
    st.integers(1, 10**7),
)
def test_more_evidence_makes_no_record_less_viral(
    slope: float, doubling: float, intercept: float, evidence: list[float], chunks: int
) -> None:
    curve = Curve(slope=slope, slope_per_doubling=doubling, intercept=intercept)
    ascending = np.sort(np.array(evidence))
    found = rule(novel=curve).probability(ascending, np.full(len(evidence), chunks), np.zeros(len(evidence), bool))
    assert (np.diff(found) >= 0).all() and ((found >= 0) & (found <= 1)).all()


def test_log_odds_are_bounded_and_keep_what_has_no_score() -> None:
    found = chunk_log_odds(np.array([0.0, 0.5, 0.75, 1.0, np.nan], np.float32))
    assert found[:4].tolist() == pytest.approx([-MOST_LOG_ODDS, 0.0, math.log(3), MOST_LOG_ODDS])
    assert math.isnan(found[4])


@settings(max_examples=10, deadline=None)
@given(st.randoms())
def test_the_order_of_records_and_rows_changes_nothing(random: np.random.Generator) -> None:
    table = planted(4, 1, informative)
    random.shuffle(rows := list(range(len(table))))
    assert fit_record_rule(table.iloc[rows], 0) == fit_record_rule(table, 0)


def test_certain_calls_on_new_clusters_are_wrong_as_seldom_as_promised() -> None:
    """Errors of one fit vary, so the certain records of ten fits are judged together; the surer, the rarer."""
    wrong, sure, calls = 0, 0, 0
    for seed in range(10):
        found = fit_record_rule(planted(20, seed, informative), seed)
        assert found is not None and found.auroc["mean_log_odds"].windows > 0.75
        probability, viral, certain = judged(found, planted(40, 100 + seed, informative))
        wrong += int(((probability >= 0.5) != viral)[certain].sum())
        sure, calls = sure + int(certain.sum()), calls + len(certain)
    assert 0.4 < sure / calls < 0.8
    assert wrong / sure <= MAX_ERROR


def test_chunks_that_say_nothing_leave_nearly_all_records_open() -> None:
    shares = []
    for seed in range(10):
        found = fit_record_rule(planted(30, seed, noise), seed)
        assert found is not None
        shares.append(judged(found, planted(40, 100 + seed, noise))[2].mean())
    assert np.mean(shares) < 0.05


def test_evidence_to_the_contrary_is_not_learnt() -> None:
    found = fit_record_rule(planted(10, 0, lambda *given: -informative(*given)), 0)
    assert found is not None and found.novel.slope == found.novel.slope_per_doubling == 0.0
    assert judged(found, planted(5, 7, informative))[0].tolist() == pytest.approx([0.5] * 5 * 4, abs=0.01)


def test_the_kind_is_the_one_that_separates_better_and_of_equals_the_present_one() -> None:
    """Sizes say nothing where each chunk has the same; outliers mislead a mean and no vote."""

    def equal(_: np.random.Generator, viral: bool, chunks: int) -> np.ndarray:
        return np.full(chunks, 1.0 if viral else -1.0)

    def outliers(generator: np.random.Generator, viral: bool, chunks: int) -> np.ndarray:
        values = np.where(generator.random(chunks) < 0.75, 1.0, -1.0) * (0.1 if viral else -0.1)
        return np.where(generator.random(chunks) < 0.2, 16.0 * generator.choice([-1, 1]), values)

    expected = {"share_of_chunks": [equal, outliers], "mean_log_odds": [informative]}
    for kind, plants in expected.items():
        for plant in plants:
            found = fit_record_rule(planted(20, 3, plant), 0)
            assert found is not None and found.kind == kind
            assert max(found.auroc, key=lambda one: found.auroc[one].windows) == kind


def test_a_cluster_of_many_records_weighs_as_any_other() -> None:
    table = planted(10, 0, informative).groupby("record_id").head(1)  # of one chunk each, which no window divides
    own = table[table["cluster"] == "c0"]
    copies = [own.assign(record_id=own["record_id"] + f".{number}") for number in range(20)]
    found, expected = fit_record_rule(pd.concat([table, *copies]), 0), fit_record_rule(table, 0)
    assert found is not None and expected is not None and found.records == expected.records + 20 * len(own)
    assert found.novel.intercept == pytest.approx(expected.novel.intercept, abs=1e-3)
    assert found.novel.slope == pytest.approx(expected.novel.slope, abs=1e-3)
    for kind, auroc in expected.auroc.items():
        assert found.auroc[kind].windows == pytest.approx(auroc.windows, abs=1e-6)


def test_relatives_have_a_curve_of_their_own_where_they_were_scored() -> None:
    novel = planted(10, 0, noise)
    known = planted(10, 0, informative, known=True)  # the same records, scored by models that knew relatives of them
    found = fit_record_rule(pd.concat([novel, known]), 0)
    alone = fit_record_rule(novel, 0)
    assert found is not None and alone is not None and alone.known is None
    assert found.novel == alone.novel and found.known is not None and found.records == alone.records
    assert found.known.slope + found.known.slope_per_doubling > 1.0


@pytest.mark.parametrize(("clusters", "fitted"), [(0, False), (3, False), (4, True)])
def test_of_too_few_clusters_no_rule_is_learnt(clusters: int, fitted: bool) -> None:
    table = planted(clusters, 2, informative)
    found = fit_record_rule(table, 0)
    assert (found is not None) == fitted
    if found is not None:
        assert (found.clusters, found.records) == (8, table["record_id"].nunique())
        assert found.described().startswith(("mean log-odds", "share of the scored"))


def test_chunks_of_scored_frames_are_those_of_virnucpros_rule() -> None:
    rows = [("r_1_chunk_2", 0.75), ("r_1_chunk_2", 0.5), ("r_1_chunk_10", 0.25), ("s_chunk_1", 0.9)]
    table = pa.table(
        {
            "frame_id": [f"{chunk}F{row}" for row, (chunk, _) in enumerate(rows)],
            "chunk_id": [chunk for chunk, _ in rows],
            "record_id": [chunk.rpartition("_chunk")[0] for chunk, _ in rows],
            "score_other": pa.array([1 - virus for _, virus in rows], pa.float32()),
            "score_virus": pa.array([virus for _, virus in rows], pa.float32()),
            "call": [""] * 4,
        },
        schema=predictions_schema(),
    )
    split = pa.table({"record_id": ["s", "x", "r_1"], "cluster": ["a", "b", "c"], "label": ["host", "host", "viral"]})
    found = novel_chunks(table, split, None).to_dict("records")
    odds = [math.log(0.75 / 0.5), math.log(0.25 / 0.75), math.log(9)]
    assert [row.pop("log_odds") for row in found] == pytest.approx(odds, rel=1e-6)
    assert found == [
        {"record_id": "r_1", "cluster": "c", "label": "viral", "position": 2, "known": False},
        {"record_id": "r_1", "cluster": "c", "label": "viral", "position": 10, "known": False},
        {"record_id": "s", "cluster": "a", "label": "host", "position": 1, "known": False},
    ]
    cooled = novel_chunks(table, split, 2.0)["log_odds"].tolist()
    assert cooled[2] == pytest.approx(odds[2] / 2, rel=1e-6) and abs(cooled[1]) < abs(odds[1])
