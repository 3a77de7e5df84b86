"""The originals that ours is compared with, one function from sequences to pooled vectors each.

Sources: `scripts/extract.py` and `esm/model/esm2.py` of facebookresearch/esm; VirNucPro's `utils.py` (2,048 tokens a
batch for proteins, nucleotides one by one); `bert_layers.py` of zhihan1996/DNABERT-S, its path without Triton.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from esm.data import FastaBatchedDataset
from esm.model.esm2 import ESM2
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own idiom
from transformers import EsmModel, EsmTokenizer, PreTrainedTokenizerFast

from virnuc_assets.encoders.mosaic_bert import alibi_slopes
from virnuc_assets.workstation.fair_esm import hub_name

Embed = Callable[[Sequence[str]], NDArray[np.float32]]

_VIRNUCPRO_TOKENS = 2048


def fair_esm(layers: int, hidden: int, heads: int, folder: Path | None, device: torch.device) -> Embed:
    """fair-esm's ESM2 in fp32 as VirNucPro calls it, with the weights of a folder or, without one, its own random."""
    esm2 = ESM2(layers, hidden, heads, "ESM-1b")
    if folder is not None:
        weights = _weights(folder)
        weights["lm_head.decoder.weight"] = weights["esm.embeddings.word_embeddings.weight"]  # tied
        esm2.load_state_dict({name: weights[hub_name(name)] for name in esm2.state_dict()}, strict=True)
    esm2.eval().requires_grad_(False).to(device)
    convert = esm2.alphabet.get_batch_converter()

    @torch.no_grad()
    def embed(sequences: Sequence[str]) -> NDArray[np.float32]:
        dataset = FastaBatchedDataset([str(row) for row in range(len(sequences))], list(sequences))
        vectors = np.empty((len(sequences), hidden), np.float32)
        for rows in dataset.get_batch_indices(_VIRNUCPRO_TOKENS, extra_toks_per_seq=1):
            labels, strings, tokens = convert([dataset[row] for row in rows])
            found = esm2(tokens.to(device), repr_layers=[layers])["representations"][layers].to("cpu")  # (b, l, d)
            for row, label in enumerate(labels):
                vectors[int(label)] = found[row, 1 : len(strings[row]) + 1].mean(0).numpy()
        return vectors

    return embed


def transformers_esm(folder: Path, dtype: torch.dtype, device: torch.device, token_budget: int) -> Embed:
    """EsmModel of transformers as it comes, in the batches that ours runs too.

    A careful user groups by length, so that nothing is padded; the mask of the tokenizer is passed on as usual.
    """
    tokenizer = EsmTokenizer.from_pretrained(folder)
    model = EsmModel.from_pretrained(folder, dtype=dtype, add_pooling_layer=False).eval().to(device)

    @torch.no_grad()
    def embed(sequences: Sequence[str]) -> NDArray[np.float32]:
        groups = defaultdict(list)
        for row, sequence in enumerate(sequences):
            groups[len(sequence)].append(row)
        vectors = np.empty((len(sequences), model.config.hidden_size), np.float32)
        for length, group in groups.items():
            size = max(token_budget // (length + 2), 1)
            for rows in (group[start : start + size] for start in range(0, len(group), size)):
                tokens = tokenizer([sequences[row] for row in rows], return_tensors="pt").to(device)
                hidden = model(**tokens).last_hidden_state  # (b, l, d)
                vectors[rows] = hidden[:, 1:-1].float().mean(1).cpu().numpy()
        return vectors

    return embed


def one_by_one(layers: int, heads: int, folder: Path, device: torch.device) -> Embed:
    """DNABERT-S in fp32 as VirNucPro calls it: tokenizer and model once per sequence.

    Upstream's remote code is not run but stated here: attention by explicit softmax, mask and ALiBi made at every
    call. Its copies between padded and unpadded rows are left out, in its favour.
    """
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    weights = {name: tensor.to(device) for name, tensor in _weights(folder).items()}

    @torch.no_grad()
    def embed(sequences: Sequence[str]) -> NDArray[np.float32]:
        vectors = []
        for sequence in sequences:
            token_ids = tokenizer(sequence, return_tensors="pt")["input_ids"].to(device)  # (1, l)
            vectors.append(_mosaic_bert(weights, layers, heads, token_ids)[0].mean(dim=0).cpu().numpy())
        return np.stack(vectors)

    return embed


def _mosaic_bert(weights: dict[str, Tensor], layers: int, heads: int, token_ids: Tensor) -> Tensor:
    """(b, l) int64 to (b, l, d), step by step."""

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"))

    def normalized(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], eps=1e-12)

    words = F.embedding(token_ids, weights["embeddings.word_embeddings.weight"])
    hidden = normalized(words + weights["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
    b, length, d = hidden.shape
    position = torch.arange(length, device=token_ids.device)
    slopes = torch.tensor(alibi_slopes(heads), device=token_ids.device)
    alibi = -slopes[:, None, None] * (position[:, None] - position[None, :]).abs()  # (h, l, l)
    mask = (1.0 - torch.ones_like(token_ids, dtype=torch.float32)) * -10_000.0  # (b, l)
    bias = mask[:, None, None, :] + alibi  # (b, h, l, l)
    for layer in (f"encoder.layer.{number}" for number in range(layers)):
        qkv = linear(hidden, f"{layer}.attention.self.Wqkv").view(b, length, 3, heads, d // heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (b, h, l, d / h) each
        odds = F.softmax(torch.matmul(q, k.transpose(2, 3)) / math.sqrt(d // heads) + bias, dim=-1)  # (b, h, l, l)
        mixed = torch.matmul(odds, v).permute(0, 2, 1, 3).reshape(b, length, d)
        added = linear(mixed, f"{layer}.attention.output.dense") + hidden
        hidden = normalized(added, f"{layer}.attention.output.LayerNorm")
        gate, value = linear(hidden, f"{layer}.mlp.gated_layers").chunk(2, dim=-1)  # (b, l, intermediate) each
        hidden = normalized(linear(F.gelu(gate) * value, f"{layer}.mlp.wo") + hidden, f"{layer}.mlp.layernorm")
    return hidden


def _weights(folder: Path) -> dict[str, Tensor]:
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}
