"""Six-frame translation: the standard code, hand-written cases, and a plain statement on random bases."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from virnuc_assets.sequences.translation import EMPTY, FRAME_NAMES, OPEN, STOPPED, SixFrames, six_proteins

from .plain import CODONS, plain_frames, plain_stretches

ALPHABET = "ACGTNRYKMBVDHSW"


def frames(sequence: str) -> list[tuple[str, str, str]]:
    return many_frames([sequence])[0]


def many_frames(sequences: list[str]) -> list[list[tuple[str, str, str]]]:
    """Name, nucleotides and protein of the six whole frames of sequences."""
    found = SixFrames(pa.chunked_array([sequences], pa.string()))
    whole = found.whole()
    nucleotides, proteins = (cut.to_pylist() for cut in found.cut(whole, np.arange(6 * len(sequences))))
    named = [(FRAME_NAMES[at % 6], nucleotides[at], proteins[at]) for at in range(len(proteins))]
    status = [EMPTY if not aa else STOPPED if "*" in aa else OPEN for aa in proteins]
    assert whole.status.reshape(-1).tolist() == status
    assert found.ambiguous.tolist() == [bool(set(sequence) - set("ACGT")) for sequence in sequences]
    return [named[at : at + 6] for at in range(0, len(named), 6)]


def test_every_codon() -> None:
    """And some that everyone knows, so that a slip in the table of the tests cannot hide."""
    assert [frames(codon)[0] for codon in CODONS] == [("F1", codon, amino_acid) for codon, amino_acid in CODONS.items()]
    known = {"ATG": "M", "TGG": "W", "TAA": "*", "TAG": "*", "TGA": "*", "TTT": "F", "GGG": "G", "ATA": "I", "AAA": "K"}
    assert len(CODONS) == 64
    assert {codon: CODONS[codon] for codon in known} == known


HAND_WRITTEN = {
    # 9 nt; reverse complement TTAGGCCAT. F1 and R1 use every base: no base more.
    "ATGGCCTAA": [
        ("F1", "ATGGCCTAA", "MA*"),
        ("F2", "TGGCCTA", "WP"),
        ("F3", "GGCCTAA", "GL"),
        ("R1", "TTAGGCCAT", "LGH"),
        ("R2", "TAGGCCA", "*A"),
        ("R3", "AGGCCAT", "RP"),
    ],
    # 8 nt; reverse complement TAGGCCAT. Here F3 and R3 end with the chunk.
    "ATGGCCTA": [
        ("F1", "ATGGCCT", "MA"),
        ("F2", "TGGCCTA", "WP"),
        ("F3", "GGCCTA", "GL"),
        ("R1", "TAGGCCA", "*A"),
        ("R2", "AGGCCAT", "RP"),
        ("R3", "GGCCAT", "GH"),
    ],
    # 10 nt; reverse complement TCATNNNCAT. Codons with N vanish, and the nucleotides are cut by the protein's length.
    "ATGNNNATGA": [
        ("F1", "ATGNNNA", "MM"),
        ("F2", "TGNN", "*"),
        ("F3", "G", ""),
        ("R1", "TCAT", "S"),
        ("R2", "CATNNNC", "HH"),
        ("R3", "A", ""),
    ],
    "": [(name, "", "") for name in ("F1", "F2", "F3", "R1", "R2", "R3")],
    "AC": [("F1", "A", ""), ("F2", "C", ""), ("F3", "", ""), ("R1", "G", ""), ("R2", "T", ""), ("R3", "", "")],
    "ACC": [("F1", "ACC", "T"), ("F2", "C", ""), ("F3", "C", ""), ("R1", "GGT", "G"), ("R2", "G", ""), ("R3", "T", "")],
}


@pytest.mark.parametrize("sequence", HAND_WRITTEN)
def test_hand_written_frames(sequence: str) -> None:
    assert frames(sequence) == HAND_WRITTEN[sequence]


SEQUENCES = st.lists(st.text(ALPHABET, max_size=44) | st.text("ATG", max_size=44), min_size=1, max_size=6)


@given(SEQUENCES)
def test_whole_frames_agree_with_a_plain_statement(sequences: list[str]) -> None:
    """Alone, and among others."""
    plain = [plain_frames(sequence) for sequence in sequences]
    assert many_frames(sequences) == plain
    assert six_proteins(sequences[0].encode()) == [protein for _, _, protein in plain[0]]


@given(SEQUENCES, st.integers(1, 5))
def test_longest_stretches_agree_with_a_plain_statement(sequences: list[str], min_aa: int) -> None:
    frames = SixFrames(pa.chunked_array([sequences], pa.string()))
    found = frames.longest(min_aa)
    nucleotides, proteins = (cut.to_pylist() for cut in frames.cut(found, np.arange(6 * len(sequences))))
    plain = [stretch for sequence in sequences for stretch in plain_stretches(sequence)]
    whole = [protein for sequence in sequences for _, _, protein in plain_frames(sequence)]
    begins, ends = found.begins.reshape(-1), (found.begins + 3 * found.codons).reshape(-1)
    for at, (_, begin, end, bases, protein) in enumerate(plain):
        expected = OPEN if len(protein) >= min_aa else STOPPED if whole[at] else EMPTY
        assert found.status.reshape(-1)[at] == expected
        if expected == OPEN:  # else there is none
            assert (begins[at], ends[at], nucleotides[at], proteins[at]) == (begin, end, bases, protein)
