"""A digest in every row of a stored prediction table, so that a row that was altered can be named."""

from __future__ import annotations

import hashlib

import pyarrow as pa

COLUMN = "row_digest"
_EXAMPLES = 5


def with_row_digests(table: pa.Table) -> pa.Table:
    """The table with a column of digests of its rows' values, 16 hex digits each."""
    return table.append_column(COLUMN, pa.array(_digests(table), pa.string()))


def digest_of_rows(table: pa.Table) -> str:
    """Digest of all rows and their order, from the table's own column of digests."""
    return hashlib.sha256("".join(table[COLUMN].to_pylist()).encode()).hexdigest()


def altered_rows(table: pa.Table, expected_digest: str) -> list[str]:
    """What is no longer as it was written: rows by frame_id, or that rows came, went or moved; empty if nothing."""
    if COLUMN not in table.column_names:
        return [f"column {COLUMN} is absent"]
    today = _digests(table.drop_columns([COLUMN]))
    rows = zip(table.column(0).to_pylist(), table[COLUMN].to_pylist(), today, strict=True)
    altered = [str(row_id) for row_id, stored, found in rows if stored != found]
    if altered:
        more = f" and {len(altered) - _EXAMPLES} more" if len(altered) > _EXAMPLES else ""
        return [f"{len(altered)} of {table.num_rows} rows were altered: {', '.join(altered[:_EXAMPLES])}{more}"]
    if digest_of_rows(table) != expected_digest:
        return [f"rows were added, taken away or moved; {table.num_rows} are there"]
    return []


def _digests(table: pa.Table) -> list[str]:
    columns = [table[name].to_pylist() for name in table.column_names]
    return [hashlib.sha256(repr(row).encode()).hexdigest()[:16] for row in zip(*columns, strict=True)]
