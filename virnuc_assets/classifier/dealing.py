"""Deals whole clusters to train, validation and test, stratified by label and group."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping
from typing import NamedTuple

from virnuc_assets.classifier.split import SPLITS, Split
from virnuc_assets.settings import SplitSettings


class Stratum(NamedTuple):
    """What shares are counted by."""

    label: str
    group: str


Counts = Mapping[str, Counter[Stratum]]


def deal(
    counts: Counts, fixed: Mapping[str, Split], closed: Collection[str], settings: SplitSettings
) -> dict[str, tuple[Split, str]]:
    """Deal clusters, large ones first and those of like size as the seed says, to where rows of their kind lack most.

    A cluster counts for the label and group most of its rows have. Every side gets a cluster of every label, and
    of every group that has as many clusters as there are sides; beyond that the largest shortfall of rows decides.

    Args:
        counts: cluster → rows by label and group.
        fixed: side of the clusters that have one already; they count for the shares.
        closed: labels whose test side is full: their clusters go to train and validation alone.
        settings: seed and wanted fractions of rows.

    Returns:
        Side and why, of every cluster that had none.
    """
    # What is tested of a closed label was not dealt, and takes no part in the shares.
    counts = {name: found for name, found in counts.items() if fixed.get(name) != "test" or not _closed(found, closed)}
    order = sorted(counts, key=lambda cluster: _turn(cluster, counts[cluster].total(), settings.seed))
    kind = {cluster: _main_stratum(counts[cluster]) for cluster in order}
    clusters = Counter(scope for cluster in order for scope in _scopes(kind[cluster]))
    to_come = Counter(scope for cluster in order if cluster not in fixed for scope in _scopes(kind[cluster]))
    total: Counter[str] = Counter()
    have: dict[Split, Counter[str]] = {split: Counter() for split in SPLITS}
    for cluster in order:
        _add(total, counts[cluster])
        if cluster in fixed:
            _add(have[fixed[cluster]], counts[cluster])
    dealt: dict[str, tuple[Split, str]] = {}
    for cluster in (cluster for cluster in order if cluster not in fixed):
        scopes = _scopes(kind[cluster])
        allowed: list[Split] = ["train", "validation"] if _closed(counts[cluster], closed) else list(SPLITS)
        fractions = _fractions(settings, allowed)
        why = f"split furthest below its share of {scopes[1]}"
        for scope in scopes:
            lacking = [split for split in allowed if not have[split][scope]]
            if lacking and clusters[scope] >= len(allowed) and len(lacking) >= to_come[scope]:
                allowed, why = lacking, f"split without {scope}"
                break
        short = {
            split: sum(fractions[split] - have[split][scope] / total[scope] for scope in scopes) for split in allowed
        }
        chosen = max(allowed, key=short.__getitem__)
        dealt[cluster] = (chosen, why)
        _add(have[chosen], counts[cluster])
        to_come.subtract(scopes)
    return dealt


def _closed(counts: Counter[Stratum], closed: Collection[str]) -> bool:
    return any(stratum.label in closed for stratum in counts)


def _fractions(settings: SplitSettings, allowed: Collection[Split]) -> dict[Split, float]:
    """Wanted shares of the sides allowed, which together are all that is dealt."""
    wanted: dict[Split, float] = {
        "train": 1.0 - settings.validation_fraction - settings.test_fraction,
        "validation": settings.validation_fraction,
        "test": settings.test_fraction,
    }
    whole = sum(wanted[split] for split in SPLITS if split in allowed)
    return {split: wanted[split] / whole for split in allowed}


def _turn(cluster: str, rows: int, seed: int) -> tuple[int, bytes]:
    """Large clusters first, while shares can still be evened out; those of like size (a factor of 2) by the seed."""
    return -rows.bit_length(), hashlib.sha256(f"{seed}:{cluster}".encode()).digest()


def _main_stratum(counts: Counter[Stratum]) -> Stratum:
    return max(sorted(counts), key=counts.__getitem__)


def _scopes(stratum: Stratum) -> tuple[str, str]:
    """The label, and the group within it: where shares and coverage are counted."""
    return stratum.label, f"{stratum.label} {stratum.group}"


def _add(totals: Counter[str], rows: Counter[Stratum]) -> None:
    for stratum, count in rows.items():
        for scope in _scopes(stratum):
            totals[scope] += count
