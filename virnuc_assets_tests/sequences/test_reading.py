"""Reading: forms of the same FASTA, blocks of any size, and one clear refusal for each file that is none."""

import gzip
import io
import lzma
import os
import zipfile
from pathlib import Path

import pytest
from Bio import bgzf

from virnuc_assets.sequences import opening
from virnuc_assets.sequences.catalogue import Source
from virnuc_assets.sequences.opening import SequenceFileError, open_source
from virnuc_assets.sequences.plan_table import plan_sample
from virnuc_assets.sequences.reading import read_records
from virnuc_assets.settings import SequenceSettings

TWO_RECORDS = b">first of two\nACGTAC\nGT\n>second\nGGG\n"
AS_READ = [("first", "ACGTACGT"), ("second", "GGG")]


def read_bytes(folder: Path, content: bytes) -> list[tuple[str, str]]:
    path = folder / "input.fa"
    path.write_bytes(content)
    with open_source(path) as source:
        return [(header.id, b"".join(bases).decode()) for header, bases in read_records(source)]


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
    "content",
    [
        TWO_RECORDS,
        gzip.compress(TWO_RECORDS[:20], mtime=0) + gzip.compress(TWO_RECORDS[20:], mtime=0),
        bgzipped(TWO_RECORDS),
        gzip.compress(b"\xef\xbb\xbf" + TWO_RECORDS, mtime=0),
        b">first of two\r\nACGTAC\rGT\n>second\rGGG",
        b">first\nAcgUac\ngu\n>second\nGgg\n",
        b">first\nAC GTAC\tGT \n\n>second\n\n  GG\n\nG\n",
        b"\n\r\n \n" + TWO_RECORDS,
        b">>>>first\nACGTACGT\n>>second\nGGG\n",
        b"> first of two\nACGTACGT\n>\tsecond\nGGG\n",
    ],
    ids=[
        *("plain", "gzip members", "bgzip", "bom in gzip", "mixed line ends", "mixed case and RNA", "blanks"),
        *("blank lines first", "many signs", "blank before the id"),
    ],
)
def test_forms_of_the_same_two_records(tmp_path: Path, content: bytes) -> None:
    assert read_bytes(tmp_path, content) == AS_READ


def test_ids_are_valid_text_and_otherwise_as_they_are(tmp_path: Path) -> None:
    content = "../../etc/passwd; rm\n>=cmd|calc!A1\n>vírus_α_Ω\n>a\x1bb\n".encode() + b">virus_\xe9t\xe9\n>a\n>a\n"
    found = [record_id for record_id, *_ in read_bytes(tmp_path, b">" + content)]
    assert found == ["../../etc/passwd;", "=cmd|calc!A1", "vírus_α_Ω", r"a\x1bb", r"virus_\xe9t\xe9", "a", "a"]


def test_a_record_longer_than_any_buffer(tmp_path: Path) -> None:
    bases = "ACGTTGCA" * 400_000
    wrapped = "\n".join(bases[start : start + 70] for start in range(0, len(bases), 70))
    assert read_bytes(tmp_path, gzip.compress(f">long\n{wrapped}\n>next\nACG".encode(), 1)) == [
        ("long", bases),
        ("next", "ACG"),
    ]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 16])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_blocks_of_any_size_give_the_same_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, end: bytes
) -> None:
    """A header, a line end or a byte order mark may be on the border of two blocks."""
    content = b">first of two > and more\nACGT\nAC GU\n\n>second\n>third\nggg\nNN"
    monkeypatch.setattr(opening, "_BLOCK_BYTES", size)
    found = read_bytes(tmp_path, content.replace(b"\n", end))
    assert found == [("first", "ACGTACGT"), ("second", ""), ("third", "GGGNN")]
    with pytest.raises(SequenceFileError, match="record 'first', line 3: .*'-'"):
        read_bytes(tmp_path, content.replace(b"AC GU", b"AC-GU").replace(b"\n", end))


def zipped(content: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("inside.fa", content)
    return stream.getvalue()


GZIP = gzip.compress(TWO_RECORDS * 50, mtime=0)
# What the files of test_nasty do not show: the bytes, and what the message must name.
REFUSALS = {
    "empty gzip": (gzip.compress(b"", mtime=0), ["blank"]),
    "blank lines alone": (b"\n  \r\n\t\n", ["blank"]),
    "a character in a line": (b">a\nACG\nAC>G\n", ["'a'", "line 3", "'>'"]),
    "endless header": (b">a " + b"x" * (3 << 20) + b"\nACG\n", ["line 1", "header of more than"]),
    "endless id": (b">" + b"x" * 1001 + b"\nACG\n", ["line 1", "has 1,001 characters; expected at most 1,000"]),
    "gzip without its end": (GZIP[:-3], ["gzip", "cut or corrupt"]),
    "second member cut": (GZIP + GZIP[:-20], ["gzip", "cut or corrupt"]),
    "corrupt deflate": (GZIP[:10] + b"\xff\xff" + GZIP[12:], ["gzip", "cut or corrupt"]),
    "gzip and garbage": (GZIP + b"garbage", ["other bytes follow the gzip data", "gzip -dc"]),
    "xz": (lzma.compress(TWO_RECORDS), ["xz", "gzip"]),
    "zip": (zipped(TWO_RECORDS), ["zip", "gzip"]),
    "sequence alone": (b"ACGTACGT\n", ["'ACGTACGT'"]),
    "utf 16": (">a\nACG\n".encode("utf-16"), ["UTF-16", "Save it as UTF-8"]),
    "GFF": (b"##gff-version 3\n", ["comments or GFF", "'##gff-version 3'"]),
    "text before FASTA": (b"made by hand\n>a\nACG\n", ["'made by hand'", "without text before the first '>'"]),
    "a comment inside": (b">a\n;made by hand\nACG\n", ["'a'", "line 2", "comment", "remove"]),
    "stop": (b">a\nACG*\n", ["'a'", "line 2", "'*'"]),
    "X": (b">a\nACXG\n", ["'a'", "line 2", "'X'"]),
    "accents": ("\n>a\nACéG\n".encode(), ["'a'", "line 3", "é"]),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_refusal_names_the_file_and_what_is_wrong_and_plans_nothing(tmp_path: Path, name: str) -> None:
    content, words = REFUSALS[name]
    path = tmp_path / "input.fa"
    path.write_bytes(content)
    with pytest.raises(SequenceFileError) as caught:
        plan_sample(tmp_path / "var" / "plan.parquet", Source("input", path), SequenceSettings())
    assert str(caught.value).startswith(f"{path}: ")
    assert [word for word in words if word not in str(caught.value)] == []
    assert not list(tmp_path.glob("var/**/*.*"))


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.fa")
    (tmp_path / "dangling.fa").symlink_to("nowhere.fa")
    (tmp_path / "through.fa").symlink_to("x" * 300)
    for name, found in {
        "nowhere.fa": "no such sequence file",
        "": "expected a sequence file, found a folder",
        "pipe.fa": "expected a sequence file, found a pipe",
        "dangling.fa": "expected a sequence file, found a link to nothing",
        "through.fa": "expected a sequence file, found a link to nothing",
    }.items():
        with pytest.raises(SequenceFileError) as caught, open_source(tmp_path / name):
            pass
        assert str(caught.value) == f"{tmp_path / name}: {found}"
