"""ESM2 and FastESM2 as one lean forward pass over equally long rows: fused QKV, no mask, rotary tables made once.

Sources: ESM2 (Lin et al. 2023, upstream file `esm/model/esm2.py` of facebookresearch/esm), FastESM2
(huggingface.co/Synthyra/FastESM2_650), whose weights are ESM2's by name. Parameter names are those of
transformers' EsmModel, in whose format the hub keeps both.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own idiom

from virnuc_assets.encoders.linear import GeluLinear, RoomLinear, lookup, room_for
from virnuc_assets.encoders.tokenization import EsmTokenization
from virnuc_assets.encoders.weights import CheckpointError, load_weights, read_config, read_weights

MODEL_TYPES = ("esm", "fast_esm")
PREFIX = "esm."
UNUSED = (
    "lm_head.",
    "contact_head.",
    "pooler.",
    "embeddings.position_ids",
    "embeddings.position_embeddings.",
)
_COMPUTED = "rotary_embeddings.inv_freq"
_MASKED_IN_TRAINING = 0.15 * 0.8  # share of tokens that were <mask> when the model was trained (esm2.py)
_ROTARY_BASE = 10_000.0  # RotaryEmbedding of esm/rotary_embedding.py


@dataclass(frozen=True)
class EsmConfig:
    """The fields of `config.json` that shape the module."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    layer_norm_eps: float
    position_embedding_type: str
    emb_layer_norm_before: bool
    token_dropout: bool


class SelfAttention(nn.Module):
    """Queries, keys and values: three products as they are stored, one after `fuse`."""

    def __init__(self, config: EsmConfig) -> None:
        super().__init__()
        self.heads, d = config.num_attention_heads, config.hidden_size
        self.query, self.key, self.value = nn.Linear(d, d), nn.Linear(d, d), nn.Linear(d, d)

    def fuse(self) -> None:
        """Join the three products; the separate parameters are let go of.

        The rows of a head's queries and keys are reordered alike, so that the two that are turned together lie side
        by side; their scalar products stay what they were.
        """
        d = self.query.in_features
        with torch.device("meta"):
            self.qkv = RoomLinear(d, 3 * d)
        for name in ("weight", "bias"):
            q, k, v = (getattr(linear, name) for linear in (self.query, self.key, self.value))
            joined = torch.cat([self._side_by_side(q), self._side_by_side(k), v])  # (3d, ...)
            setattr(self.qkv, name, nn.Parameter(joined, requires_grad=False))
        del self.query, self.key, self.value

    def forward(self, hidden: Tensor, turns: Tensor, room: Tensor) -> Tensor:
        """(b, l, d) with the positions' turns (l, 1, d / h / 2) to (b, l, d)."""
        b, length, d = hidden.shape
        qkv = self.qkv(hidden, room).view(b, length, 3 * self.heads, d // self.heads)
        qk, v = qkv.split([2 * self.heads, self.heads], dim=2)
        q, k = turned(qk, turns).transpose(1, 2).chunk(2, dim=1)  # (b, h, l, d / h) each
        mixed = F.scaled_dot_product_attention(q, k, v.transpose(1, 2))
        return mixed.transpose(1, 2).reshape(b, length, d)

    def _side_by_side(self, rows: Tensor) -> Tensor:
        """(d, ...) with the rows i and i + d / h / 2 of each head as neighbours."""
        return rows.reshape(self.heads, 2, -1, *rows.shape[1:]).transpose(1, 2).flatten(0, 2)


def turned(x: Tensor, turns: Tensor) -> Tensor:
    """Rotary embedding in fp32: each pair of neighbours is a complex number, multiplied by its position's turn.

    Args:
        x: (b, l, heads, d) of any precision; overwritten where it is fp32.
        turns: (l, 1, d / 2) complex64.

    Returns:
        As `x`.
    """
    pairs = torch.view_as_complex(x.float().view(*x.shape[:-1], -1, 2))  # (b, l, heads, d / 2)
    return torch.view_as_real(pairs.mul_(turns)).flatten(-2).to(x.dtype)


class Dense(nn.Module):
    """A product, nested as upstream names it."""

    def __init__(self, dense: nn.Linear) -> None:
        super().__init__()
        self.dense = dense


class Attention(nn.Module):
    """Self-attention with the normalization before and the projection after it."""

    def __init__(self, config: EsmConfig) -> None:
        super().__init__()
        self.self = SelfAttention(config)
        self.output = Dense(RoomLinear(config.hidden_size, config.hidden_size))
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, stream: Tensor, turns: Tensor, room: Tensor) -> Tensor:
        """What is added to the residual stream (b, l, d), in the room."""
        added: Tensor = self.output.dense(self.self(self.LayerNorm(stream), turns, room), room)
        return added


