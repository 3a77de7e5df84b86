"""Which files of a checkpoint folder are read, and whether they are complete and as they were published.

A file in a snapshot of the hub's cache is a link to `blobs/NAME`, and NAME is the hash of its content: sha256 of
a large file, git's blob sha1 of a small one (huggingface_hub's guide "Understand caching"). Imports nothing heavy.
"""

from __future__ import annotations

import functools
import hashlib
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from virnuc_assets.encoders.registry import Architecture
from virnuc_assets.errors import VirnucError

CONFIG_FILE = "config.json"
TOKENIZER_FILES: dict[Architecture, str] = {"esm": "vocab.txt", "mosaic_bert": "tokenizer.json"}
_WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")


class CheckpointError(VirnucError):
    """A checkpoint folder is incomplete, was altered, or belongs to another architecture."""


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        CheckpointError: the file holds something else, or is cut off.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # no JSON, no UTF-8
        raise CheckpointError(f"{path}: cut off or not JSON ({error}); fetch the checkpoint again") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content


def weight_files(folder: Path) -> list[Path]:
    """The files that hold the weights: safetensors or, where there are none, torch files; sharded or not.

    Raises:
        CheckpointError: there are no weights, or a shard that the index names is missing.
    """
    for name in _WEIGHT_FILES:
        index = folder / f"{name}.index.json"
        if (folder / name).is_file():
            return [folder / name]
        if index.is_file():
            shards = sorted(set(read_json(index).get("weight_map", {}).values()))
            if missing := [shard for shard in shards if not (folder / shard).is_file()]:
                raise CheckpointError(f"{index}: names shards that are missing: {', '.join(missing)}; fetch again")
            return [folder / shard for shard in shards]
    raise CheckpointError(f"{folder}: neither {' nor '.join(_WEIGHT_FILES)}, whole or sharded; fetch it again")


def files_read(folder: Path, architecture: Architecture) -> list[Path]:
    """All files that loading reads: config, vocabulary, weights.

    Raises:
        CheckpointError: one is missing, empty, or shorter than it says itself.
    """
    small = [folder / CONFIG_FILE, folder / TOKENIZER_FILES[architecture]]
    if missing := [path.name for path in small if not path.is_file()]:
        raise CheckpointError(f"{folder}: no {' and no '.join(missing)}; fetch the checkpoint again")
    paths = [*small, *weight_files(folder)]
    for path in paths:
        require_whole(path)
    return paths


def require_whole(path: Path) -> None:
    """Refuse a file that was cut off, as far as its format tells without reading it through.

    Raises:
        CheckpointError: it is empty, or shorter or longer than it says itself.
    """
    size = path.stat().st_size
    cut = size == 0
    with path.open("rb") as file:
        if path.suffix == ".safetensors":
            cut = size != _safetensors_size(path)
        elif file.read(4) == b"PK\x03\x04":  # torch files are zip archives, and their directory comes last
            cut = not is_zip(path)
    if cut:
        raise CheckpointError(f"{path}: cut off after {size} bytes; fetch the checkpoint again")


def is_zip(path: Path) -> bool:
    """Whether a file is a whole zip archive, as torch writes since 1.6."""
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:
        return False


def unfinished_downloads(folder: Path) -> list[str]:
    """Names of what the hub client left half-way, in a snapshot's cache or in a folder that it filled."""
    blobs = folder.parent.parent / "blobs"
    return sorted({path.name for place in (blobs, folder) for path in place.rglob("*.incomplete")})


def altered_files(paths: Sequence[Path]) -> dict[Path, str]:
    """Files of a hub snapshot whose content is not the one that their place in the hub's cache names.

    A file that is no link (another cache layout, a copy) has no such name, and is left to its own format.

    Returns:
        For each altered file what was expected and what was found.
    """
    faults = {}
    for path in paths:
        if path.is_symlink():
            expected = path.readlink().name
            kind = "sha256" if len(expected) == 64 else "git"
            if (found := content_hash(path, kind)) != expected:
                faults[path] = f"expected content with {kind} hash {expected}, found {found}"
    return faults


def folder_digest(folder: Path, architecture: Architecture) -> str:
    """sha256 over the names and contents of the files that loading reads.

    Raises:
        CheckpointError: one is missing or cut off.
    """
    total = hashlib.sha256()
    for path in sorted(files_read(folder, architecture)):
        total.update(f"{path.name}\n{content_hash(path)}\n".encode())
    return total.hexdigest()


def content_hash(path: Path, kind: str = "sha256") -> str:
    """Hash of a file's bytes, hexadecimal; a file that has not changed is read once a process.

    Args:
        path: The file; links are followed.
        kind: `sha256`, or `git` for the sha1 that git gives a blob.
    """
    state = path.stat()
    return _hash(path.resolve(), kind, state.st_size, state.st_mtime_ns, state.st_ctime_ns)


@functools.cache
def _hash(path: Path, kind: str, size: int, *changed_ns: int) -> str:
    begun = hashlib.sha256() if kind == "sha256" else hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: begun).hexdigest()


def _safetensors_size(path: Path) -> int:
    """Bytes that a safetensors file must have by its own header; -1 where not even the header is whole."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > path.stat().st_size - 8:
            return -1
        try:
            header = json.loads(file.read(length))
            ends = [int(entry["data_offsets"][1]) for name, entry in header.items() if name != "__metadata__"]
            return 8 + length + max(ends)
        except (ValueError, TypeError, LookupError, AttributeError):
            return -1
