"""Attention maps: how much each token attends to each other one, by eager attention with an encoder's weights.

ESM runs transformers' own forward, which returns attention weights; MosaicBERT keeps them in each layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import EsmModel

from virnuc_assets.encoders.checkpoints import find_checkpoint
from virnuc_assets.encoders.embedding import NonFiniteError
from virnuc_assets.encoders.loading import DTYPES, load_model, load_tokenizer, tokenization
from virnuc_assets.encoders.machine import prepare_cpu, resolve_device
from virnuc_assets.encoders.registry import EncoderSpec
from virnuc_assets.errors import VirnucError
from virnuc_assets.settings import EncodingSettings


@dataclass(frozen=True)
class AttentionMap:
    """Attention of one sequence of l tokens, special tokens included."""

    tokens: list[str]
    weights: NDArray[np.float32]  # (layers, heads, l, l): the share of column j in what row i attends to, in sum 1


def attention_folder(spec: EncoderSpec, checkpoints: Path) -> Path:
    """Checkpoint folder of an encoder, as `find_checkpoint`; one without attention is refused."""
    folder = find_checkpoint(spec, checkpoints)
    if folder is None:
        raise VirnucError(
            f"{spec.name}: architecture {spec.architecture} has no attention; choose an encoder of architecture esm or "
            "mosaic_bert"
        )
    return folder


class AttentionModel:
    """An encoder's model with eager attention, on its device and in its precision."""

    def __init__(self, spec: EncoderSpec, folder: Path, encoding: EncodingSettings) -> None:
        """Load the model, as `load_encoder`."""
        prepare_cpu()
        self.spec, self.device = spec, resolve_device(encoding.device)
        self._tokenizer = load_tokenizer(folder)
        model = load_model(spec, folder, DTYPES[encoding.precision], attention="eager")
        self.model = model.eval().requires_grad_(False).to(self.device)

    def tokenize(self, sequence: str) -> list[int]:
        """Token ids as the encoder has them, cut to its `max_length` residues or bases."""
        tokens: list[int] = tokenization(self.spec, self._tokenizer)([sequence[: self.spec.max_length]])[0].tolist()
        return tokens

    @torch.no_grad()
    def forward(self, token_ids: Tensor) -> tuple[Tensor, Tensor]:
        """(1, l) int64 to hidden states (1, l, d) and attention weights (layers, heads, l, l)."""
        if isinstance(self.model, EsmModel):
            out = EsmModel.forward(self.model, input_ids=token_ids, output_attentions=True)
            return out.last_hidden_state, torch.cat(out.attentions)
        hidden = self.model(token_ids)
        return hidden, torch.cat([layer.weights for layer in self.model.layers])

    def attention(self, frame_id: str, sequence: str) -> AttentionMap:
        """Attention of an upper-case sequence of the encoder's alphabet; NaN in it is an error that names the frame."""
        token_ids = self.tokenize(sequence)
        _, weights = self.forward(torch.tensor([token_ids], device=self.device))
        found = weights.float().cpu().numpy()
        if not np.isfinite(found).all():
            raise NonFiniteError(
                f"{self.spec.name}: attention of {frame_id} holds NaN or infinity; the weights are damaged or the "
                "precision is too narrow: run `virnuc doctor --verify`, or set precision = 'fp32' under [encoding]"
            )
        return AttentionMap(self._tokenizer.convert_ids_to_tokens(token_ids), found)
