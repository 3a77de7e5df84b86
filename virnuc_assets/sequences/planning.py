"""Plans records into shards of a bounded number of chunks: those of one file, or of many files of one label.

Where the chunks of a record are is VirNucPro's geometry in closed form (upstream: `split_fasta_chunk` in units.py).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from virnuc_assets.errors import VirnucError
from virnuc_assets.sequences.opening import open_source
from virnuc_assets.sequences.reading import read_letters
from virnuc_assets.sequences.records import Header, LettersDigest, by_record
from virnuc_assets.storage.digests import digest_of

MAX_PACKS = 9999
Fate = Literal["planned", "skipped", "failed"]


def chunk_count(length_nt: int, chunk_length: int) -> int:
    """Number of chunks of a record: the ceiling of length / chunk length."""
    return -(-length_nt // chunk_length)


def chunk_starts(first: int, end: int, length_nt: int, chunk_length: int) -> np.ndarray:
    """Starts of the 0-based chunks `first` to `end` (half-open), int64, without walking the chunks before them.

    The chunks of a record overlap so that together they end where the record ends: the surplus r = k·c − n
    is taken back over the k − 1 steps between chunks. Each step goes back q = r // k, the first few q + 1.
    The last chunk is shorter than `chunk_length` where few chunks cannot take back the whole surplus; a record
    shorter than `chunk_length` is one short chunk; an empty record has none.
    """
    count = chunk_count(length_nt, chunk_length)
    index = np.arange(first, end, dtype=np.int64)  # (chunks,)
    if not count:
        return index
    surplus = count * chunk_length - length_nt
    step_back = surplus // count
    longer_steps = min(surplus - (count - 1) * step_back, count - 1)
    return index * (chunk_length - step_back) - np.minimum(index, longer_steps)


def shard_key(source: str, index: int) -> str:
    """Key of a sample's shard, 1-based and zero-padded so that keys sort as they follow each other."""
    return f"{source}-{index + 1:06d}"


def sample_of(shard: str) -> str:
    """The sample that a shard key was made from."""
    return shard.rpartition("-")[0]


def pack_key(label: str, index: int) -> str:
    """Key of a pack of reference records of one label, e.g. `viral-0001`.

    Raises:
        VirnucError: there are more packs than such keys sort.
    """
    if index >= MAX_PACKS:
        raise VirnucError(f"{label}: more than {MAX_PACKS} shards were made so far; set sequences.shard_chunks higher")
    return f"{label}-{index + 1:04d}"


@dataclass(frozen=True, slots=True)
class Piece:
    """Chunks `first_chunk` to `end_chunk` (0-based, half-open) of one record, as part of a shard.

    A record without chunks (no letters, or not planned) is a piece with none, so that the ledger has its line.

    Attributes:
        source: name of the file that the record is in.
        shard: key of the shard.
        record_id: the header's first word.
        number: of the record in its file, from 1; tells apart records of one id.
        length_nt: of the whole record.
        digest: of the record's letters.
        first_chunk: the first chunk of the record in this shard.
        end_chunk: the first that is no more in it.
        fate: planned, or why not: skipped or failed.
        reason: of a record that is not planned.
        evidence: word of what CDS evidence the record's annotation gives; None for a sample.
        evidence_digest: of that evidence.
    """

    source: str
    shard: str
    record_id: str
    number: int
    length_nt: int
    digest: str
    first_chunk: int
    end_chunk: int
    fate: Fate = "planned"
    reason: str | None = None
    evidence: str | None = None
    evidence_digest: str | None = None

    @property
    def chunks(self) -> int:
        """Number of chunks."""
        return self.end_chunk - self.first_chunk


@dataclass(frozen=True)
class Plan:
    """The pieces of a source in file order, one at least of every record, and the digest of the file."""

    pieces: tuple[Piece, ...]
    sha256: str

    @property
    def shards(self) -> list[str]:
        """Keys of the shards, in order."""
        return sorted({piece.shard for piece in self.pieces})


def plan_source(path: Path, source: str, chunk_length: int, shard_chunks: int) -> Plan:
    """Count a file's chunks and cut them, across records, into shards of at most `shard_chunks`.

    Raises:
        SequenceFileError: as `read_letters`; nothing of a file is planned unless all of it can be read.
    """
    records, sha256 = count_records(path, source, chunk_length)
    pieces, _ = pack(records, (), partial(shard_key, source), 0, shard_chunks)
    return Plan(tuple(pieces), sha256)


def count_records(path: Path, source: str, chunk_length: int) -> tuple[list[Piece], str]:
    """Every record of a file as one piece of no shard, and the digest of the file; errors as of `plan_source`."""
    records = []
    with open_source(path) as opened:
        for header, pieces in by_record(read_letters(opened)):
            letters = LettersDigest(pieces)
            chunks = chunk_count(letters.length_nt, chunk_length)
            record = Piece(source, "", header.id, header.number, letters.length_nt, letters.hexdigest(), 0, chunks)
            if reason := _unusable(header, letters):
                record = replace(record, fate="failed", reason=reason, end_chunk=0)
            records.append(record)
        sha256 = opened.digest()
    of_id: dict[str, list[Piece]] = defaultdict(list)
    for record in records:
        if record.fate == "planned":
            of_id[record.record_id].append(record)
    return [_disposed(record, of_id[record.record_id]) for record in records], sha256


