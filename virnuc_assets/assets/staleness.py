"""Which tables of planned shards are not those of today, and why, told from what lies on disk.

Recipes are compared as the assets themselves compare them, so that what is stale here is what a run would make anew.
The first cause in the chain is named; what follows from it says no more than that.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from virnuc_assets.assets.finetuning import asset_name
from virnuc_assets.assets.recipes import ShardInputs, embeddings_recipe, predictions_recipe, read_shard_inputs
from virnuc_assets.encoders.checkpoints import CheckpointError, CheckpointMissingError, find_checkpoint
from virnuc_assets.encoders.fingerprint import fingerprint
from virnuc_assets.encoders.registry import Variant
from virnuc_assets.resources import Workspace
from virnuc_assets.storage.footers import Footer, footers
from virnuc_assets.storage.layout import CLASSIFIER_FILE, Domain
from virnuc_assets.storage.tables import Recipe, TableMismatch

MISSING = "missing"
DAMAGED = "damaged"
UPSTREAM = "what it is made from is stale"
NO_CLASSIFIER = "there is no serving classifier"
_SHOWN_LETTERS = 16
# What a person calls an entry of a recipe that changed.
_CALLED = {
    "pieces": "its records",
    "chunk_length": "the chunk length",
    "chunks": "its chunks",
    "evidence": "the CDS evidence of its records",
    "label": "its label",
    "group": "its group",
    "frames": "its frames",
    "features": "its features",
    "planned": "its records",
    "classifier": "the serving classifier",
    "checkpoint_digest": "weights",
}
_TOLD_WITH_VALUES = {"chunk_length", "label", "group"}
# The entries of a fingerprint that say most, before all others.
_FIRST = ("encoder", "checkpoint", "revision", "checkpoint_digest", "precision")

Reasons = dict[str, str]


class _Stage(NamedTuple):
    """A per-shard asset; `explain` says why a table of this recipe is not today's, or None where it is."""

    asset: str
    upstream: tuple[str, ...]
    explain: Callable[[str, ShardInputs, Recipe], str | None]
    on_demand: bool = False


def stale(workspace: Workspace, domain: Domain) -> dict[str, Reasons]:
    """Planned shards with a table that is missing, damaged, or made from something else than today's inputs.

    A table that is made on demand (of a sample, for a variant that does not serve) counts only where it exists.

    Returns:
        For each such shard its stale assets in the order in which they are made, each with the reason.

    Raises:
        CatalogueError: the reference's catalogue cannot be read.
    """
    return look_over(workspace, domain).stale


@dataclass(frozen=True)
class Overview:
    """All planned shards of a domain as they lie on disk.

    Attributes:
        planned: their number.
        stale: as of `stale`.
        present: for each per-shard asset, in the order in which they are made, how many shards have a table.
        on_demand: assets that are made when a person asks for them.
    """

    planned: int
    stale: dict[str, Reasons]
    present: dict[str, int]
    on_demand: frozenset[str]


def look_over(workspace: Workspace, domain: Domain) -> Overview:
    """Look at all planned shards; raises as `stale`."""
    look, shards = _Look(workspace, domain), planned_shard_inputs(workspace, domain)
    found = {shard: look.reasons(shard, inputs) for shard, inputs in shards.items()}
    return Overview(
        planned=len(shards),
        stale={shard: reasons for shard, reasons in found.items() if reasons},
        present={stage.asset: len(shards.keys() & look.tables[stage.asset].keys()) for stage in look.stages},
        on_demand=frozenset(stage.asset for stage in look.stages if stage.on_demand),
    )


def planned_shard_inputs(workspace: Workspace, domain: Domain) -> dict[str, ShardInputs]:
    """What each planned shard of a domain must be made from.

    Reference sources that are no longer catalogued are left out, and so is a source whose plan is damaged.

    Raises:
        CatalogueError: the reference's catalogue cannot be read.
    """
    sources = sorted(footers(workspace.layout.plan(domain, "").parent))
    if domain == "reference":
        catalogued = {source.name for source in workspace.catalogue()}
        sources = [source for source in sources if source in catalogued]
    found: dict[str, ShardInputs] = {}
    for source in sources:
        try:
            found.update(read_shard_inputs(workspace.layout.plan(domain, source)))
        except (FileNotFoundError, TableMismatch):  # its planning fails by name, and `changed_sources` tells it
            continue
    return found


