"""Where an encoder's checkpoint is stored, whether its files are still those of set-up, and what its vectors depend on.

Set-up compares the content of every file with virnuc.lock and records sizes and modification times in `verified.json`;
a run compares only these. Imports nothing heavy.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from virnuc_assets.encoders.registry import FINETUNED, Architecture, EncoderSpec
from virnuc_assets.errors import VirnucError
from virnuc_assets.storage.digests import digest_of

CONFIG_FILE = "config.json"
VERIFIED_FILE = "verified.json"
DIGEST_FILE = "digest.json"
FINETUNING_FILE = "finetuning.json"
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
VOCABULARY_FILES = ("vocab.txt", "tokenizer.json")
TOKENIZER_OPTIONS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
GOLDEN_FILE = Path(__file__).with_name("golden.json")
_LIBRARIES: dict[Architecture, tuple[str, ...]] = {
    "mosaic_bert": ("torch", "tokenizers"),
    "esm": ("torch", "transformers"),
    "kmer": ("numpy",),
}


class CheckpointError(VirnucError):
    """A checkpoint is incomplete, was altered, or belongs to another architecture."""


class CheckpointMissingError(VirnucError):
    """An encoder's weights are not on this machine."""


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; anything else is a CheckpointError."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # no JSON, no UTF-8
        raise CheckpointError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content


def files_read(folder: Path) -> list[Path]:
    """The files of a checkpoint folder that loading reads; one that is missing or empty is a CheckpointError."""
    names = {path.name for path in folder.iterdir()}
    chosen = files_chosen(
        names, lambda name: read_json(folder / name) if (folder / name).exists() else None, str(folder)
    )
    if dangling := [name for name in chosen if (folder / name).is_symlink() and not (folder / name).exists()]:
        raise CheckpointError(
            f"{folder}: links to files that are not here: {', '.join(dangling)}; a snapshot of the hub's cache was "
            f"copied without what it links to: copy it with `cp -rL`"
        )
    if missing := [name for name in chosen if name not in names or not (folder / name).stat().st_size]:
        raise CheckpointError(f"{folder}: missing or empty: {', '.join(missing)}")
    return [folder / name for name in chosen]


def files_chosen(names: set[str], read_index: Any, where: str) -> list[str]:  # noqa: ANN401 - a function of a name
    """Which of a folder's or repository's files are read: config, tokenizer, and safetensors or else torch files.

    `read_index` gives the content of an index of sharded weights, None of a link to nothing.
    """
    chosen = [CONFIG_FILE, *(name for name in TOKENIZER_OPTIONS if name in names)]
    vocabulary = [name for name in VOCABULARY_FILES if name in names][:1]
    indexed = [name for name in WEIGHT_FILES if name in names or f"{name}.index.json" in names][:1]
    lacking = {CONFIG_FILE: CONFIG_FILE in names, " or ".join(VOCABULARY_FILES): vocabulary}
    lacking[" or ".join(WEIGHT_FILES)] = indexed
    if missing := [what for what, found in lacking.items() if not found]:
        raise CheckpointError(f"{where}: no {', no '.join(missing)}")
    weights = indexed
    if indexed[0] not in names:
        index = f"{indexed[0]}.index.json"
        content = read_index(index)
        weight_map = {} if content is None else content.get("weight_map")
        if not isinstance(weight_map, dict):
            raise CheckpointError(f"{where}: {index} has no weight_map; it is no index of sharded weights")
        weights = [index, *{str(file) for file in weight_map.values()}]
    return sorted([*chosen, *vocabulary, *weights])


def find_checkpoint(spec: EncoderSpec, checkpoints: Path) -> Path | None:
    """Folder to load an encoder from, as virnuc.lock has it; None for one without weights.

    Its files are those that set-up verified, as far as sizes and modification times show. Uses no network.
    """
    if not spec.is_locked:
        return _made_here(spec, checkpoints / spec.name) if spec.checkpoint else None
    found = read_verified(checkpoints).get(spec.name)
    if not spec.digest or found is None:
        lock = "is not in virnuc.lock" if not spec.digest else "was not verified on this machine"
        raise CheckpointMissingError(f"{spec.name}: the checkpoint {lock}; {_remedy(spec)}")
    if found["digest"] != spec.digest:
        raise CheckpointError(f"{spec.name}: {found['folder']} is not what virnuc.lock has; {_remedy(spec)}")
    folder = Path(spec.folder) if spec.folder else checkpoints / found["folder"]
    changed = [name for name, state in found["files"].items() if file_state(folder / name) != state]
    if changed:
        raise CheckpointError(
            f"{spec.name}: {folder}: missing, or other than when it was verified (size or modification time): "
            f"{', '.join(changed)}; {_remedy(spec)}"
        )
    return folder


