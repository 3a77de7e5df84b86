"""Clusters stay whole, old records keep their split, what is held out is tested alone, and only the seed decides."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from virnuc_assets.classifier.datasets import rows_of_split
from virnuc_assets.sequences.catalogue import Source
from virnuc_assets.settings import SplitSettings
from virnuc_assets.split.assignment import (
    LEFT_OUT,
    SPLITS,
    SplitError,
    assign_splits,
    changes,
    held_out,
    split_schema,
    splits_of,
)
from virnuc_assets.split.relatives import Links
from virnuc_assets.storage.tables import write_table

Edges = Sequence[tuple[str, str]]
Names = Mapping[str, Sequence[str]]
Row = dict[str, Any]
GROUPS = {"host": ("bacteria", "archaea", "plant"), "viral": ("phage", "+ssRNA")}
# Unrelated records of both labels, so that every split has some of each.
FILLERS = [f"{label[0]}{number}" for label in ("viral", "host") for number in range(4)]


def related(ids: Sequence[str], edges: Edges = (), names: Names | None = None) -> tuple[Links, dict[str, str]]:
    links: dict[str, set[Any]] = {record: set() for record in sorted(ids)}
    for first, second in edges:
        if first in links and second in links and first != second:
            links[first].add(second)
            links[second].add(first)
    for name, members in (names or {}).items():
        for member in links.keys() & members:
            links[member].add((name,))
    return links, {record: f"of {record}" for record in links}


def reference(clusters_per_group: int = 5, records_per_cluster: int = 2) -> list[Row]:
    """Groups of equal clusters of equal records, each with 10 rows."""
    return [
        {
            "record_id": f"{group}{number}.{part}",
            "cluster": f"{group}{number}.0",
            "label": label,
            "group": group,
            "rows": 10,
        }
        for label, groups in GROUPS.items()
        for group in groups
        for number in range(clusters_per_group)
        for part in range(records_per_cluster)
    ]


def assigned(
    records: Sequence[Row],
    edges: Edges = (),
    names: Names | None = None,
    held: Mapping[str, str] | None = None,
    before: Sequence[Row] = (),
    **changed: Any,
) -> pa.Table:
    """Split of records that bear the names of their clusters, where they have one."""
    clusters: dict[str, list[str]] = defaultdict(list)
    for row in records:
        clusters[row.get("cluster", row["record_id"])].append(row["record_id"])
    relatedness = related([row["record_id"] for row in records], edges, {**clusters, **(names or {})})
    counted = pa.Table.from_pylist(list(records)).select(["record_id", "label", "group", "rows"])
    return assign_splits(relatedness, counted, SplitSettings(**changed), held or {}, before)


def split(ids: Sequence[str], edges: Edges = (), before: pa.Table | None = None, **given: Any) -> pa.Table:
    """Split of records and fillers; each has 10 rows if not given, ids that begin with h are host records."""
    counted = [
        {"record_id": record, "label": label, "group": f"{label} group", "rows": given.pop(record, 10)}
        for record in dict.fromkeys([*ids, *FILLERS])
        for label in ["host" if record[0] == "h" else "viral"]
    ]
    return assigned(counted, edges, before=before.to_pylist() if before else [], **given)


def by_record(table: pa.Table) -> dict[str, Row]:
    return {row["record_id"]: row for row in table.to_pylist()}


def filler_in(table: pa.Table, split: str, label: str = "viral") -> str:
    return next(
        record
        for record, row in by_record(table).items()
        if record in FILLERS and row["split"] == split and row["label"] == label
    )


def test_every_record_is_assigned_once_with_its_cluster_and_a_reason() -> None:
    table = assigned(reference())
    assert table.schema == split_schema()
    assert table.select(["record_id", "cluster"]).to_pylist() == sorted(
        ({"record_id": row["record_id"], "cluster": row["cluster"]} for row in reference()),
        key=lambda row: row["record_id"],
    )
    assert len({(row["cluster"], row["split"]) for row in table.to_pylist()}) == len(set(table["cluster"].to_pylist()))
    assert table["relatives"].to_pylist() == [f"of {record}" for record in table["record_id"].to_pylist()]
    plants = {row["reason"] for row in table.to_pylist() if row["group"] == "plant"}
    assert plants == {"split without host plant", "split furthest below its share of host plant"}


def test_every_group_has_the_shares_of_rows_that_are_wanted() -> None:
    table = assigned(reference(clusters_per_group=20), validation_fraction=0.1, test_fraction=0.3)
    for group in (*GROUPS["host"], *GROUPS["viral"]):
        rows = Counter(row["split"] for row in table.to_pylist() if row["group"] == group)
        assert rows == {"train": 24, "validation": 4, "test": 12}


def test_a_group_of_three_clusters_reaches_every_split_and_a_large_cluster_goes_to_train() -> None:
    records = reference(clusters_per_group=3, records_per_cluster=1)
    records[0]["rows"] = 1000
    for seed in range(5):
        rows = by_record(assigned(records, seed=seed))
        assert {(row["group"], row["split"]) for row in rows.values()} == {
            (group, split) for groups in GROUPS.values() for group in groups for split in SPLITS
        }
        assert rows[records[0]["record_id"]]["split"] == "train"


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
    found = {(row["label"], row["split"]) for row in assigned(records, seed=seed).to_pylist()}
    assert found == {(label, split) for label in ("host", "viral") for split in SPLITS}


def test_records_without_group_and_labels_without_clusters_are_refused() -> None:
    records = reference()
    with pytest.raises(SplitError, match=r"1 records have no group, e.g. bacteria0.0; fill the column `group`"):
        assigned([{**records[0], "group": ""}, *records[1:]])
    few = [row for row in records if row["label"] == "host" or row["cluster"] in ("phage0.0", "+ssRNA1.0")]
    with pytest.raises(SplitError, match=r"viral: 2 clusters \(\+ssRNA1.0, phage0.0\), none for (validation|test)"):
        assigned(few)
    with pytest.raises(SplitError, match="viral: 0 clusters .*none for train and validation and test"):
        assigned([row for row in few if row["label"] == "host"])
    before = [row for row in split([]).to_pylist() if row["label"] == "host" or row["split"] == "train"]
    with pytest.raises(SplitError, match=r"viral: . clusters .*none for validation and test.* records kept the split"):
        assigned(before, before=before)


def test_rows_of_a_record_left_out_belong_to_no_split(tmp_path: Path) -> None:
    splits = {"a": "train", "b": LEFT_OUT, "c": "test", "d": "validation"}
    table = pa.table({"record_id": ["a", "b", "b", "c", "d"], "row": [0, 1, 2, 3, 4]})
    write_table(tmp_path / "features.parquet", table, {})
    rows = pa.Table.from_pylist([{"record_id": name, "split": split} for name, split in splits.items()])
    found = [list(rows_of_split([tmp_path / "features.parquet"], table.schema, rows, split)) for split in SPLITS]
    assert [[window["row"].to_pylist() for window in windows] for windows in found] == [[[0]], [[4]], [[3]]]


@pytest.mark.parametrize("chosen", SPLITS)
def test_a_new_record_joins_its_relatives_and_no_old_record_moves(chosen: str) -> None:
    before = split(["gone"])
    relative = filler_in(before, chosen)
    after = split(["new"], [("new", relative)], before)
    rows = by_record(after)
    assert (rows["new"]["split"], rows["new"]["reason"]) == (chosen, f"joins relatives that are in {chosen}")
    assert rows["new"]["cluster"] == rows[relative]["cluster"]
    assert changes(before.to_pylist(), after.to_pylist()) == {
        "records_kept": 8, "records_new": 1, "records_moved": 0, "records_left_out": 0, "records_gone": 1
    }  # fmt: skip


@pytest.mark.parametrize("by", ["similarity", "name"])
def test_a_new_record_that_would_link_two_splits_is_left_out(by: str) -> None:
    before = split([])
    train, test = filler_in(before, "train"), filler_in(before, "test")
    edges, names = [("new", test), ("new", "newer")], {"family": ["new", train]} if by == "name" else {}
    after = split(["new", "newer"], edges if names else [*edges, ("new", train)], before, names=names)
    rows = by_record(after)
    touched = sorted([f"{train} (train)", f"{test} (test)", f"newer ({rows['newer']['split']})"])
    assert rows["new"]["split"] == LEFT_OUT
    assert rows["new"]["reason"] == f"left out: would link two splits; resembles {' and '.join(touched)}"
    assert (rows["newer"]["cluster"], rows["newer"]["split"] in SPLITS) == ("newer", True)
    for record, row in by_record(before).items():
        assert (rows[record]["split"], rows[record]["reason"]) == (row["split"], row["reason"])
    assert changes(before.to_pylist(), after.to_pylist())["records_left_out"] == 1


def test_of_two_new_records_that_would_link_two_splits_the_smaller_id_joins() -> None:
    before = split([])
    train, test = filler_in(before, "train"), filler_in(before, "test")
    pairs = [(f"a{number}", f"b{number}") for number in range(5)]
    edges = [edge for a, b in pairs for edge in ((a, train), (a, b), (b, test))]
    splits = splits_of(split([name for pair in pairs for name in pair], edges, before).to_pylist())
    assert {name: found for name, found in splits.items() if name not in FILLERS} == {a: "train" for a, _ in pairs}


def test_old_records_that_became_relatives_go_where_most_of_their_rows_are() -> None:
    before = split([])
    train, test = filler_in(before, "train"), filler_in(before, "test")
    after = split([], [(train, test)], before, **{test: 11})
    rows = by_record(after)
    assert rows[test]["split"] == rows[train]["split"] == "test"
    assert rows[train]["reason"] == "moved from train: most related rows are here"
    assert rows[test]["reason"] == by_record(before)[test]["reason"]
    assert changes(before.to_pylist(), after.to_pylist())["records_moved"] == 1


HELD = {"v1": "held out: of family", "v2": "held out: of family"}


def test_held_out_records_are_the_whole_test_of_their_label() -> None:
    rows = by_record(split(["older", "oldest"], [("v1", "older"), ("older", "oldest")], held=HELD))
    splits = {name: row["split"] for name, row in rows.items() if row["label"] == "viral"}
    assert {name for name, found in splits.items() if found == "test"} == {"v1", "v2"}
    assert rows["v1"]["reason"] == "held out: of family"
    assert splits["older"] == splits["oldest"] == LEFT_OUT
    assert rows["older"]["reason"] == "left out: relative of records held out"
    assert {splits["v0"], splits["v3"]} == {"train", "validation"}
    assert {row["split"] for row in rows.values() if row["label"] == "host"} == set(SPLITS)


def test_a_record_that_becomes_held_out_is_tested_in_place_of_the_others_of_its_label() -> None:
    before = split(["v4", "v5"])
    train, test = filler_in(before, "train"), filler_in(before, "test")
    rows = by_record(split(["v4", "v5"], (), before, held={train: "held out: new"}))
    assert (rows[train]["split"], rows[train]["reason"]) == ("test", "held out: new")
    assert rows[test]["split"] in ("train", "validation")


def test_what_is_held_out_takes_no_part_in_the_shares_of_its_label() -> None:
    ids = [f"v{number}" for number in range(17)]
    table = split(ids, held={"v0": "held out: one"}, v0=1000)
    splits = Counter(row["split"] for row in table.to_pylist() if row["label"] == "viral")
    assert splits == {"test": 1, "train": 13, "validation": 3}  # 0.65 and 0.15 of the sixteen others


def test_what_is_held_out_later_gives_way_to_what_was_trained_on() -> None:
    before = split([], held=HELD)
    train, host = filler_in(before, "train"), filler_in(before, "test", "host")
    held = HELD | {"new": "held out: newer", "later": "held out: newer"}
    edges = [("new", train), ("other", "v1"), ("later", host), ("old", host)]
    rows = by_record(split(["new", "other", "later", "old"], edges, before, held=held))
    assert rows["new"]["reason"] == f"left out: held out: newer; resembles {train} (train)"
    assert (rows["other"]["split"], rows[train]["split"], rows[host]["split"]) == (LEFT_OUT, "train", "test")
    # Nor does a cluster of both labels bring anything else into the test of what is held out.
    assert rows["later"]["reason"] == f"left out: held out: newer; resembles {host} (test)"
    assert rows["old"]["reason"] == f"left out: of its label only what is held out is tested; resembles {host} (test)"


def test_old_records_that_became_relatives_of_what_is_held_out_leave_training() -> None:
    before = split(["spare"], held=HELD)
    train = filler_in(before, "train")
    rows = by_record(split(["spare"], [("v1", train)], before, held=HELD, **{train: 99}))
    assert (rows["v1"]["split"], rows["v1"]["reason"]) == ("test", "held out: of family")
    assert (rows[train]["split"], rows[train]["reason"]) == (LEFT_OUT, "left out: relative of records held out")


RECORDS = [*"abcdefghij", *(f"h{letter}" for letter in "abcd")]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_whatever_arrives_no_kept_relatives_are_apart_and_nothing_changes_without_cause(data: st.DataObject) -> None:
    """Records, relatives, names and what is held out drawn at random; then some records arrive and others vanish."""
    pairs = st.lists(st.tuples(st.sampled_from(RECORDS), st.sampled_from(RECORDS)), max_size=9)
    first = data.draw(st.lists(st.sampled_from(RECORDS), unique=True))
    second = data.draw(st.lists(st.sampled_from(RECORDS), unique=True))
    found_later = data.draw(st.just([]) | pairs)
    edges, families = data.draw(pairs), data.draw(st.lists(st.sets(st.sampled_from(RECORDS)), max_size=2))
    held = dict.fromkeys(data.draw(st.lists(st.sampled_from(RECORDS), max_size=3)), "held out: drawn")
    names = {f"family {number}": sorted(members) for number, members in enumerate(families)}
    tables: list[pa.Table] = []
    for ids, found in ((first, edges), (second, edges + found_later)):
        before = tables[-1] if tables else None
        try:
            table = split(ids, found, before, names=names, held=held)
        except SplitError:  # too few clusters are left for a label
            return
        tables.append(table)
        rows = by_record(table)
        assert set(rows) == {*ids, *FILLERS}
        splits = splits_of(rows.values())
        assert [pair for pair in found if len({splits[name] for name in pair if name in splits}) > 1] == []
        assert [name for name in names if len({splits[m] for m in names[name] if m in splits}) > 1] == []
        for label in {rows[name]["label"] for name in held if name in rows}:
            assert {name for name in splits if splits[name] == "test" and rows[name]["label"] == label} <= held.keys()
        assert split(ids, found, table, names=names, held=held).equals(table)
        random.Random(1).shuffle(ids)
        assert split(ids, found[::-1], before, names=names, held=held).equals(table)
    old, new = map(by_record, tables)
    # Where the relatives of old records are what they were, none may move; but the first record of a label that is
    # held out closes that label's test to all others.
    closed = [{rows[name]["label"] for name in held if name in rows} for rows in (old, new)]
    for record in old.keys() & new.keys():
        if old[record]["split"] != LEFT_OUT and not (closed[0] ^ closed[1]) and not found_later:
            assert (new[record]["split"], new[record]["reason"]) == (old[record]["split"], old[record]["reason"])


SOURCES = {
    record: Source(name, Path(f"{name}.fna"), group=group, organism=organism, relatives=relatives, date=known)
    for record, name, group, organism, relatives, known in (
        ("d1", "dengue1", "+ssRNA", "Dengue virus 1", "dengue", date(1997, 1, 1)),
        ("d2", "dengue2", "+ssRNA", "", "dengue", date(2021, 1, 1)),
        ("e", "ebola", "-ssRNA", "Zaire ebolavirus", "", date(2020, 12, 31)),
        ("p", "plant", "plant", "", "", date(2022, 5, 5)),
    )
}


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, {}),
        (
            {"test_from": date(2021, 1, 1)},
            {"d2": "dated 2021-01-01, not before 2021-01-01", "p": "dated 2022-05-05, not before 2021-01-01"},
        ),
        ({"test_groups": ["Zaire ebolavirus"]}, {"e": "of Zaire ebolavirus"}),
        (
            {"test_groups": ["dengue", "+ssRNA", "plant"]},
            {"d1": "of +ssRNA, dengue", "d2": "of +ssRNA, dengue", "p": "of plant"},
        ),
    ],
)
def test_records_are_held_out_by_date_or_by_group_organism_and_word_for_relatives(
    asked: dict[str, Any], expected: dict[str, str]
) -> None:
    by = "time" if "test_from" in asked else "groups" if asked else "clusters"
    found = held_out(SOURCES, SplitSettings(by=by, **asked))
    assert found == {record: f"held out: {why}" for record, why in expected.items()}


def test_dates_and_names_by_which_nothing_can_be_held_out_are_refused() -> None:
    too_late = SplitSettings(by="time", test_from=date(2023, 1, 1))
    with pytest.raises(SplitError, match="test_from = 2023-01-01: no source is that new, the latest is of 2022-05-05"):
        held_out(SOURCES, too_late)
    undated = {record: Source(name, Path("x")) for record, name in (("x", "older"), ("y", "older"), ("z", "old"))}
    with pytest.raises(SplitError, match=r"2 have none \(old, older\). Fill the column `date`"):
        held_out(SOURCES | undated, too_late)
    known = r"\+ssRNA, -ssRNA, Dengue virus 1, Zaire ebolavirus, dengue, plant"
    with pytest.raises(SplitError, match=rf"unknown to the catalogue: Ebola, flavi;.* which are: {known}"):
        held_out(SOURCES, SplitSettings(by="groups", test_groups=["dengue", "flavi", "Ebola"]))