class Layer(nn.Module):
    """Attention, then the FFN, both normalized before and added to the residual stream."""

    def __init__(self, config: EsmConfig) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.intermediate = Dense(GeluLinear(config.hidden_size, config.intermediate_size))
        self.output = Dense(nn.Linear(config.intermediate_size, config.hidden_size))

    def forward(self, stream: Tensor, turns: Tensor, room: Tensor) -> Tensor:
        """The stream (b, l, d), which is added to in place.

        It then lies below all that a layer allocates, and an allocator finds each layer's blocks where the last
        layer's were.
        """
        stream += self.attention(stream, turns, room)
        stream += self.output.dense(self.intermediate.dense(self.LayerNorm(stream), room))
        return stream


class Esm(nn.Module):
    """The encoder. Rows of one call are equally long, so that no mask is needed."""

    def __init__(self, config: EsmConfig) -> None:
        super().__init__()
        self.dim = config.hidden_size
        self._widest = max(3 * config.hidden_size, config.intermediate_size)
        self.scale = 1.0 - _MASKED_IN_TRAINING if config.token_dropout else 1.0
        self._pairs = config.hidden_size // config.num_attention_heads // 2
        self._turns: tuple[tuple[int, torch.device], Tensor] | None = None
        embeddings = lookup(config.vocab_size, config.hidden_size)
        self.embeddings = nn.ModuleDict({"word_embeddings": embeddings})
        self.encoder = nn.ModuleDict(
            {
                "layer": nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers)),
                "emb_layer_norm_after": nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps),
            }
        )

    def forward(self, token_ids: Tensor) -> Tensor:
        """(b, l) int64 without padding to hidden states (b, l, d) after the last layer normalization."""
        stream, *shared = self.layer_inputs(token_ids)
        for layer in self.layers():
            stream = layer(stream, *shared)
        del shared
        hidden: Tensor = self.encoder["emb_layer_norm_after"](stream)
        return hidden

    def layers(self) -> nn.ModuleList:
        """The layers in their order."""
        return cast("nn.ModuleList", self.encoder["layer"])

    def layer_inputs(self, token_ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens (b, l) to what the first layer is called with: (b, l, d), the positions' turns, and room."""
        key = (token_ids.shape[1], token_ids.device)
        if self._turns is None or self._turns[0] != key:  # one length at a time: batches come sorted by it
            angles = torch.outer(torch.arange(key[0], dtype=torch.float32), rotary_frequencies(self._pairs))
            self._turns = (key, torch.polar(torch.ones_like(angles), angles)[:, None].to(key[1]))
        stream = self.embeddings["word_embeddings"](token_ids).mul_(self.scale)  # (b, l, d)
        return stream, self._turns[1], room_for(stream, self._widest)


def rotary_frequencies(pairs: int) -> Tensor:
    """Angle that each pair of a head turns by from one position to the next, (d / h / 2,) float32."""
    return _ROTARY_BASE ** -(torch.arange(pairs, dtype=torch.float32) / pairs)


def load_esm(folder: Path, dtype: torch.dtype) -> tuple[Esm, EsmTokenization]:
    """Module with the folder's weights in the working precision, and its tokenization.

    Raises:
        CheckpointError: the folder is incomplete or holds something else.
    """
    config = EsmConfig(**read_config(folder, MODEL_TYPES, [field.name for field in fields(EsmConfig)]))
    tokenization = EsmTokenization(folder)
    if tokenization.vocabulary != config.vocab_size:
        raise CheckpointError(
            f"{folder}: vocab.txt has {tokenization.vocabulary} tokens, config.json {config.vocab_size}"
        )
    if config.position_embedding_type != "rotary" or config.emb_layer_norm_before:
        raise CheckpointError(
            f"{folder}/config.json: position_embedding_type is {config.position_embedding_type!r} and "
            f"emb_layer_norm_before {config.emb_layer_norm_before}, expected 'rotary' and False: this is no ESM2"
        )
    with torch.device("meta"):
        model = Esm(config)
    tensors = {name.removeprefix(PREFIX): tensor for name, tensor in read_weights(folder).items()}
    computed = rotary_frequencies(config.hidden_size // config.num_attention_heads // 2)
    for name in [name for name in tensors if name.endswith(_COMPUTED)]:
        if not _are_close(tensors.pop(name), computed):
            raise CheckpointError(f"{folder}: {name} are not ESM2's (base {_ROTARY_BASE:.0f}); this is another model")
    load_weights(model, tensors, folder, UNUSED, dtype)
    for module in model.modules():
        if isinstance(module, SelfAttention):
            module.fuse()
    return model, tokenization


def _are_close(found: Tensor, computed: Tensor) -> bool:
    return found.shape == computed.shape and torch.allclose(found.float(), computed.to(found.dtype).float(), rtol=1e-5)
