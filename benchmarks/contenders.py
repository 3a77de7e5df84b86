"""Who is measured, at which size, on how many rows: the plan of `make bench-encoders`. Imports nothing heavy.

Sizes are those of the checkpoints' own config files: ESM2-650M and FastESM2_650 (one shape), ESM2-3B, DNABERT-S.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from virnuc_assets.encoders.miniature import Shape
from virnuc_assets.settings import Precision

ModelName = Literal["650m", "3b", "dnabert_s", "one_layer"]
Embedder = Literal[
    "ours",
    "ours_int8",
    "ours_one_by_one",
    "fair_esm",
    "transformers",
    "sentence_transformers",
    "upstream_one_by_one",
]
BASELINE_3B, BASELINE_DNA = "fair_esm_3b_fp32", "upstream_dnabert_s_fp32"


@dataclass(frozen=True)
class Model:
    """A checkpoint that is drawn.

    Attributes:
        shape: Its true size, or a tiny one for trying.
        vocabulary: Byte pairs of a nucleotide model, 0 for proteins.
        stored: Type of the weights on disk; 3B in bf16 is half as long to write and is widened when it is loaded.
    """

    shape: Shape
    vocabulary: int = 0
    stored: Literal["float32", "bfloat16"] = "float32"

    @property
    def layer_weights(self) -> int:
        """Weights of all products of all layers: 12 d^2 a layer of ESM, 16 d^2 with MosaicBERT's gated FFN."""
        return (16 if self.vocabulary else 12) * self.shape.hidden**2 * self.shape.layers

    def flop(self, lengths: list[int]) -> float:
        """Operations of one pass: 2 * tokens * weights of the products + attention 4 * l * tokens * d a layer.

        Tokens are those of the sequences, special ones included; padding, which some contenders compute, is none.
        """
        attention = 4 * self.shape.hidden * self.shape.layers
        return float(sum(2 * length * self.layer_weights + attention * length**2 for length in lengths))


@dataclass(frozen=True)
class Scale:
    """All sizes of a run.

    Attributes:
        models: By name.
        tables: Frames of the small and the large frames table.
        row_share: What the contenders' rows are multiplied by, at least 2 remain.
    """

    models: dict[ModelName, Model]
    tables: tuple[int, int]
    row_share: float


SCALES: dict[str, Scale] = {
    "true": Scale(
        {
            "650m": Model(Shape(1280, 33, 20, "esm")),
            "3b": Model(Shape(2560, 36, 40, "esm"), stored="bfloat16"),
            "dnabert_s": Model(Shape(768, 12, 12, "bert"), vocabulary=4096),
            "one_layer": Model(Shape(1280, 1, 20, "esm")),
        },
        tables=(100, 10_000),
        row_share=1.0,
    ),
    "tiny": Scale(
        {
            "650m": Model(Shape(64, 2, 4, "esm")),
            "3b": Model(Shape(128, 2, 4, "esm"), stored="bfloat16"),
            "dnabert_s": Model(Shape(48, 2, 6, "bert"), vocabulary=64),
            "one_layer": Model(Shape(64, 1, 4, "esm")),
        },
        tables=(20, 300),
        row_share=0.25,
    ),
}


@dataclass(frozen=True)
class Contender:
    """One way to embed with one model.

    Attributes:
        name: Opens the names of its figures.
        embedder: Whose code runs.
        model: Which weights.
        precision: Working precision.
        rows: Rows of the sample that it embeds, from the first.
        repeats: Timed passes; the median counts.
        tuned: Ours only: whether batch and compilation are measured first, as a user's first run does. Where a pass
            takes minutes that would take longer than the pass: the default batch then, not compiled.
    """

    name: str
    embedder: Embedder
    model: ModelName
    precision: Precision
    rows: int
    repeats: int
    tuned: bool = False

    @property
    def column(self) -> str:
        """Column of the frames that it reads."""
        return "nucleotides" if self.model == "dnabert_s" else "protein"


# 12 proteins of 166 aa are one full batch of 2,048 tokens.
_CONTENDERS = (
    Contender(BASELINE_3B, "fair_esm", "3b", "fp32", 12, 2),
    Contender("ours_3b_fp32", "ours", "3b", "fp32", 12, 1),
    Contender("fair_esm_650m_fp32", "fair_esm", "650m", "fp32", 24, 3),
    Contender("transformers_650m_fp32", "transformers", "650m", "fp32", 24, 2),
    Contender("transformers_650m_bf16", "transformers", "650m", "bf16", 24, 2),
    Contender("sentence_transformers_650m_fp32", "sentence_transformers", "650m", "fp32", 24, 1),
    Contender("ours_650m_fp32", "ours", "650m", "fp32", 24, 3, tuned=True),
    Contender("ours_650m_bf16", "ours", "650m", "bf16", 24, 3, tuned=True),
    Contender("ours_650m_fp16", "ours", "650m", "fp16", 24, 3, tuned=True),
    Contender("ours_650m_int8", "ours_int8", "650m", "fp32", 24, 2),
    Contender(BASELINE_DNA, "upstream_one_by_one", "dnabert_s", "fp32", 64, 3),
    Contender("one_by_one_dnabert_s_fp32", "ours_one_by_one", "dnabert_s", "fp32", 64, 3),
    Contender("ours_dnabert_s_fp32", "ours", "dnabert_s", "fp32", 512, 1, tuned=True),
    Contender("ours_dnabert_s_bf16", "ours", "dnabert_s", "bf16", 512, 3, tuned=True),
    Contender("ours_dnabert_s_fp16", "ours", "dnabert_s", "fp16", 512, 3, tuned=True),
)
NAMES = tuple(contender.name for contender in _CONTENDERS)
# Emulated, a product takes some seven times as long as in fp32.
_EMULATED_ROWS: dict[ModelName, int] = {"650m": 4, "3b": 2, "dnabert_s": 16}


def planned(scale: Scale, units: dict[Precision, bool], row_factor: float, repeats: int | None) -> list[Contender]:
    """The contenders in the order in which they run.

    Args:
        scale: Sizes.
        units: Which precisions the machine multiplies in by itself; in others few rows run, once.
        row_factor: Multiplies the rows.
        repeats: Timed passes of each, where they are set.
    """
    found = []
    for contender in _CONTENDERS:
        if not units[contender.precision]:
            contender = replace(contender, rows=_EMULATED_ROWS[contender.model], repeats=1, tuned=False)
        rows = max(round(contender.rows * scale.row_share * row_factor), 2)
        found.append(replace(contender, rows=rows, repeats=repeats or contender.repeats))
    return found
