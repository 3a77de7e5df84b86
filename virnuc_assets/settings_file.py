"""Reads `virnuc.toml`; what is wrong with it is reported with its line, names that stand for nothing included."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from virnuc_assets.encoders.registry import (
    ENCODERS,
    FINETUNED,
    MINIATURE,
    PUBLISHED,
    VARIANTS,
    all_encoders,
    all_variants,
)
from virnuc_assets.errors import VirnucError
from virnuc_assets.settings import EncoderSettings, Settings

Fault = tuple[tuple[str, ...], str]
_TUNABLE = {"pooling", "max_length", "token_dropout"}
_COLUMNS_OF_THE_REPORT = {"candidate", "baseline", "floor", "virnucpro"}  # of no variant's own name


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
        settings = Settings.model_validate({**values, "root": path.resolve().parent})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: not valid TOML: {error}") from error
    except ValidationError as error:
        raise SettingsError("\n".join(_told(path, text, dict(item)) for item in error.errors())) from error
    if found := [
        f"{path}:{_line_of(text, place)}: {'.'.join(place)}: {fault}" for place, fault in _name_faults(settings)
    ]:
        raise SettingsError("\n".join(found))
    return settings


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


def _name_faults(settings: Settings) -> Iterator[Fault]:
    """Names that stand for nothing, or for something of the wrong kind: where, and what is wrong."""
    above: list[str] = list(PUBLISHED)
    for name, given in settings.encoders.items():
        if fault := _encoder_fault(name, given, above):
            yield ("encoders", name), fault
            return  # the rest is made of these rows
        above.append(name)
    for name in settings.checkpoints:
        if name not in PUBLISHED:
            yield ("checkpoints", name), f"expected an encoder of the registry: {', '.join(PUBLISHED)}"
            return
    known = all_encoders(settings.model_copy(update={"finetuning": type(settings.finetuning)()}))
    tunable = [name for name in above if (known[name].architecture, known[name].alphabet) == ("esm", "protein")]
    named = settings.finetuning.encoders
    if unknown := [name for name in named if name not in tunable]:
        yield ("finetuning", "encoders"), f"{unknown[0]!r} is no ESM of proteins; there are: {', '.join(tunable)}"
        return
    if len(set(named)) < len(named):
        yield ("finetuning", "encoders"), f"expected each encoder once, found {', '.join(named)}"
    rows = all_encoders(settings)
    sides = {
        ("variants", name, side): getattr(v, side)
        for name, v in settings.variants.items()
        for side in ("dna", "protein")
    }
    if settings.virnucpro:
        sides["virnucpro", "protein_encoder", "protein"] = settings.virnucpro.protein_encoder
    for (*place, side), name in sides.items():
        if name not in rows or rows[name].alphabet != side:
            fitting = (key for key, row in rows.items() if row.alphabet == side and row.checkpoint != MINIATURE)
            path = (*place, side) if place[0] == "variants" else tuple(place)
            yield path, f"{name!r} is no {side} encoder; there are: {', '.join(fitting)}"
    yield from _variant_faults(settings)


def _variant_faults(settings: Settings) -> Iterator[Fault]:
    variants, decision = all_variants(settings), settings.decision
    for name in settings.variants:
        if name in VARIANTS or name in _COLUMNS_OF_THE_REPORT:
            yield ("variants", name), "the name is taken; choose another"
    named = [(("decision", key), getattr(decision, key)) for key in ("candidate", "baseline", "floor")]
    named += [(("decision", "beside"), name) for name in decision.beside]
    for place, name in named:
        if name not in variants:
            yield place, f"{name!r} is no variant; there are: {', '.join(variants)}"
    if settings.serving.variant not in decision.variants:
        trained = ", ".join(decision.variants)
        yield ("serving", "variant"), f"{settings.serving.variant!r} is none of the decision's variants: {trained}"


def _encoder_fault(name: str, given: EncoderSettings, above: list[str]) -> str:
    chosen = given.model_fields_set
    if name in PUBLISHED:
        extra = ", ".join(sorted(chosen - _TUNABLE))
        source = f"where its weights come from is said in [checkpoints] {name}"
        return f"is an encoder of the registry, {extra} cannot be set; {source}" if extra else ""
    if name in ENCODERS or name.startswith(f"{FINETUNED}_"):
        return "the name is taken; choose another"
    if given.like:
        extra = ", ".join(sorted(chosen - _TUNABLE - {"like"}))
        unknown = "" if given.like in above else f"like: {given.like!r} is no encoder above; {', '.join(above)} are"
        return f"like = {given.like!r} says already what {extra} is" if extra else unknown
    if (given.hub is None) == (given.folder is None) or given.architecture is None:
        return "expected architecture, and either hub (owner/name) or folder; or like (an encoder)"
    if given.revision and not given.hub:
        return "a revision belongs to a repository of the hub"
    is_esm = given.architecture == "esm"
    return "token_dropout is a setting of ESM" if given.token_dropout is not None and not is_esm else ""
