"""Checkpoint folders to loaded modules: one reader, and no parameter left to chance."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from virnuc_assets.encoders.verification import (
    CONFIG_FILE,
    CheckpointError,
    is_zip,
    read_json,
    require_whole,
    weight_files,
)

__all__ = ["CheckpointError", "load_weights", "read_config", "read_weights"]

# What the two readers raise over bytes that they cannot read; torch's unpickler stumbles in many ways.
_DAMAGED = (
    SafetensorError,
    pickle.UnpicklingError,
    struct.error,
    RuntimeError,
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    AssertionError,
)


def read_config(folder: Path, model_types: Sequence[str], fields: Sequence[str]) -> dict[str, Any]:
    """Fields of `config.json`.

    Args:
        folder: Checkpoint folder.
        model_types: Values of `model_type` that the caller's architecture can load.
        fields: Keys that must be there; only these are returned.

    Raises:
        CheckpointError: no config, another architecture, or a missing field.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise CheckpointError(f"{folder}: no {CONFIG_FILE}; fetch the checkpoint again")
    config = read_json(path)
    if config.get("model_type") not in model_types:
        raise CheckpointError(
            f"{path}: model_type is {config.get('model_type')!r}, expected {' or '.join(model_types)}; "
            "this checkpoint belongs to another architecture"
        )
    if missing := [field for field in fields if field not in config]:
        raise CheckpointError(f"{path}: lacks {', '.join(missing)}; fetch the checkpoint again")
    return {field: config[field] for field in fields}


def read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder by name, mapped from the files: none is in memory before it is used.

    A tensor of a safetensors file has a mapping of its own, so that its pages leave memory with it.

    Raises:
        CheckpointError: there are no weights, or a file is missing, cut off, or no file of weights.
    """
    return {name: tensor for path in weight_files(folder) for name, tensor in _read_file(path).items()}


def load_weights(
    module: nn.Module, tensors: dict[str, Tensor], where: Path, unused: Sequence[str], dtype: torch.dtype
) -> None:
    """Give a module its parameters, each by name, one after the other in the working precision.

    Args:
        module: Gets tensors of its own, no views of files; may lie on the `meta` device.
        tensors: Named as in the module's `state_dict`. Emptied, so that no tensor is held twice for longer than its
            own conversion takes.
        where: What messages name.
        unused: Beginnings of names of heads that the module does not have and that may be there.
        dtype: The working precision.

    Raises:
        CheckpointError: lists every missing, unexpected and mis-shaped parameter, and those that are no floats.
    """
    wanted = module.state_dict()
    for name in [name for name in tensors if name not in wanted and name.startswith(tuple(unused))]:
        del tensors[name]
    if faults := _faults(wanted, tensors):
        raise CheckpointError(
            f"{where}: {len(faults)} parameters do not fit {type(module).__name__}:\n  " + "\n  ".join(faults)
        )
    own = {}
    for name in list(tensors):
        own[name] = tensors.pop(name).to(dtype, copy=True, memory_format=torch.contiguous_format)
    module.load_state_dict(own, assign=True)


def _faults(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> list[str]:
    both = [name for name in wanted if name in found]
    return [
        *(f"missing: {name} {tuple(wanted[name].shape)}" for name in wanted if name not in found),
        *(f"unexpected: {name} {tuple(tensor.shape)}" for name, tensor in found.items() if name not in wanted),
        *(
            f"shape: {name} expected {tuple(wanted[name].shape)}, found {tuple(found[name].shape)}"
            for name in both
            if found[name].shape != wanted[name].shape
        ),
        *(
            f"type: {name} expected floating point, found {found[name].dtype}"
            for name in both
            if not found[name].is_floating_point()
        ),
    ]


def _read_file(path: Path) -> dict[str, Tensor]:
    require_whole(path)
    try:
        tensors = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    except _DAMAGED as error:
        reason = str(error).partition("\n")[0]
        raise CheckpointError(f"{path}: damaged ({reason}); fetch the checkpoint again") from error
    return tensors


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    with safe_open(path, framework="pt") as file:
        names = list(file.keys())
    tensors = {}
    for name in names:
        with safe_open(path, framework="pt") as file:
            tensors[name] = file.get_tensor(name)
    return tensors


def _read_torch(path: Path) -> dict[str, Tensor]:
    mapped = is_zip(path)  # files of torch before 1.6 are not, and cannot be mapped
    tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    if not isinstance(tensors, dict) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise CheckpointError(f"{path}: expected tensors by name, found {type(tensors).__name__} of something else")
    return tensors
