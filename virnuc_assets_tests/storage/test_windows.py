"""Windows of another size hold the same rows, and no table is asked for before its rows are needed."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from virnuc_assets.storage.windows import Rows, in_windows


def tables(sizes: list[int], asked: list[int] | None = None) -> Iterator[pa.Table]:
    start = 0
    for number, size in enumerate(sizes):
        if asked is not None:
            asked.append(number)
        yield pa.table({"n": pa.array(range(start, start + size), pa.int64())})
        start += size


@given(st.lists(st.integers(0, 7), max_size=6), st.integers(1, 9))
def test_the_rows_are_the_same_in_windows_of_one_size(sizes: list[int], rows: int) -> None:
    found = [window.column("n").to_pylist() for window in in_windows(tables(sizes), rows)]
    whole = list(range(sum(sizes)))
    expected = [whole[start : start + rows] for start in range(0, len(whole), rows)]
    assert found == (expected or [[]] * bool(sizes))


@pytest.mark.parametrize(("rows", "needed"), [(3, [0]), (4, [0, 1]), (9, [0, 1, 2])])
def test_tables_are_asked_for_when_their_rows_are_needed(rows: int, needed: list[int]) -> None:
    asked: list[int] = []
    taken = Rows(tables([3, 3, 3], asked)).take(rows)
    assert taken is not None and taken.num_rows == rows
    assert asked == needed
