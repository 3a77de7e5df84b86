"""Which reference sources planning would find to be others than they were, told without reading a sequence."""

from __future__ import annotations

from typing import Any

from virnuc_assets.resources import Workspace
from virnuc_assets.sequences.catalogue import Source
from virnuc_assets.sequences.plan_table import source_states
from virnuc_assets.settings import SequenceSettings
from virnuc_assets.storage.footers import footer
from virnuc_assets.storage.tables import Recipe


def changed_sources(workspace: Workspace) -> dict[str, str]:
    """Catalogued sources that are not those of their plan, by name, each with the reason.

    A file counts as changed if its path, size or time of change is another than when it was planned.

    Raises:
        CatalogueError: the catalogue cannot be read.
    """
    found = {}
    for source in workspace.catalogue():
        path = workspace.layout.plan("reference", source.name)
        plan = footer(path)
        if plan is None:
            found[source.name] = "its plan is damaged" if path.is_file() else "not planned yet"
        elif reason := _changed(source, workspace.settings.sequences, plan.recipe):
            found[source.name] = reason
    return found


def _changed(source: Source, settings: SequenceSettings, plan: Recipe) -> str | None:
    states, planned = source_states(source), plan.get("states", {})
    if states != planned:
        moved = states.keys() != planned.keys()
        return "its files lie elsewhere than was planned" if moved else "its files changed since they were planned"
    wanted: dict[str, Any] = {"label": source.label, "group": source.group, **settings.model_dump()}
    checksums = {"sha256": source.fasta_sha256, "genbank_sha256": source.genbank_sha256}
    wanted |= {name: checksum for name, checksum in checksums.items() if checksum}
    for name, value in wanted.items():
        if plan.get(name) != value:
            return f"{name} changed (expected {value}, found {plan.get(name)})"
    return None
