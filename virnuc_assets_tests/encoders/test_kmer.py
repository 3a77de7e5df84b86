from itertools import product

import pytest

from virnuc_assets.encoders.embedding import embed
from virnuc_assets.encoders.loading import Encoder, load_encoder
from virnuc_assets.encoders.registry import AMINO_ACIDS, ENCODERS, NUCLEOTIDES
from virnuc_assets.settings import EncodingSettings


@pytest.fixture(scope="module", params=["kmer_dna", "kmer_protein"])
def encoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return load_encoder(ENCODERS[request.param], tmp_path_factory.getbasetemp(), EncodingSettings())


BY_HAND = {
    # AAAAA: AAAA twice; ACGTNACGT: ACGT twice, the k-mers over N are not counted; 3 bases: nothing.
    "dna": {"AAAAA": {"AAAA": 1}, "ACGTNACGT": {"ACGT": 1}, "ACGTA": {"ACGT": 1 / 2, "CGTA": 1 / 2}, "ACG": {}},
    # MKMK: MK, KM, MK; MXKL and MJKL: only KL is counted; M: nothing; XX: nothing is counted.
    "protein": {"MKMK": {"MK": 2 / 3, "KM": 1 / 3}, "MXKL": {"KL": 1}, "MJKL": {"KL": 1}, "M": {}, "XX": {}},
}


def test_frequencies_by_hand(encoder: Encoder) -> None:
    symbols = {"dna": NUCLEOTIDES, "protein": AMINO_ACIDS}[encoder.spec.alphabet]
    words = ["".join(word) for word in product(symbols, repeat=encoder.spec.k)]
    assert encoder.dim == len(words)
    expected = BY_HAND[encoder.spec.alphabet]
    for vector, frequencies in zip(embed(encoder, list(expected)), expected.values(), strict=True):
        found = {word: float(value) for word, value in zip(words, vector, strict=True) if value}
        assert found == pytest.approx(frequencies)
