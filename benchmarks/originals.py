"""The originals as VirNucPro calls them, one function from sequences to pooled vectors each.

Sources: `scripts/extract.py` and `esm/model/esm2.py` of facebookresearch/esm; VirNucPro's `utils.py` (2,048 tokens a
batch for proteins, nucleotides one by one); `bert_layers.py` of zhihan1996/DNABERT-S, its path without Triton.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own idiom

from benchmarks.checkpoints import drawn_weights
from benchmarks.contenders import Model
from virnuc_assets.encoders.mosaic_bert import Layer, MosaicBert, alibi_slopes, load_mosaic_bert

Embed = Callable[[Sequence[str]], NDArray[np.float32]]

TOKS_PER_BATCH = 2048
# The hub's names on the left, fair-esm's on the right; the longer ones first.
_RENAMED = {
    "esm.embeddings.word_embeddings.": "embed_tokens.",
    "esm.encoder.emb_layer_norm_after.": "emb_layer_norm_after.",
    "esm.contact_head.": "contact_head.",
    "esm.encoder.layer.": "layers.",
    "attention.self.query.": "self_attn.q_proj.",
    "attention.self.key.": "self_attn.k_proj.",
    "attention.self.value.": "self_attn.v_proj.",
    "attention.self.rotary_embeddings.": "self_attn.rot_emb.",
    "attention.output.dense.": "self_attn.out_proj.",
    "attention.LayerNorm.": "self_attn_layer_norm.",
    "intermediate.dense.": "fc1.",
    "output.dense.": "fc2.",
    "LayerNorm.": "final_layer_norm.",
}


def fair_esm(model: Model, device: torch.device) -> Embed:
    """fair-esm's ESM2 in fp32 with the weights drawn straight into it, so that they are in memory once."""
    from esm.data import FastaBatchedDataset
    from esm.model.esm2 import ESM2

    with torch.device("meta"):
        esm2 = ESM2(model.shape.layers, model.shape.hidden, model.shape.heads, "ESM-1b")
    weights = {fair_name(name): tensor for name, tensor in drawn_weights(model)}
    weights["lm_head.weight"] = weights["embed_tokens.weight"]
    esm2.load_state_dict(weights, strict=True, assign=True)
    del weights
    esm2.eval().requires_grad_(False).to(device)
    convert, last = esm2.alphabet.get_batch_converter(), esm2.num_layers

    @torch.no_grad()
    def embed(sequences: Sequence[str]) -> NDArray[np.float32]:
        dataset = FastaBatchedDataset([str(row) for row in range(len(sequences))], list(sequences))
        vectors = np.empty((len(sequences), esm2.embed_dim), np.float32)
        for rows in dataset.get_batch_indices(TOKS_PER_BATCH, extra_toks_per_seq=1):
            labels, strings, tokens = convert([dataset[row] for row in rows])
            hidden = esm2(tokens.to(device), repr_layers=[last])["representations"][last].to("cpu")  # (b, l, d)
            for row, label in enumerate(labels):
                vectors[int(label)] = hidden[row, 1 : len(strings[row]) + 1].mean(0).numpy()
        return vectors

    return embed


def fair_name(name: str) -> str:
    """fair-esm's name of a parameter that the hub's ESM2 checkpoints hold."""
    if not name.startswith("lm_head."):
        for hub, fair in _RENAMED.items():
            name = name.replace(hub, fair, 1)
    return name


def transformers_esm(folder: Path, dtype: torch.dtype, device: torch.device) -> Embed:
    """EsmModel of transformers as it comes: batches in input order, padded, with an attention mask."""
    from transformers import AutoTokenizer, EsmModel

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = EsmModel.from_pretrained(folder, dtype=dtype, add_pooling_layer=False).eval().to(device)
    special = torch.tensor([tokenizer.cls_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id], device=device)

    @torch.no_grad()
    def embed(sequences: Sequence[str]) -> NDArray[np.float32]:
        batch = TOKS_PER_BATCH // (max(map(len, sequences)) + 2)
        vectors = []
        for start in range(0, len(sequences), batch):
            tokens = tokenizer(list(sequences[start : start + batch]), padding=True, return_tensors="pt").to(device)
            hidden = model(**tokens).last_hidden_state.float()  # (b, l, d)
            keep = torch.isin(tokens["input_ids"], special, invert=True)[..., None].float()  # (b, l, 1)
            vectors.append(((hidden * keep).sum(1) / keep.sum(1)).cpu().numpy())
        return np.concatenate(vectors)

    return embed


