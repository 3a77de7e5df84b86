"""Reads `virnuc.toml`; what is wrong with it is told with its line."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from virnuc_assets.errors import VirnucError
from virnuc_assets.settings import Settings


class SettingsError(VirnucError):
    """`virnuc.toml` is missing, is not TOML, or holds an unknown key or an impossible value."""


def load_settings(path: Path) -> Settings:
    """Read `virnuc.toml`.

    Raises:
        SettingsError: the file is missing, is not TOML, or holds an unknown key or an impossible
            value; the message names the file, the line and the key.
    """
    if not path.is_file():
        raise SettingsError(f"{path}: settings file not found; run from the project's folder or pass --config")
    try:
        text = path.read_text(encoding="utf-8")
        values = tomllib.loads(text)
        if "root" in values:
            raise SettingsError(
                f"{path}:{_line_of(text, ('root',))}: root: is the folder of this file; it cannot be set"
            )
        return Settings.model_validate({**values, "root": path.resolve().parent})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: not valid TOML: {error}") from error
    except ValidationError as error:
        raise SettingsError("\n".join(_told(path, text, dict(item)) for item in error.errors())) from error


def _told(path: Path, text: str, item: dict[str, Any]) -> str:
    key = ".".join(str(part) for part in item["loc"] if part != "[key]")  # pydantic's word for a mapping's key
    return f"{path}:{_line_of(text, item['loc'])}: {key}: {item['msg']}, found {item['input']!r}"


def _line_of(text: str, location: tuple[int | str, ...]) -> int:
    """1-based line of a key, or of what opens the table that it is missing from."""
    wanted = [str(part) for part in location]
    table: list[str] = []
    nearest = 1
    for number, line in enumerate(text.splitlines(), start=1):
        if header := re.match(r"\s*\[+([^\[\]]+)\]", line):
            table = _parts(header.group(1))
            path = table
        elif key := re.match(r"\s*([^=#]+?)\s*=", line):
            path = table + _parts(key.group(1))
        else:
            continue
        if path == wanted:
            return number
        if path == wanted[: len(path)]:
            nearest = number
    return nearest


def _parts(dotted: str) -> list[str]:
    return [part.strip().strip("\"'") for part in dotted.split(".")]
