"""What a project has, what of it is stale and why, what runs, and what will be asked for next; reads, and never writes.

All is told as one object of plain values: `status_cli` prints it, and machines read it as JSON.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from virnuc_assets.assets.changed_sources import changed_sources
from virnuc_assets.assets.staleness import MISSING, Overview, look_over
from virnuc_assets.bootstrap import dagster_home
from virnuc_assets.errors import VirnucError
from virnuc_assets.resources import Workspace
from virnuc_assets.sequences.incoming import read_book, visible_files, waiting_files
from virnuc_assets.storage.layout import Domain

_WAITS = "new or changed, not planned yet"
DOMAINS: tuple[Domain, ...] = ("reference", "samples")


def examine(workspace: Workspace, examples: int) -> dict[str, Any]:
    """The state of a project.

    Args:
        workspace: the project.
        examples: how many names to tell of those that share a reason; all are counted.

    Raises:
        VirnucError: the project is not set up, or its catalogue cannot be read.
    """
    home = dagster_home(workspace.settings)
    if not (home / "dagster.yaml").is_file():
        raise VirnucError(f"{home}: Dagster's home is not set up; run `virnuc setup`")
    from virnuc_assets.status_of_runs import dagster_state

    seen = {domain: look_over(workspace, domain) for domain in DOMAINS}
    sources, files = changed_sources(workspace), watched_files(workspace)
    asks = {
        "weekly_reembedding": {"shards": len(seen["reference"].stale), "changed_sources": len(sources)},
        "incoming_samples": {"files": sum(reason == _WAITS for reason in files.values())},
    }
    return {
        "profile": workspace.settings.profile,
        "shards": {domain: _counts(overview) for domain, overview in seen.items()},
        "stale": [line for domain, overview in seen.items() for line in _stale(domain, overview, examples)],
        "changed_sources": _grouped(sources, examples),
        "watched_files": _grouped(files, examples),
        **dagster_state(workspace.settings, asks, examples),
    }


def watched_files(workspace: Workspace) -> dict[str, str]:
    """What became of the files of the watched folder that have no shards, by name, each with the reason."""
    files = visible_files(workspace.settings.incoming)
    found = dict.fromkeys(waiting_files(workspace.layout, files, workspace.settings.sequences), _WAITS)
    book = read_book(workspace.layout)  # now, so that it has all that did not wait; but for what was taken away since
    for name in files:
        entry = book.get(name)
        if name not in found and entry and entry.fate != "planned":
            found[name] = f"refused: {entry.reason}" if entry.reason else f"duplicate of {entry.sample}"
    return found


def _counts(overview: Overview) -> dict[str, Any]:
    """Shards of a domain by state, and how many tables each asset has that are made, stale, missing."""
    reasons = [*overview.stale.values()]
    assets = {}
    for asset, present in overview.present.items():
        told = [of[asset] for of in reasons if asset in of]
        missing = told.count(MISSING)
        stale = len(told) - missing
        on_demand = asset in overview.on_demand
        assets[asset] = {"made": present - stale, "stale": stale, "missing": missing, "on_demand": on_demand}
    return {"planned": overview.planned, "to_do": len(reasons), "assets": assets}


def _stale(domain: Domain, overview: Overview, examples: int) -> list[dict[str, Any]]:
    """What is stale, and not merely missing, by asset and reason."""
    found = []
    for asset in overview.present:
        reasons = {shard: of[asset] for shard, of in overview.stale.items() if of.get(asset, MISSING) != MISSING}
        found += [{"asset": f"{domain}/{asset}", **line} for line in _grouped(reasons, examples)]
    return found


def _grouped(reasons: Mapping[str, str], examples: int) -> list[dict[str, Any]]:
    """For each reason how many names have it, and the first of them; the most frequent first."""
    by_reason: defaultdict[str, list[str]] = defaultdict(list)
    for name, reason in reasons.items():
        by_reason[reason].append(name)
    lines: Iterable[tuple[str, list[str]]] = sorted(by_reason.items(), key=lambda item: -len(item[1]))
    return [{"reason": reason, "count": len(names), "examples": names[:examples]} for reason, names in lines]
