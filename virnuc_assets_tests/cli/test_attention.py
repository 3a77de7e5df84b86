"""Attention maps are transformers' own and the encoder's: same tokens, same hidden states."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, EsmModel

from virnuc_assets.cli.attention import AttentionModel, attention_folder
from virnuc_assets.encoders.embedding import NonFiniteError
from virnuc_assets.encoders.loading import load_encoder
from virnuc_assets.encoders.registry import ENCODERS, EncoderSpec
from virnuc_assets.settings import EncodingSettings
from virnuc_assets_tests.encoders.drawn import MINIATURES, drawn

CPU = EncodingSettings(device="cpu")
ESM = ENCODERS["esm2_3b_miniature"]
DNA = ENCODERS["dnabert_s_miniature"]


def model_of(spec: EncoderSpec, checkpoints: Path) -> AttentionModel:
    return AttentionModel(spec, attention_folder(spec, checkpoints), CPU)


@pytest.mark.parametrize("spec", MINIATURES, ids=lambda spec: spec.name)
def test_maps_have_the_encoders_tokens_and_hidden_states(checkpoints: Path, spec: EncoderSpec) -> None:
    encoder, model = load_encoder(spec, checkpoints, CPU), model_of(spec, checkpoints)
    config = encoder._model.config
    for sequence in drawn(spec.alphabet, [1, 40, 166], seed=3):
        token_ids = model.tokenize(sequence)
        assert token_ids == encoder.tokenize([sequence])[0].tolist()
        hidden, _ = model.forward(torch.tensor([token_ids]))
        np.testing.assert_allclose(hidden, encoder._model(torch.tensor([token_ids])), atol=1e-5, rtol=0)
        tokens, weights = model.attention("frame", sequence)
        length = len(token_ids)
        assert weights.shape == (config.num_hidden_layers, config.num_attention_heads, length, length)
        np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-5, rtol=0)
        assert "".join(tokens[1:-1]) == sequence


@pytest.mark.parametrize("token_dropout", [True, False])
def test_esm_maps_are_those_of_an_unmodified_esm_model(checkpoints: Path, token_dropout: bool) -> None:
    sequence = "".join(drawn("protein", [70])) + "XBZUO"
    folder = attention_folder(ESM, checkpoints)
    theirs = EsmModel.from_pretrained(
        folder, attn_implementation="eager", add_pooling_layer=False, token_dropout=token_dropout
    ).eval()
    with torch.no_grad():
        expected = theirs(
            **AutoTokenizer.from_pretrained(folder)(sequence, return_tensors="pt"), output_attentions=True
        ).attentions
    _, weights = model_of(replace(ESM, token_dropout=token_dropout), checkpoints).attention("frame", sequence)
    np.testing.assert_allclose(weights, torch.cat(expected), atol=1e-6, rtol=0)


def test_mosaic_bert_maps_are_the_softmax_with_the_distances_penalty(checkpoints: Path) -> None:
    """The first layer step by step, head by head; that later layers hold is shown by the hidden states."""
    sequence = drawn("dna", [90])[0]
    model = model_of(DNA, checkpoints)
    found = model.attention("frame", sequence)[1][0]  # (h, l, l)
    state = model.model.state_dict()
    hidden = model.model.embeddings(torch.tensor([model.tokenize(sequence)]))[0]  # (l, d)
    layer = "encoder.layer.0.attention.self.Wqkv"
    q, k, _ = (hidden @ state[f"{layer}.weight"].T + state[f"{layer}.bias"]).chunk(3, dim=-1)
    position = torch.arange(len(hidden))
    distance = (position[:, None] - position[None]).abs()
    width = hidden.shape[1] // len(found)
    exponents = [2, 4, 6, 8, 1, 3]  # ALiBi's slopes for six heads: those of four, and every other of eight
    for head, exponent in enumerate(exponents):
        columns = slice(head * width, (head + 1) * width)
        scores = q[:, columns] @ k[:, columns].T / width**0.5 - distance / 2**exponent
        np.testing.assert_allclose(found[head], scores.softmax(-1), atol=1e-6, rtol=0)


def test_a_sequence_is_cut_as_embedding_cuts_it(checkpoints: Path) -> None:
    short = replace(ESM, max_length=10)
    tokens, _ = model_of(short, checkpoints).attention("frame", "MKVLAWCDEFGHIK")
    assert tokens == ["<cls>", *"MKVLAWCDEF", "<eos>"]


def test_weights_that_are_not_finite_are_refused(checkpoints: Path) -> None:
    model = model_of(ESM, checkpoints)
    model.model.embeddings.word_embeddings.weight[:] = torch.nan
    with pytest.raises(NonFiniteError, match="esm2_3b_miniature: attention of frame_7 holds NaN or infinity"):
        model.attention("frame_7", "MKVL")
