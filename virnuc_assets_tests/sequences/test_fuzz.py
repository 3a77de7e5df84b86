"""Bytes that claim to be FASTA or GenBank: a file is refused by name and leaves nothing, or is accounted for whole.

What is FASTA is compared with a plain reader, record by record and row by row.
"""

from __future__ import annotations

import gzip
import random
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from virnuc_assets.sequences.ledger import ledger_faults, shard_ledger_faults
from virnuc_assets.sequences.chunk_table import chunk_tables
from virnuc_assets.sequences.frame_table import Truth, open_frames
from virnuc_assets.sequences.ledger import ledger_table, merged_ledger
from virnuc_assets.sequences.opening import SequenceFileError
from virnuc_assets.sequences.planning import plan_source
from virnuc_assets.single_file import Framed, frame_file
from virnuc_assets.storage.schemas import frames_schema
from virnuc_assets.storage.tables import read_table
from virnuc_assets_tests.sequences.plain_reading import plain_records, plain_rows, plain_text

Change = Callable[[bytes], bytes]
MEMORY = Path("/dev/shm")


def fuzzed(examples: int) -> settings:
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture]
    return settings(max_examples=examples, deadline=None, derandomize=True, database=None, suppress_health_check=checks)


@pytest.fixture(scope="module")
def fast() -> Iterator[Path]:
    """A folder in memory, where there is one: thousands of files are written and synced."""
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        yield Path(folder)


# ---- bytes ----

GENBANK = b"""LOCUS       AB000001                  70 bp    DNA     linear   VRL 01-JAN-2020
DEFINITION  first of two, with a definition
            of two lines.
ACCESSION   AB000001
VERSION     AB000001.1
KEYWORDS    .
SOURCE      some virus
  ORGANISM  some virus
            Viruses.
REFERENCE   1  (bases 1 to 70)
  AUTHORS   Somebody,A.
  TITLE     Direct Submission
COMMENT     None.
FEATURES             Location/Qualifiers
     source          1..70
                     /organism="some virus"
     CDS             join(1..9,<20..>28)
                     /gene="x"
                     /codon_start=1
                     /translation="MAL
                     LKR"
     CDS             complement(31..60)
                     /pseudo
ORIGIN
        1 atggcnctau urggccgcga tgcagccgcg ggccgcgatg cagccgcggg ccgcgatgca
       61 gccgcgggcc
//
LOCUS       AB000002                  10 bp    RNA     circular VRL 01-JAN-2020
ACCESSION   AB000002
VERSION     AB000002.3
FEATURES             Location/Qualifiers
     CDS             8..3
                     /translation="KR"
ORIGIN
        1 gccgcgggcc
//
"""


def letters(seed: int, length: int, alphabet: str) -> str:
    return "".join(random.Random(seed).choices(alphabet, k=length))


SEQUENCES = st.builds(
    letters,
    st.integers(0, 1 << 32),
    st.one_of(st.integers(0, 40), st.sampled_from([0, 1, 2, 3, 299, 300, 301, 499, 500, 501, 599, 600, 601, 1001])),
    # Skewed, so that frames stay open; with ambiguity codes, lower case, RNA and blanks.
    st.sampled_from(
        ["GCCGGCAA", "ACGT", "GGCCGCACGT" * 5 + "N", "GcCgA" * 9 + "Ry", "GCUGGCA", "GC A\tG", "N", "ACGTWKMSBDHVYRN"]
    ),
)
WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8).map(
    lambda text: text.replace("\r", "").replace("\n", "")
)
HEADERS = st.tuples(st.sampled_from(["r", "NC_001416.1", ""]), WORDS, st.sampled_from(["", " of a kind", "\tx"])).map(
    "".join
)


@st.composite
def fasta(draw: st.DrawFn) -> bytes:
    """Mostly valid FASTA of any line width and line end."""
    end, width = draw(st.sampled_from(["\n", "\r\n", "\r"])), draw(st.integers(1, 120))
    lines = []
    for number in range(draw(st.integers(1, 5))):
        header, sequence = draw(HEADERS), draw(SEQUENCES)
        unique = draw(st.integers(0, 4)) > 0
        lines += [f">{number if unique else ''}{header}"]
        lines += [sequence[start : start + width] for start in range(0, len(sequence), width)]
        lines += [""] * draw(st.sampled_from([0, 0, 0, 1, 2]))
    return end.join(lines).encode() + end.encode() * draw(st.integers(0, 1))


def flipped(place: float, mask: int) -> Change:
    def change(content: bytes) -> bytes:
        at = int(place * len(content))
        return content[:at] + bytes(byte ^ mask for byte in content[at : at + 1]) + content[at + 1 :]

    return change


