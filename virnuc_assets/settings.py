"""The typed form of `virnuc.toml`: every choice that changes a result, and nothing that does not."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PositiveFloat, PositiveInt, model_validator

from virnuc_assets.settings_operation import (
    AutomationSettings,
    LaunchSettings,
    PathSettings,
    Section,
    ServerSettings,
    TrackingSettings,
)

Profile = Literal["miniature", "full"]
Precision = Literal["fp32", "bf16", "fp16"]
Variant = Literal["fastesm2", "esm2_650", "esm2_3b", "kmer"]
ServingVariant = Literal["fastesm2", "esm2_650", "esm2_3b"]
HubEncoder = Literal["dnabert_s", "fastesm2_650", "esm2_650", "esm2_3b"]
RefseqHosts = Literal[
    "bacteria", "archaea", "fungi", "protozoa", "plant", "invertebrate", "vertebrate_mammalian", "vertebrate_other"
]


class SequenceSettings(Section):
    """How records become chunks and shards."""

    chunk_length: Literal[300, 500] = 500
    shard_chunks: int = Field(default=10_000, ge=1, le=500_000)  # Arrow counts a column's letters in 32 bits


def _positive_or_measured(value: object) -> object:
    if value != "measured" and (type(value) is not int or value < 1):
        raise ValueError("a number of at least 1 or 'measured' is expected")
    return value


TokenBudget = Annotated[int | Literal["measured"], BeforeValidator(_positive_or_measured)]


class EncodingSettings(Section):
    """How frames become vectors."""

    precision: Precision = "fp32"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    token_budget: TokenBudget = "measured"  # noqa: S105 - tokens of a sequence
    compile: Literal["measured", "never"] = "measured"


class CheckpointSettings(Section):
    """Where one encoder's checkpoint comes from, instead of the revision that the registry pins."""

    folder: str | None = Field(default=None, min_length=1)
    revision: str | None = Field(default=None, pattern="^[0-9a-f]{40}$")
    digest: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")

    @model_validator(mode="after")
    def _one_source(self) -> CheckpointSettings:
        if (self.folder is None) == (self.revision is None):
            raise ValueError("expected either a folder or a revision of the hub repository")
        if self.digest is not None and self.folder is None:
            raise ValueError("a digest belongs to a folder; a revision is its own digest")
        return self


class SplitSettings(Section):
    """Which records count as relatives, and how their clusters are dealt to train, validation and test."""

    by: Literal["clusters", "time", "groups"] = "clusters"
    test_from: datetime.date | None = None
    test_groups: list[str] = []
    seed: int = Field(default=0, ge=0)
    validation_fraction: float = Field(default=0.15, gt=0.0, lt=1.0)
    test_fraction: float = Field(default=0.2, gt=0.0, lt=1.0)
    ksize_aa: int = Field(default=10, ge=5, le=30)
    sketch_scaled: PositiveInt = 2
    containment_threshold: float = Field(default=0.004, gt=0.0, le=1.0)
    min_shared_hashes: PositiveInt = 5
    protein_similarity: Literal["none", "mmseqs2"] = "none"
    protein_min_identity: float = Field(default=0.5, ge=0.0, le=1.0)
    protein_min_coverage: float = Field(default=0.5, gt=0.0, le=1.0)

    @model_validator(mode="after")
    def _something_is_left_to_train_on(self) -> SplitSettings:
        if self.validation_fraction + self.test_fraction >= 1.0:
            raise ValueError("validation_fraction + test_fraction must stay below 1")
        return self

    @model_validator(mode="after")
    def _told_what_is_held_out(self) -> SplitSettings:
        if (self.by == "time") != (self.test_from is not None):
            raise ValueError("test_from (a date, YYYY-MM-DD without quotes) goes with by = 'time', and only with it")
        if (self.by == "groups") != bool(self.test_groups):
            raise ValueError("test_groups (names of the catalogue) goes with by = 'groups', and only with it")
        return self


class TrainingSettings(Section):
    """VirNucPro's recipe for the MLP."""

    seed: int = Field(default=0, ge=0)
    hidden: PositiveInt = 512
    dropout: float = Field(default=0.5, ge=0.0, lt=1.0)
    learning_rate: PositiveFloat = 2e-4
    momentum: float = Field(default=0.9, ge=0.0, lt=1.0)
    step_epochs: PositiveInt = 10
    step_gamma: float = Field(default=0.85, gt=0.0, le=1.0)
    batch_rows: int = Field(default=32, ge=2)
    max_epochs: PositiveInt = 200
    patience: PositiveInt = 5


class BenchmarkSettings(Section):
    """How the encoders are measured side by side."""

    rows: PositiveInt = 256
    repeats: PositiveInt = 3


class EvaluationSettings(Section):
    """How test rows are told apart in reports; nothing is judged by it."""

    min_confidence: float = Field(default=0.6, ge=0.5, lt=1.0)
    length_bins_nt: Annotated[tuple[PositiveInt, ...], Field(strict=False)] = (1_000, 3_000, 10_000, 30_000)

    @model_validator(mode="after")
    def _ascending(self) -> EvaluationSettings:
        if list(self.length_bins_nt) != sorted(set(self.length_bins_nt)):
            raise ValueError("length_bins_nt must ascend")
        return self


