"""Checkpoint folders to loaded modules: one reader, and no parameter left to chance."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from virnuc_assets.errors import VirnucError

_WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")


class CheckpointError(VirnucError):
    """A checkpoint folder is incomplete or belongs to another architecture."""


def read_config(folder: Path, model_types: Sequence[str], fields: Sequence[str]) -> dict[str, Any]:
    """Fields of `config.json`.

    Args:
        folder: Checkpoint folder.
        model_types: Values of `model_type` that the caller's architecture can load.
        fields: Keys that must be there; only these are returned.

    Raises:
        CheckpointError: no config, another architecture, or a missing field.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise CheckpointError(f"{folder}: no config.json; fetch the checkpoint again")
    config = json.loads(path.read_text(encoding="utf-8"))
    if config.get("model_type") not in model_types:
        raise CheckpointError(
            f"{path}: model_type is {config.get('model_type')!r}, expected {' or '.join(model_types)}; "
            "this checkpoint belongs to another architecture"
        )
    if missing := [field for field in fields if field not in config]:
        raise CheckpointError(f"{path}: lacks {', '.join(missing)}; fetch the checkpoint again")
    return {field: config[field] for field in fields}


def read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder, from safetensors or, where there is none, from torch files; sharded or not.

    Raises:
        CheckpointError: there are no weights, or a shard that the index names is missing.
    """
    for name in _WEIGHT_FILES:
        index = folder / f"{name}.index.json"
        if (folder / name).is_file():
            return _read_file(folder / name)
        if index.is_file():
            shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
            if missing := [shard for shard in shards if not (folder / shard).is_file()]:
                raise CheckpointError(f"{index}: names shards that are missing: {', '.join(missing)}; fetch again")
            return {name: tensor for shard in shards for name, tensor in _read_file(folder / shard).items()}
    raise CheckpointError(f"{folder}: neither {' nor '.join(_WEIGHT_FILES)}, whole or sharded; fetch it again")


def load_weights(
    module: nn.Module, folder: Path, prefix: str, unused: Sequence[str], computed: Sequence[str] = ()
) -> None:
    """Give a module the weights of a folder, each by name.

    Args:
        module: Takes the tensors themselves, not copies.
        folder: Checkpoint folder.
        prefix: Known prefix in front of the module's names; names with and without it are read.
        unused: Beginnings of names of heads that the module does not have and that may be in the file.
        computed: Endings of names of buffers that the module has computed and that the file may lack.

    Raises:
        CheckpointError: lists every missing, unexpected and mis-shaped parameter.
    """
    wanted = module.state_dict()
    named = {name.removeprefix(prefix): tensor for name, tensor in read_weights(folder).items()}
    found = {name: tensor for name, tensor in named.items() if name in wanted or not name.startswith(tuple(unused))}
    faults = _faults(wanted, found, tuple(computed))
    if faults:
        raise CheckpointError(
            f"{folder}: {len(faults)} parameters do not fit {type(module).__name__}:\n  " + "\n  ".join(faults)
        )
    dtypes = {name: tensor.dtype for name, tensor in wanted.items()}
    module.load_state_dict({name: tensor.to(dtypes[name]) for name, tensor in found.items()}, strict=False, assign=True)


def _faults(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor], computed: tuple[str, ...]) -> list[str]:
    missing = [name for name in wanted if name not in found and not (computed and name.endswith(computed))]
    return [
        *(f"missing: {name} {tuple(wanted[name].shape)}" for name in missing),
        *(f"unexpected: {name} {tuple(tensor.shape)}" for name, tensor in found.items() if name not in wanted),
        *(
            f"shape: {name} expected {tuple(wanted[name].shape)}, found {tuple(tensor.shape)}"
            for name, tensor in found.items()
            if name in wanted and tensor.shape != wanted[name].shape
        ),
    ]


def _read_file(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        return load_file(path)
    tensors: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return tensors
