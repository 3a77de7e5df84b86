"""The letters of nucleotide sequences: which are read, and how they are written."""

from __future__ import annotations

from Bio.Data.IUPACData import ambiguous_dna_letters

from virnuc_assets.sequences.opening import SequenceFileError

UNAMBIGUOUS = "ACGT"
IUPAC_DNA = "".join(sorted(set(ambiguous_dna_letters) - {"X"}))  # X is Biopython's addition
_ALLOWED = IUPAC_DNA.encode()
_BLANKS = b" \t\r\n\v\f"
# RNA is read as DNA: the codon table and the models know T only.
_NORMAL = bytes.maketrans(b"abcdefghijklmnopqrstuvwxyzU", b"ABCDEFGHIJKLMNOPQRSTTVWXYZT")


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
