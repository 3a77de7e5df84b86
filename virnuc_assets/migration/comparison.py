"""Paired differences between the candidate and another variant, with intervals and tests by clusters of relatives.

Sign convention everywhere: drop = other − candidate. A positive drop means that the candidate is worse. Rows of one
genome, and of related ones, are not independent, so whole clusters are drawn and counted, never rows.

Accuracy and F1 of all rows have a percentile bootstrap interval over clusters (B. Efron and R. Tibshirani, An
Introduction to the Bootstrap, 1993, chapter 13), its tails widened to Student's t (T. Hesterberg, The American
Statistician 69, 2015, 371) with L. Kish's effective number of clusters, since clusters differ in size. A group's drop
is a ratio of sums over clusters with a linearized standard error and Student's t; p-values over groups are adjusted
by S. Holm (Scandinavian Journal of Statistics 6, 1979, 65). `benchmarks/bench_decision.py` measures all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy.stats import binomtest, norm
from scipy.stats import t as student

from virnuc_assets.classifier.calls import chunk_calls
from virnuc_assets.classifier.metrics import LEVELS, Level, levels_of
from virnuc_assets.migration.evidence import Gaps, VariantEvidence
from virnuc_assets.settings import DecisionSettings

Floats = NDArray[np.float64]
GroupStatus = Literal["lost", "worse", "no loss shown", "too few clusters"]
ROW_FACTS = ("chunk_id", "record_id", "record_length_nt", "cluster", "label", "group")
EXAMPLES = 3
# Bounds the memory of the weights, rounds x clusters.
_ROUNDS_AT_ONCE = 256


@dataclass(frozen=True)
class PairedCalls:
    """Truth and both sides' calls of m frames, chunks or records: bool (m,), True for viral."""

    viral: NDArray[np.bool_]
    candidate: NDArray[np.bool_]
    other: NDArray[np.bool_]


@dataclass(frozen=True)
class PairedRows:
    """n test rows scored by both sides, sorted by frame_id."""

    levels: Mapping[Level, PairedCalls]
    cluster: NDArray[np.int64]  # (n,) number of the row's cluster of relatives, by the clusters' sorted names
    group: NDArray[np.int64]  # (n,) index into the group names
    group_names: tuple[tuple[str, str], ...]  # (label, group) pairs, sorted


@dataclass(frozen=True)
class Drop:
    """How much lower the candidate scores, and the interval (None if there is only one cluster)."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class GroupDrop:
    """Accuracy of both sides on one group's rows.

    Its status is "lost" more than the margin; "worse" beyond chance, with a drop beyond the margin that chance may have
    enlarged; "no loss shown"; or "too few clusters" for a test.
    """

    label: str
    group: str
    rows: int
    clusters: int
    candidate_accuracy: float
    other_accuracy: float
    drop: Drop
    status: GroupStatus
    p_worse: float | None  # that a group without any loss shows such a drop, adjusted for all tested groups
    p_lost: float | None  # the same of a group that lost the margin; both None if not tested


@dataclass(frozen=True)
class McNemar:
    """Rows that only one side calls right, and the exact two-sided p of as uneven a share by chance.

    Source: Q. McNemar, Psychometrika 12 (1947) 153; exact as a binomial test of the discordant pairs. It takes rows
    as independent: frames of one genome are not, so p of frames is too small where clusters are large.
    """

    level: Level
    rows: int
    only_candidate_right: int
    only_other_right: int
    p: float


@dataclass(frozen=True)
class Comparison:
    """The candidate against one other variant on the rows that both have scored."""

    other: str
    rows: int
    viral_rows: int
    host_rows: int
    records: int
    clusters: int
    viral_clusters: int
    host_clusters: int
    accuracy_drop: Drop
    f1_drop: Drop
    groups: tuple[GroupDrop, ...]
    mcnemar: tuple[McNemar, ...]


@dataclass(frozen=True)
class GroupTests:
    """Drops of s studies' groups, each array (s, groups); p-values are 1 where a group is not tested."""

    drop: Floats
    error: Floats
    clusters: NDArray[np.int64]
    tested: NDArray[np.bool_]
    p_worse: Floats
    p_lost: Floats
    lost: NDArray[np.bool_]
    worse: NDArray[np.bool_]


def usable_rows(variant: VariantEvidence) -> tuple[pa.Table | None, Gaps]:
    """The variant's predictions sorted by frame_id, or None and why they cannot be judged."""
    rows = variant.predictions
    if rows is None:
        return None, variant.gaps
    if pc.count_distinct(rows["label"]).as_py() < 2:
        found = f"{rows.num_rows} rows, all labelled {rows['label'][0]}" if rows.num_rows else "no rows"
        return None, (
            f"{variant.variant}: stored predictions are not usable: expected rows of both labels, found {found}",
        )
    return rows.sort_by("frame_id"), ()


