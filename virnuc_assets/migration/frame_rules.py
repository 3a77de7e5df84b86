"""Both frame rules on the same test records with one classifier: what has a verdict, how good it is, what it costs.

The k-mer baseline scores every chunk with a stretch, whatever the project's rule. By `stop_free` only those of its
scores count whose chunk has a frame without a stop, by `longest_orf` all. What speaks for a record is the mean
log-odds of its chunks; without any verdict its probability is 0.5. Intervals as in `comparison`: whole clusters are
drawn, the same for both rules.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from virnuc_assets.classifier.record_rule import chunk_log_odds
from virnuc_assets.migration.comparison import Floats, bootstrap, student_tails
from virnuc_assets.sequences.frame_rule import STOP_FREE, FrameRule
from virnuc_assets.sequences.frame_table import open_frames
from virnuc_assets.sequences.records import UNAMBIGUOUS
from virnuc_assets.settings import DecisionSettings, FrameRuleName

RULES: tuple[FrameRuleName, ...] = get_args(FrameRuleName)
LABELS = ("viral", "host")
_PARTS = {"all": LABELS, **{label: (label,) for label in LABELS}}
_LENGTHS_AA: tuple[tuple[int, int | None], ...] = ((0, 50), (50, 80), (80, 120), (120, 160), (160, None))


@dataclass(frozen=True)
class Estimate:
    """A figure (None where nothing has a verdict) and its interval (None where a label has one cluster only)."""

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Coverage:
    """Which share has a frame, of records in any chunk."""

    chunks: float
    bases: float
    records: float


@dataclass(frozen=True)
class LengthBin:
    """Chunks with a verdict whose longest stretch has so many residues; both labels weigh the same in all bins."""

    low_aa: int
    high_aa: int | None  # less than that
    chunks: int
    mean_probability: float
    viral_share: float


@dataclass(frozen=True)
class GroupVerdicts:
    """Chunks of a group by one rule: how many have a frame, how many of the scored ones are called right."""

    covered: int
    scored: int
    correct: int
    mean_probability: float | None


@dataclass(frozen=True)
class Group:
    """Test chunks of a virus or host group."""

    label: str
    group: str
    records: int
    chunks: int
    rules: Mapping[FrameRuleName, GroupVerdicts]


@dataclass(frozen=True)
class RuleFigures:
    """What one rule gives."""

    coverage: Mapping[str, Coverage]  # of "all", and by label
    accuracy: Estimate  # of chunks with a verdict
    auroc: Estimate  # of all records
    frames_per_chunk: float  # to be embedded
    residues_per_chunk: float  # in these
    lengths: tuple[LengthBin, ...]


@dataclass(frozen=True)
class FrameRules:
    """Both rules; a gain is `longest_orf` minus `stop_free`."""

    records: int
    clusters: int
    chunks: int
    rules: Mapping[FrameRuleName, RuleFigures]
    accuracy_gain: Estimate
    auroc_gain: Estimate
    groups: tuple[Group, ...]
    recommendation: str


def unambiguous(chunks: pa.Table) -> pa.Table:
    """Chunks without an ambiguity code, which are those of a reference that are read."""
    return chunks.filter(pc.invert(pc.match_substring_regex(chunks["sequence"], f"[^{UNAMBIGUOUS}]")))


def frames_by_rule(chunks: pa.Table, min_orf_aa: int) -> dict[str, pa.Array]:
    """Of each chunk frames and residues by both rules, and residues of the longest stretch; without CDS evidence."""
    found: dict[str, pa.Array] = {}
    for rule in (STOP_FREE, FrameRule("longest_orf", min_orf_aa)):
        frames, _ = open_frames(chunks, None, rule)
        counted = (
            pa.table({"chunk_id": frames["chunk_id"], "aa": pc.binary_length(frames["protein"])})
            .group_by("chunk_id", use_threads=False)
            .aggregate([("aa", "count"), ("aa", "sum"), ("aa", "max")])
        )
        of_chunk = pc.index_in(chunks["chunk_id"], value_set=counted["chunk_id"].combine_chunks())
        for name, column in ((rule.name, "count"), (f"{rule.name}_aa", "sum"), ("longest_aa", "max")):
            found[name] = pc.fill_null(counted[f"aa_{column}"].take(of_chunk), 0).cast(pa.int64())
    return found


def compare_rules(table: pa.Table, settings: DecisionSettings) -> FrameRules | None:
    """Compare the rules on test chunks (`frame_rules_schema`); None if they are all of one label."""
    rows = table.sort_by("chunk_id").to_pandas()
    if rows["label"].nunique() < len(LABELS):
        return None
    rows["viral"], rows["group"] = rows["label"] == "viral", rows["group"].fillna("(no group)")
    rows["known"] = rows["probability"].notna()
    rows["right"] = rows["known"] & ((rows["probability"] >= 0.5) == rows["viral"])
    estimates = _estimates(rows, settings)
    counts = {"records": rows["record_id"].nunique(), "clusters": rows["cluster"].nunique(), "chunks": len(rows)}
    rules: dict[FrameRuleName, RuleFigures] = {
        rule: RuleFigures(
            coverage={name: _coverage(rows[rows["label"].isin(labels)], rule) for name, labels in _PARTS.items()},
            accuracy=estimates["accuracy", rule],
            auroc=estimates["auroc", rule],
            frames_per_chunk=float(rows[rule].mean()),
            residues_per_chunk=float(rows[f"{rule}_aa"].mean()),
            lengths=_lengths(rows, rule),
        )
        for rule in RULES
    }
    gains = estimates["accuracy", "gain"], estimates["auroc", "gain"]
    words = recommendation(rules, gains[1], settings.confidence)
    groups = tuple(_group(label, group, of_group) for (label, group), of_group in rows.groupby(["label", "group"]))
    return FrameRules(
        **counts, rules=rules, accuracy_gain=gains[0], auroc_gain=gains[1], groups=groups, recommendation=words
    )


def _coverage(rows: pd.DataFrame, rule: FrameRuleName) -> Coverage:
    covered = rows[rows[rule] > 0]
    return Coverage(
        chunks=len(covered) / len(rows),
        bases=float(covered["length_nt"].sum() / rows["length_nt"].sum()),
        records=covered["record_id"].nunique() / rows["record_id"].nunique(),
    )


def _lengths(rows: pd.DataFrame, rule: FrameRuleName) -> tuple[LengthBin, ...]:
    known = rows[rows["known"]]
    weight = 1.0 / known.groupby("label")["label"].transform("size")
    known = known.assign(weight=weight, weighted=weight * known["probability"])[known[rule] > 0]
    found = []
    for low, high in _LENGTHS_AA:
        of_bin = known[known["longest_aa"].between(low, high or math.inf, inclusive="left")]
        if len(of_bin):
            total = of_bin["weight"].sum()
            share = of_bin.loc[of_bin["viral"], "weight"].sum() / total
            found.append(LengthBin(low, high, len(of_bin), float(of_bin["weighted"].sum() / total), float(share)))
    return tuple(found)


def _group(label: str, group: str, rows: pd.DataFrame) -> Group:
    by_rule: dict[FrameRuleName, GroupVerdicts] = {}
    for rule in RULES:
        covered = rows[rows[rule] > 0]
        scored, mean = int(covered["known"].sum()), covered["probability"].mean()
        by_rule[rule] = GroupVerdicts(len(covered), scored, int(covered["right"].sum()), _finite(mean))
    return Group(label, group, rows["record_id"].nunique(), len(rows), by_rule)


def _estimates(rows: pd.DataFrame, settings: DecisionSettings) -> dict[tuple[str, str], Estimate]:
    """Accuracy of chunks and AUROC of records by both rules, and the gain, with intervals from the same draws."""
    rows = rows.assign(cluster=np.unique(rows["cluster"], return_inverse=True)[1])
    rows["log_odds"] = chunk_log_odds(rows["probability"].to_numpy())
    for rule in RULES:
        has_verdict = rows["known"] & (rows[rule] > 0)
        rows[f"scored {rule}"], rows[f"right {rule}"] = has_verdict, has_verdict & rows["right"]
        rows[f"odds {rule}"] = rows["log_odds"].where(has_verdict)
    of_clusters = rows.groupby("cluster")[[f"{what} {rule}" for rule in RULES for what in ("right", "scored")]].sum()
    counts = of_clusters.to_numpy(np.float64).reshape(-1, len(RULES), 2)  # (clusters, rules, 2)
    by_record = rows.groupby("record_id")
    known, odds = by_record[["cluster", "viral"]].first(), by_record[[f"odds {rule}" for rule in RULES]].mean()
    viral, cluster, scores = known["viral"].to_numpy(), known["cluster"].to_numpy(), odds.fillna(0.0).to_numpy().T

    def measured(weights: Floats) -> Floats:
        """(rounds, 2 · 3) of weights (rounds, clusters): accuracy and AUROC by each rule, and the gain."""
        sums = np.tensordot(weights, counts, axes=1)  # (rounds, rules, 2)
        with np.errstate(invalid="ignore", divide="ignore"):
            accuracy = sums[..., 0] / sums[..., 1]
            auroc = np.stack([weighted_auroc(score, viral, weights[:, cluster]) for score in scores], axis=1)
        both = np.stack([accuracy, auroc], axis=1)  # (rounds, 2, rules)
        return np.concatenate([both, np.diff(both, axis=2)], axis=2).reshape(len(weights), -1)

    names = [(what, name) for what in ("accuracy", "auroc") for name in (*RULES, "gain")]
    (values,) = measured(np.ones((1, len(counts))))
    if min(known.groupby("viral")["cluster"].nunique()) < 2:
        return {name: Estimate(_finite(value)) for name, value in zip(names, values, strict=True)}
    drawn = bootstrap(measured, len(counts), settings.bootstrap_rounds, settings.seed)
    tail = float(student_tails(np.bincount(cluster)[None].astype(np.float64), settings.confidence)[0])
    return {name: _estimate(value, of, tail) for name, value, of in zip(names, values, drawn.T, strict=True)}


def _estimate(value: float, drawn: Floats, tail: float) -> Estimate:
    """Rounds without a label, or without a verdict, are left out."""
    found = drawn[np.isfinite(drawn)]
    if not math.isfinite(value) or not len(found):
        return Estimate(_finite(value))
    return Estimate(float(value), *np.quantile(found, [tail, 1.0 - tail], method="weibull").tolist())


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def weighted_auroc(score: Floats, viral: np.ndarray, weights: Floats) -> Floats:
    """(rounds,): of n records that count as often as weights (rounds, n) say; NaN where a label has no weight."""
    order = np.argsort(score, kind="stable")
    first = np.flatnonzero(np.diff(score[order], prepend=-np.inf) > 0.0)  # of equal scores
    hosts, viruses = (
        np.add.reduceat(weights[:, order] * of_label[order], first, axis=1) for of_label in (~viral, viral)
    )
    below = np.cumsum(hosts, axis=1) - hosts / 2.0
    return np.asarray((viruses * below).sum(axis=1) / (viruses.sum(axis=1) * hosts.sum(axis=1)))


def recommendation(rules: Mapping[FrameRuleName, RuleFigures], gain: Estimate, confidence: float) -> str:
    """In words with its figures: by the paired interval of the AUROC of records."""
    old, new = (rules[name] for name in RULES)
    found = f"record AUROC {new.auroc.value:.4f} by longest_orf, {old.auroc.value:.4f} by stop_free"
    if gain.low is None or gain.high is None:
        verdict = f"No recommendation, as a label has one cluster of test records only: {found}"
    else:
        found += f" (difference {gain.value:+.4f}, {100 * confidence:g} % interval {gain.low:+.4f} to {gain.high:+.4f})"
        chosen = "longest_orf is recommended" if gain.low > 0.0 else "The evidence does not decide between the rules"
        verdict = f"{'stop_free is recommended' if gain.high < 0.0 else chosen}: {found}"
    shares = " and ".join(
        f"{100 * new.coverage[label].chunks:.1f} % of the {label} chunks instead of "
        f"{100 * old.coverage[label].chunks:.1f} %"
        for label in LABELS
    )
    costs = ((one.frames_per_chunk, one.residues_per_chunk) for one in (new, old))
    frames, residues = (
        f"{ours:.2f} {what} instead of {theirs:.2f}" + (f" ({ours / theirs:.1f} times as many)" if theirs else "")
        for what, ours, theirs in zip(("frames", "residues"), *costs, strict=True)
    )
    return (
        f"{verdict}. longest_orf gives a verdict for {shares}. Its cost: per chunk an encoder embeds "
        f"{frames} with {residues}."
    )
