"""The originals that ours is compared with, one function from sequences to pooled vectors each.

Sources: `scripts/extract.py` and `esm/model/esm2.py` of facebookresearch/esm; VirNucPro's `utils.py` (2,048 tokens a
batch for proteins, nucleotides one by one).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from esm.data import FastaBatchedDataset
from esm.model.esm2 import ESM2
from numpy.typing import NDArray
from transformers import EsmModel, EsmTokenizer

from virnuc_assets.encoders.loading import CPU_TOKENS, GPU_TOKENS, load_model, load_tokenizer
from virnuc_assets.encoders.registry import EncoderSpec

Embed = Callable[[Sequence[str]], NDArray[np.float32]]


def fair_esm(esm2: ESM2, longest: int | None = None, batch_tokens: int = 2048) -> Embed:
    """fair-esm's extraction as VirNucPro calls it: padded batches, the mean over residues."""
    esm2.eval().requires_grad_(False)
    convert, device = esm2.alphabet.get_batch_converter(longest), esm2.embed_tokens.weight.device

    @torch.no_grad()
    def embed(sequences: Sequence[str]) -> NDArray[np.float32]:
        dataset = FastaBatchedDataset([str(row) for row in range(len(sequences))], list(sequences))
        vectors = np.empty((len(sequences), esm2.embed_dim), np.float32)
        for rows in dataset.get_batch_indices(batch_tokens, extra_toks_per_seq=1):
            labels, strings, tokens = convert([dataset[row] for row in rows])
            layer = esm2.num_layers
            found = esm2(tokens.to(device), repr_layers=[layer])["representations"][layer].to("cpu")  # (b, l, d)
            for row, label in enumerate(labels):
                vectors[int(label)] = found[row, 1 : len(strings[row][:longest]) + 1].mean(0).numpy()
        return vectors

    return embed


def transformers_esm(folder: Path, dtype: torch.dtype, device: torch.device) -> Embed:
    """EsmModel of transformers as it comes, in batches as large as ours.

    A careful user groups by length, so that nothing is padded; the mask of the tokenizer is passed on as usual.
    """
    tokenizer, budget = EsmTokenizer.from_pretrained(folder), CPU_TOKENS if device.type == "cpu" else GPU_TOKENS
    model = EsmModel.from_pretrained(folder, dtype=dtype, add_pooling_layer=False).eval().to(device)

    @torch.no_grad()
    def embed(sequences: Sequence[str]) -> NDArray[np.float32]:
        vectors = np.empty((len(sequences), model.config.hidden_size), np.float32)
        rows_of = defaultdict[int, list[int]](list)
        for row, sequence in enumerate(sequences):
            rows_of[len(sequence)].append(row)
        for length, group in rows_of.items():
            batch = max(budget // (length + 2), 1)
            for rows in (group[start : start + batch] for start in range(0, len(group), batch)):
                tokens = tokenizer([sequences[row] for row in rows], return_tensors="pt").to(device)
                hidden = model(**tokens).last_hidden_state  # (b, l, d)
                vectors[rows] = hidden[:, 1:-1].float().mean(1).cpu().numpy()
        return vectors

    return embed


def one_by_one(spec: EncoderSpec, folder: Path, device: torch.device) -> Embed:
    """DNABERT-S in fp32 as VirNucPro calls it: tokenizer and model once per sequence, attention by explicit softmax.

    Upstream's remote code is not run. Our module stands for it, in its favour: it copies nothing between padded and
    unpadded rows, and makes no mask.
    """
    tokenizer = load_tokenizer(folder)
    model = load_model(spec, folder, torch.float32, "eager").eval().to(device)

    @torch.no_grad()
    def embed(sequences: Sequence[str]) -> NDArray[np.float32]:
        each = (tokenizer(sequence, return_tensors="pt")["input_ids"].to(device) for sequence in sequences)  # (1, l)
        return np.stack([model(ids)[0].mean(dim=0).cpu().numpy() for ids in each])

    return embed