def pair(candidate: VariantEvidence, other: VariantEvidence) -> tuple[PairedRows | None, Gaps]:
    """Put two variants side by side by frame_id; with the k-mer baseline by the chunks that both have scored.

    Returns:
        The paired rows and no gap, or None and each gap: predictions that are absent or unusable, rows that
        only one side has scored, rows whose label, cluster or group differ (with counts and examples).
    """
    (left, left_gaps), (right, right_gaps) = usable_rows(candidate), usable_rows(other)
    if left is None or right is None:
        return None, left_gaps + right_gaps
    if candidate.is_kmer != other.is_kmer:
        left, right = _common_chunks(left, right)
        if not left.num_rows:
            return None, (f"{candidate.variant} and {other.variant} have scored no chunk that the other has, too",)
    if gaps := _row_gaps((candidate.variant, left), (other.variant, right)):
        return None, gaps
    groups = [group or "(no group)" for group in left["group"].to_pylist()]
    pairs = list(zip(left["label"].to_pylist(), groups, strict=True))
    names = sorted(set(pairs))
    ours, theirs = levels_of(left), levels_of(right)
    calls = {level: PairedCalls(ours[level].viral, ours[level].called, theirs[level].called) for level in LEVELS}
    cluster = np.unique(left["cluster"].to_numpy(), return_inverse=True)[1]
    return PairedRows(calls, cluster, np.array([names.index(each) for each in pairs]), tuple(names)), ()


def _common_chunks(left: pa.Table, right: pa.Table) -> tuple[pa.Table, pa.Table]:
    """A row for each chunk that both sides have scored, with the chunk's call; sorted by chunk."""
    left, right = _chunk_rows(left), _chunk_rows(right)
    left_ids, right_ids = left["chunk_id"], right["chunk_id"]
    return left.filter(pc.is_in(left_ids, right_ids)), right.filter(pc.is_in(right_ids, left_ids))


def _chunk_rows(table: pa.Table) -> pa.Table:
    calls = chunk_calls(table).sort_by("chunk_id")
    first = np.unique(table["chunk_id"].to_numpy().astype(str), return_index=True)[1]
    facts = table.take(pa.array(first)).sort_by("chunk_id")
    columns = {**{name: facts[name] for name in facts.column_names}, "frame_id": calls["chunk_id"]}
    return pa.table({**columns, **{name: calls[name] for name in ("score_other", "score_virus", "call")}})


def _row_gaps(left: tuple[str, pa.Table], right: tuple[str, pa.Table]) -> Gaps:
    """Rows of one side only; or, where both have the same rows, facts on which they differ."""
    (left_name, left_table), (right_name, right_table) = left, right
    left_ids, right_ids = left_table["frame_id"].to_pylist(), right_table["frame_id"].to_pylist()
    if left_ids != right_ids:
        only = ((left_name, set(left_ids) - set(right_ids)), (right_name, set(right_ids) - set(left_ids)))
        counts = "; ".join(f"{len(ids)} only in {name}{_examples(sorted(ids))}" for name, ids in only)
        return (
            f"{left_name} ({len(left_ids)} test rows) and {right_name} ({len(right_ids)}) did not score the "
            f"same rows: {counts}; evaluate both on one split",
        )
    gaps = []
    for fact in ROW_FACTS:
        rows = zip(left_ids, left_table[fact].to_pylist(), right_table[fact].to_pylist(), strict=True)
        if different := [f"{frame_id}: {a} and {b}" for frame_id, a, b in rows if a != b]:
            gaps.append(
                f"{left_name} and {right_name} disagree on the {fact} of {len(different)} of {len(left_ids)} "
                f"test rows{_examples(different)}; evaluate both on one split"
            )
    return tuple(gaps)


def _examples(items: list[str]) -> str:
    return f" (e.g. {', '.join(items[:EXAMPLES])})" if items else ""


def compare(paired: PairedRows, other: str, settings: DecisionSettings) -> Comparison:
    """Differences, intervals and tests of rows that both sides have scored; `other` names the other variant."""
    counts = confusion_counts(paired)  # (clusters, groups, 2, 4)
    whole = counts.sum(axis=1)  # (clusters, 2, 4)
    accuracy, f1 = _drops(whole, settings)
    labelled = whole[:, 0].reshape(-1, 2, 2).sum(axis=2)  # (clusters, 2): host rows, viral rows
    return Comparison(
        other=other,
        rows=len(paired.cluster),
        viral_rows=int(labelled[:, 1].sum()),
        host_rows=int(labelled[:, 0].sum()),
        records=len(paired.levels["record"].viral),
        clusters=len(counts),
        viral_clusters=int((labelled[:, 1] > 0).sum()),
        host_clusters=int((labelled[:, 0] > 0).sum()),
        accuracy_drop=accuracy,
        f1_drop=f1,
        groups=_group_drops(counts, paired.group_names, settings),
        mcnemar=tuple(mcnemar(level, paired.levels[level]) for level in LEVELS),
    )