class _Look:
    """One look at a domain: what lies on disk now, and what encoders and classifier are today."""

    def __init__(self, workspace: Workspace, domain: Domain) -> None:
        self._chunk_length = workspace.settings.sequences.chunk_length
        self._names = {name: workspace.encoder(name).name for name in workspace.encoder_names(domain)}
        self._encoders = {name: _todays_encoder(workspace, name) for name in self._names}
        self.stages = self._all_stages(workspace, domain)
        folder = workspace.layout.results / domain
        self.tables: dict[str, Mapping[str, Footer | None]] = {
            asset: footers(folder / asset) for asset in ("ledger", *(stage.asset for stage in self.stages))
        }

    def reasons(self, shard: str, inputs: ShardInputs) -> Reasons:
        """Stale assets of a shard."""
        found: Reasons = {}
        for asset, upstream, explain, on_demand in self.stages:
            tables = self.tables[asset]
            if shard not in tables:
                if not on_demand:
                    found[asset] = MISSING
            elif (table := tables[shard]) is None:
                found[asset] = DAMAGED
            elif any(name in found for name in upstream):
                found[asset] = UPSTREAM
            elif reason := explain(shard, inputs, table.recipe):
                found[asset] = reason
        return found

    def _all_stages(self, workspace: Workspace, domain: Domain) -> list[_Stage]:
        serving = workspace.variant(workspace.settings.serving.variant)
        tuned = {asset_name(name) for name in workspace.settings.finetuning.encoders}  # made on demand
        chunked, translated = "chunked_fasta", "translated_proteins"
        stages = [_Stage(chunked, (), self._chunks), _Stage(translated, (chunked,), self._frames)]
        for name in self._names:
            optional = name in tuned or (domain == "samples" and name not in (serving.dna, serving.protein))
            stages.append(_Stage(f"{name}_embeddings", (translated,), partial(self._embeddings, name), optional))
        for variant in workspace.variants(domain):
            sides = (f"{variant.dna}_embeddings", f"{variant.protein}_embeddings")
            optional = variant.protein in tuned or (domain == "samples" and variant != serving)
            stages.append(_Stage(f"{variant.name}_features", sides, partial(self._features, variant), optional))
        if domain == "samples":
            features = f"{serving.name}_features"
            explain = partial(self._predictions, features, _serving_classifier(workspace))
            stages.append(_Stage("predictions", (features,), explain))
        return stages

    def _content(self, asset: str, shard: str) -> str | None:
        """Digest of the rows of a table; None where it is missing or damaged."""
        table = self.tables[asset].get(shard)
        return table.content if table else None

    def _chunks(self, shard: str, inputs: ShardInputs, found: Recipe) -> str | None:
        return _changed({**inputs.chunks, "chunk_length": self._chunk_length}, found)

    def _frames(self, shard: str, inputs: ShardInputs, found: Recipe) -> str | None:
        expected = {**inputs.frames, "chunks": self._content("chunked_fasta", shard)}
        ledger = self.tables["ledger"].get(shard)
        if ledger is None or ledger.recipe != {**expected, "table": "ledger"}:
            return _changed(expected, found) or "its ledger is missing, damaged or another's"
        return _changed(expected, found)

    def _embeddings(self, name: str, shard: str, inputs: ShardInputs, found: Recipe) -> str | None:
        today = self._encoders[name]
        if isinstance(today, str):
            return today
        frames = str(self._content("translated_proteins", shard))
        return self._encoder_changed(name, today, found.get("encoder")) or _changed(
            embeddings_recipe(today, frames), found
        )

    def _features(self, variant: Variant, shard: str, inputs: ShardInputs, found: Recipe) -> str | None:
        sides = {"dna": variant.dna, "protein": variant.protein}
        for side, name in sides.items():
            if reason := self._encoder_changed(name, self._encoders[name], found.get("encoders", {}).get(side)):
                return reason
            made_from = found.get("embeddings", {}).get(side)
            if made_from != self._content(f"{name}_embeddings", shard):
                return f"its {name}_embeddings changed"
        frames = self._content("translated_proteins", shard)
        # The widths are part of what the digests of the embeddings cover, and both were compared side by side.
        return _changed({**found, "table": "features", "frames": frames}, found)

    def _predictions(
        self, features: str, classifier: str | None, shard: str, inputs: ShardInputs, found: Recipe
    ) -> str | None:
        if classifier is None:
            return NO_CLASSIFIER
        return _changed(predictions_recipe(str(self._content(features, shard)), classifier, inputs.digest), found)

    def _encoder_changed(self, name: str, today: Mapping[str, str] | str, found: Any) -> str | None:  # noqa: ANN401
        """The first entry in which a fingerprint is not today's."""
        have = found if isinstance(found, Mapping) else {}
        if isinstance(today, str) or today == have:
            return None
        keys = (*_FIRST, *sorted({*today, *have}))
        key = next(key for key in keys if today.get(key) != have.get(key))
        return f"encoder {self._names[name]}: {_told(key, today.get(key), have.get(key))}"


def _todays_encoder(workspace: Workspace, name: str) -> Mapping[str, str] | str:
    """Fingerprint of an encoder, or why there is none."""
    spec = workspace.encoder(name)
    try:
        folder = find_checkpoint(spec, workspace.layout.checkpoints)
        return fingerprint(spec, folder, workspace.settings.encoding.precision)
    except CheckpointMissingError:
        return f"encoder {spec.name}: its checkpoint is missing; `virnuc doctor` tells more"
    except CheckpointError:
        return f"encoder {spec.name}: its checkpoint is damaged; `virnuc doctor` tells more"


def _serving_classifier(workspace: Workspace) -> str | None:
    """Digest of the weights of the serving classifier; None where there is none, or it cannot be read."""
    description = workspace.layout.classifier(workspace.settings.serving.variant) / CLASSIFIER_FILE
    try:
        return str(json.loads(description.read_text(encoding="utf-8"))["weights_sha256"])
    except (FileNotFoundError, ValueError, LookupError):
        return None


def _changed(expected: Recipe, found: Recipe) -> str | None:
    """The first entry in which two recipes differ, in words; None where they are equal."""
    if expected == found:
        return None
    keys = [key for key in {**expected, **found} if expected.get(key) != found.get(key)]
    key = keys[0]
    if key in _TOLD_WITH_VALUES or key not in _CALLED:
        return _told(key, expected.get(key), found.get(key))
    return f"{_CALLED[key]} changed"


def _told(key: str, want: object, have: object) -> str:
    expected, found = ("nothing" if value is None else str(value)[:_SHOWN_LETTERS] for value in (want, have))
    return f"{_CALLED.get(key, key)} changed (expected {expected}, found {found})"
