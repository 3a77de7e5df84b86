"""Products of the layers, and their form for CPUs with units for half precision: weights packed once, GELU fused."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own idiom


class GeluLinear(nn.Linear):
    """A product with GELU (the exact one, by erf) after it."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., d_in) to (..., d_out)."""
        return F.gelu(super().forward(x))


class PackedLinear(nn.Module):
    """A product by oneDNN with its weights in the kernel's own layout, as torch.compile's `freezing` makes them.

    Without it, oneDNN puts the weights of a half-precision product in order anew at each call.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self._weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), None)
        self._bias = None if linear.bias is None else linear.bias.detach()
        self._after = ("gelu", "none") if isinstance(linear, GeluLinear) else ("none", "")

    def forward(self, x: Tensor) -> Tensor:
        """(..., d_in) to (..., d_out)."""
        after, algorithm = self._after
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, after, [], algorithm)
        return out


def pack(module: nn.Module) -> nn.Module:
    """Replace every product inside by its packed form, one after the other, so that few weights are there twice."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear):
                setattr(parent, name, PackedLinear(child))
    return module
