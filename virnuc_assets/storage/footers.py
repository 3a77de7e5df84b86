"""Recipes of many tables at once: what was read of a table is kept as long as nobody writes to it."""

from __future__ import annotations

import contextlib
import functools
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from virnuc_assets.storage.tables import Recipe, TableMismatch, read_recipe_and_content

# Tables of 10,000 shards in both domains; what is kept of one takes about 1 kB.
_KEPT = 1 << 18


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
    found = {}
    with os.scandir(folder) if folder.is_dir() else contextlib.nullcontext(()) as entries:
        for entry in entries:
            if entry.name.endswith(".parquet") and not entry.name.startswith("."):  # else it is still being written
                with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                    found[entry.name.removesuffix(".parquet")] = _read(entry.path, *_state(entry.stat()))
    return found


def footer(path: Path) -> Footer | None:
    """Footer of one table; None where there is no table, or none that can be read."""
    try:
        return _read(str(path), *_state(path.stat()))
    except FileNotFoundError:
        return None


def _state(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_ino, status.st_size, status.st_mtime_ns


@functools.lru_cache(maxsize=_KEPT)
def _read(path: str, *_state: int) -> Footer | None:
    try:
        recipe, content = read_recipe_and_content(Path(path))
    except TableMismatch:
        return None
    # The fingerprint of an encoder is the same in thousands of tables, and kept once.
    shared = {
        key: _shared(json.dumps(value, sort_keys=True)) if isinstance(value, dict) else value
        for key, value in recipe.items()
    }
    return Footer(shared, content)


@functools.lru_cache(maxsize=1024)
def _shared(text: str) -> Any:  # noqa: ANN401
    return json.loads(text)
