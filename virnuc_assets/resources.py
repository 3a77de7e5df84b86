"""What asset bodies share: the settings, held to the registry, the folders, and the profile's encoders."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from virnuc_assets.encoders.registry import (
    ENCODERS,
    FINETUNED,
    MINIATURE,
    PUBLISHED,
    VARIANTS,
    EncoderSpec,
    Variant,
    all_encoders,
    all_variants,
    encoder_named,
    graph_encoder,
    variant_named,
)
from virnuc_assets.sequences.catalogue import Source, read_catalogues
from virnuc_assets.sequences.refseq import require_release
from virnuc_assets.settings import TUNABLE, FinetuningSettings, Settings, SettingsError
from virnuc_assets.storage.layout import Domain, Layout
from virnuc_assets.workstation.lock import Lock, read_lock

_COLUMNS_OF_THE_REPORT = ("candidate", "baseline", "floor", "virnucpro")  # of no variant's own name


@dataclass(frozen=True)
class Workspace:
    """One project folder as its settings describe it; names in them that stand for nothing are a SettingsError."""

    settings: Settings

    def __post_init__(self) -> None:
        """Hold the settings to the registry; rows are made of what was found to be sound."""
        _check_encoders(self.settings)
        _check_variants(self.settings)

    @cached_property
    def layout(self) -> Layout:
        """Where results lie."""
        return Layout(self.settings.var, self.settings.profile, self.settings.paths.results)

    @cached_property
    def lock(self) -> Lock:
        """What virnuc.lock holds."""
        return read_lock(self.settings.root)

    def encoder(self, name: str) -> EncoderSpec:
        """The encoder that a name stands for in the graph, as virnuc.lock has its checkpoint."""
        return self.lock.locked(graph_encoder(self.settings, name))

    def encoder_named(self, name: str) -> EncoderSpec:
        """The encoder of exactly this name, whatever the profile, as virnuc.lock has its checkpoint."""
        return self.lock.locked(encoder_named(self.settings, name))

    def variant(self, name: str) -> Variant:
        """A pair of encoders that one classifier reads."""
        return variant_named(self.settings, name)

    def variants(self, domain: Domain = "reference") -> list[Variant]:
        """The variants that the settings name; for samples without the k-mer baseline, which calls nobody's sample."""
        decision = self.settings.decision
        names = [name for name in decision.variants if domain == "reference" or name != decision.floor]
        return [self.variant(name) for name in names]

    def encoder_names(self, domain: Domain = "reference") -> list[str]:
        """Encoders that the variants read, each once."""
        return list(dict.fromkeys(name for each in self.variants(domain) for name in (each.dna, each.protein)))

    def kept_variants(self, domain: Domain) -> list[Variant]:
        """Variants whose vectors are made and kept up to date without being asked for.

        Of the reference not what reads a fine-tuned encoder, which a job of its own makes; of samples what serves.
        """
        if domain == "samples":
            return [self.variant(self.settings.serving.variant)]
        tuned = {f"{FINETUNED}_{name}" for name in self.settings.finetuning.encoders}
        return [variant for variant in self.variants() if variant.protein not in tuned]

    def kept_encoders(self, domain: Domain) -> list[str]:
        """Encoders of those variants, each once."""
        return list(dict.fromkeys(name for each in self.kept_variants(domain) for name in (each.dna, each.protein)))

    def catalogue(self) -> list[Source]:
        """The reference sources of all catalogues, read afresh.

        Raises:
            CatalogueError: a catalogue is wrong, or the RefSeq release of the settings is not downloaded.
        """
        if self.settings.refseq:
            require_release(self.settings.root / self.settings.refseq.folder, self.settings.refseq)
        return read_catalogues(self.settings.catalogues)


def _require(settings: Settings, good: bool, place: str, fault: str) -> None:
    if not good:
        raise SettingsError(f"{settings.root / 'virnuc.toml'}: {place}: {fault}")


def _check_encoders(settings: Settings) -> None:
    above: list[str] = list(PUBLISHED)
    for name, given in settings.encoders.items():
        place, extra = f"encoders.{name}", ", ".join(sorted(given.model_fields_set - TUNABLE))
        if name in PUBLISHED:
            source = f"where its weights come from is said in [checkpoints] {name}"
            _require(settings, not extra, place, f"is an encoder of the registry, {extra} cannot be set; {source}")
            continue
        free = name not in ENCODERS and not name.startswith(f"{FINETUNED}_")
        _require(settings, free, place, "the name is taken; choose another")
        _require(settings, bool(extra), place, "expected architecture, and either hub or folder; or like (an encoder)")
        known = given.like is None or given.like in above
        _require(settings, known, place, f"like: {given.like!r} is no encoder above; {', '.join(above)} are")
        above.append(name)
    for name in settings.checkpoints:
        fault = f"expected an encoder of the registry: {', '.join(PUBLISHED)}"
        _require(settings, name in PUBLISHED, f"checkpoints.{name}", fault)
    rows = all_encoders(settings.model_copy(update={"finetuning": FinetuningSettings()}))
    tunable = [name for name in above if (rows[name].architecture, rows[name].alphabet) == ("esm", "protein")]
    named = settings.finetuning.encoders
    for name in named:
        fault = f"{name!r} is no ESM of proteins; there are: {', '.join(tunable)}"
        _require(settings, name in tunable, "finetuning.encoders", fault)
    once = len(set(named)) == len(named)
    _require(settings, once, "finetuning.encoders", f"expected each encoder once, found {', '.join(named)}")


def _check_variants(settings: Settings) -> None:
    rows, variants, decision = all_encoders(settings), all_variants(settings), settings.decision
    sides = [(f"variants.{name}.dna", "dna", given.dna) for name, given in settings.variants.items()]
    sides += [(f"variants.{name}.protein", "protein", given.protein) for name, given in settings.variants.items()]
    if settings.virnucpro:
        sides.append(("virnucpro.protein_encoder", "protein", settings.virnucpro.protein_encoder))
    for place, side, name in sides:
        fitting = [key for key, row in rows.items() if row.alphabet == side]
        shown = ", ".join(key for key in fitting if rows[key].checkpoint != MINIATURE)
        _require(settings, name in fitting, place, f"{name!r} is no {side} encoder; there are: {shown}")
    for name in settings.variants:
        free = name not in VARIANTS and name not in _COLUMNS_OF_THE_REPORT
        _require(settings, free, f"variants.{name}", "the name is taken; choose another")
    named = [(key, getattr(decision, key)) for key in ("candidate", "baseline", "floor")]
    for key, name in [*named, *(("beside", name) for name in decision.beside)]:
        fault = f"{name!r} is no variant; there are: {', '.join(variants)}"
        _require(settings, name in variants, f"decision.{key}", fault)
    serving, trained = settings.serving.variant, decision.variants
    fault = f"{serving!r} is none of the decision's variants: {', '.join(trained)}"
    _require(settings, serving in trained, "serving.variant", fault)
