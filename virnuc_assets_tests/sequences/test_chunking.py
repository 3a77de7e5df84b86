"""Chunk geometry: hand-computed cases of every rule, and a plain walk along the record for every length to 5,000."""

import pytest

from virnuc_assets.sequences.chunking import chunk_count, chunk_starts

from .plain import walked_chunks


def spans(length_nt: int, chunk_length: int) -> list[tuple[int, int]]:
    starts = chunk_starts(0, chunk_count(length_nt, chunk_length), length_nt, chunk_length).tolist()
    return [(start, min(start + chunk_length, length_nt)) for start in starts]


# k chunks, surplus r = k·c − n, q = r // k; min(r − (k−1)·q, k−1) steps go back q + 1, the others q.
HAND_COMPUTED = [
    (500, 0, []),
    # shorter than a chunk, and exactly one
    (500, 1, [(0, 1)]),
    (500, 499, [(0, 499)]),
    (500, 500, [(0, 500)]),
    (300, 299, [(0, 299)]),
    (300, 300, [(0, 300)]),
    # one base more: k = 2, r = 499, q = 249, 250 > 1: the one step goes back 250, the last chunk is shorter
    (500, 501, [(0, 500), (250, 501)]),
    # k = 2, r = 299, q = 149: back 150
    (300, 301, [(0, 300), (150, 301)]),
    # k = 2, r = 498, q = 249: back 250, although 249 twice would do
    (500, 502, [(0, 500), (250, 502)]),
    # k = 2, r = 2, q = 1, 1 longer step: back 2, the last chunk is whole
    (500, 998, [(0, 500), (498, 998)]),
    # k = 2, r = 1, q = 0: back 1
    (500, 999, [(0, 500), (499, 999)]),
    # exact multiples do not overlap
    (500, 1000, [(0, 500), (500, 1000)]),
    (300, 900, [(0, 300), (300, 600), (600, 900)]),
    # k = 3, r = 499, q = 166, 167 > 2: back 167 twice, the last is 335 long
    (500, 1001, [(0, 500), (333, 833), (666, 1001)]),
    # k = 3, r = 300 = 3 · 100, yet 100 > 2: back 101 twice, the last is 402 long
    (500, 1200, [(0, 500), (399, 899), (798, 1200)]),
    # k = 5, r = 3, q = 0: the first three steps go back 1, the fourth 0
    (300, 1497, [(0, 300), (299, 599), (598, 898), (897, 1197), (1197, 1497)]),
    # k = 5, r = 6, q = 1: the first two steps go back 2, the others 1
    (300, 1494, [(0, 300), (298, 598), (596, 896), (895, 1195), (1194, 1494)]),
    # k = 5, r = 8, q = 1, 4 longer steps are all there are: the last is just whole
    (300, 1492, [(0, 300), (298, 598), (596, 896), (894, 1194), (1192, 1492)]),
    # k = 5, r = 9, q = 1, 5 > 4: the last is one base short
    (300, 1491, [(0, 300), (298, 598), (596, 896), (894, 1194), (1192, 1491)]),
]


@pytest.mark.parametrize(("chunk_length", "length_nt", "expected"), HAND_COMPUTED)
def test_hand_computed_spans(chunk_length: int, length_nt: int, expected: list[tuple[int, int]]) -> None:
    assert spans(length_nt, chunk_length) == expected
    assert chunk_count(length_nt, chunk_length) == len(expected)


@pytest.mark.parametrize("chunk_length", [300, 500])
def test_every_length_agrees_with_a_walk_along_the_record(chunk_length: int) -> None:
    for length_nt in range(1, 5001):
        assert spans(length_nt, chunk_length) == walked_chunks(length_nt, chunk_length), length_nt


@pytest.mark.parametrize("chunk_length", [300, 500])
def test_chunks_cover_every_record_in_order_and_only_the_last_may_be_shorter(chunk_length: int) -> None:
    for length_nt in range(1, 5001):
        found = spans(length_nt, chunk_length)
        assert found[0][0] == 0, length_nt
        assert found[-1][1] == length_nt
        for (start, end), (next_start, next_end) in zip(found, found[1:], strict=False):
            assert start < next_start <= end <= next_end, length_nt
            assert end - start == chunk_length, length_nt


@pytest.mark.parametrize(("chunk_length", "length_nt"), [(500, 5001), (300, 1494), (500, 501), (300, 17)])
def test_a_range_of_chunks_is_a_slice_of_the_whole(chunk_length: int, length_nt: int) -> None:
    whole = [start for start, _ in spans(length_nt, chunk_length)]
    for first in range(len(whole) + 1):
        for end in range(first, len(whole) + 1):
            assert chunk_starts(first, end, length_nt, chunk_length).tolist() == whole[first:end]


def test_a_start_needs_no_walk() -> None:
    """A record of 3·10^12 nt; r = 1, so the first step alone goes back."""
    length_nt = 3_000_000_000_000 - 1
    assert chunk_starts(0, 1, length_nt, 300).tolist() == [0]
    assert chunk_starts(9_999_999_999, 10_000_000_000, length_nt, 300).tolist() == [length_nt - 300]
