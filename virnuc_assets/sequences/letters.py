"""The letters of nucleotide sequences, and how those of a file become upper-case DNA."""

from __future__ import annotations

import hashlib

from Bio.Data.IUPACData import ambiguous_dna_letters

from virnuc_assets.sequences.opening import SequenceFileError

UNAMBIGUOUS = "ACGT"
IUPAC_DNA = "".join(sorted(set(ambiguous_dna_letters) - {"X"}))  # X is Biopython's addition
_BLANKS = b" \t\r\n\v\f"
_READ = (IUPAC_DNA + "U" + IUPAC_DNA.lower() + "u").encode()
_FOREIGN = b"\0"
# RNA is read as DNA: the codon table and the models know T only.
_NORMAL = bytes(ord(chr(byte).upper().replace("U", "T")) if byte in _READ else ord(_FOREIGN) for byte in range(256))
_DIGEST_DIGITS = 32


class LettersDigest:
    """Digest of a record's normal letters, however they are wrapped, cased or cut into pieces."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()
        self.length_nt = 0

    def update(self, letters: bytes | bytearray) -> None:
        """Add the next letters."""
        self._sha256.update(letters)
        self.length_nt += len(letters)

    def hexdigest(self) -> str:
        """The first half of the SHA-256 of all letters so far."""
        return self._sha256.hexdigest()[:_DIGEST_DIGITS]


def normal_letters(raw: bytes, where: str, line: int | None = None) -> bytes:
    r"""Upper-case DNA letters of a piece of sequence: blanks removed, U as T.

    Args:
        raw: bytes of a file; lines end in \n.
        where: opens the message.
        line: number of the line that `raw` begins in, where it is known.

    Raises:
        SequenceFileError: a letter is not an IUPAC nucleotide code; the first such line and its letters are named.
    """
    letters = raw.translate(_NORMAL, delete=_BLANKS)
    if _FOREIGN in letters:
        raise SequenceFileError(_foreign_letters(raw, where, line))
    return letters


def _foreign_letters(raw: bytes, where: str, line: int | None) -> str:
    for number, text in enumerate(raw.split(b"\n"), start=line or 0):
        if foreign := text.translate(None, delete=_READ + _BLANKS):
            found = "".join(sorted(set(foreign.decode("utf-8", errors="backslashreplace"))))
            hint = " (this looks like protein)" if set(found.upper()) & set("EFILPQZ") else ""
            place = f", line {number}" if line is not None else ""
            return (
                f"{where}{place}: expected IUPAC nucleotide letters, found {found!r}{hint}. "
                "Gaps and proteins are not read."
            )
    raise AssertionError("no foreign letter")
