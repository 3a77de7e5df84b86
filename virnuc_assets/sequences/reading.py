"""Reads FASTA and GenBank as a stream of headers and letters; a record may be longer than the memory."""

from __future__ import annotations

import re
from collections.abc import Iterator

from virnuc_assets.sequences.genbank import read_genbank
from virnuc_assets.sequences.opening import SequenceFileError, SourceFile
from virnuc_assets.sequences.records import Header, Record, by_record, header_id, normal_letters

_LINE_START_MEANS = {
    "@": "FASTQ",
    "<": "HTML or XML",
    ";": "old-style FASTA with ';' headers or comments",
    "#": "comments or GFF",
}
_GENBANK_BEGINS = re.compile(r"^LOCUS\s", re.MULTILINE)
_LONGEST_HEADER = 1 << 20


def read_letters(source: SourceFile) -> Iterator[Header | bytes]:
    """Stream an open FASTA or GenBank file: a header opens a record, its letters follow in pieces of any size.

    Letters are upper-case IUPAC DNA, U read as T. Ids may occur twice; whoever plans decides what becomes of them.

    Raises:
        SequenceFileError: the text is neither format, an id is missing, or a sequence holds a letter that is not
            an IUPAC nucleotide; the message names file, line and record.
    """
    number = 0
    for event in read_genbank(source) if is_genbank(source) else _fasta(source):
        if isinstance(event, bytes):
            yield event
        else:
            number += 1
            yield Header(event, number) if isinstance(event, str) else Header(event.id, number, event.length_nt or 0)


def read_records(source: SourceFile) -> Iterator[Record]:
    """As `read_letters`, a whole record at a time."""
    for header, pieces in by_record(read_letters(source)):
        sequence = bytearray()
        for piece in pieces:
            sequence += piece
        yield Record(header.id, header.number, sequence)


def is_genbank(source: SourceFile) -> bool:
    """Whether a file is GenBank, also after other lines, as in release files; else it is FASTA.

    Raises:
        SequenceFileError: it begins as neither.
    """
    head = source.head
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


def _fasta(source: SourceFile) -> Iterator[str | bytes]:
    r"""Ids and letters; lines end in \n alone, and a header begins where a line begins with '>'."""
    record_id, line, line_begins = "", 1, True
    header: bytearray | None = None  # what was read of a header whose line has not ended
    for block in source.blocks():
        position = 0
        while position < len(block):
            if header is None and line_begins and block.startswith(b">", position):
                header = bytearray()
            if header is not None:
                end = _line_end(block, position)
                header += block[position:end]
                if len(header) > _LONGEST_HEADER:
                    raise SequenceFileError(
                        f"{source.path}: line {line}: a header of more than {_LONGEST_HEADER} bytes; is this FASTA?"
                    )
                if line_begins := block.endswith(b"\n", position, end):
                    record_id, header = _read_id(header, source, line), None
                    source.position = f"in record {record_id!r}"
                    yield record_id
            else:
                end = _next_header(block, position)
                line_begins = block.endswith(b"\n", position, end)
                if letters := normal_letters(block[position:end], f"{source.path}: record {record_id!r}", line):
                    yield letters
            line += block.count(b"\n", position, end)
            position = end
    if header is not None:
        yield _read_id(header, source, line)


def _read_id(header: bytearray, source: SourceFile, line: int) -> str:
    return header_id(header.decode("utf-8", errors="backslashreplace"), f"{source.path}: line {line}")


def _line_end(block: bytes, position: int) -> int:
    return block.find(b"\n", position) + 1 or len(block)


def _next_header(block: bytes, position: int) -> int:
    """Where the next line with '>' begins; a '>' inside a line is no header, and left to be refused as a letter."""
    sign = block.find(b">", position)
    while sign > position and block[sign - 1] != ord("\n"):
        sign = block.find(b">", sign + 1)
    return len(block) if sign <= position else sign
