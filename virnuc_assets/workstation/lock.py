"""virnuc.lock: which commit and which bytes each encoder's checkpoint is; and the set-up of checkpoints by it.

It is next to virnuc.toml, to be committed. The first set-up trusts what it downloads, after the model was loaded from
it, and writes it down; every later one, on any machine, takes exactly that, or refuses. The only module that may use
the network.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from virnuc_assets.encoders.checkpoints import (
    CONFIG_FILE,
    VERIFIED_FILE,
    CheckpointError,
    CheckpointMissingError,
    file_states,
    files_chosen,
    files_read,
    find_checkpoint,
    read_json,
    read_verified,
    sha256_of,
)
from virnuc_assets.encoders.registry import ENCODERS, FINETUNED, MINIATURE, EncoderSpec
from virnuc_assets.settings import Section
from virnuc_assets.storage.atomic import atomic_write
from virnuc_assets.storage.digests import digest_of

LOCK_FILE = "virnuc.lock"
LOCAL = "local files"


class LockedFile(Section):
    """Size in bytes and sha256 of one file."""

    size: int
    sha256: str


class Locked(Section):
    """Repository (or `LOCAL`, as folders differ between machines), commit and files of an encoder's checkpoint."""

    source: str
    revision: str
    files: dict[str, LockedFile]

    @property
    def digest(self) -> str:
        """sha256 over names and content of all files."""
        return digest_of({name: file.sha256 for name, file in self.files.items()})


_FILE = TypeAdapter(dict[str, Locked])


class Lock(Section):
    """The whole file: checkpoints by encoder."""

    entries: dict[str, Locked]

    def locked(self, spec: EncoderSpec) -> EncoderSpec:
        """The encoder with the revision and the digest that are locked for it, or as it is without them."""
        entry = self.entries.get(spec.name)
        if entry is None or not spec.is_locked or self.disagreement(spec):
            return spec
        return replace(spec, revision=entry.revision, digest=entry.digest)

    def disagreement(self, spec: EncoderSpec) -> str:
        """What virnuc.toml says otherwise than the lock; empty where they agree, or nothing is locked."""
        entry = self.entries.get(spec.name)
        if entry is None:
            return ""
        if entry.source != source_of(spec):
            return f"virnuc.toml names {source_of(spec)}, {LOCK_FILE} {entry.source}"
        if spec.revision not in ("", pin_of(spec), entry.revision):  # the registry's pin gives way to the lock
            return f"virnuc.toml names revision {spec.revision}, {LOCK_FILE} {entry.revision}"
        return ""


def lock_of(spec: EncoderSpec, paths: list[Path]) -> Locked:
    """What is to be locked of files that are here; reads all of them."""
    files = {path.name: LockedFile(size=path.stat().st_size, sha256=sha256_of(path)) for path in paths}
    return Locked(source=source_of(spec), revision=spec.revision, files=files)


def source_of(spec: EncoderSpec) -> str:
    """Where the checkpoint comes from, as the lock says it."""
    return spec.checkpoint if spec.from_hub else LOCAL


def pin_of(spec: EncoderSpec) -> str:
    """Commit that the registry pins for an encoder, or for the one whose weights it has; empty without either."""
    row = ENCODERS.get(spec.base or spec.name)
    return row.revision if row else ""


def read_lock(root: Path) -> Lock:
    """The lock of a project; empty where there is none. A damaged one is a CheckpointError."""
    path = root / LOCK_FILE
    try:
        return Lock(entries=_FILE.validate_json(path.read_bytes()) if path.is_file() else {})
    except ValidationError as error:
        fault = error.errors()[0]["msg"]
        raise CheckpointError(f"{path}: not as `virnuc setup` writes it ({fault}); restore it from git") from error


def write_lock(root: Path, lock: Lock) -> None:
    """Write the lock, sorted, one fact per line, so that a change shows as what changed."""
    with atomic_write(root / LOCK_FILE) as temporary:
        temporary.write_bytes(_FILE.dump_json(dict(sorted(lock.entries.items())), indent=1) + b"\n")


def resolve(spec: EncoderSpec, lock: Lock, update: bool) -> Locked | None:
    """Which bytes an encoder's checkpoint is to be of: those of the lock, or else the repository's files now.

    Of the latter with the sha256 that the hub publishes of large ones; their config was read. None for all else.
    `update` goes by the settings, the head of `main`, or a folder as it is now, instead of what is locked.
    """
    entry = None if update else lock.entries.get(spec.name)
    if not spec.is_locked:
        return None
    if entry is not None and (fault := lock.disagreement(spec)):
        raise CheckpointError(f"{spec.name}: {fault}; run `virnuc setup --update {spec.name}` to move the lock")
    if entry is not None or not spec.from_hub:
        return entry
    moves_on = update and spec.revision == pin_of(spec)  # the registry's pin is where the lock was
    return _resolved(replace(spec, revision="") if moves_on else spec)


