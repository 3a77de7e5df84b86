"""Rows come back as they lay in the tables; scratch folders belong to one living training."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from virnuc_assets.classifier.row_store import RowSource, RowStoreError, scratch_beside, store_rows
from virnuc_assets.storage.merging import vectors_of
from virnuc_assets_tests.classifier.feature_tables import feature_rows, write_shards

PROJECT = Path(__file__).parents[2]
EVERYTHING = slice(None)


@pytest.mark.parametrize("columns", [EVERYTHING, slice(0, 6), slice(6, 16)])
def test_rows_are_copied_in_order(tmp_path: Path, columns: slice) -> None:
    """Over windows, from a table without any of them, and from one whose all rows are drawn."""
    table = feature_rows([row % 8 for row in range(3000)])
    tables = list(write_shards(tmp_path, table, [2500, 100, 300]).values())
    first = np.array([0, 1, 1023, 1024, 2047, 2048, 2499])
    positions = dict(zip(tables, [first, np.array([], np.int64), np.arange(300), np.array([99])], strict=True))
    stored = store_rows(tmp_path / "rows.npy", positions, table.schema, columns)
    expected = vectors_of(table)[np.concatenate([first, 2600 + np.arange(300), [2999]])][:, columns]
    assert isinstance(stored, np.memmap)
    assert stored.dtype == np.float32
    np.testing.assert_array_equal(stored, expected)


def test_too_little_room_is_told_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage(NamedTuple):
        free: int

    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(free=10 * 16 * 4 - 1))
    table = feature_rows(range(10))
    (path, *_) = write_shards(tmp_path / "tables", table, [10]).values()
    with pytest.raises(RowStoreError, match="the 10 rows of a training take 640 bytes for its duration, 639 are free"):
        store_rows(tmp_path / "rows.npy", {path: np.arange(10)}, table.schema, EVERYTHING)
    assert not (tmp_path / "rows.npy").exists()


def test_a_table_that_became_shorter_is_refused(tmp_path: Path) -> None:
    table = feature_rows(range(10))
    (path, *_) = write_shards(tmp_path, table, [8]).values()
    with pytest.raises(RowStoreError, match=r"000.parquet: 10 rows were drawn, 8 are left"):
        store_rows(tmp_path / "rows.npy", {path: np.arange(10)}, table.schema, EVERYTHING)


def test_a_source_gathers_from_a_read_only_map(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    rows = np.arange(5000 * 3, dtype=np.float32).reshape(-1, 3)
    np.save(tmp_path / "rows.npy", rows)
    source = RowSource(np.load(tmp_path / "rows.npy", mmap_mode="r"), torch.device("cpu"))
    out = torch.empty(4, 3)
    assert source.gather(torch.tensor([4999, 0, 7, 7]), out).tolist() == rows[[4999, 0, 7, 7]].tolist()
    assert torch.equal(torch.cat(list(source.windows())), torch.tensor(rows))
    assert list(recwarn) == []


CHILD = """
import sys, time
from pathlib import Path
from virnuc_assets.classifier.row_store import scratch_beside
with scratch_beside(Path(sys.argv[1])) as scratch:
    (scratch / "train.npy").write_bytes(bytes(1000))
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
        with scratch_beside(classifier) as scratch:
            entered.set()
            seen.update(names(tmp_path) - {scratch.name})

    command = [sys.executable, "-c", CHILD, str(classifier)]
    with subprocess.Popen(command, cwd=PROJECT, text=True, stdout=subprocess.PIPE) as living:
        assert living.stdout is not None
        held = living.stdout.readline().strip()
        second = threading.Thread(target=train)
        second.start()
        assert not entered.wait(0.5)
        assert (tmp_path / held / "train.npy").is_file()
        living.send_signal(signal.SIGKILL)
        second.join(30)
    assert entered.is_set()
    assert held not in seen
    assert seen == names(tmp_path) == {"fastesm2", ".fastesm2.lock", neighbour.name}
    assert names(classifier) == {"classifier.json"}
