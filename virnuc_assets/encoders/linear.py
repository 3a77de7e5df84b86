"""Lookup and products of the layers; products for CPUs with units for half precision: packed once, GELU fused."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def lookup(rows: int, width: int) -> nn.Embedding:
    """A table of vectors (rows, width) whose values are still to be loaded.

    `nn.Embedding` draws some; on the meta device torch imports its compiler for that, for seconds.
    """
    table: nn.Embedding = nn.Embedding.from_pretrained(torch.empty(rows, width), freeze=False)  # type: ignore[no-untyped-call]
    return table


class RoomLinear(nn.Linear):
    """A product that is written into room that all layers share.

    The widest blocks of a layer are then allocated once a batch. An allocator that gets them back after each layer
    returns them to the kernel, or finds no place for the next layer's among those that it kept.
    """

    def forward(self, x: Tensor, room: Tensor) -> Tensor:  # type: ignore[override]
        """(..., d_in) to (..., d_out), in the first elements of `room`, in which nothing lies that is still needed."""
        flat = x.reshape(-1, self.in_features)
        out = room[: len(flat) * self.out_features].view(len(flat), self.out_features)
        if self.bias is None:
            torch.mm(flat, self.weight.t(), out=out)
        else:
            torch.addmm(self.bias, flat, self.weight.t(), out=out)
        return out.view(*x.shape[:-1], self.out_features)


class GeluLinear(RoomLinear):
    """A product with GELU (the exact one, by erf) after it."""

    def forward(self, x: Tensor, room: Tensor) -> Tensor:  # type: ignore[override]
        """As `RoomLinear`."""
        out: Tensor = torch.ops.aten.gelu_(super().forward(x, room))
        return out


class PackedLinear(nn.Module):
    """A product by oneDNN with its weights in the kernel's own layout, as torch.compile's `freezing` makes them.

    Without it, oneDNN puts the weights of a half-precision product in order anew at each call.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self._weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), None)
        self._bias = None if linear.bias is None else linear.bias.detach()
        self._after = ("gelu", "none") if isinstance(linear, GeluLinear) else ("none", "")

    def forward(self, x: Tensor, room: Tensor | None = None) -> Tensor:  # noqa: ARG002 - oneDNN takes its own
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


def room_for(stream: Tensor, widest: int) -> Tensor:
    """Room for the widest product of a stream (b, l, d): (b * l * widest,) of its precision, not initialized."""
    return stream.new_empty(stream.shape[0] * stream.shape[1] * widest)
