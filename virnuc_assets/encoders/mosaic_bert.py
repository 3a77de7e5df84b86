"""DNABERT-S without remote code: MosaicBERT with ALiBi as a transformers model over PyTorch's own attention.

Sources: MosaicBERT (Portes et al. 2023), ALiBi (Press et al. 2022), DNABERT-2 and DNABERT-S (Zhou et al. 2023,
2024; upstream file `bert_layers.py` of zhihan1996/DNABERT-S). Parameter names are upstream's.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own idiom
from transformers import PretrainedConfig, PreTrainedModel


class MosaicBertConfig(PretrainedConfig):  # type: ignore[misc]
    """DNABERT-S's `config.json`; what shapes the model: see `loading`."""

    model_type = "bert"  # as the hub's config says
    has_no_defaults_at_init = True


def alibi_slopes(heads: int) -> list[float]:
    """Slope of each head: a geometric series for a power of two, else that and every other of the next."""
    below = 2 ** math.floor(math.log2(heads))
    slopes = [2.0 ** (-8.0 * (i + 1) / below) for i in range(below)]
    return slopes if below == heads else slopes + alibi_slopes(2 * below)[0::2][: heads - below]


class Embeddings(nn.Module):
    """Token and segment embeddings; ALiBi needs no positions."""

    def __init__(self, config: Any) -> None:  # noqa: ANN401 - transformers has no types
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, token_ids: Tensor) -> Tensor:
        """(b, l) int64 to (b, l, d); every token is of segment 0."""
        embedded: Tensor = self.LayerNorm(self.word_embeddings(token_ids) + self.token_type_embeddings.weight[0])
        return embedded


class Layer(nn.Module):
    """Attention, then a gated FFN; both added to their input and normalized after. Nested as upstream names it.

    Attributes:
        weights: (b, h, l, l) of the last call with eager attention.
    """

    def __init__(self, config: Any) -> None:  # noqa: ANN401
        super().__init__()
        d, inner, eps = config.hidden_size, config.intermediate_size, config.layer_norm_eps
        self.config, self.heads = config, config.num_attention_heads
        self.weights: Tensor | None = None
        output = {"dense": nn.Linear(d, d), "LayerNorm": nn.LayerNorm(d, eps=eps)}
        attention = {"self": nn.ModuleDict({"Wqkv": nn.Linear(d, 3 * d)}), "output": nn.ModuleDict(output)}
        self.attention = nn.ModuleDict(attention)
        self.mlp = nn.ModuleDict(
            {
                "gated_layers": nn.Linear(d, 2 * inner, bias=False),
                "wo": nn.Linear(inner, d),
                "layernorm": nn.LayerNorm(d, eps=eps),
            }
        )

    def forward(self, hidden: Tensor, bias: Tensor) -> Tensor:
        """(b, l, d) and ALiBi's bias (1, h, l, l) to (b, l, d)."""
        project, output = self.attention["self"]["Wqkv"], self.attention["output"]  # type: ignore[index]
        b, length, d = hidden.shape
        q, k, v = project(hidden).view(b, length, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        mixed = self._attend(q, k, v, bias).transpose(1, 2).reshape(b, length, d)
        hidden = output["LayerNorm"](output["dense"](mixed).add_(hidden))  # type: ignore[index,operator]
        gate, value = self.mlp["gated_layers"](hidden).chunk(2, dim=-1)  # (b, l, intermediate) each
        out: Tensor = self.mlp["layernorm"](self.mlp["wo"](F.gelu(gate).mul_(value)).add_(hidden))
        return out

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        """(b, h, l, d / h) each to (b, h, l, d / h)."""
        if self.config._attn_implementation != "eager":
            return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        self.weights = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]) + bias, dim=-1)
        return self.weights @ v


class MosaicBertModel(PreTrainedModel):  # type: ignore[misc]
    """The encoder. Rows of one call are equally long, so that no mask is needed."""

    config_class = MosaicBertConfig
    base_model_prefix = "bert"
    _supports_sdpa = True

    def __init__(self, config: MosaicBertConfig) -> None:
        super().__init__(config)
        self.embeddings = Embeddings(config)
        self.layers = [Layer(config) for _ in range(config.num_hidden_layers)]
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(self.layers)})
        self._bias: tuple[tuple[int, torch.device, torch.dtype], Tensor] | None = None
        self.post_init()

    def forward(self, token_ids: Tensor) -> Tensor:
        """(b, l) int64 without padding to hidden states (b, l, d)."""
        hidden: Tensor = self.embeddings(token_ids)
        bias = self._alibi(token_ids.shape[1], hidden)
        for layer in self.layers:
            hidden = layer(hidden, bias)
        return hidden

    def _alibi(self, length: int, hidden: Tensor) -> Tensor:
        """ALiBi's penalty (1, h, l, l) in the precision of the hidden states."""
        key = (length, hidden.device, hidden.dtype)
        if self._bias is None or self._bias[0] != key:  # one length at a time: batches come sorted by it
            position = torch.arange(length, dtype=torch.float32)
            distance = (position[:, None] - position[None, :]).abs()  # (l, l)
            slopes = torch.tensor(alibi_slopes(self.config.num_attention_heads))
            self._bias = (key, (-slopes[None, :, None, None] * distance).to(hidden.device, hidden.dtype))
        return self._bias[1]
