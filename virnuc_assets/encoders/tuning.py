"""How many tokens a batch holds and in which form layers run: measured on this machine, once, and kept.

Neither choice changes what is computed, only the order of additions, so that vectors move in their last digits.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import time
from collections.abc import Callable, Mapping
from copy import copy, deepcopy
from dataclasses import asdict, dataclass
from hashlib import sha256
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import torch
from torch import Tensor, nn

from virnuc_assets.encoders.linear import pack
from virnuc_assets.encoders.machine import cpu_name, has_units
from virnuc_assets.settings import EncodingSettings
from virnuc_assets.storage.aside import written_aside

# Small, so that a layer's temporaries stay in the caches of a CPU.
CPU_TOKENS = 2048
_CANDIDATE_TOKENS = (512, 1024, 2048, 4096)
PROBE_LENGTH = 128  # tokens a row, of the order of a frame's
_ROUNDS = 3
# Compiling takes tens of seconds; where a batch takes fewer operations than this, it can win nothing back.
_WORTH_MEASURING_FLOP = 1e11
_WORTH_ANOTHER_FORM = 1.05  # it must be faster by so much


Form = Literal["plain", "compiled", "packed"]


class Layered(Protocol):
    """A model whose layers are alike, so that one tells the time of all."""

    def layers(self) -> nn.ModuleList:
        """The layers in their order."""
        ...

    def layer_inputs(self, token_ids: Tensor) -> tuple[Any, ...]:
        """What the first layer is called with for these tokens."""
        ...


@dataclass(frozen=True)
class Tuning:
    """What was chosen.

    Attributes:
        token_budget: Tokens a batch.
        layers: `plain`, `compiled` by torch.compile, or `packed` (half precision on a CPU that has units for it).
        reason: Why, with the figures that were measured.
    """

    token_budget: int
    layers: Form
    reason: str


def tune(model: Layered, dtype: torch.dtype, device: torch.device, encoding: EncodingSettings, cache: Path) -> Tuning:
    """Choose for a model on a machine; what was measured before on a like pair is read from the cache.

    Args:
        model: Loaded on its device.
        dtype: Its working precision.
        device: Where it runs.
        encoding: `token_budget` and `compile`, each a fixed choice or "measured".
        cache: JSON file of earlier choices on this machine.

    Returns:
        The choice. A small model is neither measured nor compiled.
    """
    budget = encoding.token_budget if isinstance(encoding.token_budget, int) else CPU_TOKENS
    layers = model.layers()
    flop = 2.0 * budget * sum(parameter.numel() for parameter in layers.parameters())
    if encoding.compile == "never" and isinstance(encoding.token_budget, int):
        return Tuning(budget, "plain", "both are set in virnuc.toml")
    if flop < _WORTH_MEASURING_FLOP:
        return Tuning(budget, "plain", f"a batch of {budget} tokens takes {flop:.1e} operations, too few to measure")
    key = _key(layers, dtype, device, encoding)
    known = json.loads(cache.read_text(encoding="utf-8")) if cache.is_file() else {}
    if key not in known:
        known[key] = asdict(_measure(model, device, encoding))
        _write(cache, known)
    return Tuning(**known[key])


def reform(layers: nn.ModuleList, form: Form) -> None:
    """Compile or pack layers in place, for rows and lengths of any size.

    Compilation happens at the first call, once for all layers. It goes without torch's `freezing` of weights to
    constants: that takes a compilation for each layer, seconds each at every start, and either keeps every weight
    twice or, once the parameters are given up, cannot compile again for a single row. What it wins in half precision,
    weights in the kernels' own layout and GELU in the product, is the packed form.
    """
    for layer in layers:
        if form == "compiled":
            layer.compile(dynamic=True)
        elif form == "packed":
            pack(layer)


def _measure(model: Layered, device: torch.device, encoding: EncodingSettings) -> Tuning:
    if isinstance(encoding.token_budget, int):
        budgets: tuple[int, ...] = (encoding.token_budget,)
    else:  # on a GPU the budget is fitted to its memory afterwards
        budgets = _CANDIDATE_TOKENS if device.type == "cpu" else (CPU_TOKENS,)
    forms = _forms(device, encoding)
    inputs = {budget: _inputs(model, budget, device) for budget in budgets}
    runs = {form: _probe(model.layers()[0], form) for form in forms}
    seconds: dict[tuple[Form, int], list[float]] = {}
    for turn, (form, budget) in product(range(_ROUNDS + 1), product(forms, budgets)):
        elapsed = _timed(runs[form], inputs[budget], device)
        if turn:  # the first compiles
            seconds.setdefault((form, budget), []).append(elapsed / budget)
    medians = {choice: statistics.median(times) for choice, times in seconds.items()}
    form, budget = fastest(medians)
    figures = ", ".join(f"{form}/{tokens}: {1e6 * median:.2f}" for (form, tokens), median in medians.items())
    return Tuning(budget, form, f"microseconds a token and layer, form/tokens: {figures}")


def fastest(seconds: Mapping[tuple[Form, int], float]) -> tuple[Form, int]:
    """The choice of fewest seconds a token; plain layers unless another form is clearly faster than the best of them.

    Args:
        seconds: By form and tokens a batch; plain layers are among them.
    """
    plain = min((choice for choice in seconds if choice[0] == "plain"), key=seconds.__getitem__)
    best = min(seconds, key=seconds.__getitem__)
    return best if seconds[plain] / seconds[best] >= _WORTH_ANOTHER_FORM else plain


def _forms(device: torch.device, encoding: EncodingSettings) -> list[Form]:
    forms: list[Form] = ["plain"]
    if encoding.compile == "measured" and _has_compiler(device):
        forms.append("compiled")
    if device.type == "cpu" and encoding.precision != "fp32" and has_units(encoding.precision):
        forms.append("packed")
    return forms


def _probe(layer: nn.Module, form: Form) -> Callable[..., Tensor]:
    """The layer in a form, beside the layer itself: compiled over the same weights, packed over copies of them."""
    other = {"plain": layer, "compiled": copy(layer), "packed": deepcopy(layer) if form == "packed" else layer}[form]
    reform(nn.ModuleList([other]), form)
    return cast("Callable[..., Tensor]", other)


def _inputs(model: Layered, budget: int, device: torch.device) -> tuple[Any, ...]:
    token_ids = torch.full((max(budget // PROBE_LENGTH, 1), min(budget, PROBE_LENGTH)), 5, device=device)
    with torch.no_grad():
        return model.layer_inputs(token_ids)


def _timed(run: Callable[..., Tensor], inputs: tuple[Any, ...], device: torch.device) -> float:
    with torch.no_grad():
        start = time.perf_counter()
        run(*inputs)
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start


def _has_compiler(device: torch.device) -> bool:
    """Whether there is what torch.compile needs: for a CPU, C++; for a GPU, C, by which Triton builds its launchers."""
    if device.type == "cuda":
        return any(shutil.which(name) for name in (os.environ.get("CC", "gcc"), "gcc", "clang"))
    return any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "g++", "clang++"))


def _key(layers: nn.ModuleList, dtype: torch.dtype, device: torch.device, encoding: EncodingSettings) -> str:
    shapes = [tuple(parameter.shape) for parameter in layers[0].parameters()]
    processor = torch.cuda.get_device_name() if device.type == "cuda" else f"{cpu_name()}x{torch.get_num_threads()}"
    asked = (encoding.token_budget, encoding.compile)
    told = (type(layers[0]).__name__, len(layers), shapes, str(dtype), processor, version("torch"), asked)
    return sha256(repr(told).encode()).hexdigest()


def _write(cache: Path, known: dict[str, Any]) -> None:
    with written_aside(cache) as aside:
        aside.write_text(json.dumps(known, indent=2), encoding="utf-8")
