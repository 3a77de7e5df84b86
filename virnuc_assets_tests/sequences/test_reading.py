"""Reading: every form of FASTA and GenBank that is meant, and one clear refusal for each that is not."""

import bz2
import gzip
import io
import lzma
import zipfile
from pathlib import Path

import pytest
from Bio import bgzf
from hypothesis import given
from hypothesis import strategies as st

from virnuc_assets.sequences import opening
from virnuc_assets.sequences.catalogue import Source
from virnuc_assets.sequences.opening import SequenceFileError, open_source
from virnuc_assets.sequences.plan_table import plan_sample
from virnuc_assets.sequences.reading import read_records
from virnuc_assets.settings import SequenceSettings

TWO_RECORDS = b">first of two\nACGTAC\nGT\n>second\nGGG\n"
AS_READ = [("first", "ACGTACGT"), ("second", "GGG")]


def read(path: Path) -> list[tuple[str, str]]:
    with open_source(path) as source:
        return [(record.id, bytes(record.sequence).decode("ascii")) for record in read_records(source)]


def read_bytes(folder: Path, content: bytes, name: str = "input.fa") -> list[tuple[str, str]]:
    path = folder / name
    path.write_bytes(content)
    return read(path)


def bgzipped(content: bytes, block: int = 7) -> bytes:
    """BGZF as bgzip writes it: many gzip members and an empty one as end marker."""
    stream = io.BytesIO()
    writer = bgzf.BgzfWriter(fileobj=stream)
    for start in range(0, len(content), block):
        writer.write(content[start : start + block])
        writer.flush()
    writer._handle = io.BytesIO()  # close() would close the stream that is read below
    return stream.getvalue() + bgzf._bgzf_eof


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("plain.fa", TWO_RECORDS),
        ("gzip.fa.gz", gzip.compress(TWO_RECORDS, mtime=0)),
        ("members.fa.gz", gzip.compress(TWO_RECORDS[:20], mtime=0) + gzip.compress(TWO_RECORDS[20:], mtime=0)),
        ("bgzip.fa.gz", bgzipped(TWO_RECORDS)),
        ("gzip_named.fasta", gzip.compress(TWO_RECORDS, mtime=0)),
        ("plain_named.fa.gz", TWO_RECORDS),
        ("bom.fa", b"\xef\xbb\xbf" + TWO_RECORDS),
        ("bom.fa.gz", gzip.compress(b"\xef\xbb\xbf" + TWO_RECORDS, mtime=0)),
        ("crlf.fa", TWO_RECORDS.replace(b"\n", b"\r\n")),
        ("cr_only.fa", TWO_RECORDS.replace(b"\n", b"\r")),
        ("mixed_ends.fa", b">first of two\r\nACGTAC\rGT\n>second\rGGG"),
        ("no_final_newline.fa", TWO_RECORDS[:-1]),
        ("lower_case.fa", b">first\nacgtac\ngt\n>second\nggg\n"),
        ("mixed_case.fa", b">first\nAcgTac\ngT\n>second\nGgg\n"),
        ("rna.fa", b">first\nACGUAC\ngu\n>second\nGGG\n"),
        ("blanks.fa", b">first\nAC GTAC\tGT \n\n>second\n\n  GG\n\nG\n"),
        ("blank_lines_first.fa", b"\n\r\n \n" + TWO_RECORDS),
        ("many_signs.fa", b">>>>first\nACGTACGT\n>>second\nGGG\n"),
        ("blank_before_id.fa", b"> first of two\nACGTACGT\n>\tsecond\nGGG\n"),
    ],
)
def test_forms_of_the_same_two_records(tmp_path: Path, name: str, content: bytes) -> None:
    assert read_bytes(tmp_path, content, name) == AS_READ


def test_the_bgzip_of_this_test_has_several_members() -> None:
    assert bgzipped(TWO_RECORDS).count(b"BC\x02\x00") == 7  # 36 bytes in blocks of 7, and the end marker
    assert gzip.decompress(bgzipped(TWO_RECORDS)) == TWO_RECORDS


