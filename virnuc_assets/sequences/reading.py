"""Reads FASTA and GenBank as a stream of headers and bases; a record may be larger than the memory."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from virnuc_assets.sequences.genbank import read_genbank
from virnuc_assets.sequences.opening import SequenceFileError, SourceFile, open_source
from virnuc_assets.sequences.records import Bases, Header, by_record, header_id, normal_bases, original_letters

_LINE_START_MEANS = {
    "@": "FASTQ",
    "<": "HTML or XML",
    ";": "old-style FASTA with ';' headers or comments",
    "#": "comments or GFF",
}
_GENBANK_BEGINS = re.compile(r"^LOCUS\s", re.MULTILINE)
_LONGEST_HEADER = 1 << 20
_WIDTH = 80  # of a line of FASTA


def read_records(source: SourceFile, bases: Bases = normal_bases) -> Iterator[tuple[Header, Iterator[bytes]]]:
    """Stream an open FASTA or GenBank file: each record's header, and its bases in blocks of any size.

    These are upper-case IUPAC DNA, U read as T, unless `bases` makes others of what the file holds. Ids may occur
    twice; whoever plans decides what becomes of them.

    Raises:
        SequenceFileError: the text is neither format, an id is missing, or a sequence holds a letter that is not
            an IUPAC nucleotide; the message names file, line and record.
    """
    return by_record(read_genbank(source, bases) if is_genbank(source) else _fasta(source, bases))


def is_genbank(source: SourceFile) -> bool:
    """Whether a file is GenBank, also after other lines, as in release files; else it is FASTA.

    Raises:
        SequenceFileError: it begins as neither.
    """
    head = source.head()
    if head.startswith(">"):
        return False
    if _GENBANK_BEGINS.search(head) and not head.startswith("<"):
        return True
    found = _LINE_START_MEANS.get(head[:1], "neither") if head else "blank lines only"
    shown = head.split("\n", 1)[0][:60]
    raise SequenceFileError(
        f"{source.path}: expected FASTA ('>') or GenBank ('LOCUS') records, found {found}: {shown!r}. Save the records "
        "in one of these formats, without text before the first '>'."
    )


def _fasta(source: SourceFile, bases: Bases) -> Iterator[Header | bytes]:
    """Headers and bases; a header is a line that begins with '>', which elsewhere is refused."""
    record_id, line, line_begins, unread = "", 1, True, b""
    for block in source.blocks():
        text, position, unread = unread + block, 0, b""
        while position < len(text):
            if line_begins and text.startswith(b">", position):
                end = text.find(b"\n", position) + 1
                if (end or len(text)) - position > _LONGEST_HEADER:
                    raise SequenceFileError(
                        f"{source.path}: line {line}: a header of more than {_LONGEST_HEADER} bytes; is this FASTA?"
                    )
                if not end:  # it continues in the next block
                    unread = text[position:]
                    break
                header = text[position:end].decode("utf-8", errors="backslashreplace")
                record_id = header_id(header, f"{source.path}: line {line}")
                source.position = f"in record {record_id!r}"
                yield Header(record_id, line=text[position + 1 : end].rstrip())
            else:
                character = text.find(b">", position + 1)
                end = character if character > 0 else len(text)
                if symbols := bases(text[position:end], f"{source.path}: record {record_id!r}", line):
                    yield symbols
            line_begins = text.endswith(b"\n", position, end)
            line += text.count(b"\n", position, end)
            position = end


def copy_records(path: Path, sha256: str, wanted: np.ndarray, to: IO[bytes]) -> None:
    """Write some records of a file as FASTA: header and letters as they are there, lines of 80.

    Args:
        path: FASTA, FASTQ or GenBank, that was planned.
        sha256: digest of the file when it was.
        wanted: (records,) bool, for each record of the file, in its order.
        to: where they are written.

    Raises:
        SourceChanged: the file is not the one that was planned.
    """
    with open_source(path) as source:
        for is_wanted, (header, blocks) in zip(wanted.tolist(), read_records(source, original_letters), strict=False):
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
