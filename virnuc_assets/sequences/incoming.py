"""The watched folder: which files are in it, in which state, and the intake log of what became of each.

A file is in the intake log once it was planned, refused, or recognised as a duplicate. Until then, and when it changes,
it waits; so it does when the other file goes that had its name or its records. The intake log is one small table, so
what is written there outlives every process.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa
from filelock import FileLock

from virnuc_assets.errors import VirnucError
from virnuc_assets.sequences.catalogue import source_name
from virnuc_assets.sequences.opening import is_file
from virnuc_assets.settings import SequenceSettings
from virnuc_assets.storage.digests import digest_of
from virnuc_assets.storage.layout import Layout
from virnuc_assets.storage.places import file_state, state_of
from virnuc_assets.storage.schemas import incoming_schema
from virnuc_assets.storage.tables import TableMismatch, read_table, write_table
from virnuc_assets.text import printable

# Raised where more can be read than before: files that were refused are then planned again.
_READABLE = 2  # FASTQ, bzip2, xz, Zstandard


@dataclass(frozen=True)
class IncomingFile:
    """What became of a file of the watched folder.

    It was planned into shards; refused; collides by name, as another file of the folder has its name as a sample; or
    is a duplicate, which has no shards.
    """

    file: str  # its name as it can be shown
    state: str  # of the file, and of the settings that it was cut by, when this was found out; as `logged_state`
    status: Literal["planned", "refused", "name_collision", "duplicate"]
    sample: str | None  # that it is or would be, if its name is a sample's; of a duplicate the one of the same records
    content: str | None  # digest of its records' ids and bases, where they were planned
    reason: str | None  # why it was refused


def visible_files(folder: Path) -> dict[str, Path]:
    r"""What is in the watched folder by the name that can be shown, sorted; `.NAME` is still being written.

    No two names are shown alike: a backslash is shown as `\\`, because `\x1b` is how a terminal escape is shown.
    Folders, pipes and links to nothing are among them, so that whoever plans refuses them by name.
    """
    visible = (path for path in folder.glob("*") if not path.name.startswith("."))
    return {printable(path.name.replace("\\", "\\\\")): path for path in sorted(visible)}


def file_states(files: Mapping[str, Path], settings: SequenceSettings) -> dict[str, str]:
    """State of each file: equal as long as nobody wrote to it or replaced it, and it would be cut in the same way."""
    states = {}
    for name, path in files.items():
        with contextlib.suppress(OSError):  # taken away since the folder was listed
            states[name] = digest_of([_state(path), settings.of_plans])
    return states


def _state(path: Path) -> tuple[int, ...]:
    """Of what cannot be read, only what it is: a folder changes with every file that is put into it."""
    if is_file(path) and os.access(path, os.R_OK):
        return file_state(path.stat())
    status = path.lstat()
    return status.st_dev, status.st_ino, status.st_mode


def logged_state(state: str, status: str) -> str:
    """A file's state as the intake log has it: of one that was refused, with what could be read then."""
    return digest_of([state, _READABLE]) if status == "refused" else state


def read_intake_log(layout: Layout) -> dict[str, IncomingFile]:
    """The intake log by file; empty before there is one, or where it cannot be read, so that all is planned again."""
    try:
        return dict(_intake_log(layout.intake_log, state_of(layout.intake_log)))
    except (FileNotFoundError, TableMismatch):
        return {}


@functools.lru_cache(maxsize=2)
def _intake_log(path: Path, _: Hashable) -> Mapping[str, IncomingFile]:
    """Read once as long as nobody replaces it: the sensor asks every few seconds."""
    return {row["file"]: IncomingFile(**row) for row in read_table(path, incoming_schema()).to_pylist()}


def write_intake_log(layout: Layout, entries: Iterable[IncomingFile], present: Iterable[str]) -> None:
    """Add or replace entries; of files that are not `present`, only those that were planned stay."""
    layout.locks.mkdir(parents=True, exist_ok=True)
    there = set(present)
    with FileLock(layout.locks / f"incoming-{layout.profile}.lock"):
        intake = read_intake_log(layout) | {entry.file: entry for entry in entries}
        kept = [asdict(entry) for name, entry in sorted(intake.items()) if name in there or entry.status == "planned"]
        write_table(layout.intake_log, pa.Table.from_pylist(kept, schema=incoming_schema()), {"table": "incoming"})


def known_contents(layout: Layout, intake: Mapping[str, IncomingFile]) -> dict[str, str]:
    """Samples that have a plan, by the digest of their records; one listing, however many they are."""
    there = {plan.stem for plan in layout.plan("samples", "any").parent.glob("*.parquet")}
    planned = [entry for entry in intake.values() if entry.status == "planned" and entry.content]
    return {str(entry.content): str(entry.sample) for entry in planned if entry.sample in there}


def waiting_files(layout: Layout, files: Mapping[str, Path], settings: SequenceSettings) -> dict[str, str]:
    """States of the files that the intake log does not know as they are, or whose name or records are free now."""
    states, intake = file_states(files, settings), read_intake_log(layout)
    logged = {
        name: intake[name]
        for name in states.keys() & intake.keys()
        if intake[name].state == logged_state(states[name], intake[name].status)
    }
    duplicates, collisions = (
        {name for name, of in logged.items() if of.status == status} for status in ("duplicate", "name_collision")
    )
    known = known_contents(layout, intake) if duplicates else {}
    owned = {_sample_of(files[name]) for name in states.keys() - collisions}
    free = {name for name in duplicates if logged[name].content not in known}
    free |= {name for name in collisions if logged[name].sample not in owned}
    return {name: state for name, state in states.items() if name not in logged or name in free}


def _sample_of(path: Path) -> str | None:
    try:
        return source_name(path)
    except VirnucError:
        return None
