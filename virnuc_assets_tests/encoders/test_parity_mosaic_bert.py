"""Our DNABERT-S path against a plain statement of its published architecture, in float64, one step after the other.

Source of the statement: `bert_layers.py` of zhihan1996/DNABERT-S as read, with its pooling over all tokens.
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file
from scipy.special import erf
from tokenizers import Tokenizer

from virnuc_assets.encoders.embedding import embed
from virnuc_assets.encoders.loading import Encoder, load_encoder
from virnuc_assets.encoders.miniature import Shape, write_drawn_checkpoint
from virnuc_assets.encoders.registry import ENCODERS
from virnuc_assets.settings import EncodingSettings
from virnuc_assets_tests.encoders.drawn import drawn

TOLERANCE = 1e-5
# The published slopes: for a power of two 2^(-8/n), 2^(-16/n), ...; else those of the power below, and then the
# first, third, ... of the power above.
SLOPES = {
    6: [2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3],
    8: [2.0**-i for i in range(1, 9)],
    12: [*(2.0**-i for i in range(1, 9)), *(2.0 ** -(i + 0.5) for i in range(4))],
}

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Plain:
    """The architecture as formulas over the tensors of a checkpoint."""

    weights: dict[str, Array]
    heads: int

    def linear(self, x: Array, name: str) -> Array:
        return x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def normalized(self, x: Array, name: str) -> Array:
        centred = x - x.mean(axis=-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-12)
        return scaled * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]

    def attention(self, x: Array, at: str) -> Array:
        length, d = x.shape
        size = d // self.heads
        queries, keys, values = np.split(self.linear(x, f"{at}.self.Wqkv"), 3, axis=1)  # (l, d) each
        position = np.arange(length)
        distance = np.abs(position[:, None] - position[None, :])  # (l, l)
        mixed = np.empty_like(x)
        for head, slope in enumerate(SLOPES[self.heads]):
            own = slice(head * size, (head + 1) * size)
            scores = queries[:, own] @ keys[:, own].T / math.sqrt(size) - slope * distance  # (l, l)
            odds = np.exp(scores - scores.max(axis=1, keepdims=True))
            mixed[:, own] = odds / odds.sum(axis=1, keepdims=True) @ values[:, own]
        return self.normalized(self.linear(mixed, f"{at}.output.dense") + x, f"{at}.output.LayerNorm")

    def feed_forward(self, x: Array, at: str) -> Array:
        gate, value = np.split(x @ self.weights[f"{at}.gated_layers.weight"].T, 2, axis=1)  # (l, 4 d) each
        gelu = gate * 0.5 * (1 + erf(gate / math.sqrt(2)))
        return self.normalized(self.linear(gelu * value, f"{at}.wo") + x, f"{at}.layernorm")

    def hidden(self, tokens: list[int]) -> Array:
        words = self.weights["embeddings.word_embeddings.weight"][tokens]
        x = self.normalized(words + self.weights["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
        layer = 0
        while f"encoder.layer.{layer}.mlp.wo.weight" in self.weights:
            x = self.attention(x, f"encoder.layer.{layer}.attention")
            x = self.feed_forward(x, f"encoder.layer.{layer}.mlp")
            layer += 1
        assert layer > 0
        return x  # (l, d)


@dataclass(frozen=True)
class Pair:
    """One set of weights in both places, with the checkpoint's tokenizer read by its own library."""

    ours: Encoder
    plain: Plain
    tokenizer: Tokenizer

    def expected(self, sequence: str) -> Array:
        return self.plain.hidden(self.tokenizer.encode(sequence).ids).mean(axis=0)  # CLS and SEP included

    def assert_equal(self, sequences: list[str], token_budget: int) -> None:
        self.ours.token_budget = token_budget
        expected = [self.expected(sequence) for sequence in sequences]
        assert np.abs(embed(self.ours, sequences) - expected).max() <= TOLERANCE


def pair(root: Path, shape: Shape) -> Pair:
    spec = replace(ENCODERS["dnabert_s_miniature"], name="parity")
    folder = root / spec.name
    folder.mkdir()
    write_drawn_checkpoint(folder, spec.name, shape)
    weights = {name: tensor.astype(np.float64) for name, tensor in load_file(folder / "model.safetensors").items()}
    ours = load_encoder(spec, root, EncodingSettings(device="cpu", token_budget=4096, compile="never"))
    return Pair(ours, Plain(weights, shape.heads), Tokenizer.from_file(str(folder / "tokenizer.json")))


@pytest.fixture(scope="module", params=[6, 8], ids="{}_heads".format)
def models(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return pair(tmp_path_factory.mktemp("small"), Shape(48, 4, request.param, "bert"))


@pytest.mark.parametrize("length_nt", [1, 2, 3, 4, 5, 31, 99, 299, 301, 499, 500, 2000])
def test_a_sequence_of_each_length_has_the_stated_vector(models: Pair, length_nt: int) -> None:
    models.assert_equal(drawn("dna", [length_nt], seed=length_nt), 4096)


def test_ambiguous_letters_have_the_stated_vector(models: Pair) -> None:
    models.assert_equal(["N", "ACGTTGCATTTGACCATGCAANNGT", "RYSWKMBDHVN", "ACGTRACGTYACGT" * 20], 4096)


@pytest.mark.parametrize("token_budget", [1, 100, 1000, 100_000])
def test_every_batch_has_the_stated_vectors(models: Pair, token_budget: int) -> None:
    models.assert_equal(drawn("dna", [300] * 8 + [99] * 8 + [1, 500]), token_budget)


def test_the_comparison_sees_what_it_should(models: Pair) -> None:
    """Order, distances, and the tokens CLS and SEP all move the vectors."""
    sequence = drawn("dna", [120])[0]
    there, back = embed(models.ours, [sequence, sequence[::-1]])
    assert np.abs(there - back).max() > 1e-2
    hidden = models.plain.hidden(models.tokenizer.encode(sequence).ids)
    for wrong in (hidden[1:-1], hidden[1:], hidden[:-1]):
        assert np.abs(there - wrong.mean(axis=0)).max() > 1e-3


def test_heads_of_true_width_have_the_stated_vectors(tmp_path: Path) -> None:
    """Two layers of DNABERT-S: 12 heads of width 64."""
    pair(tmp_path, Shape(768, 2, 12, "bert")).assert_equal(drawn("dna", [1, 99, 500, 500]), 4096)
