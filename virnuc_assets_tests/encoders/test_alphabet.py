import re
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from virnuc_assets.encoders.alphabet import AlphabetError, check_alphabet, looks_like_dna

CODONS = dict(
    zip(
        map("".join, product("TCAG", repeat=3)),
        "FFLLSSSSYY**CC*WLLLLPPPPHHQQRRRRIIIMTTTTNNKKSSRRVVVVAAAADDEEGGGG",
        strict=True,
    )
)


def _refusal(sequences: list[str], alphabet: str, ids: list[str] | None = None) -> str:
    with pytest.raises(AlphabetError) as caught:
        check_alphabet(sequences, alphabet, "some_encoder", ids)  # type: ignore[arg-type]
    return str(caught.value)


def test_every_letter_of_each_alphabet_passes() -> None:
    check_alphabet(["ACGTRYSWKMBDHVN", "N"], "dna", "e", None)
    check_alphabet(["ACDEFGHIKLMNPQRSTVWYXBZUOJ", "M", "ACGT"], "protein", "e", None)


@pytest.mark.parametrize(
    ("sequence", "alphabet", "letters"),
    [
        ("ACGU", "dna", "'U'"),
        ("acgt", "dna", "'a' 'c' 'g' 't'"),
        ("MK-*", "protein", "'*' '-'"),
        ("M K", "protein", "' '"),
    ],
)
def test_other_letters_are_refused_and_named(sequence: str, alphabet: str, letters: str) -> None:
    message = _refusal(["ACGT", sequence], alphabet)
    assert f"sequence 1: has letters outside the alphabet: {letters}" in message
    assert f"some_encoder reads {alphabet}" in message and "1 of 2 sequences" in message


def test_offenders_are_counted_and_five_named() -> None:
    message = _refusal([""] + ["*"] * 6 + ["MKVL"], "protein", [f"id{i}" for i in range(8)])
    assert "7 of 8 sequences" in message and "id0: is empty" in message and "and 2 more" in message
    assert re.findall(r"id\d", message) == ["id0", "id1", "id2", "id3", "id4"]


def test_dna_is_refused_by_a_protein_encoder() -> None:
    message = _refusal(["MKVL", "ACGTACGTTGCANACGTAGC"], "protein", ["good", "bad"])
    assert "bad: this looks like DNA: 20 letters" in message and "good" not in message


def test_dna_rule_at_its_edges() -> None:
    assert looks_like_dna("ACGT" * 5) and looks_like_dna("ACGTN" * 100)
    assert not looks_like_dna("ACGT" * 4 + "ACG")  # 19 letters
    assert not looks_like_dna("ACGT" * 50 + "M")
    assert not looks_like_dna("GAGAGN" * 50)  # a real kind of protein: no C, no T


@settings(max_examples=300, deadline=None)
@given(st.text("ACGT", min_size=1, max_size=11))
def test_no_frame_of_a_short_tandem_repeat_looks_like_dna(unit: str) -> None:
    strand = unit * 303  # at least 303 nt
    for frame in range(3):
        protein = "".join(CODONS[strand[at : at + 3]] for at in range(frame, 300, 3))
        assert not looks_like_dna(protein)
