"""Choices by measurement: made where they can pay, once a machine and shape, and by the figures."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from virnuc_assets.encoders import tuning
from virnuc_assets.encoders.esm import Esm, EsmConfig
from virnuc_assets.encoders.tuning import Form, Tuning, fastest, reform, tune
from virnuc_assets.settings import EncodingSettings

CPU = torch.device("cpu")
MEASURED = EncodingSettings(compile="never")
MILLISECONDS = {512: 4, 1024: 2, 2048: 12, 4096: 24}  # 1024 tokens are the cheapest for each


class Slow(nn.Module):
    """A layer that takes a known time for so many tokens, and counts its calls."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear, self.calls = nn.Linear(width, width), 0

    def forward(self, hidden: Tensor) -> Tensor:
        self.calls += 1
        time.sleep(MILLISECONDS.get(hidden.shape[0] * hidden.shape[1], 1) / 1000)
        return hidden


class Model:
    def __init__(self, width: int = 64, depth: int = 2) -> None:
        self._layers, self._width = nn.ModuleList(Slow(width) for _ in range(depth)), width

    def layers(self) -> nn.ModuleList:
        return self._layers

    def layer_inputs(self, token_ids: Tensor) -> tuple[Tensor]:
        return (torch.zeros((*token_ids.shape, self._width)),)

    @property
    def calls(self) -> list[int]:
        return [layer.calls for layer in self._layers]


