"""Relatives are found by themselves on real genomes and on planted ones; unrelated genomes stay apart."""

from __future__ import annotations

import csv
import random
from collections import defaultdict
from pathlib import Path

import pytest

from virnuc_assets.classifier.relatives import RelativesError, find_relatives
from virnuc_assets.classifier.sketches import _informative_stretches, protein_hashes
from virnuc_assets.sequences.opening import open_source
from virnuc_assets.sequences.reading import read_records
from virnuc_assets.settings import SplitSettings
from virnuc_assets_tests.classifier.planted import gene, mutated, reverse_complement

SETTINGS = SplitSettings()
GENOMES = Path(__file__).parents[2] / "data" / "genomes"
VIRAL_GROUPS = ("betacoronavirus", "dengue", "gemycircularvirus", "iflavirus_dwv", "orthoebolavirus", "skunavirus")


def clusters_of(records: list[tuple[str, bytes]], settings: SplitSettings = SETTINGS) -> dict[str, str]:
    return find_relatives(records, {}, settings, {}).clusters()


@pytest.fixture(scope="module")
def found() -> dict[str, set[str]]:
    """Cluster → names of the bundled genomes in it, by similarity alone: the hand-given names are not shown."""
    name_of: dict[str, str] = {}
    sequences = []
    with (GENOMES / "MANIFEST.tsv").open(newline="") as handle:
        for row in csv.DictReader(handle, delimiter="\t"):
            with open_source(GENOMES / row["fasta"]) as source:
                for record in read_records(source):
                    name_of[record.id] = row["name"]
                    sequences.append((record.id, bytes(record.sequence)))
    clusters: dict[str, set[str]] = defaultdict(set)
    for record, cluster in clusters_of(sequences).items():
        clusters[cluster].add(name_of[record])
    return clusters


@pytest.fixture(scope="module")
def by_hand() -> dict[str, set[str]]:
    groups: dict[str, set[str]] = defaultdict(set)
    with (GENOMES / "MANIFEST.tsv").open(newline="") as handle:
        for row in csv.DictReader(handle, delimiter="\t"):
            if row["relatives"]:
                groups[row["relatives"]].add(row["name"])
    return groups


@pytest.mark.parametrize("name", VIRAL_GROUPS)
def test_hand_named_viruses_are_found_by_themselves(
    name: str, found: dict[str, set[str]], by_hand: dict[str, set[str]]
) -> None:
    assert by_hand[name] in found.values()


def test_no_genomes_are_joined_that_no_one_named_relatives(
    found: dict[str, set[str]], by_hand: dict[str, set[str]]
) -> None:
    for names in found.values():
        assert len(names) == 1 or any(names <= group for group in by_hand.values()), names


def test_what_shares_no_sequence_needs_a_name(found: dict[str, set[str]], by_hand: dict[str, set[str]]) -> None:
    together = [names for names in found.values() if len(names) > 1]
    parts = {
        name: [names for names in together if names <= by_hand[name]] for name in by_hand if name not in VIRAL_GROUPS
    }
    assert parts == {
        "arabidopsis": [{"Arabidopsis_chloroplast", "Arabidopsis_mito"}],
        "drosophila": [],
        "human": [{"human_HBB", "human_MHC1", "human_MHC3"}],
    }


@pytest.mark.parametrize(
    "relative",
    [
        pytest.param(lambda whole: mutated(whole, 0.02), id="mutated by 2 %"),
        pytest.param(reverse_complement, id="reverse complement"),
        pytest.param(lambda whole: whole[701:1201], id="fragment of 500 nt"),
        pytest.param(lambda whole: reverse_complement(mutated(whole, 0.02))[100:400], id="all three"),
        pytest.param(lambda whole: gene(9) + whole[:600] + gene(8), id="a part inside a longer record"),
    ],
)
def test_planted_relatives_are_found(relative) -> None:  # noqa: ANN001
    whole = gene(1)
    assert clusters_of([("whole", whole), ("other", gene(2)), ("relative", relative(whole))]) == {
        "whole": "relative",
        "relative": "relative",
        "other": "other",
    }


def test_low_complexity_is_no_kinship() -> None:
    repeat = b"AAT" * 400 + b"AACAAT" * 200
    assert len(set(clusters_of([("a", gene(1) + repeat), ("b", gene(2) + repeat), ("c", repeat)]).values())) == 3


def test_few_shared_hashes_are_no_kinship() -> None:
    # Eleven codons are two k-mers a frame at most, though of a short record these are a large part.
    shared = gene(5, codons=11)
    records = [("a", gene(1, 40) + shared), ("b", gene(2, 2000) + shared)]
    assert clusters_of(records) == {"a": "a", "b": "b"}
    lenient = SETTINGS.model_copy(update={"min_shared_hashes": 1})
    assert clusters_of(records, lenient) == {"a": "a", "b": "a"}


