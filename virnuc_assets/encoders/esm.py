"""ESM2 and FastESM2: transformers' EsmModel, made lean for rows of equal length.

Loaded by `EsmModel.from_pretrained`; then `fuse` changes the loaded model in place: one product for queries, keys and
values, torch's own GELU, sums into the residual stream, cos and sin of the rotary embedding once for all layers, and
no attention mask. Held to the unmodified EsmModel within 1e-5 by test.

Sources: ESM2 (Lin et al. 2023, upstream file `esm/model/esm2.py` of facebookresearch/esm), FastESM2
(huggingface.co/Synthyra/FastESM2_650), whose weights are ESM2's by name.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own idiom
from transformers import EsmModel
from transformers.models.esm.modeling_esm import EsmLayer, EsmSelfAttention

_MASKED_IN_TRAINING = 0.15 * 0.8  # share of tokens that were <mask> when the model was trained (esm2.py)


class LeanEsm(EsmModel):  # type: ignore[misc]
    """EsmModel whose forward takes rows of equally many tokens and returns hidden states."""

    def fuse(self) -> LeanEsm:
        """Join the three products of each layer; the separate weights are dropped layer by layer."""
        layers = self.encoder.layer
        inv_freq = layers[0].attention.self.rotary_embeddings.inv_freq  # (d / h / 2,)
        self.register_buffer("inv_freq", inv_freq.float().clone(), persistent=False)  # a view keeps the file mapped
        for layer in layers:
            layer.attention.self = FusedSelfAttention(layer.attention.self)
        return self

    def forward(self, token_ids: Tensor) -> Tensor:  # type: ignore[override]
        """(b, l) int64 without padding to hidden states (b, l, d) after the last layer normalization."""
        hidden = self.embeddings.word_embeddings(token_ids)  # (b, l, d)
        if self.config.token_dropout:  # as EsmEmbeddings scales rows without <mask>
            hidden *= 1.0 - _MASKED_IN_TRAINING
        # Made on the device: a copy to it would wait for all batches before.
        position = torch.arange(token_ids.shape[1], dtype=torch.float32, device=token_ids.device)
        angles = torch.outer(position, self.inv_freq)
        rotary = torch.polar(torch.ones_like(angles), angles)[:, None]  # cos + i sin, (l, 1, d / h / 2) complex64
        for layer in self.encoder.layer:
            hidden = _lean_layer(layer, hidden, rotary)
        out: Tensor = self.encoder.emb_layer_norm_after(hidden)
        return out


def _lean_layer(layer: EsmLayer, hidden: Tensor, rotary: Tensor) -> Tensor:
    """The residual stream (b, l, d) after attention and FFN, which are added to it in place."""
    attention = layer.attention
    hidden += attention.output.dense(attention.self(attention.LayerNorm(hidden), rotary))
    inner = layer.intermediate.dense(layer.LayerNorm(hidden))  # (b, l, 4 d)
    hidden += layer.output.dense(torch.ops.aten.gelu_(inner))
    return hidden


class FusedSelfAttention(nn.Module):
    """EsmSelfAttention with one product for queries, keys and values.

    The rows of a head's queries and keys are reordered alike, so that the two that the rotary embedding mixes are
    neighbours, one complex number; their scalar products stay what they were.
    """

    def __init__(self, source: EsmSelfAttention) -> None:
        super().__init__()
        self.heads = source.num_attention_heads
        d = source.query.in_features
        with torch.device("meta"):
            self.qkv = nn.Linear(d, 3 * d)
        for name in ("weight", "bias"):
            q, k, v = (getattr(linear, name) for linear in (source.query, source.key, source.value))
            joined = torch.cat([self._neighbours(q), self._neighbours(k), v])  # (3 d, ...)
            setattr(self.qkv, name, nn.Parameter(joined, requires_grad=False))

    def forward(self, hidden: Tensor, rotary: Tensor) -> Tensor:
        """(b, l, d) with the positions' angles (l, 1, d / h / 2) to (b, l, d)."""
        b, length, d = hidden.shape
        qkv = self.qkv(hidden).view(b, length, 3 * self.heads, d // self.heads)
        qk, v = qkv.split([2 * self.heads, self.heads], dim=2)
        q, k = rotated(qk, rotary).transpose(1, 2).chunk(2, dim=1)  # (b, h, l, d / h) each
        mixed = F.scaled_dot_product_attention(q, k, v.transpose(1, 2))
        return mixed.transpose(1, 2).reshape(b, length, d)

    def _neighbours(self, rows: Tensor) -> Tensor:
        """(d, ...) with the rows i and i + d / h / 2 of each head side by side."""
        return rows.reshape(self.heads, 2, -1, *rows.shape[1:]).transpose(1, 2).flatten(0, 2)


def rotated(x: Tensor, rotary: Tensor) -> Tensor:
    """Rotary embedding in fp32: each pair of neighbours is a complex number, multiplied by its position's angle.

    x is (b, l, heads, d) of any precision, and overwritten where it is fp32; rotary is (l, 1, d / 2) complex64.
    """
    pairs = torch.view_as_complex(x.float().view(*x.shape[:-1], -1, 2))  # (b, l, heads, d / 2)
    return torch.view_as_real(pairs.mul_(rotary)).flatten(-2).to(x.dtype)
