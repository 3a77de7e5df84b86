"""`virnuc.toml` as typed models: every choice that changes a result, and how the platform runs.

Which encoders and variants a name may stand for is the registry's; `resources.Workspace` holds the settings to it.
"""

from __future__ import annotations

import datetime
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError, model_validator

from virnuc_assets.errors import VirnucError

SETTINGS_FILE = "virnuc.toml"

Profile = Literal["miniature", "laptop", "full"]
Precision = Literal["fp32", "bf16", "fp16"]
Device = Literal["auto", "cpu", "cuda"]
FrameRuleName = Literal["stop_free", "longest_orf"]
RefseqHosts = Literal[
    "bacteria", "archaea", "fungi", "protozoa", "plant", "invertebrate", "vertebrate_mammalian", "vertebrate_other"
]


class Section(BaseModel):
    """A section: unknown keys and wrong types are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class SequenceSettings(Section):
    """How records become chunks and shards, and chunks frames."""

    chunk_length: Literal[300, 500] = 500
    frame_rule: FrameRuleName = "stop_free"
    min_orf_aa: PositiveInt = 30
    shard_chunks: int = Field(default=10_000, ge=1, le=500_000)  # Arrow counts a column's bytes in 32 bits

    @property
    def of_plans(self) -> dict[str, int]:
        """Those that a plan follows from."""
        return {"chunk_length": self.chunk_length, "shard_chunks": self.shard_chunks}


Name = Annotated[str, Field(pattern="^[a-z][a-z0-9_]*$")]
Names = Annotated[tuple[str, ...], Field(strict=False)]
Commit = Annotated[str, Field(pattern="^[0-9a-f]{40}$")]
Text = Annotated[str, Field(min_length=1)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Seed = Annotated[int, Field(ge=0)]


class EncodingSettings(Section):
    """How frames become vectors."""

    precision: Precision = "fp32"
    device: Device = "auto"
    token_budget: PositiveInt | Literal["auto"] = "auto"  # noqa: S105 - tokens of a sequence


class CheckpointSettings(Section):
    """Where a registered encoder's checkpoint comes from, instead of the commit that the registry pins."""

    folder: Text | None = Field(None, description="a folder as the hub has it")
    revision: Commit | None = Field(None, description="another commit of the encoder's repository")
    file: str | None = Field(None, pattern=r"\.pt$", description="fair-esm's file, converted once")

    @model_validator(mode="after")
    def _one_source(self) -> CheckpointSettings:
        if sum(value is not None for value in (self.folder, self.revision, self.file)) != 1:
            raise ValueError("expected one of folder, file, or a revision of the hub repository")
        return self


TUNABLE = {"pooling", "max_length", "token_dropout"}
"""What may be set of a registered encoder, and of one that is like another."""


class EncoderSettings(Section):
    """An encoder of one's own, or other settings of a registered one."""

    like: str | None = Field(
        None, description="encoder whose weights and settings this one has, but for what is set here"
    )
    hub: str | None = Field(None, pattern=r"^[\w.-]+/[\w.-]+$", description="repository of the model hub, `owner/name`")
    folder: Text | None = Field(None, description="a folder as the hub has it")
    revision: Commit | None = Field(
        None, description="commit of the repository; without it, the first `virnuc setup` locks the head of `main`"
    )
    architecture: Literal["esm", "mosaic_bert"] | None = Field(None, description="required with `hub` or `folder`")
    alphabet: Literal["dna", "protein"] | None = Field(
        None, description="what it reads: proteins by an ESM, nucleotides by a MosaicBERT, unless set"
    )
    pooling: Literal["residues", "tokens"] | None = Field(
        None, description="mean over residues without special tokens, or over all tokens"
    )
    max_length: PositiveInt | None = Field(None, description="residues or bases encoded of a sequence")
    token_dropout: bool | None = Field(None, description="of an ESM; without it, as its config.json says")

    @property
    def fixed(self) -> set[str]:
        """What is set of it, without what may be set of any encoder."""
        return {name for name, value in self if value is not None} - TUNABLE

    @model_validator(mode="after")
    def _one_source(self) -> EncoderSettings:
        named = self.fixed - {"like"}
        if self.like and named:
            raise ValueError(f"like = {self.like!r} says already what {', '.join(sorted(named))} is")
        if named and ((self.hub is None) == (self.folder is None) or self.architecture is None):
            raise ValueError("expected architecture, and either hub (owner/name) or folder; or like (an encoder)")
        if self.revision and not self.hub:
            raise ValueError("a revision belongs to a repository of the hub")
        if self.token_dropout is not None and self.architecture == "mosaic_bert":
            raise ValueError("token_dropout is a setting of ESM")
        return self


