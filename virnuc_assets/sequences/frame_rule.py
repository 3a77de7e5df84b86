"""What is kept of a frame: all of it if it has no stop, as VirNucPro does, or its longest stretch without one."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from virnuc_assets.settings import FrameRuleName, SequenceSettings
from virnuc_assets.storage.schemas import frames_schema


@dataclass(frozen=True)
class FrameRule:
    """A rule by its name, and the fewest residues of a longest stretch; 0 for `stop_free`, which asks for none."""

    name: FrameRuleName = "stop_free"
    min_orf_aa: int = 0

    @classmethod
    def of(cls, settings: SequenceSettings) -> FrameRule:
        """The rule that the settings choose."""
        return cls("longest_orf", settings.min_orf_aa) if settings.frame_rule == "longest_orf" else cls()

    @property
    def finds_stretches(self) -> bool:
        """Whether what is kept of a frame may be a part of it, so that its place is recorded."""
        return self.name == "longest_orf"

    @property
    def schema(self) -> pa.Schema:
        """Of the frames tables."""
        return frames_schema(located=self.finds_stretches)

    @property
    def provenance(self) -> dict[str, str | int]:
        """What tables record of it: of `stop_free` nothing, so that those made before there was a rule stay current."""
        return {"frame_rule": self.name, "min_orf_aa": self.min_orf_aa} if self.finds_stretches else {}

    def __str__(self) -> str:
        return f"{self.name} of at least {self.min_orf_aa} aa" if self.finds_stretches else self.name


STOP_FREE = FrameRule()
"""VirNucPro's."""
