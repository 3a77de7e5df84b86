"""Rows are drawn in balance and copied out in order; scratch folders belong to one running training."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from virnuc_assets.classifier import datasets
from virnuc_assets.classifier.datasets import (
    balanced_rows,
    draw,
    equal_quotas,
    scratch_next_to,
    store_rows,
)
from virnuc_assets.errors import VirnucError
from virnuc_assets.storage.merging import vectors_of

from .feature_tables import GROUPS, RECORDS, ROWS, feature_rows, fit_of, split_of, write_shards, write_split

PROJECT = Path(__file__).parents[2]
LABELS = np.array(["viral"] * 30 + ["host"] * 110)
KINDS = np.array(["phage"] * 30 + ["bacteria"] * 80 + ["plant"] * 25 + ["archaea"] * 5)


def test_host_groups_are_equal_as_far_as_they_reach_and_only_the_seed_decides() -> None:
    drawn, again, other = (balanced_rows(LABELS, KINDS, seed) for seed in (0, 0, 1))
    assert Counter(KINDS[drawn]) == {"archaea": 5, "bacteria": 13, "plant": 12, "phage": 30}
    assert drawn.tolist() == sorted(set(drawn.tolist())) == again.tolist() != other.tolist()


def test_too_many_rows_are_drawn_in_runs_of_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "MAX_ROWS", 40)
    monkeypatch.setattr(datasets, "RUN_ROWS", 10)
    records = pd.Series([f"r{number // 60}" for number in range(240)])
    chosen = np.flatnonzero(datasets._drawn_runs(records, seed=0))
    assert len(chosen) == 40
    assert all((np.diff(run) == 1).all() and run[0] % 10 == 0 for run in chosen.reshape(-1, 10))


def test_viral_rows_are_drawn_where_hosts_are_fewer() -> None:
    labels, kinds = np.append(LABELS, ["viral"] * 200), np.append(KINDS, ["+ssRNA"] * 200)
    assert Counter(labels[balanced_rows(labels, kinds, seed=0)]) == {"host": 110, "viral": 110}


@given(available=st.dictionaries(st.text("abcdef", min_size=1), st.integers(0, 60), min_size=1), data=st.data())
def test_quotas_are_whole_possible_and_level(available: dict[str, int], data: st.DataObject) -> None:
    wanted = data.draw(st.integers(0, sum(available.values())))
    quotas = equal_quotas(available, wanted)
    assert sum(quotas.values()) == wanted
    assert all(0 <= quotas[group] <= rows for group, rows in available.items())
    not_all = [quotas[group] for group, rows in available.items() if quotas[group] < rows]
    # Who kept rows back gave at most one row less than whoever gave most.
    assert not not_all or min(not_all) >= max(quotas.values()) - 1


def test_no_row_is_lost_and_every_group_is_counted(tmp_path: Path) -> None:
    table = feature_rows(ROWS)
    fit = fit_of(write_shards(tmp_path / "f", table, [1, 300, 3]), write_split(tmp_path / "split.parquet", RECORDS))
    for split, drawn in fit.drawn.items():
        in_split = [record for record in ROWS if split_of(record) == split]
        expected = Counter(("host " if record % 2 else "viral ") + GROUPS[record % 8] for record in in_split)
        assert drawn.available == dict(sorted(expected.items()))
        assert sum(drawn.counts.values()) == len(drawn.labels) == sum(map(len, drawn.positions.values()))
        assert drawn.labels.sum() * 2 == len(drawn.labels)
        viral, host = ([record % 2 == kind for record in in_split].count(True) for kind in (0, 1))
        assert len(drawn.labels) == 2 * min(viral, host)
        assert fit.params()[f"{split}_rows"] == len(drawn.labels)
    assert {"train_rows_by_group", "validation_rows_available"} <= fit.params().keys()
    rows = {shard: fit.drawn["train"].positions[path] for shard, path in fit.features.items()}
    starts = {"000": 0, "001": 1, "002": 301, "003": 304}
    everywhere = np.concatenate([positions + starts[shard] for shard, positions in rows.items()])
    assert {split_of(ROWS[row]) for row in everywhere} == {"train"}
    assert fit.drawn["train"].labels.tolist() == [int(ROWS[row] % 2 == 0) for row in everywhere]
    stored = fit.example()
    assert np.array_equal(stored, np.repeat(vectors_of(table)[everywhere[:1]], 2, axis=0))


def test_records_of_no_table_leave_nothing_to_draw(tmp_path: Path) -> None:
    tables = list(write_shards(tmp_path, feature_rows(ROWS), []).values())
    with pytest.raises(VirnucError, match=r"expected rows of both labels, .* found {}"):
        draw(tables, feature_rows(ROWS).schema, ["elsewhere"], 0)


@pytest.mark.parametrize("columns", [slice(None), slice(0, 6), slice(6, 16)])
def test_rows_are_copied_in_order(tmp_path: Path, columns: slice) -> None:
    """Over windows, from a table without any of them, and from one whose all rows are drawn."""
    table = feature_rows([row % 8 for row in range(3000)])
    tables = list(write_shards(tmp_path, table, [2500, 100, 300]).values())
    first = np.array([0, 1, 1023, 1024, 2047, 2048, 2499])
    positions = dict(zip(tables, [first, np.array([], np.int64), np.arange(300), np.array([99])], strict=True))
    stored = store_rows(tmp_path / "rows", positions, table.schema, columns)
    expected = vectors_of(table)[np.concatenate([first, 2600 + np.arange(300), [2999]])][:, columns]
    assert isinstance(stored, np.memmap)
    assert stored.dtype == np.float32
    np.testing.assert_array_equal(stored, expected)


CHILD = """
import sys, time
from pathlib import Path
from virnuc_assets.classifier.datasets import scratch_next_to
with scratch_next_to(Path(sys.argv[1])) as scratch:
    (scratch / "train.rows").write_bytes(bytes(1000))
    print(scratch.name, flush=True)
    time.sleep(60)
"""


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_second_training_waits_and_clears_what_a_killed_one_left(tmp_path: Path) -> None:
    """A living process keeps its scratch folder; a killed one neither that nor the lock."""
    classifier, neighbour = tmp_path / "fastesm2", tmp_path / ".esm2_3b.1.rows"
    classifier.mkdir()
    neighbour.mkdir()
    (classifier / ".classifier.json.1.partial").touch()
    (classifier / "classifier.json").touch()
    entered = threading.Event()
    seen: set[str] = set()

    def train() -> None:
        with scratch_next_to(classifier) as scratch:
            entered.set()
            seen.update(names(tmp_path) - {scratch.name})

    command = [sys.executable, "-c", CHILD, str(classifier)]
    with subprocess.Popen(command, cwd=PROJECT, text=True, stdout=subprocess.PIPE) as living:
        assert living.stdout is not None
        held = living.stdout.readline().strip()
        second = threading.Thread(target=train)
        second.start()
        assert not entered.wait(0.5)
        assert (tmp_path / held / "train.rows").is_file()
        living.send_signal(signal.SIGKILL)
        second.join(30)
    assert entered.is_set()
    assert held not in seen
    assert seen == names(tmp_path) == {"fastesm2", ".fastesm2.lock", neighbour.name}
    assert names(classifier) == {"classifier.json"}
