"""Planning: shards hold every chunk of a source exactly once, in order, and their tables together are the whole."""

import hashlib
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from virnuc_assets.errors import VirnucError
from virnuc_assets.sequences.chunk_table import ChunkReader, as_fasta, chunk_tables
from virnuc_assets.sequences.frame_table import open_frames
from virnuc_assets.sequences.ledger import ledger_table, merged_ledger
from virnuc_assets.sequences.planning import Plan, plan_source
from virnuc_assets.sequences.shard_keys import MAX_PACKS, pack_key, sample_of, shard_key, source_name


def write_records(path: Path, lengths: list[int]) -> None:
    path.write_text("".join(f">r{number}\n{'ACGTN' * 500:.{length}}\n" for number, length in enumerate(lengths)))


def planned(folder: Path, lengths: list[int], chunk_length: int, shard_chunks: int) -> Plan:
    write_records(folder / "s.fa", lengths)
    return plan_source(folder / "s.fa", "s", chunk_length, shard_chunks)


def cut(plan: Plan) -> list[tuple[str, str, int, int, int]]:
    return [(p.shard, p.record_id, p.length_nt, p.first_chunk, p.end_chunk) for p in plan.pieces]


def test_records_are_cut_and_joined_into_shards_of_three_chunks(tmp_path: Path) -> None:
    """300 nt a chunk: 2, 0, 5, 1, 0 chunks are 8 in 3 shards."""
    plan = planned(tmp_path, [301, 0, 1500, 7, 0], 300, 3)
    assert cut(plan) == [
        ("s-000001", "r0", 301, 0, 2),
        ("s-000001", "r1", 0, 0, 0),
        ("s-000001", "r2", 1500, 0, 1),
        ("s-000002", "r2", 1500, 1, 4),
        ("s-000003", "r2", 1500, 4, 5),
        ("s-000003", "r3", 7, 0, 1),
        ("s-000003", "r4", 0, 0, 0),
    ]
    assert [piece.number for piece in plan.pieces] == [1, 2, 3, 3, 3, 4, 5]
    assert {piece.fate for piece in plan.pieces} == {"planned"}
    digest = hashlib.sha256(("ACGTN" * 500)[:301].encode()).hexdigest()[:32]
    assert plan.pieces[0].digest == digest
    assert plan.shards == ["s-000001", "s-000002", "s-000003"]


def test_a_record_without_letters_after_a_full_shard_opens_no_shard_of_its_own(tmp_path: Path) -> None:
    assert planned(tmp_path, [600, 0], 300, 2).shards == ["s-000001"]
    assert planned(tmp_path, [0, 0], 300, 2).shards == ["s-000001"]
    assert planned(tmp_path, [600, 0, 9], 300, 2).shards == ["s-000001", "s-000002"]


MIXED = [1200, 0, 1, 499, 1501, 2, 2500, 0, 300, 0]


def tables(path: Path, shard_chunks: int, chunk_length: int) -> tuple[pa.Table, pa.Table, list[pa.Table]]:
    """Chunks and frames of all shards one after the other, and the ledgers of each."""
    plan = plan_source(path, "s", chunk_length, shard_chunks)
    chunks, frames, ledgers = [], [], []
    for pieces, table in chunk_tables(path, plan.pieces, chunk_length, plan.sha256):
        chunks.append(table)
        found = open_frames(table, None)
        frames.append(found.table)
        ledgers.append(ledger_table(pieces, found.counts))
    return pa.concat_tables(chunks), pa.concat_tables(frames), ledgers