def cut(start: float, share: float) -> Change:
    def change(content: bytes) -> bytes:
        at = int(start * len(content))
        return content[:at] + content[at + int(share * (len(content) - at)) + 1 :]

    return change


def inserted(place: float, what: bytes) -> Change:
    return lambda content: content[: int(place * len(content))] + what + content[int(place * len(content)) :]


def doubled(start: float, share: float, to: float) -> Change:
    def change(content: bytes) -> bytes:
        at, place = int(start * len(content)), int(to * len(content))
        return content[:place] + content[at : at + int(share * (len(content) - at)) + 1] + content[place:]

    return change


def zipped(members: int) -> Change:
    """Gzip of so many members."""

    def change(content: bytes) -> bytes:
        size = len(content) // members + 1
        return b"".join(gzip.compress(content[at : at + size], 1, mtime=0) for at in range(0, size * members, size))

    return change


PLACES = st.floats(0, 1, exclude_max=True)
TOKENS = st.sampled_from(
    [
        b">",
        b"\n>",
        b"\r",
        b"\n",
        b"\r\n",
        b" ",
        b"\x00",
        b"\xff",
        b"-",
        b"*",
        b"\xef\xbb\xbf",
        b"\xe2\x80\xa8",
        b"\xc2\x85",
    ]
    + [
        b"\x1a",
        b"\x0c",
        b"LOCUS",
        b"//\n",
        b"ORIGIN\n",
        b"     CDS             1..9\n",
        b'"',
        b"\n\n",
        b">a\nACGT\n",
        b"\x1f\x8b",
    ]
)
CHANGES = st.one_of(
    st.builds(flipped, PLACES, st.integers(1, 255)),
    st.builds(cut, PLACES, PLACES),
    st.builds(inserted, PLACES, st.one_of(TOKENS, st.binary(max_size=5))),
    st.builds(doubled, PLACES, PLACES, PLACES),
    st.sampled_from(
        [
            lambda content: content.replace(b"\n", b"\r\n"),
            lambda content: content.replace(b"\n", b"\r"),
            lambda content: b"\xef\xbb\xbf" + content,
            lambda content: b"\n \r\n" + content,
            bytes.lower,
            bytes.swapcase,
        ]
    ),
    st.builds(zipped, st.integers(1, 4)),
)


def changed(content: bytes, changes: list[Change]) -> bytes:
    for change in changes:
        content = change(content)
    return content


# ---- what must hold ----


def framed(
    folder: Path, content: bytes, chunk_length: int
) -> tuple[list[dict[str, object]], list[dict[str, object]]] | None:
    """Ledger lines and frames of a file; None if it was refused, by its path, with nothing left behind."""
    path, to = folder / "input.fa", folder / "frames.parquet"
    path.write_bytes(content)
    to.unlink(missing_ok=True)
    try:
        frame_file(path, to, chunk_length, lambda done, total: None)
    except SequenceFileError as error:
        assert str(error).startswith(f"{path}: ")
        assert [found.name for found in folder.iterdir()] == [path.name]
        return None
    rows = read_table(to, frames_schema()).to_pylist()
    again = Framed(path, chunk_length)
    assert [row for window in again.windows(lambda done, total: None) for row in window.to_pylist()] == rows
    lines = again.ledger().to_pylist()
    assert ledger_faults(again.ledger()) == []
    require_sums(lines, rows)
    require_labelled_sums(path, chunk_length, rows)
    return lines, rows


def require_labelled_sums(path: Path, chunk_length: int, rows: list[dict[str, object]]) -> None:
    """The same file as reference: frames without evidence, and those of ambiguous chunks, are dropped and counted."""
    proteins: dict[str, tuple[str, ...]] = {}
    for row in rows[::2]:  # every other frame has evidence, in every other record
        if int(str(row["chunk_id"]).rpartition("_")[2]) % 2:
            proteins[str(row["record_id"])] = (*proteins.get(str(row["record_id"]), ()), f"M{row['protein']}W")
    plan = plan_source(path, "s", chunk_length, 3)
    kept, ledgers, ambiguous = list[str](), [], set[str]()
    for pieces, chunks in chunk_tables(path, plan.pieces, chunk_length, plan.sha256):
        found = open_frames(chunks, Truth("host", {piece.record_id: "fungi" for piece in pieces}, proteins))
        ledgers.append(ledger_table(pieces, found.counts))
        assert shard_ledger_faults(ledgers[-1], pieces, found.table.num_rows) == []
        kept += found.table["frame_id"].to_pylist()
        of_records = Counter(found.table["record_id"].to_pylist())
        assert all(count["frames_kept"] == of_records[record] for record, count in found.counts.items())
        ambiguous |= {row["chunk_id"] for row in chunks.to_pylist() if set(row["sequence"]) - set("ACGT")}
    assert ledger_faults(merged_ledger(plan.pieces, ledgers)) == []
    evident = [row for row in rows if is_evident(row, proteins)]
    assert kept == [row["frame_id"] for row in evident if row["chunk_id"] not in ambiguous]


