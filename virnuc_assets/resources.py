"""What asset bodies share: the settings, the folders, and the profile's encoders."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from virnuc_assets.encoders.registry import BRANCHES, Branch, EncoderSpec, encoder_for
from virnuc_assets.sequences.catalogue import Source, read_catalogue
from virnuc_assets.settings import Settings
from virnuc_assets.storage.layout import Layout

# Frames held in memory at once, whatever a table's size. One number for graph and command line: which rows share a
# batch moves a vector's last digit.
FRAMES_AT_ONCE = 4096


@dataclass(frozen=True)
class Workspace:
    """One project folder as its settings describe it."""

    settings: Settings

    @cached_property
    def layout(self) -> Layout:
        """Where results lie."""
        return Layout(self.settings.var, self.settings.profile)

    def encoder(self, slot: str) -> EncoderSpec:
        """The profile's encoder in a slot."""
        return encoder_for(self.settings.profile, slot)

    def branch(self, name: str) -> Branch:
        """A pair of encoder slots that one classifier reads."""
        return BRANCHES[name]

    def catalogue(self) -> list[Source]:
        """The reference sources, read afresh."""
        return read_catalogue(self.settings.genomes)
