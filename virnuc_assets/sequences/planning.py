"""Plans a source file into shards of a bounded number of chunks, in one streaming pass."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from virnuc_assets.errors import VirnucError
from virnuc_assets.sequences.catalogue import KEY_LETTERS
from virnuc_assets.sequences.chunking import chunk_count
from virnuc_assets.sequences.opening import open_source
from virnuc_assets.sequences.reading import read_records


@dataclass(frozen=True)
class Piece:
    """Chunks `first_chunk` to `end_chunk` (0-based, half-open) of one record, as part of a shard.

    A record without chunks (no letters) is a piece with none, so that the ledger has its line.
    """

    shard: str
    record_id: str
    length_nt: int
    first_chunk: int
    end_chunk: int


@dataclass(frozen=True)
class Plan:
    """The pieces of a source in file order, and the digest of the file that they were counted in."""

    pieces: tuple[Piece, ...]
    sha256: str

    @property
    def shards(self) -> list[str]:
        """Keys of the shards, in order."""
        return list(dict.fromkeys(piece.shard for piece in self.pieces))


def source_name(path: Path) -> str:
    """A file's name as it opens shard keys: without its endings, foreign letters as `_`.

    Raises:
        VirnucError: nothing is left of the name.
    """
    stem = path.name.removesuffix(".gz")
    stem = stem.rsplit(".", 1)[0] if "." in stem.lstrip(".") else stem
    name = "".join(letter if letter in KEY_LETTERS else "_" for letter in stem).strip("._-")
    if not name:
        raise VirnucError(f"{path}: no letters are left of this file's name to name its shards by; rename the file")
    return name


def shard_key(source: str, index: int) -> str:
    """Key of a source's shard, 1-based and zero-padded so that keys sort as they follow each other."""
    return f"{source}-{index + 1:06d}"


def source_of(shard: str) -> str:
    """The source that a shard key was made from."""
    return shard.rpartition("-")[0]


def plan_source(path: Path, source: str, chunk_length: int, shard_chunks: int) -> Plan:
    """Count a file's chunks and cut them, across records, into shards of `shard_chunks`.

    Raises:
        SequenceFileError: as `read_records`; nothing of a file is planned unless all of it can be read.
    """
    with open_source(path) as opened:
        lengths = [(record.id, len(record.sequence)) for record in read_records(opened)]
        sha256 = opened.digest()
    return Plan(tuple(_pieces(lengths, source, chunk_length, shard_chunks)), sha256)


def _pieces(lengths: list[tuple[str, int]], source: str, chunk_length: int, shard_chunks: int) -> Iterator[Piece]:
    offset = 0  # chunks of the source before this record
    last_shard = max(0, -(-sum(chunk_count(n, chunk_length) for _, n in lengths) // shard_chunks) - 1)
    for record_id, length_nt in lengths:
        end = offset + chunk_count(length_nt, chunk_length)
        if end == offset:
            yield Piece(shard_key(source, min(offset // shard_chunks, last_shard)), record_id, length_nt, 0, 0)
        for shard in range(offset // shard_chunks, -(-end // shard_chunks)) if end > offset else ():
            first, stop = max(offset, shard * shard_chunks), min(end, (shard + 1) * shard_chunks)
            yield Piece(shard_key(source, shard), record_id, length_nt, first - offset, stop - offset)
        offset = end
