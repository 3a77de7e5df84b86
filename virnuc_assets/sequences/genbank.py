"""Reads GenBank: Biopython parses what is used of a record's head, the sequence is read in blocks.

Sources: the GenBank release notes (3.4, format of the sequence entry files) and the INSDC feature table. Of a head
the lines LOCUS, DEFINITION, ACCESSION and VERSION and the CDS features are parsed; nothing else is read, so that
memory is the CDS of one record, however long its sequence and however many other features there are.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass

from Bio import SeqIO
from Bio.SeqRecord import SeqRecord

from virnuc_assets.sequences.opening import SequenceFileError, SourceFile
from virnuc_assets.sequences.records import Bases, Header, header_id, normal_bases

_LOCUS, _FEATURES, _ORIGIN, _END = "LOCUS       ", "FEATURES", "ORIGIN", "//"
_HEADER_LINES = ("DEFINITION", "ACCESSION", "VERSION")
_AFTER_FEATURES = (_ORIGIN, "CONTIG", "BASE COUNT", "WGS", "TSA", "TLS", _END)
_HEADER_COLUMNS, _FEATURE_COLUMNS = 12, 21  # of keywords; blank on lines that continue
_POSITION = " \t0123456789"  # before the bases of a line
# A name may hold blanks, and be written up to its length, or over it: what is parsed is what surrounds "bp".
_LOCUS_LINE = re.compile(
    r"(?P<name>.*?)(?P<blank>\s*)(?P<length>[0-9]{1,18})\s+(?P<unit>bp|aa|rc)\b(?P<rest>.*)", re.IGNORECASE
)
_LONGEST_LOCUS = 1000
_NO_NAME = "_"  # what Biopython gives as the id of a record without accession
_BLOCK_LINES = 4096

_Lines = Iterator[tuple[int, str]]


@dataclass(frozen=True)
class _Locus:
    name: str
    length_nt: int | None
    circular: bool = False
    collide: bool = False


def read_genbank(source: SourceFile, bases: Bases = normal_bases) -> Iterator[Header | bytes]:
    """Stream an open GenBank file: each record's header, followed by its bases in blocks of any size.

    A record without bases has no blocks: a blank one, or one that only names the files of its sequence. A missing
    end mark of the last record is accepted if the sequence is as long as LOCUS says. What comes before the first
    LOCUS, as in release files, is ignored. Only of a record whose name and length collide in LOCUS, as Prokka
    writes them, all bases are in memory at once: their number separates the two.
    """
    lines: _Lines = enumerate(source.lines(), start=1)
    read = 0
    for number, line in lines:
        if line.startswith(_LOCUS):
            read += 1
            source.position = f"in GenBank record {read}"
            where = f"{source.name}: GenBank record {read} (line {number})"
            locus, symbols = _locus(line[len(_LOCUS) :].strip()[:_LONGEST_LOCUS], where), list[bytes]()
            head, last = _head(lines, f"{source.name}: GenBank record {read} (from line {number})")
            has_sequence = head[-1].startswith(_ORIGIN)
            if locus.collide and has_sequence:
                symbols, has_sequence = list(_sequence(lines, last, None, where, bases)), False
            if locus.collide:
                locus = _separated(locus, sum(map(len, symbols)), where)
            entry = _parsed(locus, head, f"{source.name}: GenBank record {read} (lines {number} to {last})")
            yield entry
            yield from symbols
            if has_sequence:
                named = f"{source.name}: record {entry.id!r}"
                yield from _sequence(lines, last, entry.length_nt, named, bases)
        elif read and line.strip():
            raise SequenceFileError(
                f"{source.name}: line {number}, after GenBank record {read}: expected the next record's line "
                f"{_LOCUS.strip()!r} with the name in column {_HEADER_COLUMNS + 1}, found {line.strip()[:40]!r}"
            )
    if not read:
        raise SequenceFileError(
            f"{source.name}: expected GenBank records, which begin with LOCUS and a name, found none; fetch it again"
        )


def _locus(text: str, where: str) -> _Locus:
    """What a LOCUS line says after its keyword, in whichever columns."""
    found = _LOCUS_LINE.match(text)
    if found and found["unit"].lower() == "aa":
        raise SequenceFileError(
            f"{where}: expected nucleotides, found the protein {found['name']!r} (LOCUS says aa). Fetch the nucleotide "
            "records (NCBI: database nuccore, rettype=gbwithparts)."
        )
    if not found and len(text.split()) != 1:
        raise SequenceFileError(f"{where}: expected a name and 'NUMBER bp' after LOCUS, found {text!r}. Correct it.")
    if not found:
        return _Locus(text, None)
    circular = "circular" in found["rest"].lower()
    if not found["blank"]:
        return _Locus(found["name"] + found["length"], None, circular, collide=True)
    return _Locus("_".join(found["name"].split()), int(found["length"]), circular)


def _separated(locus: _Locus, symbols: int, where: str) -> _Locus:
    """Name and length that collide in LOCUS, as in `cov_81.43551200 bp` of 1200 bases."""
    name = locus.name.removesuffix(str(symbols))
    if name in ("", locus.name):
        raise SequenceFileError(
            f"{where}: name and length collide in LOCUS ({locus.name!r}), and the {symbols} bases of the sequence do "
            "not say where the length begins. Put a blank between them, or fetch the file again if it is cut."
        )
    return _Locus("_".join(name.split()), symbols, locus.circular)


def _head(lines: _Lines, where: str) -> tuple[list[str], int]:
    """The lines of a head that are parsed, LOCUS apart, up to ORIGIN or the end mark; and the number of the last."""
    head, used, in_features, number = list[str](), False, False, 0
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
            f"{where}: the next LOCUS is in line {number}, before this record's end mark {_END!r}; "
            "a part of the file is missing. Fetch it again."
        )


def _parsed(locus: _Locus, head: list[str], where: str) -> Header:
    """The header of a head; Biopython gets a LOCUS line in its own columns, and no '.' in the place of an accession."""
    topology = "circular" if locus.circular else "linear"
    length = "" if locus.length_nt is None else f"{locus.length_nt:>27} bp    DNA     {topology:<8} UNK 01-JAN-1980"
    given = [line for line in head if line[_HEADER_COLUMNS:].strip() != "." or not line.startswith(_HEADER_LINES)]
    if head[-1].startswith(_ORIGIN):
        given = [*given[:-1], f"{_ORIGIN}\n", f"{_END}\n"]  # what else is on that line is free text
    text = f"{_LOCUS}{_NO_NAME}{length}\n{''.join(given)}"
    try:
        record: SeqRecord = next(SeqIO.parse(io.StringIO(text), "genbank"))  # type: ignore[no-untyped-call]
    # What Biopython raises on broken GenBank.
    except (ValueError, IndexError, AssertionError, OverflowError) as error:
        raise SequenceFileError(f"{where} cannot be parsed: {error}") from error
    record_id = locus.name if record.id == _NO_NAME else str(record.id)
    line = f"{record_id} {'' if record.description == '<unknown description>' else record.description}".rstrip()
    return Header(header_id(record_id, where), locus.length_nt, tuple(record.features), line.encode())


def _sequence(lines: _Lines, number: int, length_nt: int | None, where: str, bases: Bases) -> Iterator[bytes]:
    found, ended, batch = 0, False, list[str]()
    for number, line in lines:  # noqa: B020
        if ended := line.startswith(_END):
            break
        _require_same_record(line, number, where)
        batch.append(line.lstrip(_POSITION))
        if len(batch) == _BLOCK_LINES:
            yield (block := _bases(batch, number, where, bases))
            found, batch = found + len(block), []
    if batch:
        yield (block := _bases(batch, number - ended, where, bases))
        found += len(block)
    if found != length_nt and not (ended and (length_nt is None or not found)):
        raise SequenceFileError(
            f"{where}: expected {length_nt or 'a number of'} nt, as LOCUS says, found {found} up to line {number}"
            f"{'' if ended else ', where the file ends'}; it is cut inside its sequence. Fetch it again."
        )


def _bases(lines: list[str], last: int, where: str, bases: Bases) -> bytes:
    return bases("".join(lines).encode(), where, last - len(lines) + 1)
