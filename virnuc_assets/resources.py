"""What asset bodies share: the settings, the folders, and the profile's encoders."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from virnuc_assets.encoders.checkpoints import configured
from virnuc_assets.encoders.registry import VARIANTS, EncoderSpec, Variant, encoder_for, encoder_named
from virnuc_assets.sequences.catalogue import Source, read_catalogues
from virnuc_assets.sequences.refseq import require_release
from virnuc_assets.settings import Settings
from virnuc_assets.storage.layout import Domain, Layout


@dataclass(frozen=True)
class Workspace:
    """One project folder as its settings describe it."""

    settings: Settings

    @cached_property
    def layout(self) -> Layout:
        """Where results lie."""
        return Layout(self.settings.var, self.settings.profile, self.settings.paths.results)

    def encoder(self, slot: str) -> EncoderSpec:
        """The profile's encoder in a slot, with the checkpoint that the settings name."""
        return configured(encoder_for(self.settings.profile, slot), self.settings)

    def encoder_named(self, name: str) -> EncoderSpec:
        """An encoder of the registry, with the checkpoint that the settings name."""
        return configured(encoder_named(name), self.settings)

    def variant(self, name: str) -> Variant:
        """A pair of encoder slots that one classifier reads."""
        return VARIANTS[name]

    def variants(self, domain: Domain = "reference") -> list[Variant]:
        """The variants that the settings name; for samples without the floor, which calls nobody's sample."""
        decision = self.settings.decision
        return [VARIANTS[name] for name in decision.variants if domain == "reference" or name != decision.floor]

    def slots(self, domain: Domain = "reference") -> list[str]:
        """Encoder slots that the variants read, each once."""
        return list(dict.fromkeys(slot for variant in self.variants(domain) for slot in (variant.dna, variant.protein)))

    def catalogue(self) -> list[Source]:
        """The reference sources of all catalogues, read afresh.

        Raises:
            CatalogueError: a catalogue is wrong, or the RefSeq release of the settings is not downloaded.
        """
        if self.settings.refseq:
            require_release(self.settings.root / self.settings.refseq.folder, self.settings.refseq)
        return read_catalogues(self.settings.catalogues)