class VariantSettings(Section):
    """A nucleotide encoder and a protein encoder for one classifier."""

    dna: str = Field("dnabert_s", description="name of an encoder of nucleotides")
    protein: str = Field(description="name of an encoder of proteins")


LinearLayers = Annotated[tuple[Literal["query", "key", "value", "dense"], ...], Field(strict=False, min_length=1)]


class FinetuningSettings(Section):
    """Which protein encoders are fine-tuned on the training records, and how (LoRA).

    Each adds the encoder and the asset `finetuned_NAME`, and the job `finetune_NAME`.
    """

    encoders: Names = ()
    objective: Literal["classification", "masked"] = "classification"
    seed: int = Field(default=0, ge=0, lt=2**32)
    lora_rank: PositiveInt = 8
    lora_alpha: PositiveInt = 16
    lora_dropout: float = Field(default=0.05, ge=0.0, lt=1.0)
    target_modules: LinearLayers = ("query", "key", "value", "dense")
    learning_rate: PositiveFloat = 2e-4
    batch_rows: PositiveInt = 16
    max_epochs: PositiveInt = 5
    patience: PositiveInt = 2
    eval_steps: PositiveInt | None = None
    warmup_fraction: float = Field(default=0.1, ge=0.0, lt=1.0)
    max_rows: int | None = Field(default=None, ge=2)
    gradient_checkpointing: bool = False
    precision: Precision = "fp32"


class SplitSettings(Section):
    """Which records count as relatives, and how their clusters are assigned to train, validation and test."""

    by: Literal["clusters", "time", "groups"] = "clusters"
    test_from: datetime.date | None = None
    test_groups: list[str] = []
    seed: Seed = 0
    validation_fraction: float = Field(default=0.15, gt=0.0, lt=1.0)
    test_fraction: float = Field(default=0.2, gt=0.0, lt=1.0)
    ksize_aa: int = Field(default=10, ge=5, le=30)
    sketch_scaled: PositiveInt = 2
    containment_threshold: float = Field(default=0.004, gt=0.0, le=1.0)
    min_shared_hashes: PositiveInt = 5
    protein_similarity: Literal["none", "mmseqs2"] = "none"
    protein_min_identity: Share = 0.5
    protein_min_coverage: float = Field(default=0.5, gt=0.0, le=1.0)

    @model_validator(mode="after")
    def _consistent(self) -> SplitSettings:
        if self.validation_fraction + self.test_fraction >= 1.0:
            raise ValueError("validation_fraction + test_fraction must stay below 1")
        if (self.by == "time") != (self.test_from is not None):
            raise ValueError("test_from (a date, YYYY-MM-DD without quotes) goes with by = 'time', and only with it")
        if (self.by == "groups") != bool(self.test_groups):
            raise ValueError("test_groups (names of the catalogue) goes with by = 'groups', and only with it")
        return self


class TrainingSettings(Section):
    """How the MLP is trained; the defaults are VirNucPro's."""

    seed: Seed = 0
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
    """How the encoders are measured side by side, in alternate rounds."""

    rows: PositiveInt = 128
    min_rounds: int = Field(default=6, ge=6)  # the fewest from which the median has a 95 % interval
    max_rounds: PositiveInt = 60  # no ratio gets better after it
    max_seconds: PositiveFloat = 600.0
    spread: PositiveFloat = 0.1


class EvaluationSettings(Section):
    """When a call is left open, and how test rows are grouped in reports; nothing is judged by it."""

    min_confidence: float = Field(default=0.6, ge=0.5, lt=1.0)
    max_error: float = Field(default=0.2, gt=0.0, le=0.5)
    length_bins_nt: Annotated[tuple[PositiveInt, ...], Field(strict=False)] = (1_000, 3_000, 10_000, 30_000)

    @model_validator(mode="after")
    def _ascending(self) -> EvaluationSettings:
        if list(self.length_bins_nt) != sorted(set(self.length_bins_nt)):
            raise ValueError("length_bins_nt must ascend")
        return self


