"""Which letters an encoder may be given, and the refusal of DNA by protein encoders."""

from __future__ import annotations

from collections.abc import Sequence

from virnuc_assets.encoders.registry import Alphabet
from virnuc_assets.errors import VirnucError

AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"
NUCLEOTIDES = "ACGT"

# IUPAC nucleotides without U, which the readers turn into T. IUPAC amino acids: the vocabulary of ESM has all but J
# (leucine or isoleucine), each of which is read as one <unk>. (EsmTokenizer reads a run of them as one.)
LETTERS: dict[Alphabet, frozenset[str]] = {
    "dna": frozenset("ACGTRYSWKMBDHVN"),
    "protein": frozenset(AMINO_ACIDS + "XBZUOJ"),
}
_DNA_LETTERS = frozenset("ACGTN")
_DNA_LENGTH = 20
_EXAMPLES = 5


class AlphabetError(VirnucError):
    """A sequence is empty, holds letters that its encoder does not know, or is DNA for a protein encoder."""


def looks_like_dna(sequence: str) -> bool:
    """Whether a sequence that could be a protein by its letters is taken for DNA.

    The rule: at least 20 letters, all of them A, C, G, T or N, and each of A, C, G and T among them. A frame of random
    sequence has such a protein with probability below 1e-11, and no tandem repeat with a unit below 12 nt has one.
    """
    letters = set(sequence)
    return len(sequence) >= _DNA_LENGTH and letters <= _DNA_LETTERS and letters.issuperset(NUCLEOTIDES)


def check_alphabet(sequences: Sequence[str], alphabet: Alphabet, encoder: str, ids: Sequence[str] | None) -> None:
    """Refuse what an encoder must not be given: upper-case sequences of its alphabet, named by ids or positions.

    Raises:
        AlphabetError: names the count and the first five offenders with their reason.
    """
    found = ((position, _fault(sequence, alphabet)) for position, sequence in enumerate(sequences))
    faults = [f"{ids[position] if ids else f'sequence {position}'}: {fault}" for position, fault in found if fault]
    if faults:
        more = f"\n  and {len(faults) - _EXAMPLES} more" if len(faults) > _EXAMPLES else ""
        raise AlphabetError(
            f"{encoder} reads {alphabet} (letters {''.join(sorted(LETTERS[alphabet]))}, upper case), "
            f"but {len(faults)} of {len(sequences)} sequences are something else:\n  "
            + "\n  ".join(faults[:_EXAMPLES])
            + more
            + "\nGive it the column made for it: nucleotides for a dna encoder, protein for a protein encoder."
        )


def _fault(sequence: str, alphabet: Alphabet) -> str:
    if not sequence:
        return "is empty"
    if unknown := set(sequence) - LETTERS[alphabet]:
        return f"has letters outside the alphabet: {' '.join(sorted(map(repr, unknown)))}"
    if alphabet == "protein" and looks_like_dna(sequence):
        return f"this looks like DNA: {len(sequence)} letters, all of A, C, G, T, N ({sequence[:20]}...)"
    return ""
