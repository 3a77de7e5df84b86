"""VirNucPro's classifier head (upstream: `MLPClassifier` in train.py)."""

from __future__ import annotations

import torch
from torch import nn


class Mlp(nn.Module):  # type: ignore[misc]
    """Linear → BatchNorm → ReLU → Dropout → Linear, Xavier weights; its two logits are (other, virus)."""

    def __init__(self, dim: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.hidden_layer = nn.Linear(dim, hidden)
        self.bn1 = nn.BatchNorm1d(hidden)
        self.dropout = nn.Dropout(dropout)
        self.output_layer = nn.Linear(hidden, 2)
        nn.init.xavier_uniform_(self.hidden_layer.weight)
        nn.init.xavier_uniform_(self.output_layer.weight)

    @property
    def dim(self) -> int:
        """Width of the feature vectors it reads."""
        return int(self.hidden_layer.in_features)

    @property
    def hidden(self) -> int:
        """Width of the hidden layer."""
        return int(self.hidden_layer.out_features)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Logits of a batch: (b, dim) float32 → (b, 2)."""
        hidden = self.dropout(torch.relu(self.bn1(self.hidden_layer(features))))  # (b, hidden)
        logits: torch.Tensor = self.output_layer(hidden)  # (b, 2)
        return logits