class DecisionSettings(Section):
    """The criteria of the migration, fixed before the numbers are seen."""

    candidate: str = "fastesm2"
    baseline: str = "esm2_3b"
    kmer_baseline: Literal["kmer"] = "kmer"
    also_compared: Names = ()
    # The report shows the reason for each default.
    max_accuracy_drop: Share = Field(default=0.05, description="one frame in twenty is less than labs differ by")
    max_f1_drop: Share = Field(default=0.05, description="as for accuracy")
    max_group_drop: Share = Field(default=0.10, description="twice the whole's, since groups are small")
    min_group_clusters: int = Field(default=5, ge=3, description="fewer show their own spread too badly for a test")
    group_error: float = Field(default=0.05, gt=0.0, lt=0.5, description="customary; of studies of equal models")
    min_test_rows: PositiveInt = Field(default=200, description="one row moves accuracy by half a percent at most")
    min_test_clusters: int = Field(default=10, ge=2, description="intervals of fewer cover less than they claim")
    min_clusters_per_label: PositiveInt = Field(default=2, description="one cluster of a label shows nothing of others")
    min_speedup: PositiveFloat = Field(default=2.0, description="a change of model is not worth less")
    max_memory_ratio: PositiveFloat = Field(default=1.0, description="it has to fit where the baseline does")
    min_gain_over_kmer_baseline: float = Field(
        default=0.0, ge=-1.0, le=1.0, description="else no language model is needed"
    )
    confidence: float = Field(default=0.95, gt=0.5, lt=1.0, description="customary")
    bootstrap_rounds: int = Field(default=10_000, ge=100, description="bounds vary by less than 0.001 between seeds")
    power_studies: int = Field(default=200, ge=20, description="chances are within 7 percent of the exact ones")
    finetuning_gain: Share = Field(default=0.03, description="an assumption")
    seed: Seed = 0

    @model_validator(mode="after")
    def _different_variants(self) -> DecisionSettings:
        if len(set(self.variants)) < len(self.variants):
            raise ValueError("candidate, baseline, kmer_baseline and also_compared must be different variants")
        return self

    @property
    def variants(self) -> tuple[str, ...]:
        """All that are trained and evaluated, in the order of the report."""
        return (self.candidate, self.baseline, self.kmer_baseline, *self.also_compared)


class ServingSettings(Section):
    """Which classifier calls the samples."""

    variant: str = "kmer"


class VirnucproSettings(Section):
    """Files of an existing VirNucPro: its features and its classifier, to be scored as they are."""

    merged: Text
    model: Text
    chunk_length: Literal[300, 500]
    dna_dim: PositiveInt
    protein_encoder: str = "esm2_3b"


class RefseqSettings(Section):
    """An NCBI RefSeq release to download: all viruses, and a seeded draw of hosts."""

    release: PositiveInt
    base_url: str = Field(default="https://ftp.ncbi.nlm.nih.gov/refseq/release", pattern="^https?://")
    seed: int = Field(default=42, ge=0)
    files_per_directory: dict[RefseqHosts, Annotated[int, Field(ge=0)]] = {}
    folder: Text = "data/refseq"
    ca_bundle: Text | None = None


class AutomationSettings(Section):
    """What the platform does by itself."""

    reembed_cron: str = "0 3 * * 0"
    retrain_cron: str = "0 5 * * 0"
    # Each run loads its models once. Loading 650 million parameters took 5 s on 2 cores; a GPU that embeds 2,000 frames
    # a second needs as long for a shard of 10,000, so one shard per run would spend half of its time on loading, and
    # 20 spend a twentieth. A run that is retried keeps finished partitions.
    partitions_per_run: PositiveInt = 20


Quantity = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$")]


class LaunchSettings(Section):
    """Where the steps of a run run. Where runs run is the run launcher's in `dagster.yaml`."""

    steps: Literal["in_process", "kubernetes"] = "in_process"
    steps_at_once: int = Field(default=1, ge=1)
    step_cpu: Quantity = "1"
    step_memory: Quantity = "4Gi"
    gpu_nodes: dict[str, str] = {}

    @model_validator(mode="after")
    def _one_process_has_one_step(self) -> LaunchSettings:
        if self.steps == "in_process" and self.steps_at_once > 1:
            raise ValueError('steps_at_once above 1 needs steps = "kubernetes"')
        return self


class ServerSettings(Section):
    """Ports of the two servers that `virnuc up` starts on loopback."""

    dagster_port: int = Field(default=3000, ge=1, le=65535)
    mlflow_port: int = Field(default=5000, ge=1, le=65535)

    @model_validator(mode="after")
    def _two_different_ports(self) -> ServerSettings:
        if self.dagster_port == self.mlflow_port:
            raise ValueError("dagster_port and mlflow_port must differ")
        return self

    @property
    def mlflow_url(self) -> str:
        """Address of the MLflow server."""
        return f"http://127.0.0.1:{self.mlflow_port}"

    @property
    def dagster_url(self) -> str:
        """Address of the Dagster UI."""
        return f"http://127.0.0.1:{self.dagster_port}"