def sentence_transformers_esm(folder: Path, device: torch.device) -> Embed:
    """A public embedder, sentence-transformers, in fp32; its mean counts CLS and EOS, so its vectors are others."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    reader = Transformer(str(folder), model_kwargs={"add_pooling_layer": False})
    model = SentenceTransformer(modules=[reader, Pooling(reader.get_embedding_dimension())], device=str(device))
    return lambda sequences: model.encode(list(sequences))


def upstream_one_by_one(folder: Path, device: torch.device) -> Embed:
    """DNABERT-S in fp32 as VirNucPro calls it: tokenizer and model once a sequence.

    Upstream's remote code is stated anew here, since it is not run: attention by explicit softmax, mask and ALiBi
    added anew at every call. Its copies between padded and unpadded rows are left out, in its favour.
    """
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    model, _ = load_mosaic_bert(folder, torch.float32)
    model.eval().requires_grad_(False).to(device)

    @torch.no_grad()
    def embed(sequences: Sequence[str]) -> NDArray[np.float32]:
        vectors = []
        for sequence in sequences:
            token_ids = tokenizer(sequence, return_tensors="pt")["input_ids"].to(device)
            vectors.append(_upstream_forward(model, token_ids)[0].mean(dim=0).cpu().numpy())
        return np.stack(vectors)

    return embed


def _upstream_forward(model: MosaicBert, token_ids: Tensor) -> Tensor:
    """(b, l) int64 to (b, l, d), step by step."""
    hidden: Tensor = model.embeddings(token_ids)
    layers: list[Layer] = list(model.layers())  # type: ignore[arg-type]
    position = torch.arange(token_ids.shape[1], device=token_ids.device)
    slopes = torch.tensor(alibi_slopes(layers[0].attention.self.heads), device=token_ids.device)
    alibi = -slopes[:, None, None] * (position[:, None] - position[None, :]).abs()  # (h, l, l)
    mask = (1.0 - torch.ones_like(token_ids, dtype=torch.float32)) * -10_000.0  # (b, l)
    bias = mask[:, None, None, :] + alibi  # (b, h, l, l)
    for layer in layers:
        hidden = _upstream_layer(layer, hidden, bias)
    return hidden


def _upstream_layer(layer: Layer, hidden: Tensor, bias: Tensor) -> Tensor:
    attention, mlp = layer.attention, layer.mlp
    b, length, d = hidden.shape
    heads = attention.self.heads
    qkv = _product(attention.self.Wqkv, hidden).view(b, length, 3, heads, d // heads)
    q, v = qkv[:, :, 0].permute(0, 2, 1, 3), qkv[:, :, 2].permute(0, 2, 1, 3)  # (b, h, l, d / h)
    k = qkv[:, :, 1].permute(0, 2, 3, 1)  # (b, h, d / h, l)
    odds = F.softmax(torch.matmul(q, k) / math.sqrt(d // heads) + bias, dim=-1)  # (b, h, l, l)
    mixed = torch.matmul(odds, v).permute(0, 2, 1, 3).reshape(b, length, d)
    hidden = attention.output.LayerNorm(_product(attention.output.dense, mixed) + hidden)
    gated = _product(mlp.gated_layers, hidden)  # (b, l, 2 * intermediate)
    gate, value = gated.chunk(2, dim=-1)
    out: Tensor = mlp.layernorm(_product(mlp.wo, F.gelu(gate) * value) + hidden)
    return out


def _product(linear: nn.Linear, x: Tensor) -> Tensor:
    return F.linear(x, linear.weight, linear.bias)
