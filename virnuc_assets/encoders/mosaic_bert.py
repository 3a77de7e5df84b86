"""DNABERT-S without remote code: MosaicBERT with ALiBi, written over PyTorch's own attention.

Sources: MosaicBERT (Portes et al. 2023), ALiBi (Press et al. 2022), DNABERT-2 and DNABERT-S (Zhou et al. 2023,
2024; upstream file `bert_layers.py` of zhihan1996/DNABERT-S). Parameter names are upstream's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own idiom

from virnuc_assets.encoders.linear import RoomLinear, lookup, room_for
from virnuc_assets.encoders.tokenization import BpeTokenization
from virnuc_assets.encoders.weights import CheckpointError, load_weights, read_config, read_weights

PREFIX = "bert."
UNUSED = ("cls.", "pooler.", "embeddings.position_ids")


@dataclass(frozen=True)
class MosaicBertConfig:
    """The fields of `config.json` that shape the module."""

    vocab_size: int
    type_vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    layer_norm_eps: float


def alibi_slopes(heads: int) -> list[float]:
    """Slope of each head: a geometric series for a power of two, else that and every other of the next."""
    below = 2 ** math.floor(math.log2(heads))
    slopes = [2.0 ** (-8.0 * (i + 1) / below) for i in range(below)]
    return slopes if below == heads else slopes + alibi_slopes(2 * below)[0::2][: heads - below]


class Embeddings(nn.Module):
    """Token and segment embeddings; ALiBi needs no positions."""

    def __init__(self, config: MosaicBertConfig) -> None:
        super().__init__()
        self.word_embeddings = lookup(config.vocab_size, config.hidden_size)
        self.token_type_embeddings = lookup(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, token_ids: Tensor) -> Tensor:
        """(b, l) int64 to (b, l, d); every token is of segment 0."""
        embedded: Tensor = self.LayerNorm(self.word_embeddings(token_ids) + self.token_type_embeddings.weight[0])
        return embedded


class SelfAttention(nn.Module):
    """Queries, keys and values from one product."""

    def __init__(self, config: MosaicBertConfig) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.Wqkv = RoomLinear(config.hidden_size, 3 * config.hidden_size)

    def forward(self, hidden: Tensor, bias: Tensor, room: Tensor) -> Tensor:
        """(b, l, d) and the bias (1, h, l, l) to (b, l, d)."""
        b, length, d = hidden.shape
        qkv = self.Wqkv(hidden, room).view(b, length, 3, self.heads, d // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (b, h, l, d / h) each
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return mixed.transpose(1, 2).reshape(b, length, d)


class AttentionOutput(nn.Module):
    """Projection, residual, normalization after."""

    def __init__(self, config: MosaicBertConfig) -> None:
        super().__init__()
        self.dense = RoomLinear(config.hidden_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, mixed: Tensor, residual: Tensor, room: Tensor) -> Tensor:
        """(b, l, d) twice to (b, l, d)."""
        out: Tensor = self.LayerNorm(self.dense(mixed, room) + residual)
        return out


class Attention(nn.Module):
    """Attention with its output, nested as upstream names it."""

    def __init__(self, config: MosaicBertConfig) -> None:
        super().__init__()
        self.self = SelfAttention(config)
        self.output = AttentionOutput(config)

    def forward(self, hidden: Tensor, bias: Tensor, room: Tensor) -> Tensor:
        """(b, l, d) and the bias (1, h, l, l) to (b, l, d)."""
        out: Tensor = self.output(self.self(hidden, bias, room), hidden, room)
        return out


class GatedMlp(nn.Module):
    """Gated linear units: the first half goes through GELU and gates the second."""

    def __init__(self, config: MosaicBertConfig) -> None:
        super().__init__()
        self.gated_layers = RoomLinear(config.hidden_size, 2 * config.intermediate_size, bias=False)
        self.wo = RoomLinear(config.intermediate_size, config.hidden_size)
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, hidden: Tensor, room: Tensor) -> Tensor:
        """(b, l, d) to (b, l, d)."""
        gate, value = self.gated_layers(hidden, room).chunk(2, dim=-1)  # (b, l, intermediate) each
        out: Tensor = self.layernorm(self.wo(F.gelu(gate).mul_(value), room) + hidden)
        return out


class Layer(nn.Module):
    """Attention, then the gated FFN."""

    def __init__(self, config: MosaicBertConfig) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.mlp = GatedMlp(config)

    def forward(self, hidden: Tensor, bias: Tensor, room: Tensor) -> Tensor:
        """(b, l, d) and the bias (1, h, l, l) to (b, l, d)."""
        out: Tensor = self.mlp(self.attention(hidden, bias, room), room)
        return out


class MosaicBert(nn.Module):
    """The encoder. Rows of one call are equally long, so that no mask is needed."""

    def __init__(self, config: MosaicBertConfig) -> None:
        super().__init__()
        self.dim = config.hidden_size
        self._widest = max(3 * config.hidden_size, 2 * config.intermediate_size)
        self.embeddings = Embeddings(config)
        layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.encoder = nn.ModuleDict({"layer": layers})
        self._slopes = alibi_slopes(config.num_attention_heads)
        self._bias: tuple[tuple[int, torch.device, torch.dtype], Tensor] | None = None

    def forward(self, token_ids: Tensor) -> Tensor:
        """(b, l) int64 without padding to hidden states (b, l, d)."""
        hidden, *shared = self.layer_inputs(token_ids)
        for layer in self.layers():
            hidden = layer(hidden, *shared)
        return hidden

    def layers(self) -> nn.ModuleList:
        """The layers in their order."""
        return cast("nn.ModuleList", self.encoder["layer"])

    def layer_inputs(self, token_ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens (b, l) to what the first layer is called with: (b, l, d), ALiBi's penalty (1, h, l, l), and room."""
        hidden: Tensor = self.embeddings(token_ids)  # (b, l, d)
        key = (token_ids.shape[1], hidden.device, hidden.dtype)
        if self._bias is None or self._bias[0] != key:  # one length at a time: batches come sorted by it
            position = torch.arange(key[0], dtype=torch.float32)
            distance = (position[:, None] - position[None, :]).abs()  # (l, l)
            penalty = -torch.tensor(self._slopes)[None, :, None, None] * distance
            self._bias = (key, penalty.to(hidden.device, hidden.dtype))
        return hidden, self._bias[1], room_for(hidden, self._widest)


def load_mosaic_bert(folder: Path, dtype: torch.dtype) -> tuple[MosaicBert, BpeTokenization]:
    """Module with the folder's weights in the working precision, and its tokenization.

    Raises:
        CheckpointError: the folder is incomplete or holds something else.
    """
    names = [field.name for field in fields(MosaicBertConfig)]
    config = MosaicBertConfig(**read_config(folder, ("bert",), names))
    tokenization = BpeTokenization(folder)
    if tokenization.vocabulary > config.vocab_size:
        raise CheckpointError(
            f"{folder}: tokenizer.json has {tokenization.vocabulary} tokens, config.json {config.vocab_size}"
        )
    with torch.device("meta"):
        model = MosaicBert(config)
    stored = {name.removeprefix(PREFIX): tensor for name, tensor in read_weights(folder).items()}
    load_weights(model, stored, folder, UNUSED, dtype)
    return model, tokenization
