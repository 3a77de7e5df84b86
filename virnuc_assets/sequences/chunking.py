"""VirNucPro's chunk geometry in closed form (upstream: `split_fasta_chunk` in units.py)."""

from __future__ import annotations

import numpy as np


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