def is_evident(row: dict[str, object], proteins: dict[str, tuple[str, ...]]) -> bool:
    """Whether the record has no proteins, or one of them holds the frame's."""
    known = proteins.get(str(row["record_id"]))
    return known is None or any(str(row["protein"]) in protein for protein in known)


def require_sums(lines: list[dict[str, object]], rows: list[dict[str, object]]) -> None:
    """Six frames a chunk are kept or dropped for a reason, and what is kept is in the table."""
    assert {line["disposition"] for line in lines} <= {"scored", "skipped", "failed"}
    for line in lines:
        assert (line["reason"] is None) == (line["disposition"] == "scored") == (line["frames_kept"] != 0)
        frames = sum(int(str(line[name])) for name in line if name.startswith("frames_"))
        assert frames == 6 * int(str(line["chunks"]))
    assert len(rows) == sum(int(str(line["frames_kept"])) for line in lines)


def require_as_plainly_read(folder: Path, content: bytes, chunk_length: int) -> None:
    """A FASTA file is refused where the plain reader refuses it, and else has its records, counts and rows."""
    expected, found = plain_records(content), framed(folder, content, chunk_length)
    assert (found is None) == (expected is None)
    if found is None or expected is None:
        return
    lines, rows = found
    assert [(line["record_id"], line["length_nt"]) for line in lines] == [
        (r.record_id, len(r.sequence)) for r in expected
    ]
    plain = []
    for record, line in zip(expected, lines, strict=True):
        kept, counts = plain_rows(record, chunk_length)
        plain += kept
        assert line["disposition"] == (record.disposition or ("scored" if kept else "skipped"))
        assert {name: line[name] for name in counts} == counts
    assert [(row["frame_id"], row["nucleotides"], row["protein"]) for row in rows] == plain


CHUNK_LENGTHS = st.sampled_from([300, 500])


@fuzzed(100)
@given(fasta(), CHUNK_LENGTHS)
def test_fasta(fast: Path, content: bytes, chunk_length: int) -> None:
    require_as_plainly_read(fast, content, chunk_length)


def require_spoilt_as_plainly_read(fast: Path, content: bytes, chunk_length: int) -> None:
    if not (content.startswith(b"\x1f\x8b") and b"LOCUS" in content) and not content.startswith(b"LOCUS"):
        require_as_plainly_read(fast, content, chunk_length)


SPOILT = st.builds(changed, fasta(), st.lists(CHANGES, min_size=1, max_size=4))


@fuzzed(150)
@given(SPOILT, CHUNK_LENGTHS)
def test_spoilt_fasta(fast: Path, content: bytes, chunk_length: int) -> None:
    require_spoilt_as_plainly_read(fast, content, chunk_length)


@pytest.mark.slow
@fuzzed(2000)
@given(SPOILT, CHUNK_LENGTHS)
def test_spoilt_fasta_at_length(fast: Path, content: bytes, chunk_length: int) -> None:
    require_spoilt_as_plainly_read(fast, content, chunk_length)


@fuzzed(150)
@given(
    st.one_of(
        st.binary(max_size=60),
        st.builds(bytes.__add__, st.sampled_from([b">", b">a\n", b"\x1f\x8b\x08", b"LOCUS "]), st.binary(max_size=60)),
    )
)
def test_raw_bytes(fast: Path, content: bytes) -> None:
    if (plain := plain_records(content)) is not None or not content.startswith(b"LOCUS"):
        require_as_plainly_read(fast, content, 500)
    assert plain is not None or framed(fast, content, 500) is None


@pytest.mark.filterwarnings("ignore::Bio.BiopythonParserWarning", "ignore::Bio.BiopythonWarning")
@fuzzed(100)
@given(st.lists(CHANGES, max_size=4), CHUNK_LENGTHS)
def test_spoilt_genbank(fast: Path, changes: list[Change], chunk_length: int) -> None:
    """A file that is read has a ledger line for each LOCUS line."""
    content = changed(GENBANK, changes)
    text, found = plain_text(content), framed(fast, content, chunk_length)
    if found is not None and text is not None and text.lstrip().startswith("LOCUS"):
        assert len(found[0]) == len(re.findall("^LOCUS       ", text, flags=re.MULTILINE))
