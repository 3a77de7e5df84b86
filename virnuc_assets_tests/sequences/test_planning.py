"""Planning: where the chunks of a record are, and shards that hold every chunk of a source exactly once, in order."""

import hashlib
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from virnuc_assets.errors import VirnucError
from virnuc_assets.sequences import planning
from virnuc_assets.sequences.opening import SequenceFileError
from virnuc_assets.sequences.planning import (
    MAX_PACKS,
    ShardPlan,
    chunk_count,
    count_records,
    pack_key,
    plan_faults,
    plan_source,
    rows_of,
    starts_of,
)

from .genbank_files import entry
from .plain import walked_chunks

# ---- geometry ----


def spans(length_nt: int, chunk_length: int) -> list[tuple[int, int]]:
    starts = starts_of(np.arange(chunk_count(length_nt, chunk_length)), length_nt, chunk_length).tolist()
    return [(start, min(start + chunk_length, length_nt)) for start in starts]


# k chunks, surplus r = k·c − n, q = r // k; min(r − (k−1)·q, k−1) steps go back q + 1, the others q.
HAND_COMPUTED = [
    (500, 0, []),
    # shorter than a chunk, and exactly one
    (500, 1, [(0, 1)]),
    (300, 300, [(0, 300)]),
    # one base more: k = 2, r = 499, q = 249, 250 > 1: the one step goes back 250, the last chunk is shorter
    (500, 501, [(0, 500), (250, 501)]),
    # exact multiples do not overlap
    (300, 900, [(0, 300), (300, 600), (600, 900)]),
    # k = 3, r = 300 = 3 · 100, yet 100 > 2: back 101 twice, the last is 402 long
    (500, 1200, [(0, 500), (399, 899), (798, 1200)]),
    # k = 5, r = 6, q = 1: the first two steps go back 2, the others 1
    (300, 1494, [(0, 300), (298, 598), (596, 896), (895, 1195), (1194, 1494)]),
    # k = 5, r = 9, q = 1, 5 > 4: the last is one base short
    (300, 1491, [(0, 300), (298, 598), (596, 896), (894, 1194), (1192, 1491)]),
]


@pytest.mark.parametrize(("chunk_length", "length_nt", "expected"), HAND_COMPUTED)
def test_hand_computed_spans(chunk_length: int, length_nt: int, expected: list[tuple[int, int]]) -> None:
    assert spans(length_nt, chunk_length) == expected
    assert chunk_count(length_nt, chunk_length) == len(expected)


@pytest.mark.parametrize("chunk_length", [300, 500])
def test_every_length_agrees_with_a_walk_along_the_record(chunk_length: int) -> None:
    """And chunks cover the record in order; only the last may be shorter."""
    for length_nt in range(1, 5001):
        found = spans(length_nt, chunk_length)
        assert found == walked_chunks(length_nt, chunk_length), length_nt
        assert (found[0][0], found[-1][1]) == (0, length_nt)
        for (start, end), (next_start, next_end) in zip(found, found[1:], strict=False):
            assert start < next_start <= end <= next_end, length_nt
            assert end - start == chunk_length, length_nt


# ---- shards ----


def planned(folder: Path, lengths: list[int], chunk_length: int, shard_chunks: int) -> ShardPlan:
    text = "".join(f">r{number}\n{'ACGTN' * 500:.{length}}\n" for number, length in enumerate(lengths))
    (folder / "s.fa").write_text(text)
    return plan_source(folder / "s.fa", "s", chunk_length, shard_chunks)


