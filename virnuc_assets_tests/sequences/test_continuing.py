"""A plan continues the one before: an update costs what it changed. Duplicate ids are told apart and counted."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from virnuc_assets.sequences.catalogue import Source
from virnuc_assets.sequences.chunk_table import chunk_tables
from virnuc_assets.sequences.plan_table import make_plan
from virnuc_assets.sequences.planning import Plan, plan_faults, plan_source
from virnuc_assets.settings import SequenceSettings
from virnuc_assets.storage.tables import read_recipe

CHUNK_LENGTH, SHARD_CHUNKS = 300, 20
Records = list[tuple[str, str]]


def letters(length_nt: int, seed: int) -> str:
    return "".join(random.Random(seed).choices("ACGT", k=length_nt))


def planned(path: Path, records: Records, before: Plan | None = None, shard_chunks: int = SHARD_CHUNKS) -> Plan:
    path.write_text("".join(f">{name} x\n{sequence}\n" for name, sequence in records))
    plan = plan_source(path, "s", CHUNK_LENGTH, shard_chunks, before)
    assert list(plan_faults(plan.pieces, CHUNK_LENGTH)) == []
    sizes = Counter({shard: 0 for shard in plan.shards})
    for piece in plan.pieces:
        sizes[piece.shard] += piece.chunks
    assert max(sizes.values()) <= shard_chunks
    return plan


def contents(path: Path, plan: Plan) -> dict[str, list[tuple[str, str]]]:
    """Ids and letters of the chunks of every shard."""
    return {
        pieces[0].shard: list(zip(table["chunk_id"].to_pylist(), table["sequence"].to_pylist(), strict=True))
        for pieces, table in chunk_tables(path, plan.pieces, CHUNK_LENGTH, plan.sha256)
    }


def release(records: int, seed: int = 0) -> Records:
    lengths = random.Random(seed).choices(range(1, 4000), k=records)
    return [(f"NC_{number:06d}.1", letters(length, number)) for number, length in enumerate(lengths)]


def changed(records: Records, share: float, seed: int) -> tuple[Records, int]:
    """Some records with one other letter, anywhere in the file, and how many chunks they have."""
    chosen = set(random.Random(seed).sample(range(len(records)), round(share * len(records))))
    after = [(name, "A" + text[1:] if text[0] != "A" else "C" + text[1:]) for name, text in records]
    chunks = sum(-(-len(records[index][1]) // CHUNK_LENGTH) for index in chosen)
    return [after[index] if index in chosen else record for index, record in enumerate(records)], chunks


@pytest.mark.parametrize("seed", range(5))
def test_three_changed_records_of_a_hundred_plan_no_more_than_their_part_and_one_shard(
    tmp_path: Path, seed: int
) -> None:
    path, old = tmp_path / "s.fa", release(400)
    before = planned(path, old)
    earlier = contents(path, before)
    new, changed_chunks = changed(old, 0.03, seed)
    after = planned(path, new, before)
    later = contents(path, after)
    added = sorted(later.keys() - earlier.keys())
    assert 0 < len(added) <= changed_chunks / SHARD_CHUNKS + 1
    assert sum(len(later[shard]) for shard in added) == changed_chunks
    gone = {name for (name, text), (_, now) in zip(old, new, strict=True) if text != now}
    for shard in later.keys() & earlier.keys():  # the others hold what they held, without the records that changed
        assert later[shard] == [row for row in earlier[shard] if row[0].rpartition("_chunk_")[0] not in gone]
    whole = contents(path, plan_source(path, "s", CHUNK_LENGTH, 1 << 40))
    assert Counter(row for rows in later.values() for row in rows) == Counter(whole["s-000001"])


def test_the_same_content_keeps_every_key_and_every_row(tmp_path: Path) -> None:
    """Also when it is wrapped, cased or described in other ways."""
    path, records = tmp_path / "s.fa", release(60)
    before = planned(path, records)
    earlier = contents(path, before)
    again = planned(path, [(f"{name} other words", text.lower()) for name, text in records], before)
    assert (again.pieces, again.numbered) == (before.pieces, before.numbered)
    assert again.sha256 != before.sha256
    assert contents(path, again) == earlier


def test_no_key_is_given_twice(tmp_path: Path) -> None:
    path = tmp_path / "s.fa"
    first = planned(path, [("a", letters(9000, 1)), ("b", letters(9000, 2))])
    second = planned(path, [("a", letters(9000, 1))], first)
    third = planned(path, [("a", letters(9000, 1)), ("c", letters(9000, 3))], second)
    assert first.shards == ["s-000001", "s-000002", "s-000003"]
    assert second.shards == ["s-000001", "s-000002"]
    assert third.shards == ["s-000001", "s-000002", "s-000004", "s-000005"]


def test_other_settings_plan_anew(tmp_path: Path) -> None:
    path, plan = tmp_path / "s.fa", tmp_path / "shard_plan" / "s.parquet"
    planned(path, release(30))
    whole = SequenceSettings(chunk_length=300, shard_chunks=20)
    keys = make_plan(plan, Source("s", path), whole).shards
    path.write_text(path.read_text() + ">late\nACGT\n")
    assert make_plan(plan, Source("s", path), whole).shards == [*keys, f"s-{len(keys) + 1:06d}"]
    assert read_recipe(plan)["numbered"] == len(keys) + 1
    plan_source_again = plan_source(path, "s", 300, 30)
    assert make_plan(plan, Source("s", path), SequenceSettings(chunk_length=300, shard_chunks=30)) == plan_source_again
    plan.write_bytes(b"damaged")
    assert make_plan(plan, Source("s", path), whole) == plan_source(path, "s", 300, 20)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    releases=st.lists(
        st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 3), st.sampled_from([0, 1, 299, 301, 2000]))),
        min_size=2,
        max_size=5,
    )
)
def test_any_sequence_of_releases_holds_every_record_once(
    tmp_path: Path, releases: list[list[tuple[str, int, int]]]
) -> None:
    """Records come, go, change, move and occur twice; whatever was before, the rows are those of a fresh plan."""
    plan = None
    for number, chosen in enumerate(releases):
        records = [(name, letters(length_nt, seed)) for name, seed, length_nt in chosen]
        path = tmp_path / f"{number}.fa"
        plan = planned(path, records or [("only", "")], plan, shard_chunks=3)
        fresh = plan_source(path, "s", CHUNK_LENGTH, 3)
        told = [(p.number, p.record_id, p.length_nt, p.fate, p.reason) for p in fresh.pieces]
        assert sorted({(p.number, p.record_id, p.length_nt, p.fate, p.reason) for p in plan.pieces}) == sorted(
            set(told)
        )
        rows = Counter(row for shard in contents(path, plan).values() for row in shard)
        assert rows == Counter(row for shard in contents(path, fresh).values() for row in shard)


def fates(plan: Plan) -> list[tuple[str, int, str, str | None, int]]:
    return [(p.record_id, p.number, p.fate, p.reason, p.chunks) for p in plan.pieces]


def test_of_records_with_one_id_and_the_same_letters_the_first_is_used(tmp_path: Path) -> None:
    same = letters(700, 1)
    plan = planned(tmp_path / "s.fa", [("a", same), ("b", "ACGT"), ("a", same.lower()), ("a", same)])
    reason = "duplicate id: same sequence as record 1"
    assert fates(plan) == [
        ("a", 1, "planned", None, 3),
        ("b", 2, "planned", None, 1),
        ("a", 3, "skipped", reason, 0),
        ("a", 4, "skipped", reason, 0),
    ]


def test_an_id_of_different_sequences_names_none(tmp_path: Path) -> None:
    plan = planned(tmp_path / "s.fa", [("a", "ACGT"), ("b", "ACGT"), ("a", "ACGA"), ("a", "ACGT")])
    reason = "duplicate id: names 2 different sequences"
    assert fates(plan) == [
        ("a", 1, "failed", reason, 0),
        ("b", 2, "planned", None, 1),
        ("a", 3, "failed", reason, 0),
        ("a", 4, "failed", reason, 0),
    ]
