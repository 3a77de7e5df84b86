"""What a decision is made from: evidence that earlier assets stored, with its gaps named, never raised."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, is_dataclass
from typing import Any

import pyarrow as pa

from virnuc_assets.encoders.registry import Alphabet, is_kmer
from virnuc_assets.storage.digests import ContentDigest, digest_of

Gaps = tuple[str, ...]
SIDES: tuple[Alphabet, Alphabet] = ("dna", "protein")
MINIATURE_SUFFIX = "_miniature"


@dataclass(frozen=True)
class VariantEvidence:
    """What is stored of one variant, i.e. of one pair of encoders and the classifier on top of it."""

    variant: str
    dna_name: str  # of its nucleotides' encoder in the graph, a key of the benchmark
    protein_name: str  # likewise of its proteins' encoder
    predictions: pa.Table | None = None  # test rows (`evaluation_schema`), in any order
    description: Mapping[str, Any] | None = None  # JSON of `ClassifierDescription`
    problems: tuple[str, ...] = ()  # what is absent or stale, e.g. "esm2_3b_evaluation has not been materialized"

    @property
    def gaps(self) -> tuple[str, ...]:
        """The problems, or that no predictions are stored where no problem names the reason."""
        if self.predictions is None and not self.problems:
            return (f"{self.variant}: no predictions on the test rows are stored",)
        return self.problems

    def fingerprint(self, side: Alphabet) -> Mapping[str, Any]:
        """Fingerprint of one encoder as the classifier was trained with it; empty where it is not known."""
        fingerprint: Mapping[str, Any] = ((self.description or {}).get("encoders") or {}).get(side) or {}
        return fingerprint

    @property
    def is_kmer(self) -> bool:
        """Whether it is the k-mer baseline, which scores each chunk once instead of its frames."""
        return is_kmer((self.description or {}).get("encoders", {}))

    def encoder_name(self, side: Alphabet) -> str:
        """The registry's name of one encoder, or its name in the graph where the classifier does not say."""
        name = self.dna_name if side == "dna" else self.protein_name
        return str(self.fingerprint(side).get("encoder", name))


@dataclass(frozen=True)
class Evidence:
    """Everything a decision is computed from; two equal values give two equal decisions, byte for byte."""

    candidate: VariantEvidence
    baseline: VariantEvidence
    kmer_baseline: VariantEvidence  # the k-mer baseline, which a language model has to beat
    also_compared: tuple[VariantEvidence, ...] = ()  # shown, not judged
    ablations: Mapping[str, pa.Table] = field(default_factory=dict)  # encoder → test rows scored by its vectors alone
    frame_rules: pa.Table | None = None  # test chunks (`frame_rules_schema`)
    benchmark: Mapping[str, Mapping[str, Any]] | None = None  # encoder → what `benchmark_encoders` measured
    benchmark_problems: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)  # versions and the like; shown, not judged

    @property
    def variants(self) -> dict[str, VariantEvidence]:
        """Role → variant, in the order of the report; one that is only shown has its own name for a role."""
        roles = {"candidate": self.candidate, "baseline": self.baseline, "kmer_baseline": self.kmer_baseline}
        return roles | {variant.variant: variant for variant in self.also_compared}

    def digest(self) -> str:
        """Digest of everything, the rows of tables included."""
        return digest_of(plain(self))

    @property
    def benchmark_gaps(self) -> tuple[str, ...]:
        """The benchmark's problems, or that none is stored where no problem names the reason."""
        if self.benchmark is None and not self.benchmark_problems:
            return ("no encoder benchmark is stored",)
        return self.benchmark_problems

    @property
    def miniatures(self) -> tuple[str, ...]:
        """Names of the encoders whose weights are random, sorted."""
        names = {variant.encoder_name(side) for variant in self.variants.values() for side in SIDES}
        return tuple(sorted(name for name in names if name.endswith(MINIATURE_SUFFIX)))


def plain(value: Any) -> Any:  # noqa: ANN401
    """A value as JSON has it: a table as the digest of its rows, numbers that are not finite as null."""
    if isinstance(value, pa.Table):
        content = ContentDigest(value.schema)
        content.update(value)
        return content.hexdigest()
    if is_dataclass(value):
        return plain(vars(value))
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
