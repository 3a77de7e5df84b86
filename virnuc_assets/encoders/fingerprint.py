"""What a vector depends on, as a flat mapping: it decides whether stored embeddings may be reused."""

from __future__ import annotations

import hashlib
from importlib.metadata import version
from pathlib import Path

from virnuc_assets.encoders.registry import MINIATURE, Architecture, EncoderSpec

_LIBRARIES: dict[Architecture, tuple[str, ...]] = {
    "mosaic_bert": ("torch", "tokenizers"),
    "esm": ("torch", "transformers"),
    "kmer": ("numpy",),
}


def identity(spec: EncoderSpec, precision: str) -> dict[str, str]:
    """The part of a fingerprint that is known without the checkpoint.

    Versions are the installed ones of the libraries that compute the numbers; a local build label
    (`+cpu`, `+cu130`) is left off, since tables may travel between machines.
    """
    return {
        "encoder": spec.name,
        "alphabet": spec.alphabet,
        "architecture": spec.architecture,
        "checkpoint": spec.checkpoint,
        "revision": spec.revision,
        "pooling": spec.pooling,
        "max_length": str(spec.max_length),
        "k": str(spec.k),
        "precision": precision,
        **{f"version.{name}": version(name).partition("+")[0] for name in _LIBRARIES[spec.architecture]},
    }


def fingerprint(spec: EncoderSpec, folder: Path | None, precision: str) -> dict[str, str]:
    """Identity and the digest of the weights.

    Args:
        spec: The encoder.
        folder: Its checkpoint folder, None where it has no weights.
        precision: Working precision.

    Returns:
        `identity` with `checkpoint_digest`: for a hub checkpoint its pinned revision, for a miniature the
        sha256 over the sorted names and bytes of its files, empty without weights.
    """
    digest = spec.revision
    if folder is not None and spec.checkpoint == MINIATURE:
        digest = _digest_of_folder(folder)
    return {**identity(spec, precision), "checkpoint_digest": digest}


def _digest_of_folder(folder: Path) -> str:
    total = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        total.update(f"{path.relative_to(folder).as_posix()}\n{content}\n".encode())
    return total.hexdigest()
