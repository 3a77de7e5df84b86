"""Which proteins occur inside of a record's CDS translations: an index of words sampled from the translations.

Upstream asks each translation in turn (`seq_in_reflist` in units.py). Here every 16th word of eight letters of the
joined translations is kept, sorted. Wherever a protein lies in the text, exactly one of its first sixteen words is
such a word (as in BLAT, Kent 2002): sixteen look-ups find every place where it could lie, and a comparison of
letters tells whether it does.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt

_WORD = np.dtype("<u8").itemsize  # letters of a word: a machine word of bytes
_STEP = 16
_SHORTEST = _WORD + _STEP - 1
# Measured: an index costs as much as searching the text for this many proteins, and no less than a small search.
_WORTH_QUERIES, _WORTH_LETTERS = 32, 1 << 20
# Measured: comparing letters at one place costs as much as searching this many letters of the text.
_LETTERS_PER_PLACE, _MIN_PLACES = 1 << 10, 64
_BATCH = 1 << 14  # queries; their first words take 128 bytes each, some times over
_BORDER = b"\xff"  # no byte of UTF-8: nothing matches across the border of two translations
_MIXER = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: Fibonacci hashing
_SLOTS_PER_WORD = 16

_Words = npt.NDArray[np.uint64]
_Flags = npt.NDArray[np.bool_]


class CdsIndex:
    """The CDS translations of one record; the index is made once enough proteins were asked for.

    Time stays near that of searching the joined text for each protein also in repeats, where one word has thousands
    of places. Memory: the text, and about three bytes a letter more once the index is made.

    Args:
        proteins: the translations, of any letters and lengths; equal ones count once.
    """

    def __init__(self, proteins: Sequence[str]) -> None:
        self._text = _BORDER.join(protein.encode() for protein in dict.fromkeys(proteins))
        self._known = len(proteins) > 0
        self._asked = 0

    def contains(self, queries: Sequence[bytes]) -> _Flags:
        """For every query whether it occurs, letter by letter, inside of at least one translation; bool (queries,)."""
        found = np.zeros(len(queries), dtype=np.bool_)
        for start in range(0, len(queries), _BATCH):
            end = start + _BATCH
            found[start:end] = self._contained(queries[start:end])
        return found

    def _contained(self, queries: Sequence[bytes]) -> _Flags:
        self._asked += len(queries)
        indexed = self._asked >= _WORTH_QUERIES and self._asked * len(self._text) >= _WORTH_LETTERS
        lengths = np.fromiter(map(len, queries), dtype=np.int64, count=len(queries))
        long = np.flatnonzero(lengths >= _SHORTEST) if indexed else np.arange(0)
        found, settled = np.zeros(len(queries), dtype=np.bool_), np.zeros(len(queries), dtype=np.bool_)
        if len(long):
            starts = np.cumsum(lengths) - lengths
            words = _words(b"".join(queries))[starts[long, None] + np.arange(_STEP)]  # (long, step)
            found[long], settled[long] = self._compared([queries[place] for place in long.tolist()], words)
        for place in np.flatnonzero(~settled).tolist():
            found[place] = self._holds(queries[place])
        return found

    def _holds(self, query: bytes) -> bool:
        return self._known and query in self._text and _BORDER not in query

    def _compared(self, queries: Sequence[bytes], words: _Words) -> tuple[_Flags, _Flags]:
        """Whether each query was found at a place of its words, and whether that is settled: not so in repeats."""
        row, offset = np.nonzero(self._slots[_slot(words, len(self._slots))])
        first = np.searchsorted(self._sampled, words[row, offset])
        end = np.searchsorted(self._sampled, words[row, offset], side="right")
        places = np.bincount(row, weights=end - first, minlength=len(queries))
        settled = places <= max(len(self._text) // _LETTERS_PER_PLACE, _MIN_PLACES)
        found = np.zeros(len(queries), dtype=np.bool_)
        worth = (first < end) & settled[row]
        for query, begin, a, b in zip(*(part[worth].tolist() for part in (row, offset, first, end)), strict=True):
            if not found[query]:
                found[query] = self._lies_at(queries[query], self._places[a:b] - begin)
        return found, settled

    def _lies_at(self, query: bytes, places: npt.NDArray[np.int64]) -> bool:
        # A place before the text's begin counts from its end, where less is left than a query is long.
        return _BORDER not in query and any(self._text.startswith(query, place) for place in places.tolist())

    @cached_property
    def _places(self) -> npt.NDArray[np.int64]:
        """Where the sampled words begin in the text, in the order of the words."""
        return np.argsort(_words(self._text)[::_STEP], kind="stable") * _STEP

    @cached_property
    def _sampled(self) -> _Words:
        return _words(self._text)[self._places]

    @cached_property
    def _slots(self) -> _Flags:
        """Whether a sampled word has this hash: most words of most proteins have none, and need no search."""
        slots = np.zeros(1 << (_SLOTS_PER_WORD * len(self._sampled)).bit_length(), dtype=np.bool_)
        slots[_slot(self._sampled, len(slots))] = True
        return slots


def _words(text: bytes) -> _Words:
    """The eight letters that begin at each letter, but the last seven, as numbers; a view of the text."""
    return np.ndarray(max(0, len(text) - _WORD + 1), dtype="<u8", buffer=text, strides=(1,))


def _slot(words: _Words, slots: int) -> _Words:
    return (words * _MIXER) >> np.uint64(64 - (slots - 1).bit_length())
