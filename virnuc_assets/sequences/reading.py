"""Reads FASTA, FASTQ and GenBank as a stream of headers and bases.

A record may be larger than the memory, but not a line of FASTQ or GenBank.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Literal

import numpy as np

from virnuc_assets.sequences.genbank import read_genbank
from virnuc_assets.sequences.opening import SequenceFileError, SourceFile, open_source
from virnuc_assets.sequences.records import Bases, Header, by_record, header_id, normal_bases, original_bases

Format = Literal["FASTA", "FASTQ", "GenBank"]
FASTQ_IS_NO_REFERENCE = "reads are classified as samples, but are no reference; catalogue their assembly as FASTA"
_LINE_START_MEANS = {
    "@": "SAM",
    "<": "HTML or XML",
    ";": "old-style FASTA with ';' headers or comments",
    "#": "comments or GFF",
}
_GENBANK_BEGINS = re.compile(r"^LOCUS\s", re.MULTILINE)
_SAM_BEGINS = re.compile(r"@(HD|SQ|RG|PG|CO)\t")
_LONGEST_HEADER = 1 << 20
_RAW = "surrogateescape"  # text that is encoded as the bytes that it was
_WIDTH = 80  # of a line of FASTA


def read_records(source: SourceFile, bases: Bases = normal_bases) -> Iterator[tuple[Header, Iterator[bytes]]]:
    """Stream an open file: each record's header, and its bases in blocks of any size; qualities are not read.

    These are upper-case IUPAC DNA, U read as T, unless `bases` makes others of what the file holds. Ids may occur
    twice; whoever plans decides what becomes of them.
    """
    readers = {"FASTA": _fasta, "FASTQ": _fastq, "GenBank": read_genbank}
    return by_record(readers[sequence_format(source)](source, bases))


def sequence_format(source: SourceFile) -> Format:
    """In which format a file begins; GenBank may begin after other lines, as in release files."""
    head = source.head()
    if head.startswith(">"):
        return "FASTA"
    if head.startswith("@") and not _SAM_BEGINS.match(head):
        return "FASTQ"
    if _GENBANK_BEGINS.search(head) and not head.startswith("<"):
        return "GenBank"
    found = _LINE_START_MEANS.get(head[:1], "neither") if head else "blank lines only"
    shown = head.split("\n", 1)[0][:60]
    raise SequenceFileError(
        f"{source.name}: expected FASTA ('>'), FASTQ ('@') or GenBank ('LOCUS') records, found {found}: {shown!r}. "
        "Save the records in one of these formats, without text before the first record."
    )


def _fasta(source: SourceFile, bases: Bases) -> Iterator[Header | bytes]:
    """Headers and bases; a header is a line that begins with '>', which elsewhere is refused."""
    path, record_id = source.name, ""
    line, unread = 0, b"\n"  # a line end, before which a header may begin, or a header whose end is in the next block
    for block in source.blocks():
        is_complete = block.endswith(b"\n")
        text = unread + (block[:-1] if is_complete else block)
        parts = text.split(b"\n>") if b">" in text else [text]  # a search for two bytes takes ten times as long
        unread = b"\n" if is_complete else b""
        if not is_complete and len(parts) > 1 and b"\n" not in parts[-1] and len(parts[-1]) <= _LONGEST_HEADER:
            unread = b"\n>" + parts.pop()
        for number, part in enumerate(parts):
            raw = part  # the first continues the last of the block before
            if number:
                line += 1
                header, _, raw = part.partition(b"\n")
                record_id = _id_of(header, f"{path}: line {line}", "FASTA")
                source.position = f"in record {record_id!r}"
                yield Header(record_id, line=header.rstrip())
            if symbols := bases(raw, f"{path}: record {record_id!r}", line + bool(number)):
                yield symbols
            line += part.count(b"\n")


def _id_of(header: bytes, where: str, kind: Format) -> str:
    if len(header) > _LONGEST_HEADER:
        raise SequenceFileError(f"{where}: a header of more than {_LONGEST_HEADER} bytes; is this {kind}?")
    return header_id(header.decode("utf-8", errors="backslashreplace"), where)


def _fastq(source: SourceFile, bases: Bases) -> Iterator[Header | bytes]:
    """Headers and bases; sequence and qualities may have several lines, and qualities begin with any character."""
    lines, number = enumerate(source.lines(_RAW), start=1), 0
    for number, line in lines:
        if not line.strip():
            continue
        where, header = f"{source.name}: line {number}", line[1:].encode(errors=_RAW)
        if not line.startswith("@"):
            raise SequenceFileError(f"{where}: expected '@' and the id of the next FASTQ record, found {_shown(line)}")
        record_id = _id_of(header, where, "FASTQ")
        where = f"{source.name}: record {record_id!r}"
        source.position = f"in record {record_id!r}"
        yield Header(record_id, line=header.rstrip())
        length_nt = qualities = 0
        for number, line in lines:  # noqa: B020, PLW2901
            if line.startswith("+"):
                break
            if line.startswith("@"):
                raise SequenceFileError(f"{where}, line {number}: expected '+' and qualities, found {_shown(line)}")
            symbols = bases(line.encode(errors=_RAW), where, number)
            length_nt += len(symbols)
            yield symbols
        else:
            raise SequenceFileError(f"{where}: the file ends at line {number}, before the record's '+'; it is cut")
        while qualities < length_nt:
            number, line = next(lines, (number, ""))  # noqa: PLW2901
            if not line:
                break
            qualities += len(line.rstrip("\n"))
        if qualities != length_nt:
            raise SequenceFileError(
                f"{where}: expected as many qualities as bases, {length_nt}, found {qualities} up to line {number}; "
                "the file is cut or was altered. Fetch it again."
            )


def _shown(line: str) -> str:
    return repr(line.encode(errors=_RAW).decode(errors="backslashreplace").rstrip()[:60])


def copy_records(path: Path, sha256: str, wanted: np.ndarray, to: IO[bytes]) -> None:
    """Write some records of a file as FASTA: header and letters as they are there, lines of 80.

    Args:
        path: FASTA, FASTQ or GenBank, that was planned.
        sha256: digest of the file when it was.
        wanted: (records,) bool, for each record of the file, in its order.
        to: where they are written.
    """
    with open_source(path) as source:
        for is_wanted, (header, blocks) in zip(wanted.tolist(), read_records(source, original_bases), strict=False):
            if is_wanted:
                to.write(b">" + header.line + b"\n")
                held = b""
                for block in blocks:
                    held += block
                    whole = len(held) - len(held) % _WIDTH
                    to.writelines(held[at : at + _WIDTH] + b"\n" for at in range(0, whole, _WIDTH))
                    held = held[whole:]
                to.write(held + b"\n" if held else b"")
        source.require_digest(sha256)
