"""Digests of content: of a table's rows however they were batched, of sequences, and of any JSON-able value."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

SEQUENCE_DIGEST_BYTES = 16


def digest_of(value: Any) -> str:  # noqa: ANN401  (whatever JSON holds)
    """Digest of a JSON-able value, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]


def sequence_digest(sequence: str) -> bytes:
    """blake2b of a sequence, 16 bytes."""
    return hashlib.blake2b(sequence.encode("ascii"), digest_size=SEQUENCE_DIGEST_BYTES).digest()


def sequence_digests(sequences: Sequence[str]) -> pa.FixedSizeBinaryArray:
    """`sequence_digest` of each, in order."""
    together = pa.py_buffer(b"".join(map(sequence_digest, sequences)))
    return pa.Array.from_buffers(pa.binary(SEQUENCE_DIGEST_BYTES), len(sequences), [None, together])


def digest_words(digests: pa.FixedSizeBinaryArray) -> NDArray[np.uint64]:
    """The bytes of sequences' digests as two numbers each, (n, 2) uint64; not copied."""
    return np.frombuffer(_fixed_bytes(digests), np.uint64).reshape(-1, 2)


class ContentDigest:
    """Digest of rows that come in batches of any size; every column's parts have a running hash of their own."""

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema
        self._parts: dict[tuple[str, int], Any] = {}
        self.update(schema.empty_table())

    def update(self, table: pa.Table) -> None:
        """Add rows, in order."""
        for name in self._schema.names:
            for chunk in table.column(name).chunks:
                for number, part in enumerate(_column_parts(chunk)):
                    self._parts.setdefault((name, number), hashlib.sha256()).update(part)

    def hexdigest(self) -> str:
        """Digest of the columns' names and types and of all rows so far."""
        parts = [(name, number, part.hexdigest()) for (name, number), part in sorted(self._parts.items())]
        return digest_of([[(field.name, str(field.type)) for field in self._schema], parts])


def one_array(column: pa.ChunkedArray) -> pa.Array:
    """The column as one array; copied only where it is none already."""
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _column_parts(array: pa.Array) -> Iterator[bytes | memoryview]:
    """Validity, lengths and values of a column as bytes that concatenate over batches."""
    if array.null_count:
        yield pc.is_valid(array).to_numpy(zero_copy_only=False).tobytes()
    else:
        yield b"\x01" * len(array)
    if pa.types.is_string(array.type):
        text = array.fill_null("") if array.null_count else array
        yield pc.binary_length(text).to_numpy(zero_copy_only=False).tobytes()
        offsets = np.frombuffer(text.buffers()[1], np.int32)[text.offset :] if len(text) else (0,)
        yield memoryview(text.buffers()[2] or b"")[offsets[0] : offsets[len(text)] if len(text) else 0]
    elif pa.types.is_fixed_size_binary(array.type):
        yield _fixed_bytes(array.fill_null(bytes(array.type.byte_width)) if array.null_count else array)
    elif pa.types.is_fixed_size_list(array.type):
        yield np.ascontiguousarray(array.flatten().to_numpy(zero_copy_only=False)).data.cast("B")
    else:
        nothing = False if pa.types.is_boolean(array.type) else 0
        yield array.fill_null(nothing).to_numpy(zero_copy_only=False).tobytes()


def _fixed_bytes(array: pa.FixedSizeBinaryArray) -> memoryview:
    width = array.type.byte_width
    return memoryview(array.buffers()[1] or b"")[array.offset * width : (array.offset + len(array)) * width]