def set_up_encoder(
    spec: EncoderSpec, checkpoints: Path, wanted: Locked | None, in_lock: bool, log: Callable[[str], None]
) -> tuple[Path | None, Locked | None]:
    """Have an encoder's checkpoint on this machine: written, converted or downloaded, verified, and loaded once.

    Returns its folder (None where there is none, or an asset of the graph makes it), and what virnuc.lock is to have.
    `wanted` is what `resolve` found; one that is `in_lock` was loaded by whoever locked it.
    """
    if not spec.is_locked:
        if spec.checkpoint == MINIATURE:
            from virnuc_assets.encoders.miniature import write_miniature

            return write_miniature(spec, checkpoints), None
        return None if spec.checkpoint == FINETUNED else find_checkpoint(spec, checkpoints), None
    if wanted is not None and spec.from_hub:
        folder, found = _from_hub(spec, wanted, log)
    else:
        folder = _converted(spec, checkpoints, log) if spec.file else Path(spec.folder)
        found = lock_of(spec, _local_files(spec, folder))
    if wanted is not None and in_lock and (faults := differences(wanted, found)):
        listed = "".join(f"  {fault}\n" for fault in faults)
        restore = _conversion(spec, folder) if spec.file else "restore those files"
        raise CheckpointError(
            f"{spec.name}: {folder} is not what {LOCK_FILE} has:\n{listed}{restore}, or run `virnuc setup --update "
            f"{spec.name}` to lock what is there; its tables become stale"
        )
    locked = replace(spec, revision=found.revision, digest=found.digest)
    if not in_lock:
        _check_loads(locked, folder)
    _record_verified(locked, found.digest, folder, checkpoints)
    return folder, found


def _record_verified(spec: EncoderSpec, digest: str, folder: Path, checkpoints: Path) -> None:
    """Have later runs take these files, unless they change."""
    place = folder.relative_to(checkpoints) if folder.is_relative_to(checkpoints) else folder
    entry = {"digest": digest, "folder": str(place), "files": file_states(folder)}
    with atomic_write(checkpoints / VERIFIED_FILE) as temporary:
        content = {**read_verified(checkpoints), spec.name: entry}
        temporary.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def differences(expected: Locked, found: Locked) -> list[str]:
    """What differs between two descriptions of a checkpoint, one line per file."""
    lines = [f"{name}: missing" for name in expected.files if name not in found.files]
    lines += [f"{name}: not in the lock" for name in found.files if name not in expected.files]
    for name in sorted(expected.files.keys() & found.files.keys()):
        if (want := expected.files[name]) != (have := found.files[name]):
            expectation = f"expected {want.size:,} bytes with sha256 {want.sha256}"
            lines.append(f"{name}: {expectation}, found {have.size:,} with {have.sha256}")
    return lines


def verify(spec: EncoderSpec, checkpoints: Path, lock: Lock) -> list[str]:
    """Faults of a checkpoint whose every byte was compared with the lock; empty where it is as locked."""
    folder, entry = find_checkpoint(spec, checkpoints), lock.entries.get(spec.name)
    if folder is None or entry is None:
        return []
    return [f"{spec.name}: {folder / fault}" for fault in differences(entry, lock_of(spec, files_read(folder)))]


def _from_hub(spec: EncoderSpec, commit: Locked, log: Callable[[str], None]) -> tuple[Path, Locked]:
    """The snapshot with every file that is read, downloaded where it is not in the cache, and what it holds.

    The hub's client hashes nothing; so what was altered on the way or on the disk is found here, and downloaded again.
    """
    at_commit = replace(spec, revision=commit.revision)
    folder = _download(at_commit, list(commit.files), log)
    if altered := _altered(folder, commit):
        for name in altered:
            log(f"{spec.name}: {folder / name} was altered; downloading it again")
            blob = (folder / name).resolve()
            (folder / name).unlink()
            blob.unlink(missing_ok=True)
        _download(at_commit, list(commit.files), log)
        if altered := _altered(folder, commit):
            listed = "".join(f"  {name}: expected sha256 {commit.files[name].sha256}\n" for name in altered)
            raise CheckpointError(
                f"{spec.name}: {folder}: altered files:\n{listed}the hub, or a proxy, sends other bytes than those "
                "that were locked or published: check HF_ENDPOINT, and run `virnuc setup` again"
            )
    return folder, lock_of(at_commit, [folder / name for name in commit.files])


def _altered(folder: Path, commit: Locked) -> list[str]:
    return [name for name, file in commit.files.items() if file.sha256 and sha256_of(folder / name) != file.sha256]


