"""VirNucPro's training, to the step; early stopping on validation; a fit depends on its seed and its rows alone."""

from __future__ import annotations

import copy
import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from virnuc_assets.classifier.checkpoint import Mlp, save_classifier, score
from virnuc_assets.classifier.datasets import LabelledRows
from virnuc_assets.classifier.novelty import SKETCH_FILE, TrainedProteins
from virnuc_assets.classifier.training import BOTH, SgdStep, Sides, TrainedClassifier, batch_sizes, train
from virnuc_assets.errors import VirnucError
from virnuc_assets.settings import SplitSettings, TrainingSettings
from virnuc_assets.storage.merging import vectors_of
from virnuc_assets.storage.tables import write_table

from .feature_tables import DNA, PROTEIN, RECORDS, ROWS, feature_rows, fit_of, split_of, write_shards, write_split

PROJECT = Path(__file__).parents[2]
DIM, WIDE, HIDDEN, RATE, MOMENTUM = 6, 40, 24, 0.01, 0.9
FAST = TrainingSettings(hidden=8, learning_rate=0.05, max_epochs=12, patience=3)


def rows(count: int, seed: int = 0, shift: float = 1.0) -> LabelledRows:
    generator = np.random.default_rng(seed)
    labels = np.arange(count, dtype=np.int64) % 2
    features = generator.normal(size=(count, DIM)) + shift * labels[:, None]
    return LabelledRows(features.astype(np.float32), labels)


