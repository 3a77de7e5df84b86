"""Parquet tables that are whole or absent, and record from what they were made.

A table's *provenance* is a JSON object in its metadata: its kind, the digests of its inputs, the parameters that
change its rows. Tables of equal provenance hold the same rows; one of another provenance is refused or made again.
Its *content digest* covers the rows alone, so that what is downstream is stale only where rows changed.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from virnuc_assets.errors import VirnucError
from virnuc_assets.storage.atomic import atomic_write
from virnuc_assets.storage.digests import ContentDigest
from virnuc_assets.storage.layout import asset_of
from virnuc_assets.storage.places import in_store, readable, state_of
from virnuc_assets.storage.schemas import FRAME_SEQUENCES, SEQUENCE_COLUMNS

Provenance = Mapping[str, Any]
PROVENANCE_KEY = "virnuc.recipe"  # as tables were written before; another key would have all vectors embedded again
DIGEST_KEY = "virnuc.content_digest"
_READ_BYTES = 1 << 20  # a window reads no more ahead, however much of a table was written at once
_CHECKED = {"page_checksum_verification": True}
_CHECKED_ROWS = 4096
_PAGE_BYTES = 1 << 16  # a writer keeps some pages of each column; Parquet's default is 1 MiB


class TableMismatch(VirnucError):
    """A table on disk is not the one that is required; every mismatch is listed."""


class TableWriter:
    """Streams batches into a table that appears when all was written; until then its provenance may be added to."""

    def __init__(self, path: Path, schema: pa.Schema, provenance: Provenance) -> None:
        self._path, self._schema, self._provenance = path, schema, provenance
        self._content, self.rows = ContentDigest(schema), 0

    def __enter__(self) -> TableWriter:
        self._writing = self._opened()
        self._writing.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:  # noqa: ANN401  (what was raised in the block, if anything)
        self._writing.__exit__(*error)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[None]:
        # Vectors have neither repeated values nor useful bounds; a dictionary of them takes ten times their memory.
        # Nor is a sequence, a digest or the id of a frame found twice, that of a chunk six times at most; as they are,
        # they are written and read in less time.
        vectors = [field for field in self._schema if pa.types.is_fixed_size_list(field.type)]
        plain = [field for field in self._schema if field not in vectors]
        once = [field.name for field in plain if pa.types.is_fixed_size_binary(field.type)]
        once += ["frame_id", "chunk_id", *SEQUENCE_COLUMNS]
        repeated = [field.name for field in plain if field.name not in once]
        counts = [field.name for field in plain if pa.types.is_int64(field.type)]
        packed = [field.name for field in plain if field.name not in FRAME_SEQUENCES]
        packed += [
            f"{field.name}.list.{field.type.value_field.name}" for field in vectors
        ]  # Parquet's name of its values
        with (
            atomic_write(self._path) as temporary,
            pa.OSFile(os.fsencode(temporary), "wb") as file,
            pq.ParquetWriter(
                file,
                self._schema,
                use_dictionary=[name for name in repeated if name not in counts],
                column_encoding=dict.fromkeys(counts, "DELTA_BINARY_PACKED"),
                compression=dict.fromkeys(packed, "lz4"),  # is unpacked twice as fast as Parquet's default
                write_statistics=repeated,
                use_compliant_nested_type=False,  # nested values as the schema names them: what is read was written
                data_page_size=_PAGE_BYTES,
                write_page_checksum=True,  # LZ4 unpacks a corrupted number as if it were another
                memory_pool=pa.system_memory_pool(),  # Arrow's own keeps what was freed, megabytes a column
            ) as self._parquet,
        ):
            yield
            provenance = json.dumps(self._provenance, sort_keys=True)
            self._parquet.add_key_value_metadata({PROVENANCE_KEY: provenance, DIGEST_KEY: self._content.hexdigest()})

    def write(self, table: pa.Table) -> None:
        """Append rows; the columns must be those of the schema."""
        table = table.cast(self._schema)
        self._parquet.write_table(table)
        self._content.update(table)
        self.rows += table.num_rows


def write_table(path: Path, table: pa.Table, provenance: Provenance) -> None:
    """Write a whole table with its provenance; an interrupted write leaves what was there before."""
    with TableWriter(path, table.schema, provenance) as writer:
        writer.write(table)


def read_table(
    path: Path,
    schema: pa.Schema | None = None,
    require: Provenance | None = None,
    columns: Sequence[str] | None = None,
) -> pa.Table:
    """A whole table after `require_table`: the columns named in that order, or all."""
    require_table(path, schema, require)
    with damage_named(path), readable(path) as source, pq.ParquetFile(source, **_CHECKED) as parquet:
        found = parquet.read(columns=columns)
    return (found if columns is None else found.select(columns)).replace_schema_metadata(None)


def read_selected(path: Path, schema: pa.Schema, require: Provenance, where: pc.Expression) -> pa.Table:
    """As `read_table`, the rows for which `where` holds; parts of the table that can hold none are passed over."""
    require_table(path, schema, require)
    with damage_named(path), readable(path) as source:
        found = pq.read_table(source, filters=where, partitioning=None, **_CHECKED)
    return found.replace_schema_metadata(None)


def read_ids(path: Path, schema: pa.Schema | None = None) -> pa.ChunkedArray:
    """The column frame_id of a table; vectors are not read."""
    return read_table(path, schema, columns=["frame_id"]).column("frame_id")


def read_windows(
    path: Path,
    rows: int,
    schema: pa.Schema | None = None,
    require: Provenance | None = None,
    columns: Sequence[str] | None = None,
) -> Iterator[pa.Table]:
    """As `read_table`, at most `rows` at a time, columns in the table's order; without rows, one empty window."""
    require_table(path, schema, require)
    reading = {"pre_buffer": False, "buffer_size": _READ_BYTES}
    with damage_named(path), readable(path) as source, pq.ParquetFile(source, **reading, **_CHECKED) as parquet:
        if not parquet.metadata.num_rows:
            empty = parquet.schema_arrow.remove_metadata().empty_table()
            yield empty.select([name for name in empty.column_names if columns is None or name in columns])
        for batch in parquet.iter_batches(rows, columns=columns) if parquet.metadata.num_rows else ():
            yield pa.Table.from_batches([batch]).replace_schema_metadata(None)


