"""Pooled vectors against the originals on equal weights: fair-esm, transformers' EsmModel, MosaicBERT as formulas."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from esm.model.esm2 import ESM2
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own idiom
from transformers import EsmConfig, EsmForMaskedLM, EsmModel, EsmTokenizer

from benchmarks import originals
from virnuc_assets.encoders.embedding import embed
from virnuc_assets.encoders.loading import Encoder, load_folder
from virnuc_assets.encoders.mosaic_bert import alibi_slopes
from virnuc_assets.encoders.registry import AMINO_ACIDS, EncoderSpec
from virnuc_assets.workstation.fair_esm import hub_name
from virnuc_assets_tests.encoders.drawn import drawn
from virnuc_assets_tests.workstation.hub_folders import DNABERT_S, ESM2_3B, write_repository

TOLERANCE = 1e-5
LONGEST = 1024
LENGTHS = [1, 2, 3, 33, 99, 100, 165, 166, 500, 1022, 1023, 1024]
ESM = EncoderSpec("esm", "protein", "esm", "residues", max_length=LONGEST)
DNA = EncoderSpec("dna", "dna", "mosaic_bert", "tokens")
ALPHABET = AMINO_ACIDS + "XBZUO"
EVERY_LETTER = [protein for letter in ALPHABET for protein in (letter, f"MK{letter}VL", letter * 30)]
SLOPES = (2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3)  # of six heads: four of a power of two, then every other of eight
TRUE_HEADS = 8  # times the width of the narrow copies gives heads of width 64
both = pytest.mark.parametrize("token_dropout", [True, False], ids=["token_dropout", "no_token_dropout"])

Array = NDArray[np.float64]


def loaded(spec: EncoderSpec, folder: Path) -> Encoder:
    return load_folder(spec, folder, torch.float32, torch.device("cpu"))


def proteins(lengths: list[int], seed: int = 0) -> list[str]:
    """With X, B, Z, U and O as frequent as any other letter."""
    generator = np.random.default_rng(seed)
    return ["".join(generator.choice(list(ALPHABET), size=length)) for length in lengths]


@pytest.fixture(scope="module")
def esm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("esm")
    write_repository(ESM2_3B, folder)
    return folder


@pytest.fixture(scope="module")
def dna_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dna")
    write_repository(DNABERT_S, folder)
    return folder


def fair_esm(folder: Path, token_dropout: bool) -> ESM2:
    config = EsmConfig.from_pretrained(folder)
    weights = EsmForMaskedLM.from_pretrained(folder).state_dict()
    model = ESM2(config.num_hidden_layers, config.hidden_size, config.num_attention_heads, "ESM-1b", token_dropout)
    model.load_state_dict({name: weights[hub_name(name)] for name in model.state_dict()}, strict=True)
    return model


@both
def test_esm_has_the_vectors_of_fair_esm(esm_folder: Path, token_dropout: bool) -> None:
    """The original pads each batch to its longest sequence; ours never pads. Beyond 1,024 residues both cut."""
    ours, original = loaded(replace(ESM, token_dropout=token_dropout), esm_folder), fair_esm(esm_folder, token_dropout)
    sequences = proteins([*LENGTHS, 1025, 1300]) + EVERY_LETTER
    assert np.abs(embed(ours, sequences) - originals.fair_esm(original, LONGEST)(sequences)).max() <= TOLERANCE

    @settings(max_examples=8, deadline=None)
    @given(
        lengths=st.lists(st.one_of(st.integers(1, 200), st.integers(1, 1300)), min_size=1, max_size=8),
        seed=st.integers(0, 2**32 - 1),
        token_budget=st.integers(1, 8192),
        batch=st.integers(1, 8192),
    )
    def check(lengths: list[int], seed: int, token_budget: int, batch: int) -> None:
        ours.token_budget = token_budget
        mixed = proteins(lengths, seed)
        assert np.abs(embed(ours, mixed) - originals.fair_esm(original, LONGEST, batch)(mixed)).max() <= TOLERANCE

    check()


@torch.inference_mode()
def test_tokens_and_vectors_of_unknown_residues_are_those_of_the_unmodified_model(esm_folder: Path) -> None:
    theirs = EsmModel.from_pretrained(esm_folder, add_pooling_layer=False).eval()
    tokenizer, ours = EsmTokenizer.from_pretrained(esm_folder), loaded(ESM, esm_folder)
    for sequence in [*EVERY_LETTER, "J", "MKJVL", "MJKJ"]:
        tokens = tokenizer(sequence, return_tensors="pt")
        assert tokens["input_ids"][0].tolist() == ours.tokenize([sequence])[0].tolist()
        expected = theirs(**tokens).last_hidden_state[0, 1:-1].mean(0).numpy()
        assert np.abs(embed(ours, [sequence])[0] - expected).max() <= TOLERANCE
    assert tokenizer("MJJK")["input_ids"] == [0, 20, 3, 15, 2]  # a run of J is one token there, here each is one
    assert ours.tokenize(["MJJK"])[0].tolist() == [0, 20, 3, 3, 15, 2]


def test_the_comparison_of_esm_sees_what_it_should(esm_folder: Path) -> None:
    """Order of residues, scaling by token dropout, and the tokens that pooling leaves out all move the vectors."""
    ours, sequence = loaded(ESM, esm_folder), proteins([40])[0]
    there, back = embed(ours, [sequence, sequence[::-1]])
    assert np.abs(there - back).max() > 1e-2
    without = loaded(replace(ESM, token_dropout=False), esm_folder)
    assert np.abs(there - embed(without, [sequence])[0]).max() > 1e-2
    every_token = loaded(replace(ESM, pooling="tokens"), esm_folder)
    assert np.abs(there - embed(every_token, [sequence])[0]).max() > 1e-3


def test_esm_heads_of_true_width_have_the_vectors_of_fair_esm(tmp_path: Path) -> None:
    write_repository(ESM2_3B, tmp_path, TRUE_HEADS)
    sequences = proteins([1, 99, 166, 166, 1024])
    expected = originals.fair_esm(fair_esm(tmp_path, token_dropout=True), LONGEST)(sequences)
    assert np.abs(embed(loaded(ESM, tmp_path), sequences) - expected).max() <= TOLERANCE


@torch.inference_mode()
def stated(folder: Path, sequence: str) -> Array:
    """MosaicBERT's hidden states (l, d) in float64, one step after the other, as `bert_layers.py` has it."""
    stored = torch.load(folder / "pytorch_model.bin", weights_only=True)
    weights: dict[str, Tensor] = {name: tensor.double() for name, tensor in stored.items()}
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"))

    def normalized(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], eps=1e-12)

    words = weights["embeddings.word_embeddings.weight"][tokenizer.encode(sequence).ids]
    x = normalized(words + weights["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
    position = torch.arange(len(x))
    penalty = -torch.tensor(SLOPES)[:, None, None] * (position[:, None] - position).abs()  # (h, l, l)
    for layer in ("encoder.layer.0", "encoder.layer.1"):
        qkv = linear(x, f"{layer}.attention.self.Wqkv").view(len(x), 3, len(SLOPES), -1)
        q, k, v = qkv.permute(1, 2, 0, 3)  # (h, l, d / h) each
        odds = torch.softmax(q @ k.transpose(1, 2) / math.sqrt(q.shape[-1]) + penalty, dim=-1)  # (h, l, l)
        mixed = (odds @ v).transpose(0, 1).flatten(1)  # (l, d)
        x = normalized(linear(mixed, f"{layer}.attention.output.dense") + x, f"{layer}.attention.output.LayerNorm")
        gate, value = linear(x, f"{layer}.mlp.gated_layers").chunk(2, dim=1)  # (l, 4 d) each
        x = normalized(linear(F.gelu(gate) * value, f"{layer}.mlp.wo") + x, f"{layer}.mlp.layernorm")
    return x.numpy()


def stated_vectors(folder: Path, sequences: list[str]) -> Array:
    return np.stack([stated(folder, sequence).mean(axis=0) for sequence in sequences])  # CLS and SEP included


def test_mosaic_bert_has_the_stated_vectors(dna_folder: Path) -> None:
    ours = loaded(DNA, dna_folder)
    sequences = drawn("dna", [1, 2, 3, 4, 5, 31, 99, 299, 301, 499, 500, 500, 500, 1700])
    sequences += ["N", "ACGTTGCATTTGACCATGCAANNGT", "RYSWKMBDHVN", "ACGTRACGTYACGT" * 20]
    assert max(len(tokens) for tokens in ours.tokenize(sequences)) >= 512
    expected = stated_vectors(dna_folder, sequences)
    for token_budget in (1, 1000, 100_000):
        ours.token_budget = token_budget
        assert np.abs(embed(ours, sequences) - expected).max() <= TOLERANCE
    back, without_ends = stated(dna_folder, sequences[6][::-1]), stated(dna_folder, sequences[6])[1:-1]
    for wrong in (back, without_ends):  # the comparison sees the order, and CLS and SEP
        assert np.abs(expected[6] - wrong.mean(axis=0)).max() > 1e-3


def test_mosaic_bert_heads_of_true_width_have_the_stated_vectors(tmp_path: Path) -> None:
    write_repository(DNABERT_S, tmp_path, TRUE_HEADS)
    sequences = drawn("dna", [1, 99, 500, 500])
    assert np.abs(embed(loaded(DNA, tmp_path), sequences) - stated_vectors(tmp_path, sequences)).max() <= TOLERANCE


def test_alibis_slopes_are_the_published_ones() -> None:
    """For a power of two a geometric series; for DNABERT-S's twelve heads those of 8, then every other of 16."""
    assert alibi_slopes(8) == [2.0**-i for i in range(1, 9)]
    assert alibi_slopes(12) == [2.0**-i for i in range(1, 9)] + [2.0 ** -(i + 0.5) for i in range(4)]