def test_records_are_cut_and_joined_into_shards_of_three_chunks(tmp_path: Path) -> None:
    """300 nt a chunk: 2, 0, 5, 1, 0 chunks are 8 in 3 shards."""
    plan = planned(tmp_path, [301, 0, 1500, 7, 0], 300, 3)
    assert [(p.shard, p.record_id, p.number, p.length_nt, p.first_chunk, p.end_chunk) for p in plan.segments] == [
        ("s-000001", "r0", 1, 301, 0, 2),
        ("s-000001", "r1", 2, 0, 0, 0),
        ("s-000001", "r2", 3, 1500, 0, 1),
        ("s-000002", "r2", 3, 1500, 1, 4),
        ("s-000003", "r2", 3, 1500, 4, 5),
        ("s-000003", "r3", 4, 7, 0, 1),
        ("s-000003", "r4", 5, 0, 0, 0),
    ]
    assert {segment.status for segment in plan.segments} == {"planned"}
    assert plan.segments[0].digest == hashlib.sha256(("ACGTN" * 500)[:301].encode()).hexdigest()[:32]
    assert plan.shards == ["s-000001", "s-000002", "s-000003"]
    assert list(plan_faults(plan.segments, 300)) == []
    assert list(plan_faults(plan.segments[:3] + plan.segments[4:], 300)) == ["r2: chunk 1 is in no shard or two"]
    shorter = plan.segments[0]._replace(end_chunk=1)
    assert list(plan_faults([shorter, *plan.segments[1:]], 300)) == ["r0: 1 chunks planned of 2 in 301 nt"]


@pytest.mark.parametrize(("lengths", "shards"), [([600, 0], 1), ([0, 0], 1), ([600, 0, 9], 2)])
def test_a_record_without_letters_opens_no_shard_of_its_own(tmp_path: Path, lengths: list[int], shards: int) -> None:
    assert len(planned(tmp_path, lengths, 300, 2).shards) == shards


def test_keys_sort_as_they_follow_each_other(tmp_path: Path) -> None:
    """Nine chunks, three times, are 14 shards of two."""
    plan = planned(tmp_path, [2500] * 3, 300, 2)
    assert len(plan.shards) == 14
    assert plan.shards == sorted(plan.shards)
    assert plan.shards[9:11] == ["s-000010", "s-000011"]
    assert [pack_key("viral", index) for index in (0, 99, MAX_PACKS - 1)] == ["viral-0001", "viral-0100", "viral-9999"]
    with pytest.raises(VirnucError, match="set sequences.shard_chunks higher"):
        pack_key("viral", MAX_PACKS)


@pytest.mark.parametrize("hashed", [hash, len])
def test_of_records_with_one_id_the_first_is_used_if_all_have_its_letters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hashed: Callable[[str], int]
) -> None:
    """Also where other ids have the same hash."""
    monkeypatch.setattr(planning, "hash", hashed, raising=False)
    path, same = tmp_path / "s.fa", "ACGTTGA" * 100
    path.write_text(f">a\n{same}\n>b\nACGT\n>a again\n{same.lower()}\n>c\nACGT\n>c\nACGA\n")
    twice = "duplicate id: same sequence as record 1"
    other = "duplicate id: 2 different sequences have this first word of the header"
    segments = plan_source(path, "s", 300, 10).segments
    assert [(p.record_id, p.number, p.status, p.reason, p.chunks) for p in segments] == [
        ("a", 1, "planned", None, 3),
        ("b", 2, "planned", None, 1),
        ("a", 3, "skipped", twice, 0),
        ("c", 4, "failed", other, 0),
        ("c", 5, "failed", other, 0),
    ]


def test_records_without_usable_sequence_are_failed_and_leave_their_id_to_others(tmp_path: Path) -> None:
    path = tmp_path / "s.gb"
    path.write_text(
        entry("A1.1", "", tail="CONTIG      join(CD1.1:1..500)\n", length_nt=500)
        + entry("A2.1", "", tail="WGS         AAAA01000001-AAAA01000002\n", length_nt=2)
        + entry("A3.1", "", length_nt=500)
        + entry("A4.1", "")
        + entry("A1.1", "ACGT")
    )
    elsewhere = "the sequence is stored elsewhere (CONTIG or WGS); fetch the record with rettype=gbwithparts"
    records, _ = count_records(path, "s", 300)
    assert [(record.record_id, record.status, record.reason, record.chunks) for record in rows_of(records)] == [
        ("A1.1", "failed", elsewhere, 0),
        ("A2.1", "failed", elsewhere, 0),
        ("A3.1", "failed", elsewhere, 0),
        ("A4.1", "planned", None, 0),
        ("A1.1", "planned", None, 1),
    ]


