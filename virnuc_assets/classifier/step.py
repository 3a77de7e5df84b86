"""One step of training in place: forward, backward and SGD of the MLP over buffers made once, without autograd.

At VirNucPro's 32 rows a step of PyTorch's own loop goes mostly into fresh memory for gradients as large as the hidden
weights and into passes over them; the matrix products are a third of it. Here the gradient of the hidden weights is
never written down: its product is added onto the momentum where that lies (`velocity = momentum * velocity + grad`,
`weight -= rate * velocity`, as torch.optim.SGD). A product that scales what it is added onto takes twice as long in
MKL, so the velocity is held in units that shrink with the momentum, and is brought back to ones now and then. The
hidden layer is held transposed, (hidden, rows): so both large products are fast, and statistics over rows are products
with a vector.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from virnuc_assets.classifier.mlp import Mlp

# A random 16-bit integer decides whether a hidden value is kept; torch draws four of them at once.
_LEVELS, _LOWEST = 2**16, -(2**15)
# Smaller units of the velocity are brought back to ones: far from where float32 ends.
_SMALLEST_UNIT = 2.0**-16


@dataclass(frozen=True)
class _Room:
    """Buffers for batches of b rows: all (hidden, b) but `mean`, the (b, 1) vector whose product is the mean."""

    hidden: Tensor
    active: Tensor
    slope: Tensor
    mask: Tensor
    bits: Tensor
    mean: Tensor


class SgdStep:
    """Steps of SGD with momentum on a model's own parameters, as torch's modules, autograd and SGD take them.

    The hidden layer's bias is left as it is: BatchNorm takes it away again, so its gradient is zero.
    The rate of dropout is exact to 2^-16.
    """

    def __init__(self, model: Mlp, momentum: float, generator: torch.Generator) -> None:
        """Dropout is drawn from the generator, which lies on the model's device."""
        norm, out = model.bn1, model.output_layer
        self._weight, self._bias = model.hidden_layer.weight.detach(), model.hidden_layer.bias.detach()[:, None]
        self._small = [tensor.detach() for tensor in (norm.weight, norm.bias, out.weight, out.bias)]
        running = dict(norm.named_buffers())
        self._running = [running["running_mean"][:, None], running["running_var"][:, None]]
        self._batches, self._norm_momentum = running["num_batches_tracked"], cast(float, norm.momentum)
        self._eps = norm.eps
        self._velocity, self._unit = torch.zeros_like(self._weight), 1.0  # what it is times the unit
        self._small_velocity = [torch.zeros_like(tensor) for tensor in self._small]
        self._momentum, self._generator = momentum, generator
        keep = 1.0 - model.dropout.p
        self._kept = min(round(keep * _LEVELS), _LEVELS - 1) if keep < 1.0 else _LEVELS
        self._rooms: dict[int, _Room] = {}

    def __call__(self, features: Tensor, truth: Tensor, rate: float, logits: Tensor) -> None:
        """One batch of at least two rows.

        Args:
            features: (b, dim).
            truth: (2, b), 1 at each row's class.
            rate: learning rate.
            logits: (2, b), written: what the model said before the step, under dropout.
        """
        rows = features.shape[0]
        room = self._rooms.get(rows) or self._make_room(rows)
        spread = self._forward(features, room, logits)
        self._shrink_unit()
        gradients = self._backward(room, spread, torch.softmax(logits, dim=0).sub_(truth).div_(rows))
        self._velocity.addmm_(room.slope, features)
        self._weight.add_(self._velocity, alpha=-rate * self._unit)
        torch._foreach_mul_(self._small_velocity, self._momentum)
        torch._foreach_add_(self._small_velocity, gradients)
        torch._foreach_add_(self._small, self._small_velocity, alpha=-rate)

    def mask(self, rows: int) -> Tensor:
        """Of the last batch of so many rows, (rows, hidden): 0 where dropped out, else what survivors are scaled by."""
        return self._rooms[rows].mask.t()

    def _forward(self, features: Tensor, room: _Room, logits: Tensor) -> Tensor:
        """Fill `hidden` with normalised values, `active` with what dropout left, and `logits`.

        Returns:
            (hidden, 1): one over the standard deviation.
        """
        hidden, active, rows = room.hidden, room.active, features.shape[0]
        gamma, beta, out, out_bias = self._small
        torch.mm(self._weight, features.t(), out=hidden)
        mean = torch.mm(hidden, room.mean)  # (hidden, 1)
        hidden.sub_(mean)
        variance = torch.mm(torch.mul(hidden, hidden, out=active), room.mean)  # (hidden, 1)
        self._running[0].lerp_(mean.add_(self._bias), self._norm_momentum)
        self._running[1].lerp_(variance * (rows / (rows - 1)), self._norm_momentum)
        self._batches.add_(1)
        spread = variance.add_(self._eps).rsqrt_()
        hidden.mul_(spread)
        torch.addcmul(beta[:, None], hidden, gamma[:, None], out=active).clamp_min_(0.0)
        if self._kept < _LEVELS:
            active.mul_(self._drawn_mask(room))
        torch.addmm(out_bias[:, None], out, active, out=logits)
        return spread

    def _backward(self, room: _Room, spread: Tensor, slope: Tensor) -> list[Tensor]:
        """Turn the slope of the logits, (2, b), into that of the hidden layer's output, left in `room.slope` in units.

        Returns:
            Gradients of BatchNorm's weight and bias and of the output layer's weight and bias.
        """
        hidden, active, inner = room.hidden, room.active, room.slope
        gamma, _, out, _ = self._small
        out_gradient, out_bias_gradient = slope @ active.t(), slope.sum(dim=1)
        # What survived ReLU and dropout is positive in `active`; the scale of the survivors goes with the slope.
        torch.mm(out.t(), slope.mul_(_LEVELS / self._kept), out=inner).mul_(active.sign_())
        mean = torch.mm(inner, room.mean)  # (hidden, 1)
        along = torch.mm(torch.mul(inner, hidden, out=active), room.mean)  # (hidden, 1)
        inner.sub_(mean).addcmul_(hidden, along, value=-1.0).mul_(spread.mul_(gamma[:, None]).div_(self._unit))
        rows = hidden.shape[1]
        return [along.mul_(rows)[:, 0], mean.mul_(rows)[:, 0], out_gradient, out_bias_gradient]

    def _shrink_unit(self) -> None:
        """The velocity times the momentum."""
        self._unit *= self._momentum
        if self._unit < _SMALLEST_UNIT:
            self._velocity.mul_(self._unit)
            self._unit = 1.0

    def _drawn_mask(self, room: _Room) -> Tensor:
        room.bits.random_(-(2**63), None, generator=self._generator)
        drawn = room.bits.view(torch.int16)[: room.mask.numel()].view_as(room.mask)
        return torch.lt(drawn, self._kept + _LOWEST, out=room.mask).mul_(_LEVELS / self._kept)

    def _make_room(self, rows: int) -> _Room:
        like = self._weight.new_empty
        shape = (self._weight.shape[0], rows)
        bits = torch.empty(-(-shape[0] * rows // 4), dtype=torch.int64, device=self._weight.device)
        mean = self._weight.new_full((rows, 1), 1.0 / rows)
        room = _Room(like(shape), like(shape), like(shape), self._weight.new_ones(shape), bits, mean)
        self._rooms[rows] = room
        return room