def in_windows(tables: Iterator[pa.Table], rows: int) -> Iterator[pa.Table]:
    """The same rows in windows of so many, the last of fewer; empty tables alone are one empty window.

    No table is asked for before its rows are needed.
    """
    window, started = None, False
    for table in tables:
        window = table if window is None else pa.concat_tables([window, table])
        while window is not None and window.num_rows >= rows:
            yield window.slice(0, rows)
            started = True
            window = window.slice(rows) if window.num_rows > rows else None  # an empty part would keep its table
    if window is not None and (window.num_rows or not started):
        yield window


def require_table(path: Path, schema: pa.Schema | None = None, require: Provenance | None = None) -> None:
    """Raise TableMismatch unless a table has these columns and types, and these parts of its provenance."""
    footer = _footer(path)
    found_schema = footer.schema.to_arrow_schema()
    differences = [*_schema_differences(schema or found_schema, found_schema)]
    if require is not None:
        differences += _differences(json.loads(json.dumps(require)), _provenance(footer, path))
    if differences:
        listed = "\n  ".join(differences)
        raise TableMismatch(
            f"{path}: not the table that is required:\n  {listed}\nMaterialize {asset_of(path)} again with today's "
            "settings, or restore the settings that it was made with."
        )


@contextlib.contextmanager
def open_table(path: Path) -> Iterator[tuple[pq.ParquetFile, dict[str, Any]]]:
    """An open table and its provenance; it stays this one when another takes its name (in an object store: damage)."""
    with damage_named(path), readable(path) as source, pq.ParquetFile(source, **_CHECKED) as parquet:
        yield parquet, _provenance(parquet.metadata, path)


