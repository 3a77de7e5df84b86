"""What every format of sequence file shares: headers, ids, and how the bases of a file become upper-case DNA."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from Bio.Data.IUPACData import ambiguous_dna_letters
from Bio.SeqFeature import SeqFeature

from virnuc_assets.sequences.opening import SequenceFileError
from virnuc_assets.text import printable

UNAMBIGUOUS = "ACGT"
# Every chunk and frame repeats it: an id of a megabyte would make gigabytes of a genome. RefSeq's have some 20.
MAX_ID_CHARACTERS = 1000
_IUPAC_DNA = "".join(sorted(set(ambiguous_dna_letters) - {"X"}))  # X is Biopython's addition
_BLANKS = b" \t\r\n\v\f"
_READ = (_IUPAC_DNA + "U" + _IUPAC_DNA.lower() + "u").encode()
_OTHER = b"\0"
# RNA is read as DNA: the codon table and the models know T only.
_NORMAL = bytes(ord(chr(byte).upper().replace("U", "T")) if byte in _READ else ord(_OTHER) for byte in range(256))
_DIGEST_DIGITS = 32
_FOUND_IN_DNA = (UNAMBIGUOUS + "N").encode()
_PROTEIN_RESIDUES = 30  # fewer may be a degenerate primer


class Header(NamedTuple):
    """The beginning of a record.

    The id is the first word of the header; in GenBank the accession with version where there is one, else the name in
    LOCUS, blanks in it as `_`.
    """

    id: str
    length_nt: int | None = None  # as LOCUS says, also of a record whose sequence is stored elsewhere (CONTIG, WGS)
    features: tuple[SeqFeature, ...] = ()  # CDS features of a GenBank record, in the order of the file
    line: bytes = b""  # as it is in the file, without what opens and ends it; of GenBank the id and the definition


def by_record(events: Iterable[Header | bytes]) -> Iterator[tuple[Header, Iterator[bytes]]]:
    """The headers of a stream, each with the bases that follow it; those not read before the next are skipped."""
    stream = iter(events)
    header = next(stream, None)

    def bases() -> Iterator[bytes]:
        nonlocal header
        for event in stream:
            if isinstance(event, Header):
                header = event
                return
            yield event
        header = None

    while isinstance(header, Header):
        blocks = bases()
        yield header, blocks
        for _ in blocks:
            pass


class SequenceDigest:
    """Digest and counts of a record's normal bases, however they are wrapped, cased or cut into blocks."""

    def __init__(self, blocks: Iterable[bytes] = ()) -> None:
        self._sha256 = hashlib.sha256()
        self.length_nt = self._ambiguous_nt = 0
        for block in blocks:
            self._sha256.update(block)
            self.length_nt += len(block)
            self._ambiguous_nt += len(block.translate(None, delete=_FOUND_IN_DNA))

    @property
    def is_like_protein(self) -> bool:
        """Whether most bases are rare in DNA, though all are IUPAC codes, as those of arginine-rich proteins are."""
        return self.length_nt >= _PROTEIN_RESIDUES and 2 * self._ambiguous_nt > self.length_nt

    def hexdigest(self) -> str:
        """The first half of the SHA-256 of all bases."""
        return self._sha256.hexdigest()[:_DIGEST_DIGITS]


def header_id(header: str, where: str) -> str:
    r"""First word of a header without its `>` or `@`; characters that are not printable are their escapes, as `\x1b`.

    Words end where Python's `str.split` ends them, as in Biopython: also at blanks and line ends of other alphabets.
    """
    words = header.lstrip(">").split(maxsplit=1)
    if not words:
        raise SequenceFileError(f"{where}: a header without an id; expected the id and, after a blank, a description")
    record_id = printable(words[0])
    if len(record_id) > MAX_ID_CHARACTERS:
        raise SequenceFileError(
            f"{where}: the id {record_id[:40]!r}… has {len(record_id):,} characters; expected at most "
            f"{MAX_ID_CHARACTERS:,}. An id ends at the first blank: put one between id and description."
        )
    return record_id


Bases = Callable[[bytes, str, int], bytes]


def original_bases(raw: bytes, _where: str, _line: int) -> bytes:
    """As `normal_bases`, but unchanged and not checked: for records that were read before."""
    return raw.translate(None, delete=_BLANKS)


def normal_bases(raw: bytes, where: str, line: int) -> bytes:
    r"""Upper-case DNA of bytes of a file that begin in a line of this number and end lines in \n; U becomes T."""
    symbols = raw.translate(_NORMAL, delete=_BLANKS)
    if _OTHER not in symbols:
        return symbols
    foreign = (text.translate(None, delete=_READ + _BLANKS) for text in raw.split(b"\n"))
    number, wrong = next((number, wrong) for number, wrong in enumerate(foreign, start=line) if wrong)
    found = "".join(sorted(set(wrong.decode("utf-8", errors="backslashreplace"))))
    hint = " (this looks like protein)" if set(found.upper()) & set("EFILPQZ") else ""
    if wrong.startswith((b";", b"#")):
        hint = " (this looks like a comment)"
    raise SequenceFileError(
        f"{where}, line {number}: expected IUPAC nucleotide codes, found {found!r}{hint}. "
        "Gaps, comments and proteins are not read; remove them."
    )