def confusion_counts(paired: PairedRows) -> Floats:
    """Confusion counts, (clusters, groups, 2, 4): side 0 the candidate, 1 the other; cells tn, fp, fn, tp.

    Whole numbers in float64, so that sums are exact in any order.
    """
    shape = (int(paired.cluster.max()) + 1, len(paired.group_names))
    place, calls = paired.cluster * shape[1] + paired.group, paired.levels["frame"]
    sides = []
    for called in (calls.candidate, calls.other):
        cell = 2 * calls.viral.astype(np.int64) + called
        sides.append(np.bincount(4 * place + cell, minlength=4 * shape[0] * shape[1]).reshape(*shape, 4))
    return np.stack(sides, axis=2).astype(np.float64)


def accuracy_drop(counts: Floats) -> Floats:
    """The other's accuracy minus the candidate's from confusion counts (..., 2, 4) of at least one row."""
    right = counts[..., 0] + counts[..., 3]  # (..., 2)
    # One division of whole numbers: a drop of 5 rows in 100 is 0.05, not 0.05000000000000004.
    return np.asarray((right[..., 1] - right[..., 0]) / counts[..., 0, :].sum(axis=-1))


def f1_drop(counts: Floats) -> Floats:
    """The other's F1 of the viral class minus the candidate's; 0 if nothing is viral or called so."""
    hits = 2.0 * counts[..., 3]
    score = hits / np.maximum(hits + counts[..., 1] + counts[..., 2], 1.0)  # (..., 2)
    return np.asarray(score[..., 1] - score[..., 0])


def drop_intervals(counts: Floats, rounds: int, seed: int, confidence: float) -> Floats:
    """Bootstrap intervals of both drops of s studies (s, clusters, 2, 4), which share their draws.

    Returns:
        (2, s, 2): of accuracy and F1, lower and upper bound.
    """

    def drops(weights: Floats) -> Floats:
        sums = np.tensordot(weights, counts, axes=(1, 1))  # (rounds, s, 2, 4)
        return np.stack([accuracy_drop(sums), f1_drop(sums)], axis=1)

    values = bootstrap(drops, counts.shape[1], rounds, seed)  # (rounds, 2, s)
    tails = student_tails(counts[:, :, 0].sum(axis=-1), confidence)
    # Weibull's definition leaves out just this share of the rounds on average; the usual one leaves out more.
    bounds = [
        np.quantile(values[:, :, s], [tail, 1.0 - tail], axis=0, method="weibull") for s, tail in enumerate(tails)
    ]
    return np.stack(bounds).transpose(2, 0, 1)


def bootstrap(measured: Callable[[Floats], Floats], clusters: int, rounds: int, seed: int) -> Floats:
    """`measured` of the weights of all rounds, (rounds, ...); each call has those of some rounds, (n, clusters)."""
    generator = np.random.default_rng(seed)
    sizes = (min(_ROUNDS_AT_ONCE, rounds - start) for start in range(0, rounds, _ROUNDS_AT_ONCE))
    return np.concatenate([measured(cluster_weights(generator, size, clusters)) for size in sizes])


def cluster_weights(generator: np.random.Generator, rounds: int, clusters: int) -> Floats:
    """How often each round draws each cluster, with replacement: float64 (rounds, clusters)."""
    drawn = generator.integers(0, clusters, size=(rounds, clusters))
    flat = drawn + clusters * np.arange(rounds)[:, None]
    return np.bincount(flat.ravel(), minlength=rounds * clusters).reshape(rounds, clusters).astype(np.float64)


def student_tails(rows: Floats, confidence: float) -> Floats:
    """Share of rounds to leave out on each side, of clusters of so many rows (s, clusters): Φ(t(α/2; effective − 1)).

    A plain percentile covers 92 % instead of 95 % for 12 clusters whose sizes differ.
    """
    effective = rows.sum(axis=1) ** 2 / (rows**2).sum(axis=1)
    # With one cluster that holds nearly all rows, t has hardly a degree of freedom: the interval is all that was drawn.
    return np.asarray(norm.cdf(student.ppf((1.0 - confidence) / 2.0, np.maximum(effective - 1.0, 0.5))))


