"""Where everything is below `var/`: asset = table = folder, one file per shard, one folder per profile."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

from virnuc_assets.storage.places import results_at

Domain = Literal["reference", "samples"]
# Tables that an asset writes in addition to the one of its name.
_WRITTEN_WITH = {"ledger": "translated_proteins", "annotation": "shard_plan", "incoming": "shard_plan"}
REFERENCE_PLAN = "plan"
# The asset that assigns the records of the reference to splits.
SPLIT = "train_test_split"
# What a trained classifier is and what it was trained on, next to its weights.
CLASSIFIER_FILE = "classifier.json"
# One line per record of a sample, in its report's folder.
SUMMARY_FILE = "summary.tsv"


@dataclass(frozen=True)
class Layout:
    """Paths below `var`; what depends on the profile is under its name, so that none overwrites another's.

    `store` is the URL of an object store that has the results; locks and checkpoints are in `var` in any case.
    """

    var: Path
    profile: str
    store: str | None = None

    @property
    def checkpoints(self) -> Path:
        """Local checkpoint folders, by encoder name."""
        return self.var / "checkpoints"

    @property
    def locks(self) -> Path:
        """Files that processes hold while they use a device, which all profiles share, or write into a common table."""
        return self.var / "locks"

    @cached_property
    def results(self) -> Path:
        """All that this profile produced."""
        return (results_at(self.store) if self.store else self.var) / self.profile

    def table(self, domain: Domain, asset: str, shard: str) -> Path:
        """A shard's table of a per-shard asset."""
        return self.results / domain / asset / f"{shard}.parquet"

    def plan(self, domain: Domain, sample: str = "") -> Path:
        """The shard plan of the whole reference, or of a sample."""
        return self.table(domain, "shard_plan", sample or REFERENCE_PLAN)

    def classifier(self, variant: str) -> Path:
        """Folder of a variant's trained classifier."""
        return self.results / "classifiers" / variant

    def training(self, variant: str) -> Path:
        """Lock and rows of a classifier's training."""
        return self.var / self.profile / "classifiers" / variant

    @property
    def split(self) -> Path:
        """Which split each record of the reference is in."""
        return self.whole(SPLIT)

    def evaluation(self, variant: str) -> Path:
        """Test rows scored by a variant's classifier."""
        return self.whole(f"{variant}_evaluation")

    @property
    def intake_log(self) -> Path:
        """What became of the files of the watched folder."""
        return self.table("samples", "incoming", "files")

    def sample_report(self, sample: str) -> Path:
        """Folder of what the user of a sample receives."""
        return self.results / "samples" / "report" / sample

    def whole(self, asset: str, suffix: str = ".parquet") -> Path:
        """The file of an unpartitioned asset."""
        return self.results / asset / f"{asset}{suffix}"


def asset_of(path: Path) -> str:
    """The asset that writes a table, by its folder; a file elsewhere is called by its name."""
    domain, asset = path.parent.parent.name, path.parent.name
    if domain in get_args(Domain):
        name = _WRITTEN_WITH.get(asset, asset)
        partition = path.stem if domain == "reference" else path.stem.rpartition("-")[0]  # a partition is a sample
        return f"{domain}/{name}" + ("" if name == "shard_plan" else f" (partition {partition})")
    return asset if asset == path.stem else f"what made {path.name}"
