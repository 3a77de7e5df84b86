"""Six-frame translation: the standard code, hand-written cases, and a plain statement on random bases."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from virnuc_assets.sequences.translation import EMPTY, FRAME_NAMES, OPEN, STOPPED, SixFrames, six_proteins

from .plain import CODONS, plain_frames

ALPHABET = "ACGTNRYKMBVDHSW"


def frames(sequence: str) -> list[tuple[str, str, str]]:
    return many_frames([sequence])[0]


def many_frames(sequences: list[str]) -> list[list[tuple[str, str, str]]]:
    """Name, nucleotides and protein of the six frames of sequences whose lengths leave one rest by three."""
    lengths = np.array([len(sequence) for sequence in sequences])
    filled = b"".join(sequence.encode().ljust(max(lengths), b"\0") for sequence in sequences)
    found = SixFrames(np.frombuffer(filled, np.uint8).reshape(len(sequences), -1), lengths)
    rows = np.arange(len(sequences))
    frames: list[list[tuple[str, str, str]]] = [[] for _ in sequences]
    for frame, name in enumerate(FRAME_NAMES):
        proteins, lengths_aa = found.proteins(frame, rows)
        nucleotides, lengths_nt = found.nucleotides(frame, rows, lengths_aa)
        for row, (nt, aa) in enumerate(zip(parted(nucleotides, lengths_nt), parted(proteins, lengths_aa), strict=True)):
            frames[row].append((name, nt, aa))
            assert found.status[row, frame] == (EMPTY if not aa else STOPPED if "*" in aa else OPEN)
    assert found.ambiguous.tolist() == [bool(set(sequence) - set("ACGT")) for sequence in sequences]
    return frames


def parted(bases: np.ndarray, lengths: np.ndarray) -> list[str]:
    ends = np.cumsum(lengths).tolist()
    return [bases[end - length : end].tobytes().decode() for end, length in zip(ends, lengths.tolist(), strict=True)]


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


@given(st.text(ALPHABET, max_size=60) | st.text("ACGT", max_size=60))
def test_any_letters_agree_with_a_plain_statement(sequence: str) -> None:
    assert frames(sequence) == plain_frames(sequence)
    assert six_proteins(sequence.encode()) == [protein for _, _, protein in plain_frames(sequence)]


OF_ONE_REST = st.integers(0, 2).flatmap(
    lambda rest: st.lists(
        st.lists(st.text("ACGTN", min_size=3, max_size=3), max_size=14).flatmap(
            lambda codons: st.text("ACGTN", min_size=rest, max_size=rest).map(lambda end: "".join(codons) + end)
        ),
        min_size=1,
        max_size=6,
    )
)


@given(OF_ONE_REST)
def test_chunks_do_not_disturb_each_other(sequences: list[str]) -> None:
    assert many_frames(sequences) == [plain_frames(sequence) for sequence in sequences]


def test_lengths_of_two_rests_by_three_are_refused() -> None:
    with pytest.raises(ValueError, match="lengths of chunks"):
        many_frames(["ACGT", "ACG"])