def group_tests(counts: Floats, settings: DecisionSettings) -> GroupTests:
    """Test each group with enough clusters in s studies at once, (s, clusters, groups, 2, 4)."""
    right = counts[..., 0] + counts[..., 3]  # (s, clusters, groups, 2)
    lost, rows = right[..., 1] - right[..., 0], counts[..., 0, :].sum(axis=-1)  # (s, clusters, groups)
    clusters, total = (rows > 0).sum(axis=1), np.maximum(rows.sum(axis=1), 1.0)
    drop = lost.sum(axis=1) / total
    square = ((lost - drop[:, None] * rows) ** 2).sum(axis=1)
    error = np.sqrt(square * clusters / np.maximum(clusters - 1, 1)) / total
    tested = clusters >= settings.min_group_clusters
    p_worse, p_lost = (
        _holm(np.where(tested, _beyond(drop, least, error, clusters), np.inf))
        for least in (0.0, settings.max_group_drop)
    )
    is_lost = p_lost <= settings.group_error
    is_worse = (p_worse <= settings.group_error) & (drop > settings.max_group_drop) & ~is_lost
    return GroupTests(drop, error, clusters, tested, p_worse, p_lost, is_lost, is_worse)


def _beyond(drop: Floats, least: float, error: Floats, clusters: NDArray[np.int64]) -> Floats:
    """One-sided p of drops against a loss of `least`; certain where all clusters agree, so that there is no error."""
    with np.errstate(divide="ignore", invalid="ignore"):
        p = student.sf((drop - least) / error, np.maximum(clusters - 1, 1))
    return np.where(error > 0.0, p, np.where(drop > least, 0.0, 1.0))


def _holm(p: Floats) -> Floats:
    """Adjusted p-values along the last axis; infinite ones are not tested and come back as 1."""
    order = np.argsort(p, axis=-1)
    ranked = np.take_along_axis(p, order, axis=-1)
    left = np.isfinite(p).sum(axis=-1, keepdims=True) - np.arange(p.shape[-1])
    stepped = np.minimum(np.maximum.accumulate(ranked * np.maximum(left, 1), axis=-1), 1.0)
    adjusted = np.empty_like(p)
    np.put_along_axis(adjusted, order, stepped, axis=-1)
    return adjusted


def mcnemar(level: Level, calls: PairedCalls) -> McNemar:
    """McNemar's exact test of paired calls."""
    ours, theirs = calls.candidate == calls.viral, calls.other == calls.viral
    only_ours, only_theirs = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
    discordant = only_ours + only_theirs
    p = float(binomtest(only_ours, discordant).pvalue) if discordant else 1.0
    return McNemar(level, len(calls.viral), only_ours, only_theirs, p)


def _drops(counts: Floats, settings: DecisionSettings) -> tuple[Drop, Drop]:
    total = counts.sum(axis=0)
    accuracy, f1 = float(accuracy_drop(total)), float(f1_drop(total))
    if len(counts) < 2:
        return Drop(accuracy, None, None), Drop(f1, None, None)
    bounds = drop_intervals(counts[None], settings.bootstrap_rounds, settings.seed, settings.confidence)[:, 0].tolist()
    return Drop(accuracy, *bounds[0]), Drop(f1, *bounds[1])


def _group_drops(
    counts: Floats, names: tuple[tuple[str, str], ...], settings: DecisionSettings
) -> tuple[GroupDrop, ...]:
    tests = group_tests(counts[None], settings)
    right, rows = (counts[..., 0] + counts[..., 3]).sum(axis=0), counts[..., 0, :].sum(axis=(0, 2))  # (g, 2), (g,)
    accuracy = right / rows[:, None]
    reach = student.ppf((1.0 + settings.confidence) / 2.0, np.maximum(tests.clusters[0] - 1, 1)) * tests.error[0]
    found = []
    for g, (label, group) in enumerate(names):
        clusters, value, tested = int(tests.clusters[0, g]), float(tests.drop[0, g]), bool(tests.tested[0, g])
        bounds = (value - float(reach[g]), value + float(reach[g])) if clusters > 1 else (None, None)
        status: GroupStatus = "no loss shown" if tested else "too few clusters"
        if tests.lost[0, g] or tests.worse[0, g]:
            status = "lost" if tests.lost[0, g] else "worse"
        found.append(
            GroupDrop(
                label=label,
                group=group,
                rows=int(rows[g]),
                clusters=clusters,
                candidate_accuracy=float(accuracy[g, 0]),
                other_accuracy=float(accuracy[g, 1]),
                drop=Drop(value, *bounds),
                status=status,
                p_worse=float(tests.p_worse[0, g]) if tested else None,
                p_lost=float(tests.p_lost[0, g]) if tested else None,
            )
        )
    return tuple(found)
