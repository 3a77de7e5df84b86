"""A mutated copy, the reverse complement and a fragment of a genome lie where the genome lies, whatever the seed."""

from __future__ import annotations

import gzip
from pathlib import Path

import pyarrow as pa
import pytest
from Bio import SeqIO

from virnuc_assets.classifier.assigning import assign_splits
from virnuc_assets.classifier.leaks import relatives_apart
from virnuc_assets.classifier.relatives import find_relatives
from virnuc_assets.classifier.split import sides_of
from virnuc_assets.settings import SplitSettings
from virnuc_assets_tests.classifier.planted import gene, mutated, reverse_complement

GENOMES = Path(__file__).parents[2] / "data" / "genomes" / "viral"
FRAGMENT_NT = 1500
Records = dict[str, bytes]


def genome(name: str) -> bytes:
    with gzip.open(GENOMES / f"{name}.fna.gz", "rt") as handle:
        return bytes(next(SeqIO.parse(handle, "fasta")).seq)


def planted(whole: bytes, seed: int) -> Records:
    start = seed * 331 % (len(whole) - FRAGMENT_NT)
    return {
        "whole": whole,
        "mutated": mutated(whole, 0.02, seed),
        "reversed": reverse_complement(whole),
        "fragment": whole[start : start + FRAGMENT_NT],
        "all_three": reverse_complement(mutated(whole, 0.02, seed + 1)[start : start + FRAGMENT_NT]),
    }


def others() -> Records:
    """Four unrelated viral and four host records, so that every side can be had."""
    return {
        f"{label}{number}": gene(100 + 10 * number + len(label)) for label in ("viral", "host") for number in range(4)
    }


def split(records: Records, seed: int, before: pa.Table | None = None) -> pa.Table:
    counted = [
        {"record_id": record, "label": "host" if "host" in record else "viral", "group": "any", "rows": len(sequence)}
        for record, sequence in records.items()
    ]
    settings = SplitSettings(seed=seed)
    kinship = find_relatives(records.items(), {}, settings, {})
    kept = before.to_pylist() if before else []
    return assign_splits(kinship, pa.Table.from_pylist(counted), settings, {}, kept)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", ["phiX174", "HIV1", "random"])
def test_planted_relatives_never_land_on_two_sides(name: str, seed: int) -> None:
    relatives = planted(gene(seed) if name == "random" else genome(name), seed)
    table = split({**relatives, **others()}, seed)
    sides = sides_of(table.to_pylist())
    assert len({sides[record] for record in relatives}) == 1
    assert set(sides.values()) == {"train", "validation", "test"}


@pytest.mark.parametrize("relative", ["mutated", "reversed", "fragment", "all_three"])
def test_a_relative_that_arrives_later_joins_the_genome(relative: str) -> None:
    for seed in range(3):
        relatives = planted(gene(seed), seed)
        before = split({"whole": relatives["whole"], **others()}, seed)
        after = sides_of(split({**others(), **relatives}, seed, before).to_pylist())
        old = sides_of(before.to_pylist())
        assert {record: after[record] for record in old} == old
        assert after[relative] == old["whole"]


@pytest.mark.parametrize("relative", ["mutated", "reversed", "fragment", "all_three"])
def test_a_relative_on_another_side_is_found_whatever_the_table_says(relative: str) -> None:
    records = {**planted(gene(7), 7), **others()}
    rows = [row for row in split(records, 0).to_pylist() if row["record_id"] in ("whole", relative, *others())]
    assert relatives_apart(rows, records.items(), {}, SplitSettings(), {}) == {}
    (moved,) = (row for row in rows if row["record_id"] == relative)
    moved.update(split="train" if moved["split"] == "test" else "test", cluster="a cluster of its own")
    (fault,) = relatives_apart(rows, records.items(), {}, SplitSettings(), {}).items()
    assert {fault[0], *(name for name in ("whole", relative) if name in fault[1][0])} == {"whole", relative}
    moved["split"] = "left_out"
    assert relatives_apart(rows, records.items(), {}, SplitSettings(), {}) == {}
