"""Reads FASTA and GenBank records one at a time, normalised to upper-case DNA letters."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

from Bio import BiopythonParserWarning, SeqIO
from Bio.Data.IUPACData import ambiguous_dna_letters
from Bio.SeqRecord import SeqRecord

from virnuc_assets.sequences.header_ids import header_id
from virnuc_assets.sequences.opening import SequenceFileError, SourceFile

UNAMBIGUOUS = "ACGT"
IUPAC_DNA = "".join(sorted(set(ambiguous_dna_letters) - {"X"}))  # X is Biopython's addition
_ALLOWED = IUPAC_DNA.encode()
_BLANKS = b" \t\r\n\v\f"
# RNA is read as DNA: the codon table and the models know T only.
_NORMAL = bytes.maketrans(b"abcdefghijklmnopqrstuvwxyzU", b"ABCDEFGHIJKLMNOPQRSTTVWXYZT")
_LINE_START_MEANS = {"@": "FASTQ", "<": "HTML or XML", ";": "old-style FASTA with ';' headers"}


@dataclass(frozen=True)
class Record:
    """One sequence of a file.

    Attributes:
        id: the header's first word.
        sequence: upper-case IUPAC DNA letters as ASCII bytes, U read as T. Held once; not to be changed.
        proteins: CDS translations of the record where the file is GenBank, else empty.
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
            record_id, sequence = header_id(line, f"{source.path}: line {number}"), bytearray()
            source.position = f"in record {record_id!r}"
        else:
            sequence += normal_letters(line, f"{source.path}: record {record_id!r}, line {number}")
    yield Record(record_id, sequence)


def normal_letters(text: str, where: str) -> bytes:
    """Upper-case DNA letters of a piece of sequence text: blanks removed, U as T.

    Raises:
        SequenceFileError: a letter is not an IUPAC nucleotide code; `where` opens the message.
    """
    letters = text.encode("ascii", errors="replace").translate(_NORMAL, delete=_BLANKS)
    if letters.translate(None, delete=_ALLOWED):
        known = IUPAC_DNA + "U"
        found = "".join(sorted(set("".join(text.split())) - set(known + known.lower())))
        hint = " (this looks like protein)" if set(found.upper()) & set("EFILPQZ") else ""
        raise SequenceFileError(
            f"{where}: expected IUPAC nucleotide letters, found {found!r}{hint}. Gaps and proteins are not read."
        )
    return letters


def _genbank(source: SourceFile) -> Iterator[Record]:
    entries = SeqIO.parse(source.text, "genbank")  # type: ignore[no-untyped-call]
    read = 0
    while entry := _next_entry(source, entries, read + 1):
        letters = str(entry.seq) if entry.seq is not None and entry.seq.defined else ""
        record_id = header_id(str(entry.id), f"{source.path}: GenBank record {read + 1}")
        sequence = normal_letters(letters, f"{source.path}: record {record_id!r}")
        yield Record(record_id, sequence, _translations(entry))
        read += 1
    if not read:
        raise SequenceFileError(f"{source.path}: begins with LOCUS but holds no GenBank record; fetch the file again")


def _next_entry(source: SourceFile, entries: Iterator[SeqRecord], number: int) -> SeqRecord | None:
    source.position = f"in GenBank record {number}"
    with warnings.catch_warnings():
        # A file cut inside its sequence is only warned of; every other oddity is Biopython's to mend.
        warnings.filterwarnings("error", "Expected sequence length", BiopythonParserWarning)
        try:
            return next(entries, None)
        # What Biopython raises on broken GenBank.
        except (ValueError, IndexError, AssertionError, BiopythonParserWarning) as error:
            raise SequenceFileError(f"{source.path}: GenBank record {number} cannot be parsed: {error}") from error


def _translations(entry: SeqRecord) -> tuple[str, ...]:
    return tuple(
        protein
        for feature in entry.features
        if feature.type == "CDS"
        for protein in feature.qualifiers.get("translation", ())
    )
