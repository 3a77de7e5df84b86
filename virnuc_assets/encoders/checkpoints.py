"""Where an encoder's weights lie, and how they get there. Never runs code from the hub."""

from __future__ import annotations

from pathlib import Path

from virnuc_assets.encoders.registry import MINIATURE, EncoderSpec
from virnuc_assets.errors import VirnucError

_SMALL_FILES = ("config.json", "vocab.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens*")


class CheckpointMissingError(VirnucError):
    """An encoder's weights are not on this machine."""


def checkpoint_folder(spec: EncoderSpec, checkpoints: Path) -> Path | None:
    """Folder with the encoder's config, tokenizer and weights; no network is touched.

    Args:
        spec: The encoder.
        checkpoints: Folder of the miniatures; hub checkpoints lie in the hub client's cache.

    Returns:
        The folder, or None for an encoder without weights.

    Raises:
        CheckpointMissingError: it is not there; the message says how to get it.
    """
    if not spec.checkpoint:
        return None
    if spec.checkpoint == MINIATURE:
        folder = checkpoints / spec.name
        if not (folder / "config.json").is_file():
            raise CheckpointMissingError(f"{spec.name}: no checkpoint in {folder}; {_set_up(spec)} to write it")
        return folder
    return _snapshot(spec, local_files_only=True)


def fetch_checkpoint(spec: EncoderSpec, checkpoints: Path) -> Path | None:
    """Write the miniature, or download the pinned snapshot, unless it is there already.

    Returns:
        As `checkpoint_folder`.

    Raises:
        CheckpointMissingError: no revision is pinned, or the hub does not answer.
    """
    if spec.checkpoint == MINIATURE:
        from virnuc_assets.encoders.miniature import write_miniature

        return write_miniature(spec, checkpoints)
    return _snapshot(spec, local_files_only=False) if spec.checkpoint else None


def require_pinned(spec: EncoderSpec) -> None:
    """Refuse a hub checkpoint without a pinned revision.

    Raises:
        CheckpointMissingError: the message says where to pin it.
    """
    if spec.checkpoint not in ("", MINIATURE) and not spec.revision:
        raise CheckpointMissingError(
            f"{spec.name}: no pinned revision of {spec.checkpoint}; look up the commit at "
            f"https://huggingface.co/{spec.checkpoint}/commits/main, check it, and set it as the revision of "
            f"{spec.name!r} in virnuc_assets/encoders/registry.py"
        )


def _snapshot(spec: EncoderSpec, local_files_only: bool) -> Path:
    require_pinned(spec)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        folder = snapshot_download(
            spec.checkpoint,
            revision=spec.revision,
            allow_patterns=[*_SMALL_FILES, spec.weights],
            local_files_only=local_files_only,
        )
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, HfHubHTTPError) as error:
        remedy = f"{_set_up(spec)} once with a network" if local_files_only else "check the network and try again"
        raise CheckpointMissingError(
            f"{spec.name}: {spec.checkpoint} at revision {spec.revision} is not in the hub cache "
            f"({type(error).__name__}); {remedy}, or use the miniature profile"
        ) from error
    return Path(folder)


def _set_up(spec: EncoderSpec) -> str:
    return f"run `virnuc setup --encoder {spec.name}`"