@pytest.fixture
def worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure however small the model is."""
    monkeypatch.setattr(tuning, "_WORTH_MEASURING_FLOP", 0.0)


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def tuned(cache: Path, model: Model | None = None, encoding: EncodingSettings = MEASURED) -> Tuning:
    return tune(model or Model(), torch.float32, CPU, encoding, cache / "tuning.json")


def test_a_small_model_is_not_measured(tmp_path: Path) -> None:
    model = Model()
    expected = Tuning(2048, "plain", "a batch of 2048 tokens takes 3.4e+07 operations, too few to measure")
    assert tuned(tmp_path, model) == tuned(tmp_path, model, EncodingSettings()) == expected
    assert model.calls == [0, 0] and list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("worth_it")
def test_what_is_set_is_not_measured(tmp_path: Path) -> None:
    model = Model()
    expected = Tuning(340, "plain", "both are set in virnuc.toml")
    assert tuned(tmp_path, model, EncodingSettings(token_budget=340, compile="never")) == expected
    assert model.calls == [0, 0] and list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("worth_it")
def test_the_fastest_budget_is_taken_and_the_figures_are_told(tmp_path: Path) -> None:
    found = tuned(tmp_path)
    assert (found.token_budget, found.layers) == (1024, "plain")
    told = dict(figure.split(": ") for figure in found.reason.partition(": ")[2].split(", "))
    assert list(told) == [f"plain/{budget}" for budget in MILLISECONDS]  # nothing was compiled
    for budget, milliseconds in MILLISECONDS.items():
        assert float(told[f"plain/{budget}"]) >= 1000 * milliseconds / budget - 0.01


@pytest.mark.usefixtures("worth_it")
def test_a_second_start_reads_what_the_first_measured(tmp_path: Path) -> None:
    first = Model()
    found = tuned(tmp_path, first)
    assert first.calls == [16, 0]  # one layer tells for all: four budgets, each warmed up once and measured three times
    again = Model()
    assert tuned(tmp_path, again) == found
    assert again.calls == [0, 0]
    assert [path.name for path in tmp_path.iterdir()] == ["tuning.json"]
    (stored,) = json.loads((tmp_path / "tuning.json").read_text()).values()
    assert Tuning(**stored) == found


@pytest.mark.usefixtures("worth_it", "two_threads")
def test_another_precision_shape_depth_wish_or_thread_count_is_measured_anew(tmp_path: Path) -> None:
    cache = tmp_path / "deeper" / "tuning.json"
    for count, (model, dtype, encoding, threads) in enumerate(
        [
            (Model(), torch.float32, MEASURED, 1),
            (Model(), torch.bfloat16, MEASURED, 1),
            (Model(width=32), torch.float32, MEASURED, 1),
            (Model(depth=3), torch.float32, MEASURED, 1),
            (Model(), torch.float32, MEASURED, 2),
        ],
        start=1,
    ):
        torch.set_num_threads(threads)
        tune(model, dtype, CPU, encoding, cache)
        assert sum(model.calls) == 16
        assert len(json.loads(cache.read_text())) == count


@pytest.mark.usefixtures("worth_it")
def test_an_interrupted_write_leaves_the_earlier_choices(tmp_path: Path) -> None:
    tuned(tmp_path)
    before = (tmp_path / "tuning.json").read_text()
    with pytest.raises(TypeError):
        tuning._write(tmp_path / "tuning.json", {"key": object()})
    assert (tmp_path / "tuning.json").read_text() == before


def esm() -> Esm:
    torch.manual_seed(0)
    model = Esm(EsmConfig(33, 64, 3, 4, 256, 1e-5, "rotary", False, True)).eval().requires_grad_(False)
    torch.nn.init.normal_(model.embeddings["word_embeddings"].weight)  # a table comes without values
    for layer in model.layers():
        layer.attention.self.fuse()
    return model


def test_layers_that_are_not_to_be_compiled_stay_as_they_are() -> None:
    model = esm()
    reform(model.layers(), "plain")
    assert all(layer._compiled_call_impl is None for layer in model.layers())


@pytest.mark.slow
@torch.no_grad()
def test_compiled_layers_give_the_eager_vectors_and_are_compiled_once_for_all() -> None:
    from torch._dynamo.utils import counters

    shapes = [(4, 70), (3, 41), (2, 170)]
    batches = [torch.randint(4, 24, shape) for shape in shapes]
    eager = [esm()(batch) for batch in batches]
    model = esm()
    reform(model.layers(), "compiled")
    counters.clear()
    for batch, expected in zip(batches, eager, strict=True):
        torch.testing.assert_close(model(batch), expected, rtol=0, atol=1e-5)
    assert counters["stats"]["unique_graphs"] == 1
    assert sum(parameter.numel() for parameter in model.parameters()) == sum(p.numel() for p in esm().parameters())


@pytest.mark.slow
@pytest.mark.usefixtures("worth_it")
def test_compiling_is_measured_beside_the_layers_and_taken_by_the_figures(tmp_path: Path) -> None:
    model = esm()
    found = tune(model, torch.float32, CPU, EncodingSettings(token_budget=512), tmp_path / "tuning.json")
    told = {name: float(time) for name, time in (f.split(": ") for f in found.reason.partition(": ")[2].split(", "))}
    assert set(told) == {"plain/512", "compiled/512"} and found.token_budget == 512
    faster = told["plain/512"] / told["compiled/512"]
    assert abs(faster - 1.05) < 0.02 or found.layers == ("compiled" if faster > 1.05 else "plain")
    assert all(layer._compiled_call_impl is None for layer in model.layers())


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [
        ({("plain", 512): 3.0, ("plain", 1024): 2.0, ("plain", 2048): 2.5}, ("plain", 1024)),
        (
            {("plain", 512): 2.0, ("plain", 1024): 3.0, ("compiled", 512): 1.5, ("compiled", 1024): 1.0},
            ("compiled", 1024),
        ),
        ({("plain", 512): 2.0, ("compiled", 512): 1.95, ("packed", 512): 1.92}, ("plain", 512)),
        ({("plain", 512): 2.0, ("compiled", 512): 1.8, ("packed", 1024): 1.6}, ("packed", 1024)),
        ({("plain", 512): 2.0, ("plain", 1024): 1.99, ("compiled", 512): 1.9}, ("plain", 1024)),
    ],
)
def test_another_form_must_be_clearly_faster_than_the_best_plain_one(
    seconds: dict[tuple[Form, int], float], chosen: tuple[Form, int]
) -> None:
    assert fastest(seconds) == chosen


@pytest.mark.parametrize(
    ("device", "program", "forms"),
    [
        ("cpu", "g++", ["plain", "compiled"]),
        ("cuda", "gcc", ["plain", "compiled"]),
        ("cpu", "gcc", ["plain"]),
        ("cuda", "g++", ["plain"]),
    ],
)
def test_layers_are_compiled_only_where_there_is_a_compiler_for_the_device(
    device: str, program: str, forms: list[Form], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / program).touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("CC", "CXX"):
        monkeypatch.delenv(name, raising=False)
    assert tuning._forms(torch.device(device), EncodingSettings()) == forms
