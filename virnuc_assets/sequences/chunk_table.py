"""The chunked FASTA of a shard: reads the planned pieces of a source into the chunks table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa

from virnuc_assets.sequences.chunking import chunks_of
from virnuc_assets.sequences.opening import SourceChanged, open_source
from virnuc_assets.sequences.planning import Piece
from virnuc_assets.sequences.reading import read_records
from virnuc_assets.storage.schemas import chunks_schema


def chunk_table(path: Path, pieces: Iterable[Piece], chunk_length: int, planned_sha256: str) -> pa.Table:
    """Chunks of one shard, in file order.

    Args:
        path: the source file; it is read to its end, so that its digest tells whether it is the planned one.
        pieces: the shard's pieces.
        chunk_length: nt.
        planned_sha256: digest of the file when it was planned.

    Raises:
        SourceChanged: the bytes read are not those that were planned.
        SequenceFileError: as `read_records`.
    """
    wanted = {piece.record_id: piece for piece in pieces}
    rows = []
    with open_source(path) as source:
        for record in read_records(source):
            if piece := wanted.get(record.id):
                length_nt = len(record.sequence)
                if length_nt != piece.length_nt:
                    raise SourceChanged(
                        f"{path}: record {record.id!r}: planned with {piece.length_nt} nt, found {length_nt}; "
                        "the file is not the one that was planned. Materialize shard_plan again."
                    )
                for chunk in chunks_of(record.id, length_nt, chunk_length, piece.first_chunk, piece.end_chunk):
                    letters = bytes(record.sequence[chunk.start_nt : chunk.end_nt]).decode("ascii")
                    rows.append({**asdict(chunk), "chunk_id": chunk.id, "sequence": letters})
        source.require_digest(planned_sha256)
    return pa.Table.from_pylist(rows, schema=chunks_schema())


def read_proteins(genbank: Path | None, planned_sha256: str | None) -> dict[str, tuple[str, ...]]:
    """CDS translations by record id of a GenBank file, or nothing where there is no file.

    Raises:
        SourceChanged: the bytes read are not those that were planned.
    """
    if genbank is None or planned_sha256 is None:
        return {}
    with open_source(genbank) as source:
        proteins = {record.id: record.proteins for record in read_records(source) if record.proteins}
        source.require_digest(planned_sha256)
    return proteins


def as_fasta(table: pa.Table, id_column: str, sequence_column: str) -> Iterator[str]:
    """FASTA text of a chunks or frames table, one record at a time."""
    for row_id, sequence in zip(
        table.column(id_column).to_pylist(), table.column(sequence_column).to_pylist(), strict=True
    ):
        yield f">{row_id}\n{sequence}\n"