def _unusable(header: Header, letters: LettersDigest) -> str | None:
    if header.length_nt and not letters.length_nt:
        return "the sequence is stored elsewhere (CONTIG or WGS); fetch the record with rettype=gbwithparts"
    if letters.is_like_protein:
        return "looks like protein: fewer than half of the letters are A, C, G, T, U or N"
    return None


def _disposed(record: Piece, of_id: Sequence[Piece]) -> Piece:
    """Of the usable records with one id: one is planned if all have the same letters, none if they differ."""
    if record.fate != "planned":
        return record
    different = len({other.digest for other in of_id})
    if different > 1:
        reason = f"duplicate id: {different} different sequences have this first word of the header"
        return replace(record, fate="failed", reason=reason, end_chunk=0)
    if record.number != (first := of_id[0].number):
        reason = f"duplicate id: same sequence as record {first}"
        return replace(record, fate="skipped", reason=reason, end_chunk=0)
    return record


def pack(
    records: Iterable[Piece], before: Iterable[Piece], key: Callable[[int], str], numbered: int, shard_chunks: int
) -> tuple[list[Piece], int]:
    """Pieces of all records, in order, and how many shard keys were ever given then.

    Args:
        records: whole, of one file or of many.
        before: pieces of the plan that is continued. Records of the same id and letters keep their shards, whichever
            file they are in now; others go into new shards, so an update costs what it changed.
        key: of the shard with a number, from 0; keys ascend.
        numbered: how many keys were given before.
        shard_chunks: of a shard.
    """
    kept, new = _recognised(records, before)
    home = max(piece.shard for piece in kept) if kept else key(numbered)
    pieces = [*kept, *_cut(new, key, numbered, shard_chunks, home)]
    pieces.sort(key=lambda piece: (piece.source, piece.number, piece.first_chunk))
    opened = len({piece.shard for piece in pieces} - {piece.shard for piece in kept})
    return pieces, numbered + opened


def whole_records(pieces: Iterable[Piece]) -> list[Piece]:
    """Every record as one piece of all its chunks, in the order of its first."""
    wholes: dict[tuple[str, int], Piece] = {}
    for piece in pieces:
        before = wholes.get((piece.source, piece.number))
        chunks = (before.chunks if before else 0) + piece.chunks
        wholes[piece.source, piece.number] = replace(piece, first_chunk=0, end_chunk=chunks)
    return list(wholes.values())


def _recognised(records: Iterable[Piece], before: Iterable[Piece]) -> tuple[list[Piece], list[Piece]]:
    """Pieces of the records that were planned before, and the records that were not."""
    known: dict[tuple[str, str, Fate], list[Piece]] = {}
    for piece in before:
        known.setdefault((piece.record_id, piece.digest, piece.fate), []).append(piece)
    kept, new = list[Piece](), list[Piece]()
    for record in records:
        found = known.get((record.record_id, record.digest, record.fate))
        if not found:
            new.append(record)
        while found:
            piece = found.pop(0)
            kept.append(replace(record, shard=piece.shard, first_chunk=piece.first_chunk, end_chunk=piece.end_chunk))
            if not piece.chunks:  # one of several records of an id that are not planned
                break
    return kept, new


def _cut(
    records: Iterable[Piece], key: Callable[[int], str], numbered: int, shard_chunks: int, home: str
) -> Iterator[Piece]:
    """New records cut into new shards; one without chunks goes to its neighbour's, or to `home`."""
    offset, shard = 0, home  # offset: new chunks before this record
    for record in records:
        end = offset + record.chunks
        for index in range(offset // shard_chunks, -(-end // shard_chunks)) if record.chunks else ():
            first, stop = max(offset, index * shard_chunks), min(end, (index + 1) * shard_chunks)
            shard = key(numbered + index)
            yield replace(record, shard=shard, first_chunk=first - offset, end_chunk=stop - offset)
        if not record.chunks:
            yield replace(record, shard=shard)
        offset = end


def records_digest(pieces: Sequence[Piece]) -> str:
    """Digest of a file's records, ids and letters in file order, however the file is written or packed."""
    return digest_of([[piece.record_id, piece.digest] for piece in pieces if not piece.first_chunk])


def plan_faults(pieces: Sequence[Piece], chunk_length: int) -> Iterator[str]:
    """What is wrong with a plan, a sentence each: every chunk of a planned record is in one shard, and once."""
    covered: dict[tuple[str, int], int] = {}
    for piece in pieces:
        place = piece.source, piece.number
        if piece.first_chunk != covered.get(place, 0):
            yield f"{piece.record_id}: chunk {covered.get(place, 0)} is in no shard or two"
        covered[place] = piece.end_chunk
    for place, piece in {(piece.source, piece.number): piece for piece in pieces}.items():
        chunks = chunk_count(piece.length_nt, chunk_length) if piece.fate == "planned" else 0
        if covered[place] != chunks:
            yield f"{piece.record_id}: {covered[place]} chunks planned of {chunks} in {piece.length_nt} nt"