def test_a_protein_of_iupac_letters_is_failed_and_a_degenerate_primer_is_not(tmp_path: Path) -> None:
    path, protamine = tmp_path / "s.faa", "MARYRRTRTRSRSRRRRRSRRRRSSRRRRYGRSRRSYRSVGRRRRRYGRRRRRRRRYN"
    path.write_text(
        f">protamine\n{protamine}\n>primer\n{protamine[:29]}\n>masked\n{'N' * 90}ACGU\n>half\n{'AR' * 20}\n"
    )
    records, _ = count_records(path, "s", 300)
    assert [(record.record_id, record.status, record.reason) for record in rows_of(records)] == [
        ("protamine", "failed", "looks like protein: fewer than half of the characters are A, C, G, T, U or N"),
        *((name, "planned", None) for name in ("primer", "masked", "half")),
    ]


def test_more_ids_than_a_column_holds_are_refused_at_the_first_that_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Arrow's builder has no error for it, and writes beyond its memory later."""
    builders = list[list[str]]()

    class Full(list[str]):
        """Has space for two."""

        def __init__(self) -> None:
            builders.append(self)

        def __len__(self) -> int:
            return min(super().__len__(), 2)

    monkeypatch.setattr(pa.lib, "StringBuilder", Full)
    (tmp_path / "s.fa").write_text(">a\nACGT\n>b\nACGT\n>c\nACGT\n>d\nACGT\n")
    with pytest.raises(SequenceFileError, match=r"s.fa: more than 2 GB of ids or digests of records; split the file"):
        count_records(tmp_path / "s.fa", "s", 300)
    assert [*builders[0]] == ["a", "b", "c"]


def test_records_shorter_than_the_minimum_are_skipped_and_leave_their_id_to_others(tmp_path: Path) -> None:
    path = tmp_path / "s.fa"
    path.write_text(">a\nACG\n>b\nACGT\n>a\nACGTACGT\n>empty\n>c\nACGTA\n>c\nACGTA\n")
    short = "shorter than the minimum of 4 nt"
    plan = plan_source(path, "s", 300, 10, min_length_nt=4)
    assert [(p.record_id, p.number, p.status, p.reason, p.chunks) for p in plan.segments] == [
        ("a", 1, "skipped", short, 0),
        ("b", 2, "planned", None, 1),
        ("a", 3, "planned", None, 1),
        ("empty", 4, "skipped", short, 0),
        ("c", 5, "planned", None, 1),
        ("c", 6, "skipped", "duplicate id: same sequence as record 5", 0),
    ]
    assert list(plan_faults(plan.segments, 300)) == []


# ---- memory ----

SMALL, LARGE = 100_000, 400_000
AT_MOST = 300
# Not ru_maxrss: a child starts with its parent's peak there.
SCRIPT = """
import re, sys
from pathlib import Path
from virnuc_assets.cli.stages import frame_file

ledger = frame_file(Path(sys.argv[1]), Path(sys.argv[2]), 500, lambda done, total: None)
print(ledger.num_rows, re.findall(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[0])
"""


def peak_bytes(folder: Path, records: int) -> int:
    bases, path = "".join(random.Random(1).choices("ACGT", k=1000)), folder / f"{records}.fa"
    with path.open("w") as handle:
        handle.writelines(f">contig_{number:06d}\n{bases[number % 800 :][:90]}\n" for number in range(records))
    command = [sys.executable, "-c", SCRIPT, str(path), str(folder / "frames.parquet")]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert found[0] == str(records)
    return int(found[1]) * 1024


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_a_record_takes_less_than_300_bytes(tmp_path: Path) -> None:
    """Of planning, framing and the ledger together."""
    of_record = (peak_bytes(tmp_path, LARGE) - peak_bytes(tmp_path, SMALL)) / (LARGE - SMALL)
    print(f"{of_record:.0f} bytes a record")  # noqa: T201
    assert of_record < AT_MOST
