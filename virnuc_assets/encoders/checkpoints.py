"""Where an encoder's weights lie, and how they get there: complete, as published, and never running code of the hub.

`find_checkpoint` looks, `checkpoint_folder` reads every byte before it hands out a folder to load from, and
`fetch_checkpoint` is the only one that may download.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from virnuc_assets.encoders.registry import MINIATURE, EncoderSpec
from virnuc_assets.encoders.verification import (
    CONFIG_FILE,
    TOKENIZER_FILES,
    CheckpointError,
    altered_files,
    files_read,
    folder_digest,
    unfinished_downloads,
)
from virnuc_assets.errors import VirnucError
from virnuc_assets.settings import Settings


class CheckpointMissingError(VirnucError):
    """An encoder's weights are not on this machine."""


def configured(spec: EncoderSpec, settings: Settings) -> EncoderSpec:
    """The encoder with the checkpoint that `virnuc.toml` names for it, or as it is."""
    chosen = settings.checkpoints.get(spec.name)  # type: ignore[call-overload]
    if chosen is None:
        return spec
    if chosen.folder is None:
        return replace(spec, revision=chosen.revision)
    return replace(spec, folder=str(settings.root / chosen.folder), digest=chosen.digest or "", revision="")


def find_checkpoint(spec: EncoderSpec, checkpoints: Path) -> Path | None:
    """Folder with the encoder's config, vocabulary and weights; all there and none cut off, as far as sizes tell.

    Args:
        spec: The encoder.
        checkpoints: Folder of the miniatures; hub checkpoints lie in the hub client's cache.

    Returns:
        The folder, or None for an encoder without weights. No network is touched.

    Raises:
        CheckpointMissingError: it is not there; the message says how to get it.
        CheckpointError: a file is missing or cut off; likewise.
    """
    if not spec.checkpoint:
        return None
    if spec.from_hub:
        folder = _snapshot(spec, local_files_only=True)
    else:
        folder = Path(spec.folder) if spec.folder else checkpoints / spec.name
        if not folder.is_dir():
            raise CheckpointMissingError(f"{spec.name}: no checkpoint in {folder}; {_remedy(spec, folder)}")
    try:
        files_read(folder, spec.architecture)
    except CheckpointError as error:
        unfinished = unfinished_downloads(folder)
        left = f" (unfinished downloads: {', '.join(unfinished)})" if unfinished else ""
        raise CheckpointError(f"{spec.name}: {error}{left}: {_remedy(spec, folder)}") from error
    return folder


def checkpoint_folder(spec: EncoderSpec, checkpoints: Path) -> Path | None:
    """Folder to load from, after the content of every file that is read was compared with its published hash.

    A file is hashed once a process as long as it does not change.

    Args:
        spec: The encoder.
        checkpoints: Folder of the miniatures.

    Returns:
        As `find_checkpoint`.

    Raises:
        CheckpointMissingError: it is not there; the message says how to get it.
        CheckpointError: a file is missing, cut off or altered; likewise.
    """
    folder = find_checkpoint(spec, checkpoints)
    if folder is None:
        return None
    if spec.from_hub and (faults := altered_files(files_read(folder, spec.architecture))):
        told = "\n  ".join(f"{path}: {fault}" for path, fault in faults.items())
        raise CheckpointError(f"{spec.name}: altered files:\n  {told}\n{_remedy(spec, folder)}")
    if spec.digest and (found := folder_digest(folder, spec.architecture)) != spec.digest:
        raise CheckpointError(
            f"{spec.name}: {folder}: expected content with digest {spec.digest}, found {found}; {_remedy(spec, folder)}"
        )
    return folder


def fetch_checkpoint(spec: EncoderSpec, checkpoints: Path) -> Path | None:
    """Write the miniature, or download the pinned snapshot, unless it is there already, complete and unaltered.

    A file of the hub's cache that was altered is discarded and downloaded again. Only one process downloads an
    encoder at a time; those that wait for it find its files.

    Returns:
        As `checkpoint_folder`.

    Raises:
        CheckpointMissingError: no revision is pinned, or the hub does not answer.
        CheckpointError: what came is incomplete or altered.
    """
    if spec.checkpoint == MINIATURE:
        from virnuc_assets.encoders.miniature import write_miniature

        write_miniature(spec, checkpoints)
    if spec.from_hub:
        require_pinned(spec)
        _download(spec, checkpoints)
    return checkpoint_folder(spec, checkpoints)


def require_pinned(spec: EncoderSpec) -> None:
    """Refuse a hub checkpoint without a pinned revision.

    Raises:
        CheckpointMissingError: the message says where to pin it.
    """
    if spec.from_hub and not spec.revision:
        raise CheckpointMissingError(
            f"{spec.name}: no pinned revision of {spec.checkpoint}; look up the commit at "
            f"https://huggingface.co/{spec.checkpoint}/commits/main, check it, and set in virnuc.toml "
            f'[checkpoints.{spec.name}] revision = "<its 40 hex digits>", or folder = "<a copy of it>"'
        )


def _download(spec: EncoderSpec, checkpoints: Path) -> None:
    from filelock import FileLock
    from huggingface_hub.constants import HF_HUB_CACHE

    locks = Path(HF_HUB_CACHE) / ".locks"
    locks.mkdir(parents=True, exist_ok=True)
    with FileLock(locks / f"virnuc-{spec.name}.lock"):
        try:
            checkpoint_folder(spec, checkpoints)
        except CheckpointMissingError:
            _snapshot(spec, local_files_only=False)
        except CheckpointError:
            folder = _snapshot(spec, local_files_only=True)
            for path in altered_files([path for path in folder.iterdir() if path.exists()]):
                path.resolve().unlink()  # otherwise the hub client takes it for the one that it wants
            _snapshot(spec, local_files_only=False)


def _snapshot(spec: EncoderSpec, local_files_only: bool) -> Path:
    require_pinned(spec)
    from huggingface_hub import snapshot_download

    wanted = [CONFIG_FILE, TOKENIZER_FILES[spec.architecture], spec.weights]
    try:
        folder = snapshot_download(
            spec.checkpoint, revision=spec.revision, allow_patterns=wanted, local_files_only=local_files_only
        )
    except OSError as error:  # not in the cache, no network, refused by the hub, cut off, no space
        what, remedy = "not in the hub cache", f"run `virnuc setup --encoder {spec.name}` once with a network"
        if not local_files_only:
            what, remedy = f"not downloaded: {error}", "check the network and the free disk space, and try again"
        raise CheckpointMissingError(
            f"{spec.name}: {spec.checkpoint} at revision {spec.revision} is {what} ({type(error).__name__}); "
            f"{remedy}, or use the miniature profile"
        ) from error
    return Path(folder)


def _remedy(spec: EncoderSpec, folder: Path) -> str:
    if spec.folder:
        return f"copy the checkpoint into {folder} again, or correct [checkpoints.{spec.name}] in virnuc.toml"
    set_up = f"run `virnuc setup --encoder {spec.name}`"
    if spec.from_hub:
        return f"{set_up} with a network"
    return f"remove {folder} and {set_up} to write it" if folder.exists() else f"{set_up} to write it"
