"""Rows that come in tables of any size, taken in windows of another."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa


class Rows:
    """The rows of tables that come one after the other; no table is asked for before its rows are needed."""

    def __init__(self, tables: Iterator[pa.Table]) -> None:
        self._tables = tables
        self._held: list[pa.Table] = []

    def take(self, rows: int) -> pa.Table | None:
        """The next rows, fewer where they end; None after the last."""
        while sum(table.num_rows for table in self._held) < rows and (table := next(self._tables, None)) is not None:
            self._held.append(table)
        if not self._held:
            return None
        whole = pa.concat_tables(self._held)
        self._held = [whole.slice(rows)] if whole.num_rows > rows else []
        return whole.slice(0, rows)


def in_windows(tables: Iterator[pa.Table], rows: int) -> Iterator[pa.Table]:
    """The same rows in windows of so many, the last of fewer; empty tables alone are one empty window."""
    queue = Rows(tables)
    window, started = queue.take(rows), False
    while window is not None and (window.num_rows or not started):
        yield window
        window, started = queue.take(rows), True
