"""Evidence that contradicts itself or compares unlike things is missing evidence, named piece by piece."""

from __future__ import annotations

from typing import Any

import pytest

from virnuc_assets.migration.criterion import Criterion
from virnuc_assets.migration.evidence import Evidence
from virnuc_assets.migration.soundness import dims_match_encoders, same_environment, variant_is_current

from .evidence_fakes import benchmark, description, evidence, fingerprint, right, rows, variant

TABLE = rows(right(50), right(50))


def with_candidate(**changes: Any) -> Evidence:
    return evidence(candidate=variant("fastesm2", TABLE, description=description("fastesm2", **changes)))


def encoders(dna: dict[str, str] | None = None, protein: dict[str, str] | None = None) -> dict[str, Any]:
    return {"dna": dna or fingerprint("dnabert_s"), "protein": protein or fingerprint("fastesm2")}


def assert_missing(found: Criterion, *pieces: str) -> None:
    assert found.outcome == "missing"
    assert found.missing == pieces


def test_sound_evidence() -> None:
    assert dims_match_encoders(evidence()).outcome == "met"
    assert dims_match_encoders(evidence()).explanation == "fastesm2: 12 + 8 = 20; esm2_3b: 12 + 20 = 32"
    assert same_environment(evidence()).outcome == "met"


def test_merged_dim_is_the_sum() -> None:
    gap = "fastesm2: merged_dim 21 is not dna_dim 12 + protein_dim 8"
    assert_missing(dims_match_encoders(with_candidate(merged_dim=21)), gap)


def test_dims_are_those_of_the_benchmarked_encoder() -> None:
    found = dims_match_encoders(with_candidate(protein_dim=20, merged_dim=32))
    assert_missing(found, "fastesm2: protein_dim is 20, but fastesm2 is 8 wide by the encoder benchmark")


def test_dims_are_those_of_the_fingerprint() -> None:
    wide = with_candidate(encoders=encoders(protein=fingerprint("fastesm2", dim="9")))
    assert_missing(dims_match_encoders(wide), "fastesm2: protein_dim is 8, but fastesm2 is 9 wide by its fingerprint")


def test_dims_that_nobody_tells_are_missing() -> None:
    rates = benchmark()
    del rates["fastesm2"]
    gap = "fastesm2: neither fingerprint nor benchmark tells the dim of fastesm2"
    assert_missing(dims_match_encoders(evidence(benchmark=rates)), gap)
    assert_missing(dims_match_encoders(evidence(benchmark=None)), "no encoder benchmark is stored")


@pytest.mark.parametrize("criterion", [dims_match_encoders, same_environment])
def test_a_classifier_without_description(criterion: Any) -> None:
    bare = evidence(baseline=variant("esm2_3b", TABLE, description=None))
    assert_missing(criterion(bare), "esm2_3b: no description of the classifier is stored")
    told = evidence(baseline=variant("esm2_3b", None, description=None, problems=("never trained",)))
    assert_missing(criterion(told), "never trained")


@pytest.mark.parametrize(
    ("changes", "piece"),
    [
        ({"chunk_length": 300}, "chunk_length is 300 for fastesm2 and 500 for esm2_3b"),
        ({"seed": 7}, "seed is 7 for fastesm2 and 0 for esm2_3b"),
        ({"seed": None}, "seed is not told for fastesm2 and 0 for esm2_3b"),  # trained elsewhere
        ({"split_digest": "split-2"}, "split_digest is split-2 for fastesm2 and split-1 for esm2_3b"),
        ({"training": {"seed": 0, "hidden": 8}}, "training is {'seed': 0, 'hidden': 8} for fastesm2"),
        (
            {"encoders": encoders(dna=fingerprint("dnabert_s", checkpoint_digest="other"))},
            "dna encoder's checkpoint_digest is other for fastesm2 and digest-of-dnabert_s for esm2_3b",
        ),
        (
            {"encoders": encoders(protein=fingerprint("fastesm2", precision="fp16"))},
            "protein encoder's precision is fp16 for fastesm2 and fp32 for esm2_3b",
        ),
        (
            {"encoders": encoders(protein=fingerprint("fastesm2", **{"version.torch": "2.12.0"}))},
            "protein encoder's version.torch is 2.12.0 for fastesm2 and 2.13.0 for esm2_3b",
        ),
    ],
)
def test_unlike_environments_are_named(changes: dict[str, Any], piece: str) -> None:
    found = same_environment(with_candidate(**changes))
    assert found.outcome == "missing"
    assert len(found.missing) == 1 and piece in found.missing[0]


def test_what_neither_side_tells_is_missing_too() -> None:
    silent = {name: description(name) for name in ("fastesm2", "esm2_3b")}
    for facts in silent.values():
        del facts["split_digest"]
    found = same_environment(
        evidence(
            candidate=variant("fastesm2", TABLE, description=silent["fastesm2"]),
            baseline=variant("esm2_3b", TABLE, description=silent["esm2_3b"]),
        )
    )
    gap = "not made under equal conditions: split_digest is not told for fastesm2 and not told for esm2_3b"
    assert_missing(found, gap)


def test_currency() -> None:
    assert variant_is_current("baseline", variant("esm2_3b", TABLE)).outcome == "met"
    stale = "stale: classifier trained on features digest X, features are now Y"
    found = variant_is_current("baseline", variant("esm2_3b", TABLE, problems=(stale,)))
    assert found.name == "baseline_is_current"
    assert_missing(found, stale)
    assert_missing(
        variant_is_current("floor", variant("kmer", None)), "kmer: no predictions on the test rows are stored"
    )
