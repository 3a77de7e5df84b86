"""Our ESM path against fair-esm, as its extraction script runs it, and against transformers, on equal weights."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from esm.data import Alphabet, FastaBatchedDataset
from esm.model.esm2 import ESM2
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.torch import load_file
from transformers import AutoTokenizer, EsmModel

from benchmarks.originals import fair_name
from virnuc_assets.encoders.alphabet import AMINO_ACIDS
from virnuc_assets.encoders.embedding import embed
from virnuc_assets.encoders.loading import Encoder, load_encoder
from virnuc_assets.encoders.miniature import Shape, write_drawn_checkpoint
from virnuc_assets.encoders.registry import ENCODERS
from virnuc_assets.settings import EncodingSettings

TOLERANCE = 1e-5
LONGEST = 1024
PLAIN = EncodingSettings(device="cpu", token_budget=4096, compile="never")
LETTERS = AMINO_ACIDS + "XBZUO"


@dataclass(frozen=True)
class Trio:
    """One set of weights in three places."""

    ours: Encoder
    original: ESM2
    folder: Path


def trio(root: Path, shape: Shape, token_dropout: bool = True) -> Trio:
    spec = replace(ENCODERS["esm2_3b_miniature"], name="parity")
    folder = root / spec.name
    folder.mkdir()
    write_drawn_checkpoint(folder, spec.name, shape)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "token_dropout": token_dropout}), encoding="utf-8")
    original = ESM2(shape.layers, shape.hidden, shape.heads, "ESM-1b", token_dropout).eval()
    original.load_state_dict(renamed(load_file(folder / "model.safetensors")), strict=True)
    return Trio(load_encoder(spec, root, PLAIN), original, folder)


def renamed(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    found = {fair_name(name): tensor for name, tensor in weights.items()}
    return {**found, "lm_head.weight": found["embed_tokens.weight"]}


@torch.inference_mode()
def extracted(model: ESM2, sequences: list[str], toks_per_batch: int) -> NDArray[np.float32]:
    """Mean representations as `scripts/extract.py` of fair-esm makes them: padded batches, residues only."""
    dataset = FastaBatchedDataset([str(i) for i in range(len(sequences))], sequences)
    convert = model.alphabet.get_batch_converter(LONGEST)
    vectors = np.empty((len(sequences), model.embed_dim), np.float32)
    for rows in dataset.get_batch_indices(toks_per_batch, extra_toks_per_seq=1):
        labels, strings, tokens = convert([dataset[row] for row in rows])
        layer = model(tokens, repr_layers=[model.num_layers])["representations"][model.num_layers]
        for i, label in enumerate(labels):
            vectors[int(label)] = layer[i, 1 : min(LONGEST, len(strings[i])) + 1].mean(0).numpy()
    return vectors


def drawn(lengths: list[int], seed: int = 0) -> list[str]:
    generator = np.random.default_rng(seed)
    return ["".join(generator.choice(list(LETTERS), size=length)) for length in lengths]


def assert_equal(models: Trio, sequences: list[str], token_budget: int, toks_per_batch: int = 4096) -> None:
    models.ours.token_budget = token_budget
    found = embed(models.ours, sequences)
    assert np.abs(found - extracted(models.original, sequences, toks_per_batch)).max() <= TOLERANCE


@pytest.fixture(scope="module", params=[True, False], ids=["token_dropout", "no_token_dropout"])
def models(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trio:
    return trio(tmp_path_factory.mktemp("small"), Shape(64, 4, 4, "esm"), request.param)


def test_tokens_are_the_originals(models: Trio) -> None:
    assert (models.folder / "vocab.txt").read_text(encoding="utf-8").split() == Alphabet.from_architecture(
        "ESM-1b"
    ).all_toks
    sequence = drawn([200])[0] + LETTERS
    _, _, tokens = models.original.alphabet.get_batch_converter(LONGEST)([("", sequence)])
    assert models.ours.tokenize([sequence])[0].tolist() == tokens[0].tolist()


@pytest.mark.parametrize("length", [1, 2, 3, 33, 99, 100, 165, 166, 500, 1022, 1023, 1024, 1025, 1300])
def test_a_sequence_of_each_length_has_the_originals_vector(models: Trio, length: int) -> None:
    assert_equal(models, drawn([length], seed=length), 4096)


@pytest.mark.parametrize("letter", LETTERS)
def test_every_letter_has_the_originals_vector(models: Trio, letter: str) -> None:
    assert_equal(models, [letter, f"MK{letter}VL", letter * 30], 4096)


@pytest.mark.parametrize("rows", [1, 2, 3, 8, 63, 64])
def test_every_batch_size_has_the_originals_vectors(models: Trio, rows: int) -> None:
    assert_equal(models, drawn([40] * 64, seed=rows), rows * 42, toks_per_batch=2048)


def test_mixed_lengths_have_the_originals_vectors(models: Trio) -> None:
    """The original pads each batch to its longest sequence; ours never pads."""

    @settings(max_examples=8, deadline=None)
    @given(
        lengths=st.lists(st.one_of(st.integers(1, 200), st.integers(1, 1300)), min_size=1, max_size=8),
        seed=st.integers(0, 2**32 - 1),
        token_budget=st.integers(1, 8192),
        toks_per_batch=st.integers(1, 8192),
    )
    def check(lengths: list[int], seed: int, token_budget: int, toks_per_batch: int) -> None:
        assert_equal(models, drawn(lengths, seed), token_budget, toks_per_batch)

    check()


def test_transformers_reads_the_same_folder_to_the_same_vectors(models: Trio) -> None:
    theirs = EsmModel.from_pretrained(models.folder, add_pooling_layer=False, attn_implementation="eager").eval()
    tokenizer = AutoTokenizer.from_pretrained(models.folder)
    for sequence in drawn([1, 2, 100, 166, 1024]) + [LETTERS]:
        with torch.inference_mode():
            hidden = theirs(**tokenizer(sequence, return_tensors="pt")).last_hidden_state[0]  # (l, d)
        found = embed(models.ours, [sequence])[0]
        assert np.abs(found - hidden[1:-1].mean(0).numpy()).max() <= TOLERANCE


def test_the_comparison_sees_what_it_should(models: Trio, tmp_path: Path) -> None:
    """Order of residues, scaling by token dropout, and the tokens that pooling leaves out all move the vectors."""
    sequence = drawn([40])[0]
    there, back = embed(models.ours, [sequence, sequence[::-1]])
    assert np.abs(there - back).max() > 1e-2
    config = json.loads((models.folder / "config.json").read_text(encoding="utf-8"))
    other = trio(tmp_path, Shape(64, 4, 4, "esm"), not config["token_dropout"])
    assert np.abs(there - embed(other.ours, [sequence])[0]).max() > 1e-2
    with torch.inference_mode():
        tokens = torch.from_numpy(models.ours.tokenize([sequence])[0])[None]
        layer = models.original(tokens, repr_layers=[4])["representations"][4][0].numpy()  # (l, d)
    for wrong in (layer, layer[1:], layer[:-1]):
        assert np.abs(there - wrong.mean(0)).max() > 1e-3


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Trio:
    """Two layers of the 650M model: 20 heads of width 64."""
    return trio(tmp_path_factory.mktemp("wide"), Shape(1280, 2, 20, "fast_esm"))


def test_heads_of_true_width_have_the_originals_vectors(wide: Trio) -> None:
    assert_equal(wide, drawn([1, 99, 166, 166, 1300]), 4096)
