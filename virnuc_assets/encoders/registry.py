"""Every encoder as a row, and which rows a profile puts into the graph's slots. Imports nothing heavy.

Sources: DNABERT-S (Zhou et al. 2024, huggingface.co/zhihan1996/DNABERT-S), ESM2 (Lin et al. 2023,
huggingface.co/facebook), FastESM2 (huggingface.co/Synthyra/FastESM2_650).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from virnuc_assets.errors import VirnucError

Alphabet = Literal["dna", "protein"]
Architecture = Literal["mosaic_bert", "esm", "kmer"]
Pooling = Literal["residues", "tokens", "composition"]

MINIATURE = "miniature"
_COLUMNS: dict[Alphabet, str] = {"dna": "nucleotides", "protein": "protein"}


@dataclass(frozen=True)
class EncoderSpec:
    """One encoder: all that decides its numbers, apart from the weights themselves.

    Attributes:
        name: Key in `ENCODERS`, and the name of a miniature's checkpoint folder.
        alphabet: What it reads.
        architecture: Which code runs it.
        checkpoint: Hub id, `MINIATURE`, or empty where there are no weights.
        revision: Commit of the hub repository; empty where none is pinned.
        folder: Local folder to read instead of the hub's cache, set by `virnuc.toml`; it changes no number.
        digest: What that folder's content must hash to; empty where anything is taken.
        weights: Glob of the hub's weight files, so that no second format is downloaded.
        pooling: `residues` = mean without BOS, EOS, padding; `tokens` = mean over all but padding, CLS and
            SEP included; `composition` = mean over the k-mers that are counted.
        max_length: Letters encoded of a sequence, the rest is cut and counted; None = all of them
            (ALiBi has no longest position, and a frame is never longer than its chunk).
        k: Word length of a k-mer encoder, 0 for the others.
    """

    name: str
    alphabet: Alphabet
    architecture: Architecture
    pooling: Pooling
    checkpoint: str = ""
    revision: str = ""
    weights: str = "model*.safetensors*"
    max_length: int | None = None
    k: int = 0
    folder: str = ""
    digest: str = ""

    @property
    def from_hub(self) -> bool:
        """Whether its weights are a pinned snapshot of the model hub."""
        return self.checkpoint not in ("", MINIATURE) and not self.folder

    @property
    def column(self) -> str:
        """Column of the frames table that this encoder reads."""
        return _COLUMNS[self.alphabet]

    def count_truncated(self, sequences: Sequence[str]) -> int:
        """Count of sequences of which this encoder reads only the beginning."""
        return 0 if self.max_length is None else sum(len(sequence) > self.max_length for sequence in sequences)


@dataclass(frozen=True)
class Variant:
    """A nucleotide slot and a protein slot whose vectors are joined for one classifier."""

    name: str
    dna: str
    protein: str


def _esm(name: str, checkpoint: str, revision: str, weights: str = "model*.safetensors*") -> EncoderSpec:
    return EncoderSpec(name, "protein", "esm", "residues", checkpoint, revision, weights, max_length=1024)


_FULL = (
    EncoderSpec(
        "dnabert_s",
        "dna",
        "mosaic_bert",
        "tokens",
        "zhihan1996/DNABERT-S",
        "00e47f96cdea35e4b6f5df89e5419cbe47d490c6",
        "pytorch_model*.bin*",
    ),
    # No commit of this repository could be verified; it is refused until virnuc.toml names a revision or a folder.
    _esm("fastesm2_650", "Synthyra/FastESM2_650", ""),
    _esm("esm2_650", "facebook/esm2_t33_650M_UR50D", "08e4846e537177426273712802403f7ba8261b6c"),
    _esm(
        "esm2_3b",
        "facebook/esm2_t36_3B_UR50D",
        "476b639933c8baad5ad09a60ac1a87f987b656fc",
        "pytorch_model*.bin*",
    ),
)
_MINIATURES = tuple(
    replace(spec, name=f"{spec.name}_miniature", checkpoint=MINIATURE, revision="", weights="model*.safetensors*")
    for spec in _FULL
)
_KMERS = (
    EncoderSpec("kmer_dna", "dna", "kmer", "composition", k=4),
    EncoderSpec("kmer_protein", "protein", "kmer", "composition", k=2),
)

ENCODERS: Mapping[str, EncoderSpec] = {spec.name: spec for spec in (*_FULL, *_MINIATURES, *_KMERS)}

PROFILES: Mapping[str, Mapping[str, str]] = {
    "miniature": {
        "dnabert_s": "dnabert_s_miniature",
        "fastesm2": "fastesm2_650_miniature",
        "esm2_650": "esm2_650_miniature",
        "esm2_3b": "esm2_3b_miniature",
        "kmer_dna": "kmer_dna",
        "kmer_protein": "kmer_protein",
    },
    "full": {
        "dnabert_s": "dnabert_s",
        "fastesm2": "fastesm2_650",
        "esm2_650": "esm2_650",
        "esm2_3b": "esm2_3b",
        "kmer_dna": "kmer_dna",
        "kmer_protein": "kmer_protein",
    },
}

VARIANTS: Mapping[str, Variant] = {
    variant.name: variant
    for variant in (
        Variant("fastesm2", dna="dnabert_s", protein="fastesm2"),
        Variant("esm2_650", dna="dnabert_s", protein="esm2_650"),
        Variant("esm2_3b", dna="dnabert_s", protein="esm2_3b"),
        Variant("kmer", dna="kmer_dna", protein="kmer_protein"),
    )
}


def encoder_named(name: str) -> EncoderSpec:
    """Row of the registry.

    Raises:
        VirnucError: there is no such encoder; the message lists those that exist.
    """
    return ENCODERS[_known("encoder", name, ENCODERS)]


def encoder_for(profile: str, slot: str) -> EncoderSpec:
    """Row that a profile puts into a slot of the graph.

    Raises:
        VirnucError: there is no such profile or slot; the message lists those that exist.
    """
    slots = PROFILES[_known("profile", profile, PROFILES)]
    return ENCODERS[slots[_known("encoder slot", slot, slots)]]


def _known(kind: str, name: str, existing: Mapping[str, object]) -> str:
    if name not in existing:
        raise VirnucError(f"no {kind} is called {name!r}; there are: {', '.join(sorted(existing))}")
    return name