class TrackingSettings(Section):
    """Where MLflow keeps trainings and models."""

    uri: str | None = Field(default=None, pattern="^(postgresql|https?)://[^/]+")
    artifacts: Text | None = None

    @model_validator(mode="after")
    def _no_secret_and_no_contradiction(self) -> TrackingSettings:
        if self.uri and re.match(r"\w+://[^/@]*:[^/@]*@", self.uri):
            raise ValueError("uri holds a password; write postgresql://user@host/database, and it into ~/.pgpass")
        if self.of_others and self.artifacts:
            raise ValueError("artifacts of an MLflow server that others run are where it says; remove artifacts")
        return self

    @property
    def of_others(self) -> bool:
        """Whether it is a server that `virnuc up` does not start."""
        return self.uri is not None and self.uri.startswith("http")


class PathSettings(Section):
    """Folders, relative to the folder of `virnuc.toml` unless absolute; `results` may be of an object store."""

    genomes: Text = "data/genomes"
    catalogues: list[Text] = []
    incoming: Text = "data/incoming"
    var: Text = "var"
    results: str | None = Field(default=None, pattern=r"^s3://[a-z0-9][a-z0-9.-]+(/[\w.=-]+)*$")


PROFILE_VARIANTS: dict[str, dict[str, str]] = {"laptop": {"candidate": "esm2_8m", "baseline": "esm2_35m"}}
"""What the decision compares in a profile, where it is not what `DecisionSettings` names."""


class Settings(Section):
    """All of `virnuc.toml`; `root` is the folder that relative paths start from."""

    root: Path
    profile: Profile = "miniature"
    sequences: SequenceSettings = SequenceSettings()
    encoding: EncodingSettings = EncodingSettings()
    checkpoints: dict[str, CheckpointSettings] = {}
    encoders: dict[Name, EncoderSettings] = {}
    variants: dict[Name, VariantSettings] = {}
    finetuning: FinetuningSettings = FinetuningSettings()
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

    @model_validator(mode="before")
    @classmethod
    def _choices_of_the_profile(cls, values: dict[str, Any]) -> dict[str, Any]:
        """What the profile compares and which variant serves, where nothing is set.

        It is the candidate; of the miniatures, whose random weights should call nobody's sequences, the k-mer baseline.
        """
        profile = values.get("profile", "miniature")
        decision, serving = values.get("decision", {}), values.get("serving", {})
        if isinstance(decision, dict):
            decision = {**PROFILE_VARIANTS.get(profile, {}), **decision}
            serves = "kmer_baseline" if profile == "miniature" else "candidate"
            if isinstance(serving, dict):
                serving = {"variant": decision.get(serves, DecisionSettings.model_fields[serves].default), **serving}
        return {**values, "decision": decision, "serving": serving}

    @property
    def genomes(self) -> Path:
        """Folder of the reference genomes and their MANIFEST.tsv."""
        return self.root / self.paths.genomes

    @property
    def catalogues(self) -> list[Path]:
        """Folders with a MANIFEST.tsv: the genomes, the others that are named, and the RefSeq release."""
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


class SettingsError(VirnucError):
    """`virnuc.toml` is missing, is not TOML, or holds an unknown key, name or an impossible value."""


def load_settings(project: Path) -> Settings:
    """Read `virnuc.toml` of a project's folder.

    Raises:
        SettingsError: the message names the file and each wrong key, with what is expected and what was found.
    """
    path = project.resolve() / SETTINGS_FILE
    if project.is_file():
        raise SettingsError(f"{project}: expected the folder of a project, found a file; name its folder")
    if not path.is_file():
        raise SettingsError(
            f"{project.resolve()}: no project here, {SETTINGS_FILE} is missing; run from a project's folder, name it "
            "with --project FOLDER, or make one with `virnuc init FOLDER`"
        )
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8-sig"))
        if "root" in values:
            raise SettingsError(f"{path}: root: is the folder of this file; it cannot be set")
        return Settings.model_validate({**values, "root": path.parent})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: not valid TOML: {error}") from error
    except ValidationError as error:
        raise SettingsError("\n".join(f"{path}: {_fault(dict(item))}" for item in error.errors())) from error


def _fault(item: dict[str, Any]) -> str:
    key = ".".join(str(part) for part in item["loc"] if part != "[key]")  # pydantic's word for a mapping's key
    return f"{key}: {item['msg']}, found {item['input']!r}"