@pytest.mark.parametrize("chunk_length", [300, 500])
@pytest.mark.parametrize("shard_chunks", [1, 2, 3, 7, 20])
def test_rows_do_not_depend_on_the_shard_size(tmp_path: Path, shard_chunks: int, chunk_length: int) -> None:
    path = tmp_path / "s.fa"
    write_records(path, MIXED)
    whole_chunks, whole_frames, (whole_ledger,) = tables(path, 10_000, chunk_length)
    chunks, frames, ledgers = tables(path, shard_chunks, chunk_length)
    assert len(ledgers) == -(-whole_chunks.num_rows // shard_chunks)
    assert chunks.to_pylist() == whole_chunks.to_pylist()
    assert frames.to_pylist() == whole_frames.to_pylist()
    plan = plan_source(path, "s", chunk_length, shard_chunks)
    assert merged_ledger(plan.pieces, ledgers).to_pylist() == whole_ledger.to_pylist()
    assert whole_ledger.column("record_id").to_pylist() == [f"r{number}" for number in range(len(MIXED))]


def test_a_chunk_row_is_its_window_of_the_record(tmp_path: Path) -> None:
    letters = "ACGTTGCATTNACGGATTAC" * 30
    (tmp_path / "s.fa").write_text(f">x.1 of no use\n{letters[:501].lower()}\n")
    plan = plan_source(tmp_path / "s.fa", "s", 500, 10)
    table = ChunkReader(tmp_path / "s.fa", plan.sha256, 500).table(plan.pieces)
    row = {"record_id": "x.1"}
    assert table.to_pylist() == [
        {"chunk_id": "x.1_chunk_1", **row, "start_nt": 0, "end_nt": 500, "sequence": letters[:500]},
        {"chunk_id": "x.1_chunk_2", **row, "start_nt": 250, "end_nt": 501, "sequence": letters[250:501]},
    ]
    assert "".join(as_fasta(table, "chunk_id", "sequence")) == (
        f">x.1_chunk_1\n{letters[:500]}\n>x.1_chunk_2\n{letters[250:501]}\n"
    )


@pytest.mark.parametrize(
    ("file_name", "expected"),
    [
        ("lambda.fna.gz", "lambda"),
        ("lambda.fa", "lambda"),
        ("virus.fa.gz", "virus"),
        ("viral.1.1.genomic.fna.gz", "viral.1.1.genomic"),
        ("my sample 2.fasta", "my_sample_2"),
        ("two  blanks.fa", "two__blanks"),
        ("a-b+c_d.fasta", "a-b+c_d"),
        ("no_ending", "no_ending"),
        ("sars é 2.fa", "sars___2"),
        ("a:b*c?d|e.fa", "a_b_c_d_e"),
        ("a;rm -rf.fa", "a_rm_-rf"),
    ],
)
def test_a_source_is_named_by_its_file(file_name: str, expected: str) -> None:
    assert source_name(Path("/some/folder.d") / file_name) == expected


@pytest.mark.parametrize("file_name", ["日本.fa", "...", "---", "é.fa.gz"])
def test_a_name_of_which_nothing_is_left_is_refused(file_name: str) -> None:
    with pytest.raises(VirnucError, match="rename") as caught:
        source_name(Path("/incoming") / file_name)
    assert f"/incoming/{file_name}" in str(caught.value)


@given(st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=12))
def test_a_name_is_a_file_name_and_a_partition_key(file_name: str) -> None:
    try:
        name = source_name(Path("/incoming") / (file_name + ".fa"))
    except VirnucError:
        return
    assert all(letter.isascii() and (letter.isalnum() or letter in "._+-") for letter in name)
    assert name[0] not in ".-"
    assert sample_of(shard_key(name, 11)) == name


def test_keys_sort_as_they_follow_each_other(tmp_path: Path) -> None:
    """Nine chunks, three times, are 14 shards of two."""
    plan = planned(tmp_path, [2500] * 3, 300, 2)
    assert len(plan.shards) == 14
    assert plan.shards == sorted(plan.shards)
    assert plan.shards[9:11] == ["s-000010", "s-000011"]
    assert sample_of("a-b-000001") == "a-b"
    assert [pack_key("viral", index) for index in (0, 99, MAX_PACKS - 1)] == ["viral-0001", "viral-0100", "viral-9999"]
    with pytest.raises(VirnucError, match="set sequences.shard_chunks higher"):
        pack_key("viral", MAX_PACKS)


def fates(plan: Plan) -> list[tuple[str, int, str, str | None, int]]:
    return [(p.record_id, p.number, p.fate, p.reason, p.chunks) for p in plan.pieces]


def test_of_records_with_one_id_the_first_is_used_if_all_have_its_letters(tmp_path: Path) -> None:
    path, same = tmp_path / "s.fa", "ACGTTGA" * 100
    path.write_text(f">a\n{same}\n>b\nACGT\n>a again\n{same.lower()}\n>c\nACGT\n>c\nACGA\n")
    twice, other = "duplicate id: same sequence as record 1", "duplicate id: names 2 different sequences"
    assert fates(plan_source(path, "s", 300, 10)) == [
        ("a", 1, "planned", None, 3),
        ("b", 2, "planned", None, 1),
        ("a", 3, "skipped", twice, 0),
        ("c", 4, "failed", other, 0),
        ("c", 5, "failed", other, 0),
    ]
