"""Relatives are found by themselves on real genomes and on planted ones; unrelated genomes stay apart."""

from __future__ import annotations

import csv
import random
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import pytest

from virnuc_assets.sequences.opening import open_source
from virnuc_assets.sequences.reading import read_records
from virnuc_assets.settings import SplitSettings
from virnuc_assets.split.relatives import Clusters, Links, _informative_stretches, find_relatives, protein_hashes
from virnuc_assets_tests.split.planted import gene, mutated, reverse_complement

SETTINGS = SplitSettings()
GENOMES = Path(__file__).parents[2] / "data" / "genomes"
# Named by hand as well, but without shared sequence.
PARTLY_FOUND = {
    "arabidopsis": [{"Arabidopsis_chloroplast", "Arabidopsis_mito"}],
    "drosophila": [],
    "human": [{"human_HBB", "human_MHC1", "human_MHC3"}],
}


def clusters_of(records: list[tuple[str, bytes]], settings: SplitSettings = SETTINGS) -> dict[str, str]:
    return clustered(find_relatives(records, {}, settings, {})[0])


def clustered(links: Links, records: Iterable[str] | None = None) -> dict[str, str]:
    return Clusters(links, links if records is None else records).by_record()


def test_hand_named_genomes_are_found_by_themselves_and_no_others() -> None:
    name_of: dict[str, str] = {}
    by_hand: dict[str, set[str]] = defaultdict(set)
    sequences = []
    with (GENOMES / "MANIFEST.tsv").open(newline="") as handle:
        for row in csv.DictReader(handle, delimiter="\t"):
            by_hand[row["relatives"]].add(row["name"])
            with open_source(GENOMES / row["fasta"]) as source:
                for header, bases in read_records(source):
                    name_of[header.id] = row["name"]
                    sequences.append((header.id, b"".join(bases)))
    clusters: dict[str, set[str]] = defaultdict(set)
    for record, cluster in clusters_of(sequences).items():
        clusters[cluster].add(name_of[record])
    expected = [names for word, names in by_hand.items() if word and word not in PARTLY_FOUND]
    expected += [names for found in PARTLY_FOUND.values() for names in found]
    found = [names for names in clusters.values() if len(names) > 1]
    assert len(found) == 8
    assert sorted(map(sorted, found)) == sorted(map(sorted, expected))


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


def test_low_complexity_and_few_shared_hashes_relate_nothing() -> None:
    repeat = b"AAT" * 400 + b"AACAAT" * 200
    assert len(set(clusters_of([("a", gene(1) + repeat), ("b", gene(2) + repeat), ("c", repeat)]).values())) == 3
    # Eleven codons are two k-mers a frame at most, though of a short record these are a large part.
    shared = gene(5, codons=11)
    records = [("a", gene(1, 40) + shared), ("b", gene(2, 2000) + shared)]
    assert clusters_of(records) == {"a": "a", "b": "b"}
    lenient = SETTINGS.model_copy(update={"min_shared_hashes": 1})
    assert clusters_of(records, lenient) == {"a": "a", "b": "a"}
    assert clusters_of([("short", b"ACG"), ("empty", b"")]) == {"short": "short", "empty": "empty"}


def test_relatives_of_relatives_are_one_cluster_named_by_the_smallest_id() -> None:
    first, second, third = gene(1), gene(2), gene(3)
    records = [("z", first), ("m", first[:900] + second[:900]), ("q", second[:900] + third[:900]), ("x", gene(4))]
    assert clusters_of(records) == {"m": "m", "q": "m", "z": "m", "x": "x"}


def test_names_join_and_every_reason_is_given_in_whatever_order_records_come() -> None:
    records = [("a", gene(1)), ("b", gene(1)), ("c", gene(2)), ("d", gene(3)), ("e", gene(4))]
    for order in (records, random.Random(4).sample(records, len(records))):
        links, reasons = find_relatives(
            order,
            {"organism X": ["b", "c"], "relatives y": ["b", "a", "c"], "lonely": ["d"]},
            SETTINGS,
            {("c", "e"): 2, ("a", "e"): 1},
        )
        assert list(clustered(links).items()) == [("a", "a"), ("b", "a"), ("c", "a"), ("d", "d"), ("e", "a")]
        assert reasons == {
            "a": "containment 1.0000 with b; 1 pairs of similar proteins with e; named relatives y with 2 others",
            "b": "containment 1.0000 with a; named organism X with 1 others; named relatives y with 2 others",
            "c": "2 pairs of similar proteins with e; named organism X with 1 others; named relatives y with 2 others",
            "d": "alone",
            "e": "2 pairs of similar proteins with c",
        }


def test_a_record_that_is_not_clustered_links_no_others_and_a_name_still_does() -> None:
    named = {"n": ["a", "b", "d"]}
    related, _ = find_relatives([(name, gene(ord(name))) for name in "abcd"], named, SETTINGS, {("b", "c"): 1})
    assert clustered(related) == {"a": "a", "b": "a", "c": "a", "d": "a"}
    assert clustered(related, ["d", "c", "a"]) == {"a": "a", "c": "c", "d": "a"}


def test_a_long_record_is_sketched_as_its_segments_together() -> None:
    long = gene(1, codons=150_000)
    hashes = protein_hashes(long, SETTINGS)
    assert len(hashes) == len(set(hashes.tolist()))
    assert set(protein_hashes(long[300_000:], SETTINGS).tolist()) < set(hashes.tolist())
    every = SETTINGS.model_copy(update={"sketch_scaled": 1})
    share = len(protein_hashes(long[:300_000], SETTINGS)) / len(protein_hashes(long[:300_000], every))
    assert share == pytest.approx(1 / SETTINGS.sketch_scaled, abs=0.01)


VARIED = "ACDEFGHIKLMNPQRSTVWYACDEFGHIKL"  # 30 residues


@pytest.mark.parametrize(
    ("protein", "stretches"),
    [
        (VARIED, [VARIED]),
        (VARIED[:-1], []),
        (f"{VARIED}*{VARIED[:-1]}*{VARIED}W", [VARIED, VARIED + "W"]),
        (f"*{VARIED}*", [VARIED]),
        # A window may have five of the repeated residue, and then four others: six different ones with it.
        (VARIED + "N" * 40, [VARIED + "N" * 5]),
        ("", []),
    ],
)
def test_stretches_are_long_stop_free_and_varied(protein: str, stretches: list[str]) -> None:
    assert list(_informative_stretches(protein, 10)) == stretches
