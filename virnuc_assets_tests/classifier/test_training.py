"""VirNucPro's recipe, to the step; early stopping on validation; nothing left behind."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from virnuc_assets.classifier import row_store
from virnuc_assets.classifier.mlp import Mlp
from virnuc_assets.classifier.row_store import Rows
from virnuc_assets.classifier.training import TrainingError, batch_sizes, train
from virnuc_assets.settings import TrainingSettings

DIM = 6
FAST = TrainingSettings(hidden=8, learning_rate=0.05, max_epochs=12, patience=3)


def rows(count: int, seed: int = 0, shift: float = 1.0) -> Rows:
    generator = np.random.default_rng(seed)
    labels = np.arange(count, dtype=np.int64) % 2
    features = generator.normal(size=(count, DIM)) + shift * labels[:, None]
    return Rows(features.astype(np.float32), labels)


def test_mlp_is_virnucpros() -> None:
    model = Mlp(DIM, 8, 0.5)
    shapes = {name: tuple(value.shape) for name, value in model.named_parameters()}
    assert shapes == {
        "hidden_layer.weight": (8, DIM),
        "hidden_layer.bias": (8,),
        "bn1.weight": (8,),
        "bn1.bias": (8,),
        "output_layer.weight": (2, 8),
        "output_layer.bias": (2,),
    }
    stack = nn.Sequential(model.hidden_layer, model.bn1, nn.ReLU(), nn.Dropout(0.5), model.output_layer)
    features = torch.randn(5, DIM)
    torch.manual_seed(1)
    expected = stack.train()(features)
    torch.manual_seed(1)
    assert torch.equal(model.train()(features), expected)
    wide = Mlp(3000, 500, 0.5).hidden_layer.weight
    bound = (6 / 3500) ** 0.5  # Xavier uniform; PyTorch's default would be 1 / sqrt(3000)
    assert 0.99 * bound < float(wide.detach().abs().max()) <= 1.0001 * bound


def test_learns_and_tells_the_way() -> None:
    seen: list[tuple[int, dict[str, float]]] = []
    trained = train(rows(200), rows(80, seed=1), FAST, lambda epoch, metrics: seen.append((epoch, dict(metrics))))
    assert [metrics for _, metrics in seen] == trained.history
    assert [epoch for epoch, _ in seen] == list(range(1, len(seen) + 1))
    assert set(trained.history[0]) == {"train_loss", "validation_loss", "validation_accuracy", "learning_rate"}
    assert trained.history[-1]["train_loss"] < trained.history[0]["train_loss"]
    assert trained.history[trained.best_epoch - 1]["validation_accuracy"] > 0.8
    assert not trained.model.training


def test_weights_are_those_of_the_best_epoch() -> None:
    # Labels of validation are turned round: the longer the training, the worse; the first epoch is the best.
    wrong = rows(80, seed=1)
    wrong = Rows(wrong.features, 1 - wrong.labels)
    stopped = train(rows(200), wrong, FAST)
    assert stopped.best_epoch == 1
    assert len(stopped.history) == 1 + FAST.patience
    once = train(rows(200), wrong, FAST.model_copy(update={"max_epochs": 1}))
    for name, value in once.model.state_dict().items():
        assert torch.equal(value, stopped.model.state_dict()[name]), name


def test_learning_rate_falls_in_steps() -> None:
    settings = FAST.model_copy(update={"step_epochs": 2, "step_gamma": 0.5, "max_epochs": 5, "patience": 10})
    rates = [metrics["learning_rate"] for metrics in train(rows(40), rows(20), settings).history]
    assert rates == pytest.approx([0.05, 0.05, 0.025, 0.025, 0.0125])


def test_steps_are_those_of_a_plain_loop() -> None:
    data = rows(64)
    settings = FAST.model_copy(update={"dropout": 0.0, "max_epochs": 2, "batch_rows": 16})
    trained = train(data, data, settings)
    torch.manual_seed(settings.seed)
    model = Mlp(DIM, settings.hidden, 0.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=settings.learning_rate, momentum=settings.momentum)
    order = torch.Generator().manual_seed(settings.seed)
    for _ in range(trained.best_epoch):
        permutation = torch.randperm(64, generator=order)
        for start in range(0, 64, 16):
            batch = permutation[start : start + 16]
            optimizer.zero_grad()
            loss = nn.CrossEntropyLoss()(model(torch.tensor(data.features)[batch]), torch.tensor(data.labels)[batch])
            loss.backward()
            optimizer.step()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(trained.model.state_dict()[name], value, rtol=0, atol=1e-6)


def test_only_the_seed_decides_and_the_callers_random_state_is_kept() -> None:
    before = torch.random.get_rng_state()
    first = train(rows(60), rows(20), FAST)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(99)
    again = train(rows(60), rows(20), FAST)
    other = train(rows(60), rows(20), FAST.model_copy(update={"seed": 1}))
    assert first.history == again.history
    assert first.history != other.history


@given(count=st.integers(1, 200), batch_rows=st.integers(2, 40))
def test_batches_hold_every_row_once_and_none_is_single(count: int, batch_rows: int) -> None:
    sizes = batch_sizes(count, batch_rows)
    assert sum(sizes) == count
    assert count == 1 or min(sizes) >= 2
    assert all(size == batch_rows for size in sizes[:-1])


def test_a_single_row_left_over_is_trained_on() -> None:
    assert len(train(rows(33), rows(20), FAST.model_copy(update={"max_epochs": 1})).history) == 1


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (Rows(np.ones((4, DIM)), np.zeros(4, np.int64)), "float64"),
        (Rows(np.ones((4, DIM), np.float32), np.zeros(3, np.int64)), r"\(3,\)"),
        (Rows(np.ones((1, DIM), np.float32), np.zeros(1, np.int64)), "n at least 2"),
        (Rows(np.ones((4, DIM), np.float32), np.full(4, 2)), r"found \[2\]"),
        (
            Rows(np.full((4, DIM), np.nan, np.float32), np.zeros(4, np.int64)),
            "4 of 4 rows hold values that are not finite",
        ),
        (Rows(np.ones((4, DIM + 1), np.float32), np.zeros(4, np.int64)), "training rows are 7 wide, validation rows 6"),
    ],
)
def test_unsound_rows_are_refused(bad: Rows, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        train(bad, rows(10), FAST)


@pytest.mark.gpu
@pytest.mark.parametrize("share", [0.8, 0.0])
def test_a_gpu_trains_as_the_cpu_does(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its rows held on the device, and with rows gathered from the CPU's memory."""
    monkeypatch.setattr(row_store, "_RESIDENT_SHARE", share)
    still = FAST.model_copy(update={"dropout": 0.0, "patience": 12})
    on_cpu, on_gpu = (train(rows(200), rows(80, seed=1), still, device=device) for device in ("cpu", "cuda"))
    assert on_gpu.model.hidden_layer.weight.device.type == "cpu"
    for one, other in zip(on_cpu.history, on_gpu.history, strict=True):
        assert other == pytest.approx(one, abs=1e-4)
    dropped = [train(rows(200), rows(80, seed=1), FAST, device="cuda").history for _ in range(2)]
    assert dropped[0] == dropped[1]


def test_a_diverging_training_is_refused() -> None:
    with pytest.raises(TrainingError, match="epoch 1: a loss is not finite"):
        train(Rows(rows(40).features * 1e38, rows(40).labels), rows(10), FAST)