def _resolved(spec: EncoderSpec) -> Locked:
    """The repository's commit and the files to read of it, with the sha256 that the hub publishes of large ones."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError

    revision = spec.revision or "main"
    try:
        info = HfApi().model_info(spec.checkpoint, revision=revision, files_metadata=True)
        files, commit = {file.rfilename: file for file in info.siblings or []}, str(info.sha)
        _check_config(spec, commit)
        where = f"{spec.name}: {spec.checkpoint} at {commit}"
        names = files_chosen(set(files), lambda index: read_json(_fetched(spec.checkpoint, commit, index)), where)
    except (OSError, HFValidationError) as error:  # no such repository or commit; no network, cut off, no space
        raise _not_downloaded(replace(spec, revision=revision), error) from error
    if missing := [name for name in names if name not in files]:
        raise CheckpointError(f"{where}: missing: {', '.join(missing)}; name another commit")
    large = {name: str(files[name].lfs.sha256) for name in names if files[name].lfs}
    chosen = {name: LockedFile(size=files[name].size or 0, sha256=large.get(name, "")) for name in names}
    return Locked(source=source_of(spec), revision=commit, files=chosen)


def _check_config(spec: EncoderSpec, commit: str) -> None:
    """Refuse a commit whose config cannot be read, before gigabytes are downloaded."""
    try:
        read_json(_fetched(spec.checkpoint, commit, CONFIG_FILE))
    except CheckpointError as error:
        pinned = pin_of(spec)
        other = f"use {pinned}" if pinned not in ("", commit) else "name another commit"
        raise CheckpointError(
            f"{spec.name}: this commit's {CONFIG_FILE} is not valid JSON; {other} "
            f"({spec.checkpoint} at {commit}: {error})"
        ) from error


def _fetched(repository: str, commit: str, name: str) -> Path:
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(repository, name, revision=commit))


def _download(spec: EncoderSpec, names: Sequence[str], log: Callable[[str], None]) -> Path:
    """The snapshot's folder with all these files; nothing is asked of the hub where they are in its cache."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    ask: dict[str, Any] = {"revision": spec.revision, "allow_patterns": list(names)}
    try:
        folder = Path(snapshot_download(spec.checkpoint, local_files_only=True, **ask))
        if all((folder / name).is_file() for name in names):
            return folder
    except LocalEntryNotFoundError:
        pass
    log(f"{spec.name}: downloading {', '.join(names)}")
    try:
        folder = Path(snapshot_download(spec.checkpoint, **ask))
    except OSError as error:
        raise _not_downloaded(spec, error) from error
    # Where the hub is not reached, what the cache has of it is returned without an error.
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise CheckpointMissingError(
            f"{spec.name}: {spec.checkpoint} at revision {spec.revision}: {folder} lacks {', '.join(missing)}, and the "
            "hub did not send it; check the network, and run `virnuc setup` again"
        )
    return folder


def _not_downloaded(spec: EncoderSpec, error: Exception) -> CheckpointMissingError:
    root: BaseException = error  # where the clients' long texts quote what the network or the disk said
    while root.__context__ is not None:
        root = root.__context__
    section = "checkpoints" if spec.name in ENCODERS else "encoders"
    return CheckpointMissingError(
        f"{spec.name}: {spec.checkpoint} at revision {spec.revision} is not downloaded ({type(error).__name__}: "
        f"{str(root).strip().partition(chr(10))[0]}); check the network, the names in virnuc.toml and the free disk "
        f'space, and run `virnuc setup` again, name a copy by folder = "..." in [{section}.{spec.name}], or use '
        'profile = "miniature"'
    )


def _local_files(spec: EncoderSpec, folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise CheckpointMissingError(f"{spec.name}: no folder {folder}; correct it in virnuc.toml")
    try:
        return files_read(folder)
    except CheckpointError as error:
        restore = _conversion(spec, folder) if spec.file else "copy the checkpoint again"
        raise CheckpointError(f"{spec.name}: {error}; {restore}, or correct virnuc.toml") from error


def _converted(spec: EncoderSpec, checkpoints: Path, log: Callable[[str], None]) -> Path:
    """The folder that fair-esm's file was converted into; converted again only where the file was replaced."""
    from virnuc_assets.workstation.fair_esm import convert_fair_esm

    file, folder = Path(spec.file), checkpoints / f"{spec.name}_converted"
    if not file.is_file():
        raise CheckpointMissingError(f"{spec.name}: no file {file}; correct [checkpoints] {spec.name} in virnuc.toml")
    state = f"{file.stat().st_size} {file.stat().st_mtime_ns}"
    source = folder / "converted_from.txt"
    if not source.is_file() or source.read_text(encoding="utf-8") != state:
        log(f"{spec.name}: converting {file}")
        convert_fair_esm(file, folder)
        source.write_text(state, encoding="utf-8")
    return folder


def _check_loads(spec: EncoderSpec, folder: Path) -> None:
    """Load tokenizer and model once, at half the memory: every parameter is there, has its shape, and belongs."""
    import torch

    from virnuc_assets.encoders.loading import load_folder

    try:
        load_folder(spec, folder, torch.bfloat16, torch.device("cpu"))
    except CheckpointError as error:
        raise CheckpointError(f"{spec.name}: {error}") from error


def _conversion(spec: EncoderSpec, folder: Path) -> str:
    return f"remove {folder} to convert {spec.file} again"
