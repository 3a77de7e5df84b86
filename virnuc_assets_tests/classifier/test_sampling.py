"""As many host rows as viral ones, from the host groups as equally as these allow."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from virnuc_assets.classifier.sampling import SamplingError, balanced_rows, equal_quotas

LABELS = ["viral"] * 30 + ["host"] * 110
GROUPS = ["phage"] * 30 + ["bacteria"] * 80 + ["plant"] * 25 + ["archaea"] * 5


def test_host_groups_are_equal_as_far_as_they_reach() -> None:
    drawn = balanced_rows(LABELS, GROUPS, seed=0)
    assert drawn.counts == {"host archaea": 5, "host bacteria": 13, "host plant": 12, "viral phage": 30}
    assert drawn.indices.tolist() == sorted(set(drawn.indices.tolist()))
    assert [LABELS[index] for index in drawn.indices].count("host") == 30


def test_viral_rows_are_drawn_where_hosts_are_fewer() -> None:
    drawn = balanced_rows(LABELS + ["viral"] * 200, GROUPS + ["+ssRNA"] * 200, seed=0)
    assert sum(rows for kind, rows in drawn.counts.items() if kind.startswith("host")) == 110
    assert sum(rows for kind, rows in drawn.counts.items() if kind.startswith("viral")) == 110


def test_only_the_seed_decides() -> None:
    first, again, other = (balanced_rows(LABELS, GROUPS, seed=seed).indices for seed in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@given(available=st.dictionaries(st.text("abcdef", min_size=1), st.integers(0, 60), min_size=1), data=st.data())
def test_quotas_are_whole_possible_and_level(available: dict[str, int], data: st.DataObject) -> None:
    wanted = data.draw(st.integers(0, sum(available.values())))
    quotas = equal_quotas(available, wanted)
    assert sum(quotas.values()) == wanted
    assert all(0 <= quotas[group] <= rows for group, rows in available.items())
    not_all = [quotas[group] for group, rows in available.items() if quotas[group] < rows]
    # Who kept rows back gave at most one row less than whoever gave most.
    assert not not_all or min(not_all) >= max(quotas.values()) - 1


def test_both_labels_are_needed() -> None:
    with pytest.raises(SamplingError, match=r"found {'viral': 2}"):
        balanced_rows(["viral"] * 2, ["phage"] * 2, seed=0)
