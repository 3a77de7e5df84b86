"""A fit draws balanced rows without reading vectors, loses none, and depends on the seed and the rows alone."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from virnuc_assets.classifier.datasets import draw, scores_of
from virnuc_assets.classifier.fitting import BOTH, Sides
from virnuc_assets.classifier.scoring import score
from virnuc_assets.classifier.training import TrainedClassifier
from virnuc_assets.errors import VirnucError
from virnuc_assets.storage.merging import vectors_of
from virnuc_assets_tests.classifier.feature_tables import (
    DNA,
    GROUPS,
    PROTEIN,
    SETTINGS,
    feature_rows,
    fit_of,
    split_of,
    write_shards,
    write_split,
)

PROJECT = Path(__file__).parents[2]
RECORDS = 24
ROWS = [(7 * row + row // 50) % RECORDS for row in range(500)]


def digest(trained: TrainedClassifier) -> str:
    state = trained.model.state_dict()
    return hashlib.sha256(b"".join(state[name].numpy().tobytes() for name in sorted(state))).hexdigest()


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
        assert fit.row_counts[f"{split}_rows"] == len(drawn.labels)
    assert {"train_rows_by_group", "validation_rows_available"} <= fit.params().keys()
    rows = {shard: fit.drawn["train"].positions[path] for shard, path in fit.features.items()}
    starts = {"000": 0, "001": 1, "002": 301, "003": 304}
    everywhere = np.concatenate([positions + starts[shard] for shard, positions in rows.items()])
    assert {split_of(ROWS[row]) for row in everywhere} == {"train"}
    assert fit.drawn["train"].labels.tolist() == [int(ROWS[row] % 2 == 0) for row in everywhere]
    stored = fit.example()
    assert np.array_equal(stored, np.repeat(vectors_of(table)[everywhere[:1]], 2, axis=0))


def test_how_rows_lie_in_shards_does_not_matter(tmp_path: Path) -> None:
    """Not to which are drawn, and not to a bit of the weights."""
    table, split = feature_rows(ROWS), write_split(tmp_path / "split.parquet", RECORDS)
    found = []
    for name, sizes in (("one", []), ("many", [100, 0, 200, 1, 30])):
        fit = fit_of(write_shards(tmp_path / name, table, sizes), split)
        (tmp_path / f"{name}_scratch").mkdir()
        found.append(digest(fit.train(tmp_path / f"{name}_scratch")))
    assert found[0] == found[1]


CHILD = """
import sys
from pathlib import Path
from virnuc_assets_tests.classifier.test_fitting import digest, trained_of
print(digest(trained_of(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])))
"""


def trained_of(folder: Path, seed: int, name: str) -> TrainedClassifier:
    """Trained on the tables of a folder."""
    tables = {path.stem: path for path in sorted((folder / "tables").iterdir())}
    fit = fit_of(tables, folder / "split.parquet", SETTINGS.model_copy(update={"seed": seed}))
    (folder / "scratch" / name).mkdir(parents=True)
    return fit.train(folder / "scratch" / name)


def test_processes_of_one_seed_agree_to_the_bit(tmp_path: Path) -> None:
    write_shards(tmp_path / "tables", feature_rows(ROWS), [300])
    write_split(tmp_path / "split.parquet", RECORDS)

    def child(name: str) -> str:
        command = [sys.executable, "-c", CHILD, str(tmp_path), "3", name]
        return subprocess.run(command, cwd=PROJECT, check=True, capture_output=True, text=True).stdout.strip()

    assert child("a") == child("b") != digest(trained_of(tmp_path, 4, "c"))


@pytest.mark.parametrize(
    ("sides", "columns"), [(("dna",), slice(0, DNA)), (("protein",), slice(DNA, None)), (BOTH, slice(None))]
)
def test_a_fit_of_some_sides_sees_their_columns_alone(tmp_path: Path, sides: Sides, columns: slice) -> None:
    """Viral rows differ along the protein's columns; nothing is learnt without them."""
    table = feature_rows(ROWS)
    tables = write_shards(tmp_path / "f", table, [200])
    fit = fit_of(tables, write_split(tmp_path / "split.parquet", RECORDS), sides=sides)
    trained = fit.train(tmp_path)
    assert trained.model.dim == len(range(DNA + PROTEIN)[columns]) == fit.example().shape[1]
    scored = fit.scored(trained.model, "test")
    wanted = [row for row, record in enumerate(ROWS) if split_of(record) == "test"]
    assert scored["frame_id"].to_pylist() == table["frame_id"].take(wanted).to_pylist()
    expected = score(trained.model, np.ascontiguousarray(vectors_of(table)[wanted][:, columns]))
    np.testing.assert_allclose(scores_of(scored), expected, atol=1e-6)
    viral = [label == "viral" for label in scored.column("label").to_pylist()]
    accuracy = float(((scores_of(scored)[:, 1] > 0.5) == viral).mean())
    assert (accuracy > 0.9) == ("protein" in sides)
    digests = {fit_of(tables, fit.split, sides=other).data_digest for other in (("dna",), ("protein",), BOTH)}
    assert len(digests) == 3


def test_unknown_sides_are_refused(tmp_path: Path) -> None:
    fit = fit_of(
        write_shards(tmp_path / "f", feature_rows(ROWS), []),
        write_split(tmp_path / "split.parquet", RECORDS),
        sides=("protein", "dna"),
    )
    with pytest.raises(VirnucError, match=r"sides of a fit: .* found \('protein', 'dna'\)"):
        fit.train(tmp_path)


def test_the_temperature_is_described(tmp_path: Path) -> None:
    """It is the one of the validation rows that were used."""
    fit = fit_of(write_shards(tmp_path / "f", feature_rows(ROWS), []), write_split(tmp_path / "s.parquet", RECORDS))
    trained = fit.train(tmp_path)
    assert fit.describe(trained).temperature == trained.temperature
    assert trained.temperature != 1.0
    rows = np.load(tmp_path / "validation.npy")
    with torch.inference_mode():
        odds = (trained.model(torch.tensor(rows)).double() @ torch.tensor([-1.0, 1.0], dtype=torch.float64)).numpy()
    margin = np.where(fit.drawn["validation"].labels == 1, odds, -odds)

    def loss(temperature: float) -> float:
        return float(np.logaddexp(0, -margin / temperature).mean())

    assert loss(trained.temperature) <= min(loss(trained.temperature * 1.01), loss(trained.temperature / 1.01))


def test_records_of_no_table_leave_nothing_to_draw(tmp_path: Path) -> None:
    tables = list(write_shards(tmp_path, feature_rows(ROWS), []).values())
    with pytest.raises(VirnucError, match="expected rows of both labels"):
        draw(tables, feature_rows(ROWS).schema, ["elsewhere"], 0)