def test_relatives_of_relatives_are_one_cluster_named_by_the_smallest_id() -> None:
    first, second, third = gene(1), gene(2), gene(3)
    records = [("z", first), ("m", first[:900] + second[:900]), ("q", second[:900] + third[:900]), ("x", gene(4))]
    assert clusters_of(records) == {"m": "m", "q": "m", "z": "m", "x": "x"}


def test_names_join_and_every_reason_is_told() -> None:
    whole = gene(1)
    kinship = find_relatives(
        [("a", whole), ("b", whole), ("c", gene(2)), ("d", gene(3)), ("e", gene(4))],
        {"organism X": ["b", "c"], "relatives y": ["b", "a", "c"], "lonely": ["d"]},
        SETTINGS,
        {("c", "e"): 2, ("a", "e"): 1},
    )
    assert kinship.clusters() == {"a": "a", "b": "a", "c": "a", "d": "d", "e": "a"}
    assert kinship.reasons == {
        "a": "containment 1.0000 with b; 1 pairs of similar proteins with e; named relatives y with 2 others",
        "b": "containment 1.0000 with a; named organism X with 1 others; named relatives y with 2 others",
        "c": "2 pairs of similar proteins with e; named organism X with 1 others; named relatives y with 2 others",
        "d": "alone",
        "e": "2 pairs of similar proteins with c",
    }


def test_records_that_are_taken_away_link_no_others_and_names_still_do() -> None:
    named = {"n": ["a", "b", "d"]}
    kinship = find_relatives([(name, gene(ord(name))) for name in "abcd"], named, SETTINGS, {("b", "c"): 1})
    assert kinship.clusters() == {"a": "a", "b": "a", "c": "a", "d": "a"}
    assert kinship.among(["a", "c", "d"]).clusters() == {"a": "a", "c": "c", "d": "a"}


def test_order_of_records_and_names_does_not_matter() -> None:
    records = [(f"r{number}", mutated(gene(number % 3), 0.01, number)) for number in range(9)] + [("s", gene(50))]
    expected = find_relatives(records, {"n": ["r0", "s"]}, SETTINGS, {})
    random.Random(4).shuffle(records)
    again = find_relatives(records, {"n": ["s", "r0"]}, SETTINGS, {})
    assert again == expected
    assert list(again.reasons.items()) == list(expected.reasons.items())
    assert list(expected.clusters().values()) == ["r0", "r1", "r2", "r0", "r1", "r2", "r0", "r1", "r2", "r0"]


def test_a_long_record_is_sketched_as_its_pieces_together() -> None:
    long = gene(1, codons=150_000)
    kmers = protein_hashes(long, SETTINGS)
    assert len(kmers) == len(set(kmers.tolist()))
    tail = protein_hashes(long[300_000:], SETTINGS)
    assert set(tail.tolist()) < set(kmers.tolist())
    every = SETTINGS.model_copy(update={"sketch_scaled": 1})
    share = len(protein_hashes(long[:300_000], SETTINGS)) / len(protein_hashes(long[:300_000], every))
    assert share == pytest.approx(1 / SETTINGS.sketch_scaled, abs=0.01)


def test_stretches_are_long_stop_free_and_varied() -> None:
    varied = "ACDEFGHIKLMNPQRSTVWYACDEFGHIKL"  # 30 residues
    assert list(_informative_stretches(varied, 10)) == [varied]
    assert list(_informative_stretches(varied[:-1], 10)) == []
    assert list(_informative_stretches(f"{varied}*{varied[:-1]}*{varied}W", 10)) == [varied, varied + "W"]
    assert list(_informative_stretches("*" + varied + "*", 10)) == [varied]
    # A window may hold five of the repeated residue, and then four others: six different ones with it.
    assert list(_informative_stretches(varied + "N" * 40, 10)) == [varied + "N" * 5]
    assert list(_informative_stretches("", 10)) == []


def test_records_and_names_must_be_known_and_unique() -> None:
    with pytest.raises(RelativesError, match="found more than once: a"):
        find_relatives([("a", b"ACGT"), ("a", b"ACGT")], {}, SETTINGS, {})
    with pytest.raises(RelativesError, match=r"'dengue': 1 of 2 records were not given, e.g. nowhere"):
        find_relatives([("a", b"ACGT")], {"dengue": ["a", "nowhere"]}, SETTINGS, {})
    with pytest.raises(RelativesError, match=r"'similar proteins': 1 of 2 records were not given, e.g. nowhere"):
        find_relatives([("a", b"ACGT")], {}, SETTINGS, {("a", "nowhere"): 1})
    assert clusters_of([]) == {}
    assert clusters_of([("short", b"ACG"), ("empty", b"")]) == {"short": "short", "empty": "empty"}