@contextlib.contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """Raise what goes wrong while a table is read, a page's wrong checksum included, as a `TableMismatch`."""
    try:
        yield
    except FileNotFoundError as error:
        raise TableMismatch(f"{path}: the table does not exist; materialize {asset_of(path)} first") from error
    except (pa.ArrowException, OSError) as error:
        raise TableMismatch(
            f"{path}: damaged, or not a Parquet file ({error}); remove it, and materialize {asset_of(path)} again"
        ) from error


def read_provenance(path: Path) -> dict[str, Any]:
    """The provenance a table was made by."""
    return _provenance(_footer(path), path)


def content_digest(path: Path) -> str:
    """Digest of a table's rows, as recorded when it was written."""
    return _entry(_footer(path), DIGEST_KEY, path)


def read_schema(path: Path) -> pa.Schema:
    """Columns and types of a table, without its metadata."""
    return _footer(path).schema.to_arrow_schema().remove_metadata()


def read_rows(path: Path) -> int:
    """Number of rows of a table."""
    return int(_footer(path).num_rows)


def require_content(path: Path) -> None:
    """Raise TableMismatch unless all rows are those whose digest was recorded when they were written."""
    content = ContentDigest(read_schema(path))
    for window in read_windows(path, _CHECKED_ROWS):
        content.update(window)
    if content.hexdigest() != content_digest(path):
        raise TableMismatch(
            f"{path}: rows were altered since the table was written; materialize {asset_of(path)} again"
        )


def is_made_by(path: Path, provenance: Provenance) -> bool:
    """Whether the table exists, can be read, and has exactly this provenance."""
    try:
        return bool(read_provenance(path) == json.loads(json.dumps(provenance)))
    except TableMismatch:
        return False


def _footer(path: Path) -> pq.FileMetaData:
    with damage_named(path):
        return _stored_footer(path, state_of(path)) if in_store(path) else _read_footer(path)


@functools.lru_cache(maxsize=4096)
def _stored_footer(path: Path, _state: Hashable) -> pq.FileMetaData:
    """Footer of an object, read once as long as nobody replaces it: reading takes three requests, asking one."""
    return _read_footer(path)


def _read_footer(path: Path) -> pq.FileMetaData:
    with readable(path) as source:
        return pq.read_metadata(source)


def _provenance(footer: pq.FileMetaData, path: Path) -> dict[str, Any]:
    return dict(json.loads(_entry(footer, PROVENANCE_KEY, path)))


def _entry(footer: pq.FileMetaData, key: str, path: Path) -> str:
    metadata = footer.metadata or {}
    if key.encode() not in metadata:
        raise TableMismatch(f"{path}: a Parquet file without {key}; expected a table written by virnuc_assets")
    return str(metadata[key.encode()].decode())


def _schema_differences(expected: pa.Schema, found: pa.Schema) -> Iterator[str]:
    for name in dict.fromkeys([*expected.names, *found.names]):
        want = expected.field(name).type if name in expected.names else "no such column"
        have = found.field(name).type if name in found.names else "no such column"
        if want != have:
            yield f"column {name}: expected {want}, found {have}"
    if expected.names != found.names and sorted(expected.names) == sorted(found.names):
        yield f"order of columns: expected {', '.join(expected.names)}, found {', '.join(found.names)}"


def _differences(expected: Provenance, found: Provenance, prefix: str = "") -> list[str]:
    lines = []
    for key, want in expected.items():
        have = found.get(key, "nothing")
        if isinstance(want, Mapping) and isinstance(have, Mapping):
            lines += _differences(want, have, f"{prefix}{key}.")
        elif want != have:
            lines.append(f"{prefix}{key}: expected {want}, found {have}")
    return lines
