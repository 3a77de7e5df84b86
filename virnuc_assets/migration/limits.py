"""What a reader of the report could believe was tested and was not."""

from __future__ import annotations

from collections.abc import Iterable

from virnuc_assets.migration.comparison import GroupDrop
from virnuc_assets.migration.verdict import Decision

MINIATURE_WARNING = "weights are random: this verdict shows the machinery, not the models"


def not_measured(decision: Decision) -> list[str]:
    """Each limit as a sentence."""
    described = [variant.description for variant in decision.variants.values() if variant.description]
    limits = [f"The models themselves: {MINIATURE_WARNING}."] if decision.miniatures else []
    limits += [
        f"Chunk lengths other than {length} nt."
        for length in list(dict.fromkeys(one.get("chunk_length") for one in described))[:1]
        if length
    ]
    limits += [
        "Whether calls of whole chunks and records are good enough: they are shown, but criteria judge frames only.",
        "Variation between trainings: each classifier was trained with one seed; "
        "intervals cover the choice of test records only.",
        "Uncertainty of speed and memory: the benchmark's figures have no interval and hold for the machine, "
        "the precision and the sequences that they were taken with.",
        "Virus and host groups that have no test record.",
    ]
    if not decision.ablations:
        limits.append("What each encoder alone is worth: no ablations of today's features are stored.")
    groups = decision.comparison.groups if decision.comparison else ()
    least = decision.settings["min_group_rows"]
    limits += _listed(
        f"Groups of fewer than {least} test rows are shown, not judged",
        (group for group in groups if not group.judged),
    )
    limits += _listed(
        "Groups whose test rows are one cluster of relatives have no interval and are judged by the drop alone",
        (group for group in groups if group.judged and group.drop.low is None),
    )
    limits += [
        f"What {variant.variant} was trained on: its classifier was imported ({variant.description['origin']}), "
        "so the test records may have been among its training rows, which flatters it."
        for variant in decision.variants.values()
        if variant.description and variant.description.get("origin")
    ]
    return limits


def _listed(what: str, groups: Iterable[GroupDrop]) -> list[str]:
    names = [f"{group.label} / {group.group} ({group.rows:,} rows)" for group in groups]
    return [f"{what}: {', '.join(names)}."] if names else []
