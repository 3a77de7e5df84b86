"""A plan continues the one before: an update costs what it changed, and every chunk is in one shard."""

import os
import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from virnuc_assets.sequences.catalogue import Label, Source
from virnuc_assets.sequences.plan_table import ShardPlan, plan_reference
from virnuc_assets.sequences.planning import plan_faults, whole_records
from virnuc_assets.settings import SequenceSettings

SETTINGS = SequenceSettings(chunk_length=300, shard_chunks=3)
LABEL_OF_FILE: dict[str, Label] = {"a": "host", "b": "viral", "c": "viral"}
Release = dict[str, tuple[str, int, int]]  # file, seed and length of the letters, by record id
RECORDS = st.tuples(st.sampled_from("abc"), st.integers(0, 2), st.sampled_from([0, 1, 299, 301, 2000]))
RELEASES = st.lists(st.dictionaries(st.sampled_from("pqrstuvw"), RECORDS, min_size=1), min_size=2, max_size=5)


def released(folder: Path, release: Release, time: int) -> list[Source]:
    """Writes the files that are not as they were; of these the time of change is another."""
    texts: dict[str, str] = {}
    for record, (file, seed, length_nt) in release.items():
        letters = "".join(random.Random(seed).choices("ACGT", k=length_nt))
        texts[file] = texts.get(file, "") + f">{record}\n{letters}\n"
    for file, text in texts.items():
        path = folder / f"{file}.fa"
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
            os.utime(path, ns=(time, time))
    return [Source(file, folder / f"{file}.fa", label, "x") for file, label in LABEL_OF_FILE.items() if file in texts]


def places(plan: ShardPlan) -> dict[tuple[str, str, str], list[tuple[str, int, int]]]:
    """Where the chunks of every record are, by label, id and letters."""
    found: dict[tuple[str, str, str], list[tuple[str, int, int]]] = {}
    for piece in plan.pieces:
        key = LABEL_OF_FILE[piece.source], piece.record_id, piece.digest
        found.setdefault(key, []).append((piece.shard, piece.first_chunk, piece.end_chunk))
    return found


def sizes(plan: ShardPlan) -> Counter[str]:
    found = Counter(dict.fromkeys(plan.shards, 0))
    for piece in plan.pieces:
        assert piece.shard.startswith(f"{LABEL_OF_FILE[piece.source]}-")
        found[piece.shard] += piece.chunks
    return found


def require_continued(before: ShardPlan, after: ShardPlan) -> None:
    """Known records are where they were, all others in new shards, full but the last, with the next numbers."""
    earlier, later = places(before), places(after)
    kept = earlier.keys() & later.keys()
    assert {record: later[record] for record in kept} == {record: earlier[record] for record in kept}
    for label in ("host", "viral"):
        new = {piece[0] for record in later.keys() - kept for piece in later[record] if record[0] == label and piece[2]}
        first = before.numbered.get(label, 0)
        opened = [f"{label}-{number + 1:04d}" for number in range(first, after.numbered[label])]
        assert sorted(new) == [shard for shard in opened if sizes(after)[shard]]
        assert [sizes(after)[shard] for shard in opened[:-1]] == [3] * (len(opened) - 1 if opened else 0)


@settings(max_examples=60, deadline=None)
@given(releases=RELEASES)
def test_any_sequence_of_releases_holds_every_chunk_once(
    tmp_path_factory: pytest.TempPathFactory, releases: list[Release]
) -> None:
    """Records come, go, change their letters, and move to another file or label."""
    folder = tmp_path_factory.mktemp("releases")
    path, plan = folder / "var" / "plan.parquet", ShardPlan((), {}, {}, 300)
    for number, release in enumerate(releases, start=1):
        before, sources = plan, released(folder, release, number * 10**9)
        plan, failures = plan_reference(path, sources, SETTINGS)
        assert failures == {}
        assert list(plan_faults(plan.pieces, 300)) == []
        found = [(record.record_id, record.source, record.length_nt) for record in whole_records(plan.pieces)]
        assert sorted(found) == sorted((record, file, length) for record, (file, _, length) in release.items())
        assert max(sizes(plan).values()) <= 3
        require_continued(before, plan)
        assert plan_reference(path, sources, SETTINGS) == (plan, {})