class DecisionSettings(Section):
    """The criteria of the migration, fixed before the numbers are seen."""

    candidate: Variant = "fastesm2"
    baseline: Variant = "esm2_3b"
    floor: Variant = "kmer"
    beside: Annotated[tuple[Variant, ...], Field(strict=False)] = ()
    max_accuracy_drop: float = Field(default=0.05, ge=0.0, le=1.0)
    max_f1_drop: float = Field(default=0.05, ge=0.0, le=1.0)
    max_group_drop: float = Field(default=0.10, ge=0.0, le=1.0)
    min_group_rows: PositiveInt = 20
    min_test_rows: PositiveInt = 200
    min_test_clusters: int = Field(default=10, ge=2)
    min_clusters_per_label: PositiveInt = 2
    min_speedup: PositiveFloat = 2.0
    max_memory_ratio: PositiveFloat = 1.0
    min_gain_over_floor: float = Field(default=0.0, ge=-1.0, le=1.0)
    confidence: float = Field(default=0.95, gt=0.5, lt=1.0)
    bootstrap_rounds: int = Field(default=10_000, ge=100)
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _different_variants(self) -> DecisionSettings:
        if len(set(self.variants)) < len(self.variants):
            raise ValueError("candidate, baseline, floor and those beside them must be different variants")
        return self

    @property
    def variants(self) -> tuple[Variant, ...]:
        """All that are trained and evaluated, in the order of the report."""
        return (self.candidate, self.baseline, self.floor, *self.beside)


class ServingSettings(Section):
    """Which classifier calls the samples."""

    variant: ServingVariant = "fastesm2"


class VirnucproSettings(Section):
    """Files of an existing VirNucPro: its features and its classifier, to be scored as they are.

    Attributes:
        merged: folder of its `*_merged.pt`, and of no other `.pt`.
        model: its `300_model.pth` or `500_model.pth`.
        chunk_length: nt of the chunks that both are of.
        dna_dim: columns of the nucleotides in the merged files, which do not tell.
        protein_encoder: whose vectors the other columns are.
    """

    merged: str = Field(min_length=1)
    model: str = Field(min_length=1)
    chunk_length: Literal[300, 500]
    dna_dim: PositiveInt
    protein_encoder: Literal["esm2_3b", "fastesm2_650"] = "esm2_3b"


class RefseqSettings(Section):
    """An NCBI RefSeq release to download: all viruses, and a seeded draw of hosts.

    Attributes:
        release: its number; a server that has another one is refused.
        base_url: folder of the release on the server, over HTTPS.
        seed: of the draw.
        files_per_directory: how many files of a directory of hosts; VirNucPro's number for those not named.
        folder: where the files and their MANIFEST.tsv lie; one of the catalogues.
        ca_bundle: certificates to trust in place of the usual ones (PEM), for a mirror of one's own.
    """

    release: PositiveInt
    base_url: str = Field(default="https://ftp.ncbi.nlm.nih.gov/refseq/release", pattern="^https?://")
    seed: int = Field(default=42, ge=0)
    files_per_directory: dict[RefseqHosts, Annotated[int, Field(ge=0)]] = {}
    folder: str = Field(default="data/refseq", min_length=1)
    ca_bundle: str | None = Field(default=None, min_length=1)


class Settings(Section):
    """All of `virnuc.toml`; `root` is the folder that relative paths start from."""

    root: Path
    profile: Profile = "miniature"
    sequences: SequenceSettings = SequenceSettings()
    encoding: EncodingSettings = EncodingSettings()
    checkpoints: dict[HubEncoder, CheckpointSettings] = {}
    split: SplitSettings = SplitSettings()
    training: TrainingSettings = TrainingSettings()
    benchmark: BenchmarkSettings = BenchmarkSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    decision: DecisionSettings = DecisionSettings()
    serving: ServingSettings = ServingSettings()
    virnucpro: VirnucproSettings | None = None
    refseq: RefseqSettings | None = None
    automation: AutomationSettings = AutomationSettings()
    launch: LaunchSettings = LaunchSettings()
    servers: ServerSettings = ServerSettings()
    tracking: TrackingSettings = TrackingSettings()
    paths: PathSettings = PathSettings()

    @model_validator(mode="after")
    def _what_serves_is_trained(self) -> Settings:
        if self.serving.variant not in self.decision.variants:
            raise ValueError(
                f"serving.variant {self.serving.variant} is none of the decision's: {', '.join(self.decision.variants)}"
            )
        return self

    @property
    def genomes(self) -> Path:
        """Folder of the reference genomes and their MANIFEST.tsv."""
        return self.root / self.paths.genomes

    @property
    def catalogues(self) -> list[Path]:
        """Folders with a MANIFEST.tsv: the genomes, those that are named beside them, and the RefSeq release."""
        more = [*self.paths.catalogues, *([self.refseq.folder] if self.refseq else [])]
        return list(dict.fromkeys([self.genomes, *(self.root / folder for folder in more)]))

    @property
    def incoming(self) -> Path:
        """The watched folder for samples."""
        return self.root / self.paths.incoming

    @property
    def var(self) -> Path:
        """Everything the platform produces."""
        return self.root / self.paths.var
