"""VirNucPro's chunk geometry in closed form (upstream: `split_fasta_chunk` in units.py)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Chunk:
    """One window of a record; positions are 0-based, half-open."""

    id: str
    record_id: str
    start_nt: int
    end_nt: int


def chunk_count(length_nt: int, chunk_length: int) -> int:
    """Number of chunks of a record: the ceiling of length / chunk length."""
    return -(-length_nt // chunk_length)


def chunk_start(index: int, length_nt: int, chunk_length: int) -> int:
    """Start of the 0-based chunk `index`, without walking the chunks before it.

    The chunks of a record overlap so that together they end where the record ends: the surplus r = k·c − n
    is taken back over the k − 1 steps between chunks. Each step goes back q = r // k, the first few q + 1.
    """
    count = chunk_count(length_nt, chunk_length)
    surplus = count * chunk_length - length_nt
    step_back = surplus // count
    longer_steps = min(surplus - (count - 1) * step_back, count - 1)
    return index * (chunk_length - step_back) - min(index, longer_steps)


def chunks_of(
    record_id: str, length_nt: int, chunk_length: int, first: int = 0, end: int | None = None
) -> Iterator[Chunk]:
    """Chunks `first` to `end` (0-based, half-open) of a record; ids are `{record}_chunk_{1-based}`.

    The last chunk is shorter than `chunk_length` where few chunks cannot take back the whole surplus; a record
    shorter than `chunk_length` is one short chunk; an empty record has none.
    """
    count = chunk_count(length_nt, chunk_length)
    for index in range(first, count if end is None else end):
        start = chunk_start(index, length_nt, chunk_length)
        yield Chunk(f"{record_id}_chunk_{index + 1}", record_id, start, min(start + chunk_length, length_nt))
