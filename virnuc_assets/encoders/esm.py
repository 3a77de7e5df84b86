"""ESM2 and FastESM2 through transformers' own EsmModel.

FastESM2's weights are ESM2's by name (huggingface.co/Synthyra/FastESM2_650), so its remote code is not needed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import EsmConfig, EsmModel

from virnuc_assets.encoders.tokenization import EsmTokenization
from virnuc_assets.encoders.weights import CheckpointError, load_weights, read_config

MODEL_TYPES = ("esm", "fast_esm")
FIELDS = (
    "vocab_size",
    "pad_token_id",
    "mask_token_id",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
    "layer_norm_eps",
    "position_embedding_type",
    "emb_layer_norm_before",
    "token_dropout",
)
PREFIX = "esm."
UNUSED = (
    "lm_head.",
    "contact_head.",
    "pooler.",
    "embeddings.position_ids",
    "embeddings.position_embeddings.",
)
COMPUTED = ("rotary_embeddings.inv_freq",)


class Esm(nn.Module):
    """EsmModel as a function of token ids, shaped by the fields of `config.json`.

    Rows of one call are equally long, so that no mask is needed.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        settings = EsmConfig(
            **config, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, attn_implementation="sdpa"
        )
        self.dim: int = settings.hidden_size
        self.esm = EsmModel(settings, add_pooling_layer=False)
        del self.esm.contact_head  # predicts contacts from attentions; no embedding passes through it

    def forward(self, token_ids: Tensor) -> Tensor:
        """(b, l) int64 without padding to hidden states (b, l, d) after the last layer normalization."""
        hidden: Tensor = self.esm(input_ids=token_ids).last_hidden_state
        return hidden


def load_esm(folder: Path) -> tuple[Esm, EsmTokenization]:
    """Module with the folder's weights, and its tokenization.

    Raises:
        CheckpointError: the folder is incomplete or holds something else.
    """
    config = read_config(folder, MODEL_TYPES, FIELDS)
    tokenization = EsmTokenization(folder)
    if tokenization.vocabulary != config["vocab_size"]:
        raise CheckpointError(
            f"{folder}: vocab.txt has {tokenization.vocabulary} tokens, config.json {config['vocab_size']}"
        )
    model = Esm(config)
    load_weights(model.esm, folder, PREFIX, UNUSED, COMPUTED)
    return model, tokenization
