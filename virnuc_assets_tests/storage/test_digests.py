"""Content digests: the same for the same rows however they come, another for any other value, null, order or type."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from virnuc_assets.storage.digests import ContentDigest, digest_of, digest_words, sequence_digest, sequence_digests
from virnuc_assets.storage.tables import TableWriter, content_digest, write_table

SCHEMA = pa.schema(
    {
        "name": pa.string(),
        "count": pa.int64(),
        "frame": pa.int8(),
        "score": pa.float32(),
        "annotated": pa.bool_(),
        "digest": pa.binary(4),
        "vector": pa.list_(pa.float32(), 2),
    }
)
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "name": st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
            "count": st.none() | st.integers(-(2**63), 2**63 - 1),
            "frame": st.none() | st.integers(-128, 127),
            "score": st.none() | FLOATS,
            "annotated": st.none() | st.booleans(),
            "digest": st.none() | st.binary(min_size=4, max_size=4),
            "vector": st.lists(FLOATS, min_size=2, max_size=2),
        }
    ),
    max_size=8,
)
ROW = {"name": "a", "count": 1, "frame": 2, "score": 0.5, "annotated": True, "digest": b"abcd", "vector": [1.0, 2.0]}


def table(rows: list[dict[str, Any]], schema: pa.Schema = SCHEMA) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=schema)


def digest(*tables: pa.Table) -> str:
    content = ContentDigest(tables[0].schema)
    for part in tables:
        content.update(part)
    return content.hexdigest()


@given(ROWS, st.lists(st.integers(0, 8), max_size=4))
def test_batches_change_nothing(rows: list[dict[str, Any]], cuts: list[int]) -> None:
    """Cuts anywhere, empty batches and slices of one larger table included."""
    whole = table(rows)
    edges = [0, *sorted(min(cut, len(rows)) for cut in cuts), len(rows)]
    pairs = list(zip(edges, edges[1:], strict=False))
    assert digest(*(whole.slice(start, end - start) for start, end in pairs)) == digest(whole)
    assert digest(*(table(rows[start:end]) for start, end in pairs)) == digest(whole)
    assert digest(pa.concat_tables([whole.slice(start, end - start) for start, end in pairs])) == digest(whole)


@given(ROWS, ROWS)
def test_other_rows_have_another_digest(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> None:
    """Minus zero is distinguished from zero, as its bytes are."""
    same = [repr(sorted(row.items())) for row in one] == [repr(sorted(row.items())) for row in other]
    assert (digest(table(one)) == digest(table(other))) == same


@pytest.mark.parametrize(
    ("column", "empty"),
    [("name", ""), ("count", 0), ("frame", 0), ("score", 0.0), ("annotated", False), ("digest", bytes(4))],
)
def test_null_is_not_empty(column: str, empty: object) -> None:
    assert digest(table([{**ROW, column: None}])) != digest(table([{**ROW, column: empty}]))


def test_texts_do_not_run_into_each_other() -> None:
    names = [["ab", "c"], ["a", "bc"], ["abc", ""], ["", "abc"], ["abc"]]
    assert len({digest(pa.table({"name": column})) for column in names}) == len(names)
    assert digest(pa.table({"x": ["a"], "y": ["b"]})) != digest(pa.table({"x": ["b"], "y": ["a"]}))


def test_names_and_types_of_columns_change_the_digest() -> None:
    numbers = [1, 2]
    tables = [
        pa.table({"n": pa.array(numbers, pa.int64())}),
        pa.table({"n": pa.array(numbers, pa.int32())}),
        pa.table({"m": pa.array(numbers, pa.int64())}),
        pa.table({"n": pa.array(numbers, pa.float32())}),
        pa.table({"n": ["1", "2"]}),
    ]
    assert len({digest(each) for each in tables}) == len(tables)
    narrow, wide = pa.list_(pa.float32(), 2), pa.list_(pa.float32(), 4)
    two_by_two, one_by_four = pa.array([[1, 2], [3, 4]], narrow), pa.array([[1, 2, 3, 4]], wide)
    assert digest(pa.table({"v": two_by_two})) != digest(pa.table({"v": one_by_four}))
    assert digest(table([], SCHEMA)) != digest(table([], pa.schema({"name": pa.string()})))


def test_the_digest_of_a_file_is_that_of_its_rows_and_not_of_its_provenance(tmp_path: Path) -> None:
    rows = table([ROW, {**ROW, "name": None}] * 5)
    write_table(tmp_path / "a.parquet", rows, {"provenance": 1})
    with TableWriter(tmp_path / "b.parquet", SCHEMA, {"provenance": 2}) as writer:
        for start in range(0, 10, 3):
            writer.write(rows.slice(start, 3))
    write_table(tmp_path / "c.parquet", rows.slice(1), {"provenance": 1})
    assert content_digest(tmp_path / "a.parquet") == content_digest(tmp_path / "b.parquet") == digest(rows)
    assert content_digest(tmp_path / "c.parquet") != digest(rows)


def test_digest_of_a_value_ignores_the_order_of_keys_alone() -> None:
    assert digest_of({"a": 1, "b": [1, 2]}) == digest_of({"b": [1, 2], "a": 1})
    values: list[object] = [{"a": 1}, {"a": "1"}, {"a": [1]}, {"a": None}, {}, [], "a", {"a": 1, "b": [2, 1]}]
    assert len({digest_of(value) for value in values}) == len(values)


def test_the_digest_of_a_sequence_is_16_bytes_of_blake2b() -> None:
    assert sequence_digest("ACGT").hex() == "f9f322ef1b905091d65847bc9eeec665"
    assert sequence_digest("ACGA") != sequence_digest("ACGT")


def test_digests_as_numbers_are_their_bytes_in_any_slice() -> None:
    sequences = ["A", "C", "", "GATTACA", "A"]
    digests = sequence_digests(sequences)
    assert digests.to_pylist() == [sequence_digest(sequence) for sequence in sequences]
    for start in range(6):
        words = digest_words(digests.slice(start))
        assert (words.shape, words.tobytes()) == ((5 - start, 2), b"".join(map(sequence_digest, sequences[start:])))
