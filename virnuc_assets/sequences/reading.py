"""Reads FASTA and GenBank records one at a time, normalised to upper-case DNA letters."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from Bio import SeqIO
from Bio.Data.IUPACData import ambiguous_dna_letters
from Bio.SeqRecord import SeqRecord

from virnuc_assets.sequences.opening import SequenceFileError, SourceFile

UNAMBIGUOUS = "ACGT"
IUPAC_DNA = "".join(sorted(ambiguous_dna_letters))  # ABCDGHKMNRSTVWXY without X, as IUPAC has it for nucleotides
_ALLOWED = IUPAC_DNA.replace("X", "").encode()
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
            record_id, sequence = _header_id(line, f"{source.path}: line {number}"), bytearray()
        else:
            sequence += normal_letters(line, f"{source.path}: record {record_id!r}, line {number}")
    yield Record(record_id, sequence)


def _header_id(header: str, where: str) -> str:
    words = header.lstrip(">").split(maxsplit=1)
    if not words:
        raise SequenceFileError(f"{where}: a '>' without an id; expected '>ID description'")
    return words[0]


def normal_letters(text: str, where: str) -> bytes:
    """Upper-case DNA letters of a piece of sequence text: blanks removed, U as T.

    Raises:
        SequenceFileError: a letter is not an IUPAC nucleotide code; `where` opens the message.
    """
    letters = text.encode("ascii", errors="replace").translate(_NORMAL, delete=_BLANKS)
    if foreign := letters.translate(None, delete=_ALLOWED):
        found = "".join(sorted(set(foreign.decode("ascii"))))
        hint = " (this looks like protein)" if set(found) & set("EFILPQZ") else ""
        raise SequenceFileError(
            f"{where}: expected IUPAC nucleotide letters, found {found!r}{hint}. Gaps and proteins are not read."
        )
    return letters


def _genbank(source: SourceFile) -> Iterator[Record]:
    read = 0
    try:
        for entry in SeqIO.parse(source.text, "genbank"):  # type: ignore[no-untyped-call]
            letters = str(entry.seq) if entry.seq.defined else ""
            where = f"{source.path}: record {entry.id!r}"
            yield Record(entry.id, normal_letters(letters, where), _translations(entry))
            read += 1
    except (ValueError, IndexError, AssertionError) as error:  # what Biopython raises on broken GenBank
        raise SequenceFileError(f"{source.path}: GenBank record {read + 1} cannot be parsed: {error}") from error


def _translations(entry: SeqRecord) -> tuple[str, ...]:
    return tuple(
        protein
        for feature in entry.features
        if feature.type == "CDS"
        for protein in feature.qualifiers.get("translation", ())
    )
