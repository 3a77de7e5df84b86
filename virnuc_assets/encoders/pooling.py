"""From a vector a token to a vector a sequence: one mean, and one rule a policy for what counts."""

from __future__ import annotations

import torch
from torch import Tensor

from virnuc_assets.encoders.registry import Pooling

# Special tokens that the mean leaves out, by the names that a tokenization gives them.
LEFT_OUT: dict[Pooling, tuple[str, ...]] = {
    "residues": ("begin", "end", "pad"),
    "tokens": ("pad",),
    "composition": ("other",),
}


def keep_mask(token_ids: Tensor, left_out: Tensor) -> Tensor:
    """Which tokens enter the mean.

    Args:
        token_ids: (b, l) int64.
        left_out: (n,) int64, ids of the special tokens of the policy.

    Returns:
        (b, l) bool.
    """
    return torch.isin(token_ids, left_out, invert=True)


def mean_pool(hidden: Tensor, keep: Tensor) -> Tensor:
    """Mean over the kept tokens, in fp32 whatever the precision of the model.

    Args:
        hidden: (b, l, d) floating.
        keep: (b, l) bool.

    Returns:
        (b, d) float32; zeros for a row in which nothing is kept.
    """
    weights = keep.unsqueeze(-1).float()  # (b, l, 1)
    total = (hidden.float() * weights).sum(dim=1)  # (b, d)
    return total / weights.sum(dim=1).clamp(min=1.0)
