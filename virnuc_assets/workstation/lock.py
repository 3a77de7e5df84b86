"""virnuc.lock: which commit and which bytes each encoder's checkpoint is, next to virnuc.toml, to be committed.

The first set-up trusts what it downloads and writes it down; every later one, on any machine, takes exactly that.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from virnuc_assets.encoders.checkpoints import CheckpointError, sha256_of
from virnuc_assets.encoders.registry import ENCODERS, EncoderSpec
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
    """One encoder's checkpoint.

    Attributes:
        source: repository of the hub, or `LOCAL`: where a folder is stored differs from machine to machine.
        revision: commit of the repository; empty for local files.
        files: those that are read, by name.
    """

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
