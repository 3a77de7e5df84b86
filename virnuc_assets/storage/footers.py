"""Recipes of many tables at once: what was read of a table is kept as long as nobody writes to it."""

from __future__ import annotations

import contextlib
import functools
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from virnuc_assets.storage.places import StoredObject, end_of, in_store, stored_object, stored_objects
from virnuc_assets.storage.tables import DIGEST_KEY, RECIPE_KEY, Recipe, TableMismatch, read_recipe_and_content

# Tables of 10,000 shards in both domains; what is kept of one takes about 1 kB.
_KEPT = 1 << 18
_END_BYTES = 1 << 14
_STRING = 0x18  # opens a struct's next field, if that is a string
_READERS = 16  # of an object store at once; each waits for an answer


class Footer(NamedTuple):
    """What a table says of itself: what it was made from, and the digest of its rows."""

    recipe: Recipe
    content: str


def footers(folder: Path) -> dict[str, Footer | None]:
    """Footers of all tables of a folder, by the name without its ending.

    Args:
        folder: of one asset's tables; it need not exist.

    Returns:
        None for a table that cannot be read, or that another program wrote.
    """
    if in_store(folder):
        tables = [found for found in stored_objects(folder) if found.path.name.endswith(".parquet")]
        with ThreadPoolExecutor(_READERS) as readers:
            names = [table.path.name.removesuffix(".parquet") for table in tables]
            return dict(zip(names, readers.map(_known_object, tables), strict=True))
    found = {}
    with os.scandir(folder) if folder.is_dir() else contextlib.nullcontext(()) as entries:
        for entry in entries:
            if entry.name.endswith(".parquet") and not entry.name.startswith("."):  # else it is still being written
                with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                    found[entry.name.removesuffix(".parquet")] = _known(entry.path, entry.stat())
    return found


def footer(path: Path) -> Footer | None:
    """Footer of one table; None where there is no table, or none that can be read."""
    try:
        return _known_object(stored_object(path)) if in_store(path) else _known(str(path), path.stat())
    except FileNotFoundError:
        return None


def _known(path: str, status: os.stat_result) -> Footer | None:
    # A failure is told and forgotten: what cannot be read now, e.g. for want of a file descriptor, may be whole.
    try:
        return _read(path, status.st_ino, status.st_size, status.st_mtime_ns)
    except (TableMismatch, ValueError):
        return None


def _known_object(found: StoredObject) -> Footer | None:
    try:
        return _read_object(found)
    except (TableMismatch, ValueError, FileNotFoundError):
        return None


@functools.lru_cache(maxsize=_KEPT)
def _read(path: str, *_state: int) -> Footer:
    return _parsed(*(_read_end(path) or read_recipe_and_content(Path(path))))


@functools.lru_cache(maxsize=_KEPT)
def _read_object(found: StoredObject) -> Footer:
    return _parsed(*(_entries(end_of(found, _END_BYTES)) or read_recipe_and_content(found.path)))


def _parsed(text: str, content: str) -> Footer:
    recipe = json.loads(text)
    # The fingerprint of an encoder is the same in thousands of tables, and kept once.
    return Footer({key: _shared(json.dumps(v)) if isinstance(v, dict) else v for key, v in recipe.items()}, content)


def _read_end(path: str) -> tuple[str, str] | None:
    """Recipe, as JSON, and content digest from the last bytes of a table, ten times as fast as by its whole footer."""
    with contextlib.suppress(OSError), open(path, "rb", buffering=0) as file:  # noqa: PTH123
        file.seek(max(0, file.seek(0, os.SEEK_END) - _END_BYTES))
        return _entries(file.read())
    return None


def _entries(end: bytes) -> tuple[str, str] | None:
    """Recipe and content digest, as the writer puts them there: Thrift's compact strings, 0x18, length, letters.

    Neither holds a control character, so what comes last of the pattern is the entry.

    Returns:
        None where they are not found so, and the whole footer tells more.
    """
    found = [_entry(end, key) for key in (RECIPE_KEY, DIGEST_KEY)] if end.endswith(b"PAR1") else [None]
    return (str(found[0]), str(found[1])) if all(found) else None


def _entry(end: bytes, key: str) -> str | None:
    pattern = bytes([_STRING, len(key)]) + key.encode() + bytes([_STRING])
    place, length, shift, more = end.rfind(pattern) + len(pattern), 0, 0, 1
    while more and len(pattern) <= place < len(end):  # a number in groups of seven bits, the lowest first
        more, length, shift, place = end[place] >> 7, length | (end[place] & 127) << shift, shift + 7, place + 1
    text = end[place : place + length]
    return text.decode("ascii", errors="replace") if length and len(text) == length and not more else None


@functools.lru_cache(maxsize=1024)
def _shared(text: str) -> Any:  # noqa: ANN401
    return json.loads(text)
