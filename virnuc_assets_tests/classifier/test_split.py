"""Clusters stay whole, labels and groups reach every split, and only the seed decides."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from virnuc_assets.classifier.assigning import assign_splits
from virnuc_assets.classifier.datasets import rows_of_split
from virnuc_assets.classifier.relatives import Kinship
from virnuc_assets.classifier.split import SPLITS, SplitError, split_schema
from virnuc_assets.settings import SplitSettings
from virnuc_assets.storage.tables import write_table

GROUPS = {"host": ("bacteria", "archaea", "plant"), "viral": ("phage", "+ssRNA")}


def reference(clusters_per_group: int = 5, records_per_cluster: int = 2, rows: int = 10) -> list[dict[str, object]]:
    return [
        {
            "record_id": f"{group}{number}.{part}",
            "cluster": f"{group}{number}.0",
            "label": label,
            "group": group,
            "rows": rows,
        }
        for label, groups in GROUPS.items()
        for group in groups
        for number in range(clusters_per_group)
        for part in range(records_per_cluster)
    ]


def kinship(records: list[dict[str, object]]) -> Kinship:
    """Records of a cluster bear its name."""
    ids = sorted({str(row["record_id"]) for row in records})
    named = {str(row["record_id"]): frozenset([f"cluster {row['cluster']}"]) for row in records}
    return Kinship(dict.fromkeys(ids, frozenset()), {name: named[name] for name in ids}, dict.fromkeys(ids, "told"))


def deal(records: list[dict[str, object]], **changes: object) -> pa.Table:
    settings = SplitSettings(**changes)  # type: ignore[arg-type]
    return assign_splits(kinship(records), pa.Table.from_pylist(records), settings, {}, [])


def sides_by_cluster(table: pa.Table) -> dict[str, set[str]]:
    sides: dict[str, set[str]] = defaultdict(set)
    for row in table.to_pylist():
        sides[row["cluster"]].add(row["split"])
    return sides


def share(table: pa.Table, label: str, split: str) -> float:
    rows = [row for row in table.to_pylist() if row["label"] == label]
    return sum(row["rows"] for row in rows if row["split"] == split) / sum(row["rows"] for row in rows)


def test_every_record_is_dealt_once_with_its_cluster() -> None:
    records = reference()
    table = deal(records)
    assert table.schema == split_schema()
    assert table["record_id"].to_pylist() == sorted(str(row["record_id"]) for row in records)
    assert table.select(["record_id", "cluster"]).to_pylist() == sorted(
        ({"record_id": row["record_id"], "cluster": row["cluster"]} for row in records),
        key=lambda row: row["record_id"],
    )
    assert all(len(sides) == 1 for sides in sides_by_cluster(table).values())


@pytest.mark.parametrize("label", ["viral", "host"])
def test_shares_of_rows_are_those_wanted(label: str) -> None:
    table = deal(reference(clusters_per_group=20), validation_fraction=0.1, test_fraction=0.3)
    assert share(table, label, "validation") == pytest.approx(0.1)
    assert share(table, label, "test") == pytest.approx(0.3)
    for group in GROUPS[label]:
        rows = Counter(row["split"] for row in table.to_pylist() if row["group"] == group)
        assert rows == {"train": 24, "validation": 4, "test": 12}


def test_a_group_of_three_clusters_reaches_every_split() -> None:
    table = deal(reference(clusters_per_group=3))
    for group in (*GROUPS["host"], *GROUPS["viral"]):
        assert {row["split"] for row in table.to_pylist() if row["group"] == group} == {"train", "validation", "test"}


def test_a_large_cluster_goes_to_train() -> None:
    records = reference(clusters_per_group=3, records_per_cluster=1)
    records[0]["rows"] = 1000
    for seed in range(5):
        splits = {row["record_id"]: row["split"] for row in deal(records, seed=seed).to_pylist()}
        assert splits[records[0]["record_id"]] == "train"


def test_the_order_of_records_does_not_matter_and_the_seed_does() -> None:
    records = reference()
    expected = deal(records)
    random.Random(1).shuffle(records)
    assert deal(records).equals(expected)
    assert not deal(records, seed=1).equals(expected)


def test_reasons_tell_relatives_and_place() -> None:
    table = deal(reference(clusters_per_group=4))
    assert set(table["relatives"].to_pylist()) == {"told"}
    plants = {row["reason"] for row in table.to_pylist() if row["group"] == "plant"}
    assert plants == {"split without host plant", "split furthest below its share of host plant"}


def test_a_cluster_of_both_labels_stays_whole() -> None:
    records = reference()
    records.append({"record_id": "prophage", "cluster": "bacteria0.0", "label": "viral", "group": "phage", "rows": 3})
    splits = {row["record_id"]: row["split"] for row in deal(records).to_pylist()}
    assert splits["prophage"] == splits["bacteria0.0"] == splits["bacteria0.1"]


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), st.integers(1, 500)), min_size=3, max_size=12),
    seed=st.integers(0, 5),
)
def test_three_clusters_of_a_label_are_always_enough(sizes: list[tuple[str, int]], seed: int) -> None:
    records = [
        {"record_id": f"{label}{number}", "cluster": f"{label}{number}", "label": label, "group": group, "rows": rows}
        for label in ("host", "viral")
        for number, (group, rows) in enumerate(sizes)
    ]
    table = deal(records, seed=seed)
    for label in ("host", "viral"):
        assert {row["split"] for row in table.to_pylist() if row["label"] == label} == {"train", "validation", "test"}


def test_rows_of_a_record_left_out_belong_to_no_side(tmp_path: Path) -> None:
    sides = {"a": "train", "b": "left_out", "c": "test", "d": "validation"}
    table = pa.table({"record_id": ["a", "b", "b", "c", "d"], "row": [0, 1, 2, 3, 4]})
    write_table(tmp_path / "features.parquet", table, {})
    split = pa.Table.from_pylist([{"record_id": name, "split": side} for name, side in sides.items()])
    found = [rows_of_split([tmp_path / "features.parquet"], table.schema, split, side) for side in SPLITS]
    assert [rows["row"].to_pylist() for rows in found] == [[0], [4], [3]]


def test_too_few_clusters_are_refused_with_what_is_missing() -> None:
    records = [row for row in reference() if row["label"] == "host" or row["cluster"] in ("phage0.0", "+ssRNA1.0")]
    with pytest.raises(SplitError, match=r"viral: 2 clusters \(\+ssRNA1.0, phage0.0\), none for (validation|test)"):
        deal(records)
    with pytest.raises(SplitError, match="viral: 0 clusters .*none for train and validation and test"):
        deal([row for row in records if row["label"] == "host"])


def test_unsound_counts_are_refused() -> None:
    records = reference()
    with pytest.raises(SplitError, match=r"bacteria0.0: no cluster of relatives"):
        assign_splits(kinship(records[1:]), pa.Table.from_pylist(records), SplitSettings(), {}, [])
    for column, value, message in (
        ("label", None, "label None"),
        ("group", None, "group None"),
        ("rows", 0, "no training"),
    ):
        with pytest.raises(SplitError, match=message):
            deal([{**records[0], column: value}, *records[1:]])
    with pytest.raises(SplitError, match=r"bacteria0.0: 2 rows"):
        deal([*records, records[0]])
