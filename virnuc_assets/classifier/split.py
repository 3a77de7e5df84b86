"""The split table: a row a record with its cluster, its side, and the reason for both."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, get_args

import pyarrow as pa

from virnuc_assets.errors import VirnucError

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
# A record that no side may have: it would link two of them, or resembles what is held out.
LEFT_OUT = "left_out"
LABELS = ("host", "viral")


class SplitError(VirnucError):
    """The records cannot be dealt so that every label is trained on, validated and tested."""


def split_schema() -> pa.Schema:
    """A row a record, sorted by record id.

    `rows` counts its training rows, `split` is a side or `LEFT_OUT`, `relatives` tells what the record was found to
    be related to, `reason` why it lies where it lies; a record that is left out is a cluster of its own.
    """
    text = ("record_id", "cluster", "label", "group")
    return pa.schema(
        [(name, pa.string()) for name in text]
        + [("rows", pa.int64())]
        + [(name, pa.string()) for name in ("split", "relatives", "reason")]
    )


def sides_of(rows: Iterable[Mapping[str, Any]]) -> dict[str, Split]:
    """Record → side, of the records that have one."""
    return {row["record_id"]: row["split"] for row in rows if row["split"] in SPLITS}


def changes(before: Iterable[Mapping[str, Any]], after: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """How many records kept their side, are new, moved to another side, are left out, or are gone."""
    old, new = ({row["record_id"]: row["split"] for row in rows} for rows in (before, after))
    sided = {record for record, side in new.items() if side in SPLITS}
    return {
        "records_kept": sum(old.get(record) == new[record] for record in sided),
        "records_new": sum(old.get(record, LEFT_OUT) == LEFT_OUT for record in sided),
        "records_moved": sum(old.get(record, LEFT_OUT) not in (LEFT_OUT, new[record]) for record in sided),
        "records_left_out": len(new) - len(sided),
        "records_gone": len(old.keys() - new.keys()),
    }
