"""Reads FASTA and GenBank records one at a time, normalised to upper-case DNA letters."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from virnuc_assets.sequences.cds import proteins_of
from virnuc_assets.sequences.genbank import Entry, read_genbank
from virnuc_assets.sequences.letters import UNAMBIGUOUS as UNAMBIGUOUS
from virnuc_assets.sequences.letters import normal_letters
from virnuc_assets.sequences.opening import SequenceFileError, SourceFile

_LINE_START_MEANS = {"@": "FASTQ", "<": "HTML or XML", ";": "old-style FASTA with ';' headers"}


@dataclass(frozen=True)
class Record:
    """One sequence of a file.

    Attributes:
        id: the header's first word.
        sequence: upper-case IUPAC DNA letters as ASCII bytes, U read as T. Held once; not to be changed.
        proteins: CDS translations that are evidence where the file is GenBank, else empty.
    """

    id: str
    sequence: bytes | bytearray
    proteins: tuple[str, ...] = ()


def read_records(source: SourceFile) -> Iterator[Record]:
    """Stream the records of an open FASTA or GenBank file, in file order.

    Raises:
        SequenceFileError: the text is neither format, an id is missing or repeated, or a sequence holds a
            letter that is not an IUPAC nucleotide; the message names file, line and record.
    """
    parse = _genbank if _is_genbank(source) else _fasta
    seen: set[str] = set()
    for record in parse(source):
        if record.id in seen:
            raise SequenceFileError(
                f"{source.path}: record {record.id!r} occurs twice (second time as record {len(seen) + 1}); "
                "expected unique ids, because results are joined on them. Rename or remove one."
            )
        seen.add(record.id)
        yield record


def _is_genbank(source: SourceFile) -> bool:
    head = source.head
    if not head.startswith((">", "LOCUS")):
        found = _LINE_START_MEANS.get(head[:1], "neither") if head else "blank lines only"
        shown = head.split("\n", 1)[0][:60]
        raise SequenceFileError(
            f"{source.path}: expected FASTA ('>') or GenBank ('LOCUS') records, found {found}: {shown!r}"
        )
    return head.startswith("LOCUS")


def _fasta(source: SourceFile) -> Iterator[Record]:
    record_id, sequence = "", bytearray()
    for number, line in enumerate(source.text, start=1):
        if line.startswith(">"):
            if record_id:
                yield Record(record_id, sequence)
            record_id, sequence = _header_id(line, f"{source.path}: line {number}"), bytearray()
            source.position = f"in record {record_id!r}"
        else:
            sequence += normal_letters(line.encode(), f"{source.path}: record {record_id!r}", number)
    yield Record(record_id, sequence)


def _header_id(header: str, where: str) -> str:
    words = header.lstrip(">").split(maxsplit=1)
    if not words:
        raise SequenceFileError(f"{where}: a '>' without an id; expected '>ID description'")
    return words[0]


def _genbank(source: SourceFile) -> Iterator[Record]:
    record: Record | None = None
    letters = bytearray()
    for part in read_genbank(source):
        if isinstance(part, Entry):
            if record:
                yield record
            letters = bytearray()
            record = Record(part.id, letters, proteins_of(part.cds))
        else:
            letters += part
    if record:
        yield record
