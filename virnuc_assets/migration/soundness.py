"""The criteria about the evidence itself: dims, equal environment, currency.

None of these can fail: evidence that contradicts itself, or compares unlike things, says nothing about the
candidate. It counts as missing, so the decision is NO DECISION and never a verdict made from it.
"""

from __future__ import annotations

from virnuc_assets.migration.comparison import Comparison
from virnuc_assets.migration.criterion import Criterion, Rule, affirm, lack
from virnuc_assets.migration.evidence import SIDES, Evidence, VariantEvidence
from virnuc_assets.settings import DecisionSettings

SAME_DESCRIPTION = ("chunk_length", "seed", "training", "split_digest")
NOT_TOLD = "not told"
# What makes an encoder the one it is; everything else in a fingerprint is the environment it ran in.
ENCODER_IDENTITY = frozenset({
    "encoder", "alphabet", "architecture", "checkpoint", "revision", "checkpoint_digest",
    "pooling", "max_length", "k", "dim",
})  # fmt: skip


def variant_is_current(role: str, variant: VariantEvidence) -> Criterion:
    """Are the variant's predictions stored, and made from today's inputs?"""
    rule = Rule(f"{role}_is_current", f"Is the {role}'s evidence stored and made from today's inputs?")
    return lack(rule, variant.gaps) if variant.gaps else affirm(rule, f"{variant.variant}: nothing is absent or stale")


def enough_test_records(comparison: Comparison | None, gaps: tuple[str, ...], settings: DecisionSettings) -> Criterion:
    """Are there enough test rows, and enough unrelated records of both labels, for an interval to be trusted?"""
    rule = Rule("enough_test_records", "Are there enough test rows, from enough unrelated records of both labels?")
    if comparison is None:
        return lack(rule, gaps)
    found = {
        "test rows": (comparison.rows, settings.min_test_rows),
        "clusters of unrelated test records": (comparison.clusters, settings.min_test_clusters),
        "viral clusters": (comparison.viral_clusters, settings.min_clusters_per_label),
        "host clusters": (comparison.host_clusters, settings.min_clusters_per_label),
    }
    lacking = tuple(
        f"too little to decide on: {count:,} {what}, at least {least:,} are asked for; add reference genomes"
        for what, (count, least) in found.items()
        if count < least
    )
    told = ", ".join(f"{count:,} {what}" for what, (count, _) in found.items())
    return lack(rule, lacking) if lacking else affirm(rule, told)


def dims_match_encoders(evidence: Evidence) -> Criterion:
    """Are both classifiers exactly as wide as the encoders under them?"""
    rule = Rule("dims_match_encoders", "Are both classifiers exactly as wide as the encoders under them?")
    gaps: list[str] = []
    facts = []
    for variant in (evidence.candidate, evidence.baseline):
        found = variant.description
        if found is None:
            gaps.extend(_undescribed(variant))
            continue
        dna, protein, merged = (found.get(key) for key in ("dna_dim", "protein_dim", "merged_dim"))
        if not (isinstance(dna, int) and isinstance(protein, int) and dna + protein == merged):
            gaps.append(f"{variant.variant}: merged_dim {merged} is not dna_dim {dna} + protein_dim {protein}")
        gaps.extend(_dim_gaps(variant, evidence))
        facts.append(f"{variant.variant}: {dna} + {protein} = {merged}")
    return lack(rule, tuple(gaps)) if gaps else affirm(rule, "; ".join(facts))


def _dim_gaps(variant: VariantEvidence, evidence: Evidence) -> list[str]:
    """Dims of the classifier that the fingerprints or the benchmark contradict, or that neither tells."""
    gaps: list[str] = []
    for side, name in zip(SIDES, (variant.dna_name, variant.protein_name), strict=True):
        expected = (variant.description or {}).get(f"{side}_dim")
        told = {
            "its fingerprint": variant.fingerprint(side).get("dim"),
            "the encoder benchmark": (evidence.benchmark or {}).get(name, {}).get("dim"),
        }
        known = {source: dim for source, dim in told.items() if dim is not None}
        if not known:
            untold = (f"{variant.variant}: neither fingerprint nor benchmark tells the dim of {name}",)
            gaps.extend(evidence.benchmark_gaps or untold)
        gaps += [
            f"{variant.variant}: {side}_dim is {expected}, but {name} is {dim} wide by {source}"
            for source, dim in known.items()
            if str(dim) != str(expected)
        ]
    return gaps


def same_environment(evidence: Evidence) -> Criterion:
    """Do candidate and baseline differ in the protein encoder only?"""
    question = "Do both sides share chunk length, split, training recipe, DNA encoder, precision and library versions?"
    rule = Rule("same_environment", question)
    ours, theirs = evidence.candidate, evidence.baseline
    undescribed = [gap for side in (ours, theirs) if side.description is None for gap in _undescribed(side)]
    if undescribed:
        return lack(rule, tuple(undescribed))
    compared = {key: (_told(ours, key), _told(theirs, key)) for key in SAME_DESCRIPTION}
    for side in SIDES:
        left, right = ours.fingerprint(side), theirs.fingerprint(side)
        keys = {"precision"} | left.keys() | right.keys()
        for key in sorted(keys if side == "dna" else keys - ENCODER_IDENTITY):
            compared[f"{side} encoder's {key}"] = (
                str(left.get(key, NOT_TOLD)),
                str(right.get(key, NOT_TOLD)),
            )
    gaps = tuple(
        f"not made under equal conditions: {what} is {a} for {ours.variant} and {b} for {theirs.variant}"
        for what, (a, b) in compared.items()
        if a != b or a == NOT_TOLD
    )
    return lack(rule, gaps) if gaps else affirm(rule, f"equal on both sides: {', '.join(compared)}")


def _undescribed(variant: VariantEvidence) -> tuple[str, ...]:
    return variant.problems or (f"{variant.variant}: no description of the classifier is stored",)


def _told(variant: VariantEvidence, key: str) -> str:
    value = (variant.description or {}).get(key)  # a classifier that was trained elsewhere tells null
    return NOT_TOLD if value is None else str(value)
