"""What a vector depends on, as a flat mapping: it decides whether stored embeddings may be reused."""

from __future__ import annotations

import functools
import hashlib
from importlib.metadata import version
from pathlib import Path

from virnuc_assets.encoders.checkpoints import CONFIG_FILE, folder_digest, read_json
from virnuc_assets.encoders.registry import Architecture, EncoderSpec

GOLDEN_FILE = Path(__file__).with_name("golden.json")
_LIBRARIES: dict[Architecture, tuple[str, ...]] = {
    "mosaic_bert": ("torch", "tokenizers"),
    "esm": ("torch", "transformers"),
    "kmer": ("numpy",),
}


@functools.cache
def golden_digest() -> str:
    """sha256 of the golden file: tables made under different golden files hold different numbers."""
    return hashlib.sha256(GOLDEN_FILE.read_bytes()).hexdigest()


def identity(spec: EncoderSpec, precision: str) -> dict[str, str]:
    """The part of a fingerprint that is known without the checkpoint.

    Versions are the installed ones of the libraries that compute the numbers; a local build label
    (`+cpu`, `+cu130`) is left off, since tables may travel between machines. So is the path of a local folder.
    `golden` is the digest of the golden vectors that this installation is held to.
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
        "token_dropout": "" if spec.token_dropout is None else str(spec.token_dropout),
        "precision": precision,
        "golden": "" if spec.architecture == "kmer" else golden_digest(),
        **{f"version.{name}": version(name).partition("+")[0] for name in _LIBRARIES[spec.architecture]},
    }


def fingerprint(spec: EncoderSpec, folder: Path | None, precision: str) -> dict[str, str]:
    """Identity and `checkpoint_digest`: of virnuc.lock, of the files that were made here, or empty without weights.

    Token dropout is the one in effect, so that a setting that repeats config.json makes no table stale.
    """
    found = identity(spec, precision)
    if folder is not None and spec.architecture == "esm" and spec.token_dropout is None:
        found["token_dropout"] = str(read_json(folder / CONFIG_FILE).get("token_dropout"))
    digest = spec.digest if folder is None or spec.is_locked else folder_digest(folder)
    return {**found, "checkpoint_digest": digest}
