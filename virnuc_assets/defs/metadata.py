"""Metadata as the UI shows it best: tables with typed columns, and pictures that are part of the event itself."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import dagster as dg

_TYPES = {bool: "bool", int: "int", float: "float"}
_LARGE = 1000
# Of an encoder's fingerprint: which weights, and how they are read.
_OF_ENCODER = (
    *("encoder", "architecture", "checkpoint", "revision", "checkpoint_digest"),
    *("pooling", "max_length", "token_dropout", "precision"),
)


def shown_table(rows: Iterable[Mapping[str, Any]], columns: Sequence[str] = ()) -> dg.TableMetadataValue:
    """A table; columns are those of the first row if they are not given.

    Numbers have four digits, or one decimal where they are large; one that is not finite is left out.
    """
    records = [{name: _cell(value) for name, value in row.items()} for row in rows]
    names = columns or (list(records[0]) if records else [])
    values = {name: [record[name] for record in records if record[name] is not None] for name in names}
    types = {name: _TYPES.get(type(found[0]), "string") if found else "string" for name, found in values.items()}
    schema = dg.TableSchema([dg.TableColumn(name, types[name]) for name in names])
    return dg.MetadataValue.table([dg.TableRecord(record) for record in records], schema)


def shown_facts(facts: Mapping[str, Any]) -> dg.TableMetadataValue:
    """Names and values, one row each."""
    return shown_table(({"name": name, "value": str(value)} for name, value in facts.items()), ("name", "value"))


def shown_encoders(encoders: Mapping[str, Mapping[str, str]], dims: Mapping[str, int]) -> dg.TableMetadataValue:
    """Encoders of a classifier by role: dim, weights, and what else decides their vectors."""
    return shown_table(
        {"role": role, "dim": dims[role], **{name: fingerprint.get(name, "") for name in _OF_ENCODER}}
        for role, fingerprint in encoders.items()
    )


def shown_pictures(charts: Mapping[str, str]) -> dg.MarkdownMetadataValue:
    """SVG charts by name. Dagster's pages show data: addresses in pictures, and file: addresses nowhere."""
    from virnuc_assets.reports.pages import picture

    return dg.MetadataValue.md("\n\n".join(f"![{name}]({picture(svg)})" for name, svg in charts.items()))


def _cell(value: Any) -> str | int | float | bool | None:  # noqa: ANN401
    if isinstance(value, float):
        rounded = round(value, 1) if abs(value) >= _LARGE else float(f"{value:.4g}")
        return rounded if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int | float) else str(value)
