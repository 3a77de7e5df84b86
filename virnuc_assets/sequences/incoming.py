"""The watched folder: which files lie in it, in which state, and the book of what became of each.

A file is in the book once it was planned, refused, or recognised as a duplicate; until then, and when it changes, it
waits. The book is one small table, so what is written there outlives every process.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import pyarrow as pa
from filelock import FileLock

from virnuc_assets.foreign_text import printable
from virnuc_assets.sequences.opening import file_state
from virnuc_assets.settings import SequenceSettings
from virnuc_assets.storage.digests import digest_of
from virnuc_assets.storage.layout import Layout
from virnuc_assets.storage.schemas import incoming_schema
from virnuc_assets.storage.tables import read_table, write_table


@dataclass(frozen=True)
class IncomingFile:
    """What became of a file of the watched folder.

    Attributes:
        file: its name as it can be shown.
        state: of the file, and of the settings that it was cut by, when this was found out.
        fate: planned into shards, refused, or a duplicate, which has no shards.
        sample: that it was planned as; of a duplicate the sample that holds the same records.
        content: digest of its records' ids and letters; None where it was refused.
        reason: why it was refused.
    """

    file: str
    state: str
    fate: Literal["planned", "refused", "duplicate"]
    sample: str | None
    content: str | None
    reason: str | None


def visible_files(folder: Path) -> dict[str, Path]:
    """Files of the watched folder by the name that can be shown, sorted; `.NAME` is still being written."""
    visible = (path for path in folder.glob("*") if not path.name.startswith(".") and path.is_file())
    return {printable(path.name): path for path in sorted(visible)}


def file_states(files: Mapping[str, Path], settings: SequenceSettings) -> dict[str, str]:
    """State of each file: equal as long as nobody wrote to it or replaced it, and it would be cut in the same way."""
    states = {}
    for name, path in files.items():
        with contextlib.suppress(FileNotFoundError):  # taken away since the folder was listed
            states[name] = digest_of([file_state(path.stat()), settings.model_dump()])
    return states


def read_book(layout: Layout) -> dict[str, IncomingFile]:
    """The book by file; empty before the first file was planned."""
    path = layout.incoming_book
    if not path.is_file():
        return {}
    return {row["file"]: IncomingFile(**row) for row in read_table(path, incoming_schema()).to_pylist()}


def write_into_book(layout: Layout, entries: Iterable[IncomingFile], present: Iterable[str]) -> None:
    """Add or replace entries; of files that are not `present`, only those that were planned stay."""
    path = layout.incoming_book
    path.parent.mkdir(parents=True, exist_ok=True)
    there = set(present)
    with FileLock(path.with_suffix(".lock")):
        book = read_book(layout) | {entry.file: entry for entry in entries}
        kept = [entry for name, entry in sorted(book.items()) if name in there or entry.fate == "planned"]
        columns = {field.name: [getattr(entry, field.name) for entry in kept] for field in fields(IncomingFile)}
        write_table(path, pa.table(columns, schema=incoming_schema()), {"table": "incoming"})


def known_contents(layout: Layout, book: Mapping[str, IncomingFile]) -> dict[str, str]:
    """Samples whose plans lie there, by the digest of their records."""
    planned = [entry for entry in book.values() if entry.fate == "planned" and entry.content and entry.sample]
    there = [entry for entry in planned if layout.plan("samples", str(entry.sample)).is_file()]
    return {str(entry.content): str(entry.sample) for entry in there}


def waiting_files(layout: Layout, states: Mapping[str, str]) -> dict[str, str]:
    """States of the files that are not in the book as they are today, or whose original is no more what they are."""
    book = read_book(layout)
    known = known_contents(layout, book)
    waiting = {}
    for name, state in states.items():
        entry = book.get(name)
        if entry is None or entry.state != state or (entry.fate == "duplicate" and entry.content not in known):
            waiting[name] = state
    return waiting
