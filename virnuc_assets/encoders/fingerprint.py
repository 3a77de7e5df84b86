"""What a vector depends on, as a flat mapping: it decides whether stored embeddings may be reused."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from virnuc_assets.encoders.golden import golden_digest
from virnuc_assets.encoders.registry import Architecture, EncoderSpec
from virnuc_assets.encoders.verification import folder_digest

_LIBRARIES: dict[Architecture, tuple[str, ...]] = {
    "mosaic_bert": ("torch", "tokenizers"),
    "esm": ("torch",),
    "kmer": ("numpy",),
}


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
        "precision": precision,
        "golden": "" if spec.architecture == "kmer" else golden_digest(),
        **{f"version.{name}": version(name).partition("+")[0] for name in _LIBRARIES[spec.architecture]},
    }


def fingerprint(spec: EncoderSpec, folder: Path | None, precision: str) -> dict[str, str]:
    """Identity and the digest of the weights.

    Args:
        spec: The encoder.
        folder: Its checkpoint folder, None where it has no weights.
        precision: Working precision.

    Returns:
        `identity` with `checkpoint_digest`: for a snapshot of the hub its pinned revision, for a miniature or another
        local folder the sha256 over names and bytes of the files that loading reads, empty without weights.

    Raises:
        CheckpointError: a file of a local folder is missing or cut off.
    """
    digest = spec.revision
    if folder is not None and not spec.from_hub:
        digest = folder_digest(folder, spec.architecture)
    return {**identity(spec, precision), "checkpoint_digest": digest}
