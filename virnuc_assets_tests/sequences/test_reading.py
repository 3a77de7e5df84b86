"""Reading: forms of the same FASTA, blocks of any size, and one clear refusal for each file that is none."""

import bz2
import gzip
import hashlib
import io
import lzma
import os
import random
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from Bio import bgzf
from hypothesis import given
from hypothesis import strategies as st

from virnuc_assets.sequences import opening
from virnuc_assets.sequences.catalogue import Source
from virnuc_assets.sequences.chunk_table import chunk_tables
from virnuc_assets.sequences.opening import SequenceFileError, open_source
from virnuc_assets.sequences.plan_table import plan_sample
from virnuc_assets.sequences.planning import plan_source
from virnuc_assets.sequences.reading import copy_records, read_records
from virnuc_assets.settings import SequenceSettings

from .genbank_files import entry

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


def zstandard(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return sink.getvalue().to_pybytes()


PACKED: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda content: gzip.compress(content, mtime=0),
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": zstandard,
}


@pytest.mark.parametrize("compression", PACKED)
@pytest.mark.parametrize(
    "parts", [[TWO_RECORDS], [TWO_RECORDS[:20], TWO_RECORDS[20:]], [b"", TWO_RECORDS[:3], b"", TWO_RECORDS[3:], b""]]
)
def test_every_compression_of_any_streams(tmp_path: Path, compression: str, parts: list[bytes]) -> None:
    """As several files that were compressed by themselves and joined, and as pbzip2 and pzstd write them."""
    packed = [PACKED[compression](part) for part in parts]
    assert read_bytes(tmp_path, b"".join(packed)) == AS_READ
    padding = {"zstd": b"\x50\x2a\x4d\x18\x04\x00\x00\x00size"}.get(compression, b"\0" * 8)
    assert read_bytes(tmp_path, padding.join(packed) + padding) == AS_READ
    if compression == "zstd":
        assert read_bytes(tmp_path, padding + b"".join(packed)) == AS_READ


@pytest.mark.parametrize("compression", PACKED)
def test_a_format_is_recognised_behind_a_short_stream(tmp_path: Path, compression: str) -> None:
    """As where a release file's header was compressed by itself, or what follows it is broken."""
    header, pack = b"GBVRL1.SEQ   Genetic Sequence Data Bank\n\n", PACKED[compression]
    record = b"LOCUS       a   8 bp    DNA     linear   VRL 01-JAN-2026\nORIGIN\n        1 acgtacgt\n//\n"
    assert read_bytes(tmp_path, pack(header) + pack(record)) == [("a", "ACGTACGT")]
    with pytest.raises(SequenceFileError, match=f"other bytes follow the {compression} data"):
        read_bytes(tmp_path, pack(header) + pack(record) + b"garbage")


