"""Draws as many host rows as viral rows, and the host rows as equally as possible over the host groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from virnuc_assets.errors import VirnucError


class SamplingError(VirnucError):
    """Rows from which no balanced set can be drawn."""


@dataclass(frozen=True)
class BalancedRows:
    """Rows drawn without replacement.

    Attributes:
        indices: (m,) int64, ascending, positions in the rows given.
        counts: "label group" → rows drawn, sorted by name.
    """

    indices: np.ndarray
    counts: Mapping[str, int]


def balanced_rows(labels: Sequence[str] | np.ndarray, groups: Sequence[str] | np.ndarray, seed: int) -> BalancedRows:
    """All rows of the rarer label and as many of the other.

    Args:
        labels: "viral" or "host", one a row.
        groups: virus or host group, one a row.
        seed: decides which rows are left out.

    Raises:
        SamplingError: one of the labels has no rows, or another label occurs.
    """
    label_of, group_of = np.asarray(labels, dtype=np.str_), np.asarray(groups, dtype=np.str_)
    found = _counted(label_of)
    if set(found) != {"viral", "host"}:
        raise SamplingError(
            f"expected rows of both labels, viral and host; found {found}. Look at the split of the records."
        )
    wanted = min(found.values())
    generator = np.random.default_rng(seed)
    drawn = [generator.choice(np.flatnonzero(label_of == "viral"), wanted, replace=False)]
    host = label_of == "host"
    quotas = equal_quotas(_counted(group_of[host]), wanted)
    for group in sorted(quotas):
        drawn.append(generator.choice(np.flatnonzero(host & (group_of == group)), quotas[group], replace=False))
    indices = np.sort(np.concatenate(drawn))
    return BalancedRows(indices, counted(label_of[indices], group_of[indices]))


def equal_quotas(available: Mapping[str, int], wanted: int) -> dict[str, int]:
    """Shares of `wanted` as equal as the available rows allow; groups that have too few give all they have."""
    quotas, left = {}, wanted
    ascending = sorted(available.items(), key=lambda item: (item[1], item[0]))
    for done, (group, rows) in enumerate(ascending):
        quotas[group] = min(rows, left // (len(ascending) - done))
        left -= quotas[group]
    return quotas


def counted(labels: np.ndarray, groups: np.ndarray) -> dict[str, int]:
    """Rows of every "label group", sorted by name; both (n,) str."""
    return _counted(np.char.add(np.char.add(labels, " "), groups))


def _counted(names: np.ndarray) -> dict[str, int]:
    found, counts = np.unique(names, return_counts=True)
    return dict(zip(found.tolist(), counts.tolist(), strict=True))
