"""What asset bodies share: the settings, checked against the registry, the folders, and the profile's encoders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from virnuc_assets.encoders.registry import (
    ENCODERS,
    FINETUNED,
    KMERS,
    MINIATURE,
    PUBLISHED,
    VARIANTS,
    EncoderSpec,
    Variant,
    all_encoders,
    encoder_named,
    graph_encoder,
    variant_named,
)
from virnuc_assets.errors import VirnucError
from virnuc_assets.sequences.catalogue import MANIFEST, CatalogueError, Source, read_catalogues
from virnuc_assets.sequences.frame_rule import FrameRule
from virnuc_assets.sequences.refseq import require_release
from virnuc_assets.settings import SETTINGS_FILE, Settings, SettingsError
from virnuc_assets.storage.layout import Domain, Layout
from virnuc_assets.workstation.lock import Lock, read_lock

_COLUMNS_OF_THE_REPORT = ("candidate", "baseline", "kmer_baseline", "virnucpro")  # of no variant's own name


@dataclass(frozen=True)
class Workspace:
    """One project folder as its settings describe it; names in them that stand for nothing are a SettingsError."""

    settings: Settings

    def __post_init__(self) -> None:
        """Check the settings against the registry."""
        _check_names(self.settings)

    @cached_property
    def layout(self) -> Layout:
        """Where results are stored."""
        return Layout(self.settings.var, self.settings.profile, self.settings.paths.results)

    def rule_of(self, variant: Variant) -> FrameRule:
        """What a variant keeps of a frame; the k-mer baseline has its own rule, whatever the settings choose."""
        sequences = self.settings.sequences
        return FrameRule("longest_orf", sequences.min_orf_aa) if variant.is_kmer else FrameRule.of(sequences)

    def frame_rule(self, domain: Domain = "reference") -> FrameRule:
        """What the frames tables keep: by the rule of the settings; of samples by that of the serving variant."""
        if domain == "samples":
            return self.rule_of(self.variant(self.settings.serving.variant))
        return FrameRule.of(self.settings.sequences)

    @cached_property
    def lock(self) -> Lock:
        """The project's virnuc.lock."""
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
        """The variants that the settings name; for samples without the k-mer baseline, unless it serves."""
        decision, serving = self.settings.decision, self.settings.serving.variant
        names = [n for n in decision.variants if domain == "reference" or n != decision.kmer_baseline or n == serving]
        return [self.variant(name) for name in names]

    def language_models(self) -> list[Variant]:
        """The variants that read encoders."""
        return [variant for variant in self.variants() if not variant.is_kmer]

    def encoder_names(self, domain: Domain = "reference") -> list[str]:
        """Encoders that the variants read, each once."""
        return encoders_of(self.variants(domain))

    def kept_variants(self, domain: Domain) -> list[Variant]:
        """Variants whose vectors are kept up to date: of samples what serves, else all without a fine-tuned encoder."""
        if domain == "samples":
            return [self.variant(self.settings.serving.variant)]
        tuned = {f"{FINETUNED}_{name}" for name in self.settings.finetuning.encoders}
        return [variant for variant in self.variants() if variant.protein not in tuned]

    def kept_encoders(self, domain: Domain) -> list[str]:
        """Encoders of those variants, each once."""
        return encoders_of(self.kept_variants(domain))

    def catalogue(self) -> list[Source]:
        """The reference sources of all catalogues, read afresh; refused without any, or without the RefSeq release."""
        if self.settings.refseq:
            require_release(self.settings.root / self.settings.refseq.folder, self.settings.refseq)
        if not (found := read_catalogues(self.settings.catalogues)):
            raise CatalogueError(
                f"{self.settings.genomes / MANIFEST}: no genomes to train on, expected viral and host ones; add "
                "yours with `virnuc catalogue`, name a [refseq] release, or make a project with `virnuc init --genomes`"
            )
        return found


def encoders_of(variants: Sequence[Variant]) -> list[str]:
    """Encoders that some variants read, each once."""
    return list(dict.fromkeys(name for each in variants if not each.is_kmer for name in (each.dna, each.protein)))


def _check_names(settings: Settings) -> None:
    """Refuse names that are taken, that stand for nothing, or for something of the wrong kind."""
    file, decision, tuned = settings.root / SETTINGS_FILE, settings.decision, settings.finetuning.encoders

    def require(good: bool, place: str, fault: str) -> None:
        if not good:
            raise SettingsError(f"{file}: {place}: {fault}")

    for name, given in settings.encoders.items():
        place, extra = f"encoders.{name}", ", ".join(sorted(given.fixed))
        if name in PUBLISHED:
            source = f"where its weights come from is said in [checkpoints] {name}"
            require(not extra, place, f"is an encoder of the registry, {extra} cannot be set; {source}")
        else:
            taken = name in ENCODERS or name.startswith(f"{FINETUNED}_")
            require(not taken, place, "the name is taken; choose another")
            require(bool(extra), place, "expected architecture, and either hub or folder; or like (an encoder)")
            composed = ENCODERS.get(given.like or "") in KMERS
            require(
                not composed, f"{place}.like", f"{given.like!r} is the composition of chunks, which has no settings"
            )
    for name in settings.checkpoints:
        fault = f"expected an encoder of the registry: {', '.join(PUBLISHED)}"
        require(name in PUBLISHED, f"checkpoints.{name}", fault)
    for name in settings.variants:
        taken = name in VARIANTS or name in _COLUMNS_OF_THE_REPORT
        require(not taken, f"variants.{name}", "the name is taken; choose another")
    try:
        rows, compared = all_encoders(settings), [variant_named(settings, name) for name in decision.variants]
    except VirnucError as error:  # names what there is
        raise SettingsError(f"{file}: {error}") from error
    proteins = [name for name, row in rows.items() if (row.architecture, row.alphabet) == ("esm", "protein")]
    known = [name for name in proteins if rows[name].checkpoint not in (MINIATURE, FINETUNED)]
    fault = f"expected ESMs of proteins ({', '.join(known)}), found {', '.join(tuned)}"
    require(set(tuned) <= set(known), "finetuning.encoders", fault)
    require(len(set(tuned)) == len(tuned), "finetuning.encoders", f"expected each once, found {', '.join(tuned)}")
    read = [(f"variants.{name}.dna", "dna", given.dna) for name, given in settings.variants.items()]
    read += [(f"variants.{name}.protein", "protein", given.protein) for name, given in settings.variants.items()]
    if settings.virnucpro:
        read.append(("virnucpro.protein_encoder", "protein", settings.virnucpro.protein_encoder))
    for place, alphabet, name in read:
        fitting = [key for key, row in rows.items() if row.alphabet == alphabet and row.architecture != "kmer"]
        require(name in fitting, place, f"{name!r} is no {alphabet} encoder; there are: {', '.join(fitting)}")
    serving, trained = settings.serving.variant, [variant.name for variant in compared]
    fault = f"{serving!r} is none of the decision's variants: {', '.join(trained)}"
    require(serving in trained, "serving.variant", fault)
