"""What asset bodies share: the settings, the folders, and the profile's encoders."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from virnuc_assets.encoders.registry import FINETUNED, EncoderSpec, Variant, encoder_named, graph_encoder, variant_named
from virnuc_assets.sequences.catalogue import Source, read_catalogues
from virnuc_assets.sequences.refseq import require_release
from virnuc_assets.settings import Settings
from virnuc_assets.storage.layout import Domain, Layout
from virnuc_assets.workstation.lock import Lock, read_lock


@dataclass(frozen=True)
class Workspace:
    """One project folder as its settings describe it."""

    settings: Settings

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
