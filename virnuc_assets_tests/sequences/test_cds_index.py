"""The index against its plain statement: any(query in protein for protein in proteins)."""

import random
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from virnuc_assets.sequences import cds_index
from virnuc_assets.sequences.cds_index import CdsIndex

AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"


def plain(proteins: list[str], queries: list[str]) -> list[bool]:
    return [any(query in protein for protein in proteins) for query in queries]


def found(proteins: list[str], queries: list[str]) -> list[bool]:
    answer = CdsIndex(proteins).contains([query.encode() for query in queries])
    assert answer.dtype == np.bool_
    return answer.tolist()


@pytest.fixture
def always_indexed(monkeypatch: pytest.MonkeyPatch) -> None:
    """However few are asked for."""
    monkeypatch.setattr(cds_index, "_WORTH_QUERIES", 0)
    monkeypatch.setattr(cds_index, "_WORTH_LETTERS", 0)


@pytest.fixture(params=["searched", "indexed", "indexed, few places compared", "indexed, small batches"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param != "searched":
        request.getfixturevalue("always_indexed")
    if request.param == "indexed, few places compared":
        monkeypatch.setattr(cds_index, "_MIN_PLACES", 2)
    if request.param == "indexed, small batches":
        monkeypatch.setattr(cds_index, "_BATCH", 3)


@st.composite
def proteins_and_queries(draw: st.DrawFn) -> tuple[list[str], list[str]]:
    """Few letters and repeated blocks, so that words have many places; queries cut out, altered and foreign."""
    letters = draw(st.sampled_from(["A", "AB", "ABC", AMINO_ACIDS + "X*"]))
    blocks = draw(st.lists(st.text(letters, max_size=40), min_size=1, max_size=4))
    protein = st.lists(st.sampled_from(blocks), max_size=6).map("".join)
    proteins = draw(st.lists(protein, max_size=6))
    joined = "".join(proteins)
    queries = []
    for _ in range(draw(st.integers(0, 12))):
        start, length = draw(st.integers(0, max(0, len(joined) - 1))), draw(st.integers(0, 70))
        query = joined[start : start + length]
        if draw(st.booleans()):
            place = draw(st.integers(0, len(query)))
            query = query[:place] + draw(st.text(letters + "\n", min_size=1, max_size=2)) + query[place + 1 :]
        queries.append(query)
    return proteins, queries


@settings(max_examples=150, deadline=None, suppress_health_check=[])
@given(proteins_and_queries())
@example(([], ["", "A"]))
@example(([""], ["", "A"]))
@example((["ABC", "DEF"], ["ABC", "CD", "ABCDEF", "", "B"]))
@example((["MKLV" * 6, "QRST" * 6], ["MKLV" * 6 + "QRST" * 6, "MKLV" * 6, "QRST" * 6, "KLVM" * 5 + "KLV"]))
def check(case: tuple[list[str], list[str]]) -> None:
    assert found(*case) == plain(*case)


@pytest.mark.usefixtures("way")
def test_it_says_what_the_plain_statement_says() -> None:
    check()


@pytest.mark.usefixtures("way")
def test_every_part_of_real_letters_at_every_offset() -> None:
    draw = random.Random(4)
    proteins = ["".join(draw.choices(AMINO_ACIDS, k=length)) for length in (5, 22, 23, 24, 39, 40, 41, 200)]
    inside = [p[a:b] for p in proteins for a in range(0, len(p), 3) for b in (a + 22, a + 23, a + 41, len(p))]
    across = [proteins[-1][-n:] + proteins[-2][:n] for n in (11, 12, 20)]
    queries = [*inside, *across, *(query[::-1] for query in inside if query != query[::-1])]
    assert found(proteins, queries) == plain(proteins, queries)
    assert all(found(proteins, inside))


@pytest.mark.usefixtures("way")
def test_letters_beyond_ascii_and_the_byte_that_parts_the_proteins() -> None:
    proteins = ["MÄRCHEN" * 5, "ÿ" * 30]
    assert found(proteins, ["ÄRCHENM" * 4, "ÿ" * 30, "ÿ" * 31, "MARCHEN" * 4]) == [True, True, False, False]
    text = "\udcff".join(proteins).encode(errors="surrogateescape")
    assert CdsIndex(proteins).contains([text, text[20:50], b"\xff", b"\xff" * 40]).tolist() == [False] * 4


def test_asking_little_by_little_is_asking_at_once(always_indexed: None) -> None:
    draw = random.Random(5)
    proteins = ["".join(draw.choices("AC", k=100)) for _ in range(20)]
    queries = [proteins[n % 20][n : n + 30] + "AC"[n % 2] for n in range(40)]
    index = CdsIndex(proteins)
    one_by_one = [bool(index.contains([query.encode()])[0]) for query in queries]
    assert one_by_one == found(proteins, queries) == plain(proteins, queries)


def genome(seed: int, proteins: int, queries: int) -> tuple[list[str], list[str]]:
    draw = random.Random(seed)
    coded = ["".join(draw.choices(AMINO_ACIDS, k=draw.randint(60, 600))) for _ in range(proteins)]
    parts = [(draw.choice(coded), draw.randint(60, 166)) for _ in range(queries)]
    return coded, [
        part[:length] if draw.random() < 0.5 else "".join(draw.choices(AMINO_ACIDS, k=length)) for part, length in parts
    ]


def test_a_bacterial_genome() -> None:
    """As many proteins as a genome has, so that the index is made."""
    proteins, queries = genome(1, 4000, 250)
    assert found(proteins, queries) == plain(proteins, queries)


def repeats() -> Iterator[tuple[list[str], list[str]]]:
    yield ["A" * 35_000], ["A" * 100 + "C"] * 300
    yield ["A" * 35_000] * 3, ["C" + "A" * 100] * 300
    unit = "".join(random.Random(6).choices(AMINO_ACIDS, k=100))
    yield [unit * 350], [unit[n % 100 :] + unit[: n % 100] + "W" for n in range(300)]
    yield [unit * 3] * 4000, [unit[n % 100 :] + unit for n in range(300)]


@pytest.mark.parametrize("case", list(repeats()), ids=["one letter", "one letter, thrice", "titin", "equal proteins"])
def test_repeats(case: tuple[list[str], list[str]]) -> None:
    """One word has thousands of places; those are left to the search of the text."""
    assert found(*case) == plain(*case)
