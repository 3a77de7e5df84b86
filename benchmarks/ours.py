"""This package's encoders as contenders: by the loading and the loop of every embedding run, and two experiments."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.originals import Embed
from virnuc_assets.encoders.embedding import embed
from virnuc_assets.encoders.linear import GeluLinear, RoomLinear
from virnuc_assets.encoders.loading import Encoder, load_encoder
from virnuc_assets.encoders.registry import ENCODERS
from virnuc_assets.errors import VirnucError
from virnuc_assets.settings import EncodingSettings


def load(folder: Path, encoding: EncodingSettings) -> Encoder:
    """An encoder from a drawn checkpoint, by the code that loads every checkpoint."""
    row = "esm2_650_miniature" if (folder / "vocab.txt").is_file() else "dnabert_s_miniature"
    return load_encoder(replace(ENCODERS[row], name=folder.name), folder.parent, encoding)


def told(encoder: Encoder) -> str:
    """How it was tuned."""
    return f"{encoder.token_budget} tokens a batch, layers {encoder.tuning.layers}"


def batched(encoder: Encoder) -> Embed:
    """The embedding loop."""
    return lambda sequences: embed(encoder, sequences)


def one_by_one(encoder: Encoder) -> Embed:
    """The same loop, called once a sequence."""
    return lambda sequences: np.concatenate([embed(encoder, [sequence]) for sequence in sequences])


def int8(encoder: Encoder) -> Embed:
    """All products of the layers quantized dynamically to int8: an experiment, offered nowhere."""
    import torch.ao.quantization as quantization

    layers = encoder._model.layers()
    for parent in list(layers.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, RoomLinear):  # quantization knows plain products only
                setattr(parent, name, _Roomless(child))
    quantization.quantize_dynamic(layers, {nn.Linear}, dtype=torch.qint8, inplace=True)  # type: ignore[no-untyped-call]
    if left := [name for name, module in layers.named_modules() if isinstance(module, nn.Linear)]:
        raise VirnucError(f"products that were not quantized: {', '.join(left)}")
    return batched(encoder)


class _Roomless(nn.Module):
    """A wide product that is written where quantized products write, not into room."""

    def __init__(self, product: RoomLinear) -> None:
        super().__init__()
        self.plain = nn.Linear(product.in_features, product.out_features, device="meta")
        self.plain.weight, self.plain.bias = product.weight, product.bias
        self._after = nn.GELU() if isinstance(product, GeluLinear) else nn.Identity()

    def forward(self, x: Tensor, room: Tensor) -> Tensor:  # noqa: ARG002
        out: Tensor = self._after(self.plain(x))
        return out
