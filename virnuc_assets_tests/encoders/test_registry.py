from pathlib import Path

import pytest

from virnuc_assets.encoders.registry import ENCODERS, PUBLISHED, VARIANTS, encoder_named, registered, variant_named
from virnuc_assets.errors import VirnucError
from virnuc_assets.settings import Settings


def test_every_variant_joins_a_nucleotide_and_a_protein_encoder() -> None:
    for name, variant in VARIANTS.items():
        assert variant.name == name
        assert (ENCODERS[variant.dna].alphabet, ENCODERS[variant.protein].alphabet) == ("dna", "protein")


def test_a_miniature_differs_from_its_original_only_in_its_weights() -> None:
    for name in PUBLISHED:
        full, miniature = ENCODERS[name], ENCODERS[f"{name}_miniature"]
        same = ("alphabet", "architecture", "pooling", "max_length", "token_dropout", "k")
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
