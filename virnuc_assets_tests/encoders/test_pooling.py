from dataclasses import replace
from pathlib import Path

import torch
from transformers import EsmModel

from virnuc_assets.encoders.embedding import embed
from virnuc_assets.encoders.loading import load_encoder
from virnuc_assets.encoders.mosaic_bert import load_mosaic_bert
from virnuc_assets.encoders.pooling import keep_mask, mean_pool
from virnuc_assets.encoders.registry import ENCODERS
from virnuc_assets.settings import EncodingSettings
from virnuc_assets_tests.encoders.drawn import drawn


def test_the_mean_is_over_kept_tokens_in_fp32() -> None:
    hidden = torch.tensor([[[1.0, 2.0], [3.0, 6.0], [100.0, 100.0]], [[9.0, 9.0], [9.0, 9.0], [9.0, 9.0]]])
    keep = torch.tensor([[True, True, False], [False, False, False]])
    pooled = mean_pool(hidden.half(), keep)
    assert pooled.dtype == torch.float32
    assert pooled.tolist() == [[2.0, 4.0], [0.0, 0.0]]


def test_the_mask_leaves_out_what_it_is_told() -> None:
    keep = keep_mask(torch.tensor([[0, 5, 6, 2, 1, 1]]), torch.tensor([0, 2, 1]))
    assert keep.tolist() == [[False, True, True, False, False, False]]


def test_esm_vectors_are_means_over_residues_with_token_dropout_scaling(checkpoints: Path) -> None:
    name = "esm2_650_miniature"
    sequence = drawn("protein", [37])[0]
    model = EsmModel.from_pretrained(checkpoints / name, add_pooling_layer=False).eval()
    model.embeddings.token_dropout = False  # scaled by hand instead
    index = {token: i for i, token in enumerate((checkpoints / name / "vocab.txt").read_text().split())}
    ids = torch.tensor([[index["<cls>"], *(index[letter] for letter in sequence), index["<eos>"]]])
    with torch.inference_mode():
        embedded = model.embeddings.word_embeddings(ids) * 0.88  # 1 - 0.15 * 0.8: nothing is masked here
        by_hand = model(inputs_embeds=embedded).last_hidden_state[0, 1:-1].mean(dim=0)
    spec = ENCODERS[name]
    found = torch.from_numpy(embed(load_encoder(spec, checkpoints, EncodingSettings()), [sequence])[0])
    torch.testing.assert_close(found, by_hand, rtol=0, atol=1e-5)
    # One token more is another vector: the policy matters.
    other = load_encoder(replace(spec, pooling="tokens"), checkpoints, EncodingSettings())
    assert (torch.from_numpy(embed(other, [sequence])[0]) - by_hand).abs().max() > 1e-3


def test_dna_vectors_are_means_over_all_tokens_cls_and_sep_included(checkpoints: Path) -> None:
    spec = ENCODERS["dnabert_s_miniature"]
    sequence = drawn("dna", [90])[0]
    model, tokenization = load_mosaic_bert(checkpoints / spec.name, torch.float32)
    tokens = torch.from_numpy(tokenization([sequence])[0])
    assert (tokens[0], tokens[-1]) == (1, 2)
    with torch.inference_mode():
        by_hand = model.eval()(tokens[None])[0].mean(dim=0)
    found = torch.from_numpy(embed(load_encoder(spec, checkpoints, EncodingSettings()), [sequence])[0])
    torch.testing.assert_close(found, by_hand, rtol=0, atol=1e-6)
