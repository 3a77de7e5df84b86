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

from virnuc_assets.cli.stages import frame_file
from virnuc_assets.sequences.ledger import ledger_faults
from virnuc_assets.sequences.opening import SequenceFileError
from virnuc_assets.storage.schemas import frames_schema
from virnuc_assets.storage.tables import read_table
from virnuc_assets_tests.sequences.genbank_files import cds, entry, feature
from virnuc_assets_tests.sequences.plain import plain_records, plain_table, plain_text

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

GENBANK = (
    entry(
        "AB000001.1",
        "atggcnctauuggccgcgatgcagccgcgggccgcgatgcagccgcggggccgcgatgcagccgcgggcc",
        cds("MALLKR", 'gene="x"', location="join(1..9,<20..>28)"),
        feature("CDS", "complement(31..60)", "pseudo"),
    )
    + entry("AB000002.3", "gccgcgggcc", cds("KR", location="8..3"))
).encode()


def bases(seed: int, length: int, alphabet: str) -> str:
    return "".join(random.Random(seed).choices(alphabet, k=length))


SEQUENCES = st.builds(
    bases,
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


def zipped(members: int) -> Change:
    def change(content: bytes) -> bytes:
        size = len(content) // members + 1
        return b"".join(gzip.compress(content[at : at + size], 1, mtime=0) for at in range(0, size * members, size))

    return change


PLACES = st.floats(0, 1, exclude_max=True)
TOKENS = st.sampled_from(
    [
        *(b">", b"\n>", b"\r", b"\n", b"\r\n", b"\n\n", b" ", b"\x00", b"\xff", b"-", b"*", b"\xef\xbb\xbf"),
        *(b"\xe2\x80\xa8", b"\xc2\x85", b"\x1a", b"\x0c", b">a\nACGT\n", b"\x1f\x8b", b"LOCUS", b"LOCUS       "),
        *(b"//\n", b"ORIGIN\n", b'"', b"VERSION     A.x\n", b"CONTIG      join(A.1:1..5)\n", b"join("),
        *(b"     CDS             1..9\n", b"FEATURES             Location\n", b"one-of(", b"..", b"9" * 20),
    ]
)
CHANGES = st.one_of(
    st.builds(flipped, PLACES, st.integers(1, 255)),
    st.builds(cut, PLACES, PLACES),
    st.builds(inserted, PLACES, st.one_of(TOKENS, st.binary(max_size=5))),
    st.sampled_from([lambda content: content + content, lambda content: content + content[: len(content) // 2]]),
    st.sampled_from([b"\r\n", b"\r"]).map(lambda end: lambda content: content.replace(b"\n", end)),
    st.sampled_from([b"\xef\xbb\xbf", b"\n \r\n"]).map(lambda head: lambda content: head + content),
    st.sampled_from([bytes.lower, bytes.swapcase]),
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
        ledger = frame_file(path, to, chunk_length, lambda done, total: None)
    except SequenceFileError as error:
        assert str(error).startswith(f"{path}: ")
        assert [found.name for found in folder.iterdir()] == [path.name]
        return None
    rows = read_table(to, frames_schema()).to_pylist()
    lines = ledger.to_pylist()
    assert ledger_faults(ledger) == []
    assert len(rows) == sum(line["frames_kept"] for line in lines)
    return lines, rows


def require_as_plainly_read(folder: Path, content: bytes, chunk_length: int) -> None:
    """A FASTA file is refused where the plain reader refuses it, and else has its records, counts and rows."""
    expected, found = plain_records(content), framed(folder, content, chunk_length)
    assert (found is None) == (expected is None)
    if found is None or expected is None:
        return
    lines, rows = found
    used = [(record.record_id, record.sequence) for record in expected if not record.disposition and record.sequence]
    assert rows == plain_table(used, chunk_length, None)
    kept = Counter(row["record_id"] for row in rows)
    for record, line in zip(expected, lines, strict=True):
        assert (line["record_id"], line["length_nt"]) == (record.record_id, len(record.sequence))
        frames = 0 if record.disposition else kept[record.record_id]
        assert line["disposition"] == (record.disposition or ("scored" if frames else "skipped"))
        assert line["frames_kept"] == frames
        assert line["chunks"] == (0 if record.disposition else -(-len(record.sequence) // chunk_length))


CHUNK_LENGTHS = st.sampled_from([300, 500])


@fuzzed(200)
@given(st.builds(changed, fasta(), st.lists(CHANGES, max_size=4)), CHUNK_LENGTHS)
def test_fasta_whole_or_spoilt(fast: Path, content: bytes, chunk_length: int) -> None:
    if not (content.startswith(b"\x1f\x8b") and b"LOCUS" in content) and not content.startswith(b"LOCUS"):
        require_as_plainly_read(fast, content, chunk_length)


@pytest.mark.filterwarnings("ignore::Bio.BiopythonParserWarning", "ignore::Bio.BiopythonWarning")
@fuzzed(100)
@given(st.lists(CHANGES, max_size=4), CHUNK_LENGTHS)
def test_spoilt_genbank(fast: Path, changes: list[Change], chunk_length: int) -> None:
    """A file that is read has a ledger line for each LOCUS line."""
    content = changed(GENBANK, changes)
    text, found = plain_text(content), framed(fast, content, chunk_length)
    if found is not None and text is not None and text.lstrip().startswith("LOCUS"):
        assert len(found[0]) == len(re.findall("^LOCUS       ", text, flags=re.MULTILINE))
