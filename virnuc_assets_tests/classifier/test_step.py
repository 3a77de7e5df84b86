"""A step in place is the step of torch's modules, autograd and SGD."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from virnuc_assets.classifier.mlp import Mlp
from virnuc_assets.classifier.step import SgdStep

DIM, HIDDEN, RATE, MOMENTUM = 40, 24, 0.01, 0.9


def fresh(dtype: torch.dtype, dropout: float) -> Mlp:
    torch.manual_seed(3)
    model = Mlp(DIM, HIDDEN, dropout).to(dtype)
    model.bn1.weight.data.uniform_(0.5, 1.5)
    model.bn1.bias.data.uniform_(-0.5, 0.5)
    return model


def batch(rows: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return 2 * torch.randn(rows, DIM, dtype=dtype) + 1, torch.randint(0, 2, (rows,))


def by_autograd(model: Mlp, optimizer: torch.optim.SGD, features: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    logits = model.output_layer(torch.relu(model.bn1(model.hidden_layer(features))) * mask)
    optimizer.zero_grad()
    F.cross_entropy(logits, labels).backward()
    optimizer.step()
    return logits.detach()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("dropout", [0.0, 0.3, 0.5])
def test_steps_are_those_of_autograd_and_sgd(dtype: torch.dtype, tolerance: float, dropout: float) -> None:
    """On equal weights, rows and dropout: logits, weights, running statistics and their count, over many steps."""
    model = fresh(dtype, dropout)
    reference = copy.deepcopy(model).train()
    optimizer = torch.optim.SGD(reference.parameters(), lr=RATE, momentum=MOMENTUM)
    step = SgdStep(model, MOMENTUM, torch.Generator().manual_seed(0))
    for rows in (32, 32, 7, 33, 2, 32):
        features, labels = batch(rows, dtype)
        found = torch.empty(2, rows, dtype=dtype)
        step(features, F.one_hot(labels, 2).t().to(dtype), RATE, found)
        expected = by_autograd(reference, optimizer, features, labels, step.mask(rows))
        torch.testing.assert_close(found.t(), expected, rtol=0, atol=20 * tolerance)
    for name, value in reference.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=0, atol=tolerance, msg=name)
    assert int(model.bn1.num_batches_tracked) == 6


def test_dropout_keeps_its_share_and_its_mean() -> None:
    model = fresh(torch.float32, 0.3)
    step = SgdStep(model, MOMENTUM, torch.Generator().manual_seed(0))
    masks = []
    for _ in range(200):
        features, labels = batch(32, torch.float32)
        step(features, F.one_hot(labels, 2).t().float(), RATE, torch.empty(2, 32))
        masks.append(step.mask(32).clone())
    drawn = torch.stack(masks)
    kept = drawn > 0
    assert drawn[kept].unique().tolist() == pytest.approx([1 / 0.7], rel=1e-4)
    assert float(kept.float().mean()) == pytest.approx(0.7, abs=0.005)
    assert float(kept.float().mean(dim=(0, 1)).min()) > 0.6  # no hidden value is left out
    assert not torch.equal(drawn[0], drawn[1])


def test_only_the_generator_decides() -> None:
    features, labels = batch(32, torch.float32)
    weights = []
    for seed in (0, 0, 1):
        model = fresh(torch.float32, 0.5)
        step = SgdStep(model, MOMENTUM, torch.Generator().manual_seed(seed))
        for _ in range(3):
            step(features, F.one_hot(labels, 2).t().float(), RATE, torch.empty(2, 32))
        weights.append(model.hidden_layer.weight.detach())
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