def _made_here(spec: EncoderSpec, folder: Path) -> Path:
    if not folder.is_dir():
        raise CheckpointMissingError(f"{spec.name}: no checkpoint in {folder}; {_remedy(spec)}")
    try:
        files_read(folder)
    except CheckpointError as error:
        raise CheckpointError(f"{spec.name}: {error}; remove {folder} and {_remedy(spec)}") from error
    return folder


def read_verified(checkpoints: Path) -> dict[str, Any]:
    """What set-up verified here, by encoder: digest, folder (relative to `checkpoints` if below), files' states."""
    return _noted(checkpoints / VERIFIED_FILE)


def _noted(path: Path) -> dict[str, Any]:
    """What a file repeats of other files; nothing where it is absent or damaged, so that it is made again."""
    try:
        return read_json(path) if path.is_file() else {}
    except CheckpointError:
        return {}


@functools.lru_cache(maxsize=256)
def _hash(path: Path, size: int, modified_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of(path: Path) -> str:
    """Content hash of a file; one that has not changed is read once in a process."""
    state = path.stat()
    return _hash(path.resolve(), state.st_size, state.st_mtime_ns)


def folder_digest(folder: Path) -> str:
    """Digest of what loading reads of a folder that was made here; the noted one while no file's state has changed."""
    noted = _noted(folder / DIGEST_FILE)
    if noted.get("files") == file_states(folder):
        return str(noted["digest"])
    return digest_of({path.name: sha256_of(path) for path in files_read(folder)})


def note_digest(folder: Path) -> None:
    """Write the digest of a folder into it, so that no later process hashes gigabytes."""
    note = {"digest": folder_digest(folder), "files": file_states(folder)}
    (folder / DIGEST_FILE).write_text(json.dumps(note, indent=1) + "\n", encoding="utf-8")


def file_states(folder: Path) -> dict[str, list[int]]:
    """Size and modification time of each file that loading reads of a folder."""
    return {path.name: file_state(path) for path in files_read(folder)}


def file_state(path: Path) -> list[int]:
    """Size and modification time; empty where there is no file."""
    return [path.stat().st_size, path.stat().st_mtime_ns] if path.is_file() else []


def identity(spec: EncoderSpec, precision: str) -> dict[str, str]:
    """The part of a fingerprint that is known without the checkpoint; the path of a local folder is left off.

    `golden` is the digest of the golden vectors: tables made under other ones hold other numbers.
    """
    return {
        "encoder": spec.name,
        "alphabet": spec.alphabet,
        "architecture": spec.architecture,
        "checkpoint": spec.checkpoint,
        "revision": spec.revision,
        "pooling": spec.pooling,
        "max_length": str(spec.max_length),
        "k": "0",  # there were k-mer encoders: without it every existing table would be made again
        "token_dropout": "" if spec.token_dropout is None else str(spec.token_dropout),
        "precision": precision,
        "golden": "" if spec.architecture == "kmer" else sha256_of(GOLDEN_FILE),
        **{f"version.{name}": found for name, found in versions(_LIBRARIES[spec.architecture]).items()},
    }


def versions(libraries: Iterable[str]) -> dict[str, str]:
    """Installed versions without a local build label (`+cpu`, `+cu130`): tables may travel between machines."""
    return {name: version(name).partition("+")[0] for name in libraries}


def fingerprint(spec: EncoderSpec, folder: Path | None, precision: str) -> dict[str, str]:
    """Identity and `checkpoint_digest`: of virnuc.lock, of the files that were made here, or empty without weights.

    Token dropout is the one in effect, so that a setting that repeats config.json makes no table stale.
    """
    found = identity(spec, precision)
    if folder is not None and spec.architecture == "esm" and spec.token_dropout is None:
        found["token_dropout"] = str(read_json(folder / CONFIG_FILE).get("token_dropout"))
    digest = spec.digest if folder is None or spec.is_locked else folder_digest(folder)
    return {**found, "checkpoint_digest": digest}


def _remedy(spec: EncoderSpec) -> str:
    if spec.checkpoint == FINETUNED:
        return f"materialize the asset {spec.name.removesuffix('_miniature')}"
    return f"run `virnuc setup --encoder {spec.name}`" + (" with a network" if spec.from_hub else "")
