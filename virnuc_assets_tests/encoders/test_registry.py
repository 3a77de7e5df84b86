"""The rows of the registry, and the sequences that an encoder may be given."""

import re
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from virnuc_assets.encoders.registry import (
    ENCODERS,
    PUBLISHED,
    VARIANTS,
    AlphabetError,
    check_alphabet,
    encoder_named,
    reads_as_dna,
    registered,
    variant_named,
)
from virnuc_assets.errors import VirnucError
from virnuc_assets.settings import Settings

CODONS = dict(
    zip(
        map("".join, product("TCAG", repeat=3)),
        "FFLLSSSSYY**CC*WLLLLPPPPHHQQRRRRIIIMTTTTNNKKSSRRVVVVAAAADDEEGGGG",
        strict=True,
    )
)


def test_every_variant_joins_a_nucleotide_and_a_protein_encoder() -> None:
    for name, variant in VARIANTS.items():
        assert variant.name == name
        assert (ENCODERS[variant.dna].alphabet, ENCODERS[variant.protein].alphabet) == ("dna", "protein")


def test_a_miniature_differs_from_its_original_only_in_its_weights() -> None:
    for name in PUBLISHED:
        full, miniature = ENCODERS[name], ENCODERS[f"{name}_miniature"]
        same = ("alphabet", "architecture", "pooling", "max_length", "token_dropout")
        assert [getattr(full, field) for field in same] == [getattr(miniature, field) for field in same]
        assert full.from_hub and full.is_locked and not (miniature.from_hub or miniature.is_locked)


def test_every_pin_is_a_full_commit() -> None:
    assert {name for name, spec in ENCODERS.items() if spec.from_hub} == set(PUBLISHED)
    for name in PUBLISHED:
        assert len(ENCODERS[name].revision) == 40 and set(ENCODERS[name].revision) <= set("0123456789abcdef")


def test_unknown_names_list_what_exists() -> None:
    there = "there are: dnabert_s, .*esm2_3b, .*fastesm2_650, "
    with pytest.raises(VirnucError, match=f"no encoder is called 'esm3'; {there}"):
        registered("esm3")
    with pytest.raises(VirnucError, match=f"no encoder is called 'esm3'; {there}"):
        encoder_named(Settings(root=Path()), "esm3")
    with pytest.raises(VirnucError, match="no variant is called 'tiny'; there are: .*fastesm2, kmer"):
        variant_named(Settings(root=Path()), "tiny")


def test_every_letter_of_each_alphabet_passes() -> None:
    check_alphabet(["ACGTRYSWKMBDHVN", "N"], "dna", "e", ["a", "b"])
    check_alphabet(["ACDEFGHIKLMNPQRSTVWYXBZUOJ", "M", "ACGT"], "protein", "e", ["a", "b", "c"])


@pytest.mark.parametrize(
    ("sequence", "alphabet", "fault"),
    [
        ("acGU", "dna", "two: has letters outside the alphabet: 'U' 'a' 'c'"),
        ("MK-* ", "protein", "two: has letters outside the alphabet: ' ' '*' '-'"),
        ("", "dna", "two: is empty"),
        ("ACGTACGTTGCANACGTAGC", "protein", "two: this looks like DNA: 20 letters"),
    ],
)
def test_other_sequences_are_refused_and_named(sequence: str, alphabet: str, fault: str) -> None:
    with pytest.raises(
        AlphabetError, match=rf"some_encoder reads {alphabet}[^$]*1 of 2 sequences[^$]*{re.escape(fault)}"
    ):
        check_alphabet(["ACGT", sequence], alphabet, "some_encoder", ["one", "two"])  # type: ignore[arg-type]


def test_offenders_are_counted_and_five_named() -> None:
    with pytest.raises(AlphabetError, match="7 of 8 sequences.*\n[^$]*and 2 more") as caught:
        check_alphabet(["*"] * 7 + ["MKVL"], "protein", "e", [f"id{i}" for i in range(8)])
    assert re.findall(r"id\d", str(caught.value)) == ["id0", "id1", "id2", "id3", "id4"]


def test_dna_rule_at_its_edges() -> None:
    assert reads_as_dna("ACGT" * 5) and reads_as_dna("ACGTN" * 100)
    assert not reads_as_dna("ACGT" * 4 + "ACG")  # 19 bases
    assert not reads_as_dna("ACGT" * 50 + "M")
    assert not reads_as_dna("GAGAGN" * 50)  # a real kind of protein: no C, no T


@settings(max_examples=300, deadline=None)
@given(st.text("ACGT", min_size=1, max_size=11))
def test_no_frame_of_a_short_tandem_repeat_reads_as_dna(unit: str) -> None:
    strand = unit * 303  # at least 303 nt
    for frame in range(3):
        protein = "".join(CODONS[strand[at : at + 3]] for at in range(frame, 300, 3))
        assert not reads_as_dna(protein)
