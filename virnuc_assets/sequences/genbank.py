"""Reads GenBank: Biopython parses what is used of a record's head, the sequence goes past it in pieces.

Sources: the GenBank release notes (3.4, format of the sequence entry files) and the INSDC feature table. Of a head
the lines LOCUS, DEFINITION, ACCESSION and VERSION and the CDS features are parsed; nothing else is looked at, so that
memory is the CDS of one record, however long its sequence and however many other features there are.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass

from Bio import SeqIO
from Bio.SeqFeature import SeqFeature
from Bio.SeqRecord import SeqRecord

from virnuc_assets.sequences.opening import SequenceFileError, SourceFile
from virnuc_assets.sequences.records import header_id, normal_letters

_LOCUS, _FEATURES, _ORIGIN, _END = "LOCUS       ", "FEATURES", "ORIGIN", "//"
_HEADER_LINES = (_LOCUS, "DEFINITION", "ACCESSION", "VERSION")
_AFTER_FEATURES = (_ORIGIN, "CONTIG", "BASE COUNT", "WGS", "TSA", "TLS", _END)
_HEADER_COLUMNS, _FEATURE_COLUMNS = 12, 21  # of keywords; blank on lines that go on
_POSITION = " \t0123456789"  # before the letters of a line
_LENGTH = re.compile(r"\s(\d+)\s+(?:bp|aa|rc)(?:\s|$)")
_PIECE_LINES = 4096

_Lines = Iterator[tuple[int, str]]


@dataclass(frozen=True)
class Entry:
    """A GenBank record without its letters.

    Attributes:
        id: accession with version where there is one.
        length_nt: as LOCUS tells it, or None; also of a record whose sequence lies in other files (CONTIG).
        features: its CDS features, in the order of the file.
    """

    id: str
    length_nt: int | None
    features: tuple[SeqFeature, ...]


def read_genbank(source: SourceFile) -> Iterator[Entry | bytes]:
    """Stream an open GenBank file: each record's entry, followed by its normalised letters in pieces of any size.

    A record without letters has no pieces: a blank one, or one that only names the files of its sequence. A missing
    end mark of the last record is accepted if the sequence is as long as LOCUS tells.

    Raises:
        SequenceFileError: there is no record, one cannot be parsed, is cut, has another length than its LOCUS line
            tells, or holds a letter that is not an IUPAC nucleotide; the message names file, record and line.
    """
    lines: _Lines = enumerate(source.text, start=1)
    read = 0
    for number, line in lines:
        if line.startswith(_LOCUS):
            read += 1
            source.position = f"in GenBank record {read}"
            head, last = _head(lines, line, f"{source.path}: GenBank record {read} (from line {number})")
            entry = _parsed(head, f"{source.path}: GenBank record {read} (lines {number} to {last})")
            yield entry
            if head[-1].startswith(_ORIGIN):
                yield from _sequence(lines, last, entry.length_nt, f"{source.path}: record {entry.id!r}")
        elif read and line.strip():
            raise SequenceFileError(
                f"{source.path}: line {number}, after GenBank record {read}: expected the next record's line "
                f"{_LOCUS.strip()!r} with the name in column {_HEADER_COLUMNS + 1}, found {line.strip()[:40]!r}"
            )
    if not read:
        raise SequenceFileError(
            f"{source.path}: expected GenBank records, which begin with LOCUS and a name, found none; fetch it again"
        )


def _head(lines: _Lines, locus: str, where: str) -> tuple[list[str], int]:
    """The lines of a head that are parsed, up to ORIGIN or the end mark, and the number of the last one."""
    head, used, in_features, number = [locus], True, False, 0
    for number, line in lines:
        if line.startswith(_AFTER_FEATURES):
            used, in_features = True, False
        elif line.startswith(_FEATURES):
            used, in_features = True, True
        elif line[: _FEATURE_COLUMNS if in_features else _HEADER_COLUMNS].strip():
            _require_same_record(line, number, where)
            used = line.split(maxsplit=1)[0] == "CDS" if in_features else line.startswith(_HEADER_LINES)
        if used:
            head.append(line)
        if line.startswith((_ORIGIN, _END)):
            return head, number
    raise SequenceFileError(f"{where}: the file ends at line {number}, before the sequence; it is cut. Fetch it again.")


def _require_same_record(line: str, number: int, where: str) -> None:
    if line.startswith(_LOCUS):
        raise SequenceFileError(
            f"{where}: the next LOCUS stands at line {number}, before this record's end mark {_END!r}; "
            "a part of the file is missing. Fetch it again."
        )


def _parsed(head: list[str], where: str) -> Entry:
    if head[-1].startswith(_ORIGIN):
        head = [*head[:-1], f"{_ORIGIN}\n", f"{_END}\n"]  # what else stands on that line is free text
    try:
        record: SeqRecord = next(SeqIO.parse(io.StringIO("".join(head)), "genbank"))  # type: ignore[no-untyped-call]
    # What Biopython raises on broken GenBank.
    except (ValueError, IndexError, AssertionError, OverflowError) as error:
        raise SequenceFileError(f"{where} cannot be parsed: {error}") from error
    length = _LENGTH.search(head[0])
    return Entry(header_id(str(record.id), where), int(length[1]) if length else None, tuple(record.features))


def _sequence(lines: _Lines, number: int, length_nt: int | None, where: str) -> Iterator[bytes]:
    found, ended, batch = 0, False, list[str]()
    for number, line in lines:  # noqa: B020
        if ended := line.startswith(_END):
            break
        _require_same_record(line, number, where)
        batch.append(line.lstrip(_POSITION))
        if len(batch) == _PIECE_LINES:
            yield (piece := _letters(batch, number, where))
            found, batch = found + len(piece), []
    if batch:
        yield (piece := _letters(batch, number - ended, where))
        found += len(piece)
    if found != length_nt and not (ended and (length_nt is None or not found)):
        raise SequenceFileError(
            f"{where}: expected {length_nt or 'a number of'} nt, as LOCUS tells, found {found} up to line {number}"
            f"{'' if ended else ', where the file ends'}; it is cut inside its sequence. Fetch it again."
        )


def _letters(lines: list[str], last: int, where: str) -> bytes:
    return normal_letters("".join(lines).encode(), where, last - len(lines) + 1)
