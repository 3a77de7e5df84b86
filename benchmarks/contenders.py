"""What `make bench-encoders` compares, at which size, on how many rows. Imports nothing heavy.

Sizes are those of the checkpoints' own config files: ESM2-650M and FastESM2_650 (one shape), ESM2-3B, DNABERT-S.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

from virnuc_assets.settings import Precision

Code = Literal["ours", "transformers", "fair_esm", "one_by_one"]


class Shape(NamedTuple):
    """Width of the hidden states, count of layers, and attention heads."""

    hidden: int
    layers: int
    heads: int


class Model(NamedTuple):
    """A model with random weights; one with byte pairs is a MosaicBERT, every other an ESM2."""

    shape: Shape
    byte_pairs: int = 0

    def flop(self, lengths: list[int]) -> float:
        """Operations of one pass: 2 * tokens * weights of the products + 4 * l * tokens * d per layer for attention.

        The products have 12 d^2 weights per layer of ESM2, 16 d^2 with MosaicBERT's gated FFN.
        """
        d, layers = self.shape.hidden, self.shape.layers
        weights = (16 if self.byte_pairs else 12) * d**2
        return float(layers * sum(2 * length * weights + 4 * d * length**2 for length in lengths))


class Scale(NamedTuple):
    """Models by name, frames of the small and the large frames table, and what the rows are multiplied by."""

    models: Mapping[str, Model]
    tables: tuple[int, int]
    row_share: float


SCALES = {
    "true": Scale(
        {
            "650m": Model(Shape(1280, 33, 20)),
            "3b": Model(Shape(2560, 36, 40)),
            "dnabert_s": Model(Shape(768, 12, 12), byte_pairs=4096),
            "one_layer": Model(Shape(1280, 1, 20)),
        },
        tables=(100, 10_000),
        row_share=1.0,
    ),
    "tiny": Scale(
        {
            "650m": Model(Shape(64, 2, 4)),
            "3b": Model(Shape(128, 2, 4)),
            "dnabert_s": Model(Shape(48, 2, 6), byte_pairs=64),
            "one_layer": Model(Shape(64, 1, 4)),
        },
        tables=(20, 300),
        row_share=0.25,
    ),
}


class Contender(NamedTuple):
    """Somebody's code with a model in a precision."""

    code: Code
    model: str
    precision: Precision = "fp32"

    @property
    def name(self) -> str:
        """Names its figures."""
        return "_".join(self)


class Comparison(NamedTuple):
    """Contenders that take turns on the same rows; all of them are in memory at once.

    Attributes:
        model: Of our encoder, which runs in every native precision.
        column: Column of the frames that all read.
        rows: Rows of a pass. 12 proteins of 166 aa are one full batch of 2,048 tokens; chunks make byte pairs of some
            twenty counts, which fill batches of equal length from hundreds of rows only.
        against: By metric, whose code ours is compared with, and its model.
    """

    model: str
    column: str
    rows: int
    against: Mapping[str, tuple[Code, str]]

    def ratios(self, precisions: Iterable[Precision]) -> dict[str, tuple[Contender, Contender]]:
        """Ours and the original by metric; originals run in fp32 as VirNucPro has them, transformers as ours."""
        return {
            metric if precision == "fp32" else f"{metric}_{precision}": (
                Contender("ours", self.model, precision),
                Contender(code, model, precision if code == "transformers" else "fp32"),
            )
            for precision in precisions
            for metric, (code, model) in self.against.items()
        }


_650M: Mapping[str, tuple[Code, str]] = {
    "protein_speedup_vs_transformers": ("transformers", "650m"),
    "protein_speedup_vs_fair_esm_650m": ("fair_esm", "650m"),
}
COMPARISONS = {
    "protein_650m": Comparison("650m", "protein", 12, _650M),
    "protein_3b": Comparison("650m", "protein", 12, {"protein_speedup_vs_3b": ("fair_esm", "3b")}),
    "dna": Comparison("dnabert_s", "nucleotides", 512, {"dna_speedup_vs_one_by_one": ("one_by_one", "dnabert_s")}),
}
