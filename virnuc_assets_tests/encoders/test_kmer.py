from itertools import product

import numpy as np
import pytest

from virnuc_assets.encoders.alphabet import AMINO_ACIDS
from virnuc_assets.encoders.embedding import embed
from virnuc_assets.encoders.loading import Encoder, load_encoder
from virnuc_assets.encoders.registry import ENCODERS
from virnuc_assets.settings import EncodingSettings


def _encoder(name: str, tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return load_encoder(ENCODERS[name], tmp_path_factory.getbasetemp(), EncodingSettings())


@pytest.fixture(scope="module")
def dna(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return _encoder("kmer_dna", tmp_path_factory)


@pytest.fixture(scope="module")
def protein(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return _encoder("kmer_protein", tmp_path_factory)


def _named(vector: np.ndarray, letters: str, k: int) -> dict[str, float]:
    words = ["".join(word) for word in product(letters, repeat=k)]
    return {word: float(value) for word, value in zip(words, vector, strict=True) if value}


def test_dims_follow_alphabet_and_k(dna: Encoder, protein: Encoder) -> None:
    assert (dna.dim, protein.dim) == (4**4, 20**2)


def test_dna_frequencies_by_hand(dna: Encoder) -> None:
    # AAAAA: AAAA twice; ACGTNACGT: ACGT twice, the k-mers over N are not counted; 3 letters: nothing.
    vectors = embed(dna, ["AAAAA", "ACGTNACGT", "ACGTA", "ACG"])
    assert _named(vectors[0], "ACGT", 4) == {"AAAA": 1.0}
    assert _named(vectors[1], "ACGT", 4) == {"ACGT": 1.0}
    assert _named(vectors[2], "ACGT", 4) == {"ACGT": 0.5, "CGTA": 0.5}
    assert not vectors[3].any()


def test_protein_frequencies_by_hand(protein: Encoder) -> None:
    # MKMK: MK, KM, MK; MXKL: only KL is counted; M: nothing; XX: nothing is counted.
    vectors = embed(protein, ["MKMK", "MXKL", "M", "XX"])
    assert _named(vectors[0], AMINO_ACIDS, 2) == pytest.approx({"MK": 2 / 3, "KM": 1 / 3})
    assert _named(vectors[1], AMINO_ACIDS, 2) == {"KL": 1.0}
    assert not vectors[2:].any()