def test_mlp_is_virnucpros() -> None:
    model = Mlp(DIM, 8, 0.5)
    shapes = {name: tuple(value.shape) for name, value in model.named_parameters()}
    hidden = {f"{layer}.{name}": (8,) for layer in ("hidden_layer", "bn1") for name in ("weight", "bias")}
    assert shapes == {
        **hidden,
        "hidden_layer.weight": (8, DIM),
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


def fresh(dtype: torch.dtype, dropout: float) -> Mlp:
    torch.manual_seed(3)
    model = Mlp(WIDE, HIDDEN, dropout).to(dtype)
    model.bn1.weight.data.uniform_(0.5, 1.5)
    model.bn1.bias.data.uniform_(-0.5, 0.5)
    return model


def batch(rows: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return 2 * torch.randn(rows, WIDE, dtype=dtype) + 1, torch.randint(0, 2, (rows,))


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
        expected = by_autograd(reference, optimizer, features, labels, step.mask.t())
        torch.testing.assert_close(found.t(), expected, rtol=0, atol=20 * tolerance)
    for name, value in reference.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=0, atol=tolerance, msg=name)
    assert int(model.bn1.num_batches_tracked) == 6


def test_dropout_keeps_its_share_and_its_mean() -> None:
    step = SgdStep(fresh(torch.float32, 0.3), MOMENTUM, torch.Generator().manual_seed(0))
    masks = []
    for _ in range(200):
        features, labels = batch(32, torch.float32)
        step(features, F.one_hot(labels, 2).t().float(), RATE, torch.empty(2, 32))
        masks.append(step.mask)
    drawn = torch.stack(masks)  # (200, hidden, b)
    kept = drawn > 0
    assert drawn[kept].unique().tolist() == pytest.approx([1 / 0.7], rel=1e-4)
    assert float(kept.float().mean()) == pytest.approx(0.7, abs=0.005)
    assert float(kept.float().mean(dim=(0, 2)).min()) > 0.6  # no hidden value is left out
    assert not torch.equal(drawn[0], drawn[1])


def test_learns_and_logs_each_epoch() -> None:
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
    wrong = LabelledRows(wrong.features, 1 - wrong.labels)
    stopped = train(rows(200), wrong, FAST)
    assert stopped.best_epoch == 1
    assert len(stopped.history) == 1 + FAST.patience
    once = train(rows(200), wrong, FAST.model_copy(update={"max_epochs": 1}))
    for name, value in once.model.state_dict().items():
        assert torch.equal(value, stopped.model.state_dict()[name]), name


def test_steps_are_those_of_a_plain_loop() -> None:
    data = rows(64)
    falling = {"step_epochs": 1, "step_gamma": 0.5}
    settings = FAST.model_copy(update={"dropout": 0.0, "max_epochs": 2, "batch_rows": 16, **falling})
    trained = train(data, data, settings)
    assert [metrics["learning_rate"] for metrics in trained.history] == pytest.approx([0.05, 0.025])
    torch.manual_seed(settings.seed)
    model = Mlp(DIM, settings.hidden, 0.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=settings.learning_rate, momentum=settings.momentum)
    order = torch.Generator().manual_seed(settings.seed)
    for epoch in range(trained.best_epoch):
        optimizer.param_groups[0]["lr"] = settings.learning_rate * 0.5**epoch
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


@pytest.mark.gpu
def test_a_gpu_trains_as_the_cpu_does() -> None:
    still = FAST.model_copy(update={"dropout": 0.0, "patience": 12})
    on_cpu, on_gpu = (train(rows(200), rows(80, seed=1), still, device=device) for device in ("cpu", "cuda"))
    assert on_gpu.model.hidden_layer.weight.device.type == "cpu"
    for one, other in zip(on_cpu.history, on_gpu.history, strict=True):
        assert other == pytest.approx(one, abs=1e-4)
    dropped = [train(rows(200), rows(80, seed=1), FAST, device="cuda").history for _ in range(2)]
    assert dropped[0] == dropped[1]


def test_a_diverging_training_is_refused() -> None:
    with pytest.raises(VirnucError, match="epoch 1: a loss is not finite"):
        train(LabelledRows(rows(40).features * 1e38, rows(40).labels), rows(10), FAST)


def digest(trained: TrainedClassifier) -> str:
    state = trained.model.state_dict()
    return hashlib.sha256(b"".join(state[name].numpy().tobytes() for name in sorted(state))).hexdigest()


def test_how_rows_lie_in_shards_does_not_matter(tmp_path: Path) -> None:
    """Not to which are drawn, and not to a bit of the weights."""
    table, split = feature_rows(ROWS), write_split(tmp_path / "split.parquet", RECORDS)
    found = []
    for name, sizes in (("one", []), ("many", [100, 0, 200, 1, 30])):
        fit = fit_of(write_shards(tmp_path / name, table, sizes), split)
        (tmp_path / f"{name}_scratch").mkdir()
        found.append(digest(fit.train(tmp_path / f"{name}_scratch")))
    assert found[0] == found[1]


def test_records_have_a_rule_and_the_proteins_of_training_a_sketch(tmp_path: Path) -> None:
    """Both come back with the classifier, which is found again as long as they are there and of these settings."""
    table = feature_rows([row % 32 for row in range(500)])
    proteins = pa.table({"record_id": table["record_id"], "protein": ["MKTAYIAKQRQISFVKSHFSRQ"] * table.num_rows})
    write_table(tmp_path / "frames.parquet", proteins, {})
    bare = fit_of(write_shards(tmp_path / "f", table, [200]), write_split(tmp_path / "split.parquet", 32))
    fit = replace(bare, proteins=TrainedProteins([tmp_path / "frames.parquet"], SplitSettings()))
    trained, sketch = fit.train(tmp_path), fit.sketch()
    described = save_classifier(tmp_path / "c", trained.model, fit.describe(trained), sketch=sketch)
    assert sketch is not None and described.sketch is not None and bare.sketch() is None
    assert described.sketch.kmers == len(sketch.kmers) > 0 and fit.found_in(tmp_path / "c") == described
    rule = described.record_rule
    assert rule is not None and (rule.records, rule.clusters, rule.known) == (8, 8, None)
    assert bare.describe(bare.train(tmp_path)).record_rule == rule
    other = replace(fit, proteins=TrainedProteins([], SplitSettings(sketch_scaled=3)))
    assert bare.found_in(tmp_path / "c") is None and other.found_in(tmp_path / "c") is None
    (tmp_path / "c" / SKETCH_FILE).unlink()
    assert fit.found_in(tmp_path / "c") is None


@pytest.mark.parametrize(
    ("sides", "columns"), [(("dna",), slice(0, DNA)), (("protein",), slice(DNA, None)), (BOTH, slice(None))]
)
def test_a_fit_of_some_sides_sees_their_columns_alone(tmp_path: Path, sides: Sides, columns: slice) -> None:
    """Viral rows differ along the protein's columns; nothing is learnt without them."""
    table = feature_rows(ROWS)
    tables = write_shards(tmp_path / "f", table, [200])
    fit = fit_of(tables, write_split(tmp_path / "split.parquet", RECORDS), sides=sides)
    trained = fit.train(tmp_path)
    assert trained.model.dim == len(range(DNA + PROTEIN)[columns]) == fit.example().shape[1]
    scored = fit.scored(trained.model, "test")
    wanted = [row for row, record in enumerate(ROWS) if split_of(record) == "test"]
    assert scored["frame_id"].to_pylist() == table["frame_id"].take(wanted).to_pylist()
    expected = score(trained.model, np.ascontiguousarray(vectors_of(table)[wanted][:, columns]))
    np.testing.assert_allclose(np.stack([scored["score_other"], scored["score_virus"]], axis=1), expected, atol=1e-6)
    viral = [label == "viral" for label in scored.column("label").to_pylist()]
    accuracy = float(((scored["score_virus"].to_numpy() > 0.5) == viral).mean())
    assert (accuracy > 0.9) == ("protein" in sides)
    digests = {fit_of(tables, fit.split, sides=other).data_digest for other in (("dna",), ("protein",), BOTH)}
    assert len(digests) == 3
    assert fit.describe(trained).temperature == trained.temperature != 1.0