def test_all_ambiguity_codes_are_kept(tmp_path: Path) -> None:
    assert read_bytes(tmp_path, b">a\nACGTRYKMSWBDHVNacgtrykmswbdhvnUu\n") == [("a", "ACGTRYKMSWBDHVN" * 2 + "TT")]


def test_hostile_ids_are_read_as_they_are(tmp_path: Path) -> None:
    found = read_bytes(tmp_path, b">../../etc/passwd; rm\nACG\n>=cmd|calc!A1\nACG\n><script>alert(1)</script>\nACG\n")
    assert [record_id for record_id, _ in found] == ["../../etc/passwd;", "=cmd|calc!A1", "<script>alert(1)</script>"]


def test_records_without_letters_are_records(tmp_path: Path) -> None:
    assert read_bytes(tmp_path, b">a\n>b\n\n>c\nACG\n>d") == [("a", ""), ("b", ""), ("c", "ACG"), ("d", "")]


def test_a_record_longer_than_any_buffer(tmp_path: Path) -> None:
    letters = "ACGTTGCA" * 400_000
    wrapped = "\n".join(letters[start : start + 70] for start in range(0, len(letters), 70))
    assert read_bytes(tmp_path, gzip.compress(f">long\n{wrapped}\n>next\nACG".encode(), 1)) == [
        ("long", letters),
        ("next", "ACG"),
    ]


@given(
    st.lists(st.text("ACGTN", max_size=30), min_size=1, max_size=5),
    st.integers(1, 31),
    st.sampled_from(["\n", "\r\n", "\r"]),
)
def test_line_width_and_line_ends_change_nothing(
    tmp_path_factory: pytest.TempPathFactory, sequences: list[str], width: int, end: str
) -> None:
    lines = []
    for number, sequence in enumerate(sequences):
        lines += [f">r{number}", *(sequence[start : start + width] for start in range(0, len(sequence), width))]
    path = tmp_path_factory.mktemp("wrapped") / "input.fa"
    path.write_bytes(end.join(lines).encode())
    assert read(path) == [(f"r{number}", sequence) for number, sequence in enumerate(sequences)]


def test_ids_that_occur_twice_are_told_apart_by_their_numbers(tmp_path: Path) -> None:
    path = tmp_path / "input.fa"
    path.write_bytes(b">a one\nACG\n>b\n>a two\nGGG\n")
    with open_source(path) as source:
        assert [(record.id, record.number) for record in read_records(source)] == [("a", 1), ("b", 2), ("a", 3)]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 16])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_blocks_of_any_size_give_the_same_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, end: bytes
) -> None:
    """A header, a line end or a byte order mark may lie on the border of two blocks."""
    content = b">first of two > and more\nACGT\nAC GU\n\n>second\n>third\nggg\nNN"
    monkeypatch.setattr(opening, "_BLOCK_BYTES", size)
    found = read_bytes(tmp_path, content.replace(b"\n", end))
    assert found == [("first", "ACGTACGT"), ("second", ""), ("third", "GGGNN")]
    with pytest.raises(SequenceFileError, match="record 'first', line 3: .*'-'"):
        read_bytes(tmp_path, content.replace(b"AC GU", b"AC-GU").replace(b"\n", end))


def test_reading_streams_the_file(tmp_path: Path) -> None:
    """The first record is handed out before the broken second one is looked at."""
    path = tmp_path / "input.fa"
    path.write_bytes(b">good\nACG\n>bad\nAC-G\n")
    with open_source(path) as source:
        records = read_records(source)
        assert next(records).id == "good"
        with pytest.raises(SequenceFileError, match="bad"):
            next(records)