@pytest.mark.parametrize("compression", PACKED)
def test_a_compressed_stream_that_is_not_whole_is_named_with_its_record(tmp_path: Path, compression: str) -> None:
    pack, other = PACKED[compression], b">other\nACGT\n"
    packed = pack(b">long\n" + bytes(random.Random(1).choices(b"ACGT", k=3_000_000)) + b"\n")
    broken = bytes(byte ^ 255 for byte in packed[-40_000:-39_900])
    for content in (
        packed[:-1],
        packed[:-9],
        packed[: len(packed) // 2],
        packed[:-40_000] + broken + packed[-39_900:],
        packed + pack(other)[:-1],
        packed + pack(other)[:6],
    ):
        with pytest.raises(
            SequenceFileError, match=f"the {compression} stream is cut or corrupt, in record '(long|other)' "
        ):
            read_bytes(tmp_path, content)
    for content in (pack(TWO_RECORDS) + b"garbage", pack(TWO_RECORDS) + TWO_RECORDS, pack(other) + b"\1"):
        with pytest.raises(SequenceFileError, match=f"other bytes follow the {compression} data.*{compression} -dc"):
            read_bytes(tmp_path, content)
    with pytest.raises(SequenceFileError, match="blank lines only"):
        read_bytes(tmp_path, pack(b""))


READS = {f"AB{number}.1": "".join(random.Random(number).choices("ACGT", k=700)) for number in range(1, 4)}
FORMATS = {
    "FASTA": "".join(f">{name}\n{bases}\n" for name, bases in READS.items()),
    "FASTQ": "".join(f"@{name}\n{bases}\n+\n{'I' * len(bases)}\n" for name, bases in READS.items()),
    "GenBank": "".join(entry(name, bases) for name, bases in READS.items()),
}


@pytest.mark.parametrize("compression", ["plain", *PACKED])
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_in_every_compression_has_one_plan_and_one_table_of_chunks(
    tmp_path: Path, name: str, compression: str
) -> None:
    found = []
    for content in (FORMATS["FASTA"].encode(), PACKED.get(compression, bytes)(FORMATS[name].encode())):
        (tmp_path / "records").write_bytes(content)
        plan = plan_source(tmp_path / "records", "s", 300, 4)
        found.append((plan.table, [table for pair in chunk_tables(plan) for table in pair]))
    assert found[0] == found[1]
    assert found[0][0]["record_id"].unique().to_pylist() == list(READS)


FASTQ = b"@first of two\nACGTACGT\n+\n@@I>I+II\n@second\nGGG\n+second\nIII\n"


@pytest.mark.parametrize(
    "content",
    [
        FASTQ,
        FASTQ.replace(b"\n", b"\r\n"),
        FASTQ[:-1],
        FASTQ + b"\n\n",
        b"\n \n" + FASTQ,
        FASTQ.replace(b"ACGTACGT", b"acgu\nAC\nGT").replace(b"@@I>I+II", b"@@\nI>\n\nI+I\nI"),
        b"\xef\xbb\xbf" + FASTQ,
        lzma.compress(FASTQ),
    ],
    ids=["plain", "CRLF", "no last line end", "blank lines last", "blank lines first", "several lines", "bom", "xz"],
)
def test_sharded_asset_of_the_same_fastq(tmp_path: Path, content: bytes) -> None:
    assert read_bytes(tmp_path, content) == AS_READ


@given(st.lists(st.tuples(st.text("ACGTN", max_size=30), st.integers(1, 40), st.randoms()), min_size=1, max_size=5))
def test_fastq_of_any_qualities_and_line_breaks(
    tmp_path_factory: pytest.TempPathFactory, reads: list[tuple[str, int, random.Random]]
) -> None:
    """Every quality is a visible character, also those that begin lines of other kinds."""
    lines = []
    for number, (bases, width, chance) in enumerate(reads):
        qualities = "".join(chance.choices("@+>!~", k=len(bases)))
        parts = [[text[at : at + width] for at in range(0, len(text), width)] for text in (bases, qualities)]
        lines += [f"@r{number}", *parts[0], "+", *parts[1]]
    content = "\n".join(lines).encode() + b"\n"
    expected = [(f"r{number}", bases) for number, (bases, *_) in enumerate(reads)]
    assert read_bytes(tmp_path_factory.mktemp("fastq"), content) == expected


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
def test_sharded_asset_of_the_same_two_records(tmp_path: Path, content: bytes) -> None:
    assert read_bytes(tmp_path, content) == AS_READ


def test_ids_are_valid_text_and_otherwise_as_they_are(tmp_path: Path) -> None:
    content = "../../etc/passwd; rm\n>=cmd|calc!A1\n>vírus_α_Ω\n>a\x1bb\n".encode() + b">virus_\xe9t\xe9\n>a\n>a\n"
    found = [record_id for record_id, *_ in read_bytes(tmp_path, b">" + content)]
    assert found == ["../../etc/passwd;", "=cmd|calc!A1", "vírus_α_Ω", r"a\x1bb", r"virus_\xe9t\xe9", "a", "a"]


@pytest.mark.parametrize("text", [b">v\xe9 \xff one\nACGT\n", b"@v\xe9 \xff one\nACGT\n+\n\xe9III\n"])
def test_a_header_that_is_not_utf8_is_copied_as_it_is(tmp_path: Path, text: bytes) -> None:
    (path := tmp_path / "records").write_bytes(text)
    assert read_bytes(tmp_path, text) == [(r"v\xe9", "ACGT")]
    copy_records(path, hashlib.sha256(text).hexdigest(), np.array([True]), copy := io.BytesIO())
    assert copy.getvalue() == b">v\xe9 \xff one\nACGT\n"


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
    "corrupt deflate": (GZIP[:10] + b"\xff\xff" + GZIP[12:], ["gzip", "cut or corrupt"]),
    "zip": (zipped(TWO_RECORDS), ["zip", "plain text in UTF-8, or gzip, bzip2, xz, zstd. Unpack it."]),
    "SAM": (b"@HD\tVN:1.6\n@SQ\tSN:chr1\tLN:9\n", ["found SAM", "FASTQ"]),
    "FASTQ without qualities": (FASTQ[:-5], ["'second'", "as bases, 3, found 0 up to line 7"]),
    "FASTQ cut inside its qualities": (FASTQ[:-2], ["'second'", "as many qualities as bases, 3, found 2 up to line 8"]),
    "FASTQ cut before '+'": (FASTQ[: FASTQ.index(b"+second")], ["'second'", "ends at line 6", "'+'"]),
    "FASTQ without '+'": (FASTQ.replace(b"+\n@@I>I+II\n", b""), ["'first'", "line 3", "expected '+'", "'@second'"]),
    "FASTQ of fewer qualities": (FASTQ.replace(b"@@I>I+II", b"III"), ["'first'", "as bases, 8, found 10", "line 5"]),
    "FASTQ of more qualities": (FASTQ.replace(b"@@I>", b"IIIII"), ["'first'", "as bases, 8, found 9", "line 4"]),
    "FASTQ and other text": (FASTQ + b"end\n", ["line 9", "expected '@'", "'end'"]),
    "FASTQ of an endless header": (b"@a " + b"x" * (3 << 20), ["line 1", "header of more than", "is this FASTQ?"]),
    "FASTQ without an id": (b"@\nACG\n+\nIII\n", ["line 1", "without an id"]),
    "FASTQ of proteins": (b"@p\nMEL\n+\nIII\n", ["'p'", "line 2"]),
    "sequence alone": (b"ACGTACGT\n", ["'ACGTACGT'"]),
    "utf 16": (">a\nACG\n".encode("utf-16"), ["UTF-16", "Save it as UTF-8"]),
    "GFF": (b"##gff-version 3\n", ["comments or GFF", "'##gff-version 3'"]),
    "text before FASTA": (b"made by hand\n>a\nACG\n", ["'made by hand'", "without text before the first record"]),
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