def zipped(content: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("inside.fa", content)
    return stream.getvalue()


GZIP = gzip.compress(TWO_RECORDS * 50, mtime=0)
# name of the file, its bytes, and what the message must name beside the file
REFUSALS = {
    "empty.fa": (b"", ["empty"]),
    "empty_gzip.fa.gz": (gzip.compress(b"", mtime=0), ["blank"]),
    "blank_only.fa": (b"\n  \r\n\t\n", ["blank"]),
    "protein.faa": (b">good\nACGT\n>WP_1 capsid\nMKV\nLEAQ\n", ["'WP_1'", "line 5", "'ELQ'", "protein"]),
    "sign_in_a_line.fa": (b">a\nACG\nAC>G\n", ["'a'", "line 3", "'>'"]),
    "endless_header.fa": (b">a " + b"x" * (3 << 20) + b"\nACG\n", ["line 1", "header of more than"]),
    "truncated.fa.gz": (GZIP[:-20], ["gzip", "cut or corrupt"]),
    "truncated_in_the_trailer.fa.gz": (GZIP[:-3], ["gzip", "cut or corrupt"]),
    "truncated_second_member.fa.gz": (GZIP + GZIP[:-20], ["gzip", "cut or corrupt"]),
    "corrupt_crc.fa.gz": (GZIP[:-8] + bytes(4) + GZIP[-4:], ["gzip", "cut or corrupt", "CRC"]),
    "corrupt_deflate.fa.gz": (GZIP[:10] + b"\xff\xff" + GZIP[12:], ["gzip", "cut or corrupt"]),
    "gzip_and_garbage.fa.gz": (GZIP + b"garbage", ["gzip", "cut or corrupt"]),
    "bzip2.fa.bz2": (bz2.compress(TWO_RECORDS), ["bzip2", "gzip"]),
    "xz.fa.xz": (lzma.compress(TWO_RECORDS), ["xz", "gzip"]),
    "zip.fa.zip": (zipped(TWO_RECORDS), ["zip", "gzip"]),
    "fastq.fasta": (b"@read1\nACGT\n+\nIIII\n", ["FASTQ", "'@read1'"]),
    "page.html": (b"<!DOCTYPE html><html>502 Bad Gateway</html>\n", ["HTML", "502 Bad Gateway"]),
    "text.fa": (b"This is no sequence\n>a\nACG\n", ["'This is no sequence'"]),
    "sequence_only.fa": (b"ACGTACGT\n", ["'ACGTACGT'"]),
    "semicolon.fa": (b";comment\n>a\nACG\n", ["';comment'"]),
    "utf_16.fa": (">a\nACG\n".encode("utf-16"), ["'>'"]),
    "nul.fa": (b">a\nACG\n>b\nAC\x00G\n", ["'b'", "line 4", r"\x00"]),
    "gaps.fa": (b">a\r\nACG\r\n>b\r\nACG\r\nA--G\r\n", ["'b'", "line 5", "'-'"]),
    "gap_dots.fa": (b">a\nAC..G\n", ["'a'", "line 2", "'.'"]),
    "stop.fa": (b">a\nACG*\n", ["'a'", "line 2", "'*'"]),
    "digits.fa": (b">a\n1 ACG 4\n", ["'a'", "line 2", "'14'"]),
    "x.fa": (b">a\nACXG\n", ["'a'", "line 2", "'X'"]),
    "no_id.fa": (b">a\nACG\n>\nACG\n", ["line 3", "without an id"]),
    "blank_id.fa": (b">  \t\nACG\n", ["line 1", "without an id"]),
    "only_sign.fa": (b">", ["line 1", "without an id"]),
    "accents.fa": ("\n>a\nACéG\n".encode(), ["'a'", "line 3", "é"]),
    "cut.gb": (b"LOCUS       AB1        12 bp    DNA     linear   VRL 01-JAN-2000\nFEATURES   ", ["record 1"]),
}


@pytest.mark.filterwarnings("ignore::Bio.BiopythonParserWarning")
@pytest.mark.parametrize("name", REFUSALS)
def test_a_refusal_names_the_file_and_what_is_wrong_and_plans_nothing(tmp_path: Path, name: str) -> None:
    content, words = REFUSALS[name]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(SequenceFileError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert [word for word in words if word not in str(caught.value)] == []
    plan = tmp_path / "var" / "plan.parquet"
    with pytest.raises(SequenceFileError):
        plan_sample(plan, Source("input", path), SequenceSettings())
    assert not list(tmp_path.glob("var/**/*.*"))


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.fa", tmp_path):
        with pytest.raises(SequenceFileError, match="no such sequence file") as caught:
            read(path)
        assert str(path) in str(caught.value)
