"""A classifier: its model, and on disk its weights as safetensors with a JSON of what must match before it scores."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, PositiveFloat, PositiveInt, ValidationError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from virnuc_assets.classifier.novelty import SKETCH_FILE, Sketch, SketchDescription
from virnuc_assets.classifier.record_rule import RecordRule
from virnuc_assets.encoders.registry import MINIATURE
from virnuc_assets.errors import VirnucError
from virnuc_assets.sequences.frame_rule import FrameRule
from virnuc_assets.settings import FrameRuleName, TrainingSettings
from virnuc_assets.storage.atomic import atomic_write
from virnuc_assets.storage.layout import CLASSIFIER_FILE

WEIGHTS_FILE = "classifier.safetensors"


class ClassifierMismatch(VirnucError):  # noqa: N818  (as TableMismatch: what is wrong, not that something is)
    """A classifier is absent, damaged, or was trained for other encoders, dims or chunks; all reasons are listed."""


class Mlp(nn.Module):  # type: ignore[misc]
    """Linear → BatchNorm → ReLU → Dropout → Linear, Xavier weights; its two logits are (other, virus).

    Upstream: `MLPClassifier` in train.py.
    """

    def __init__(self, dim: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.hidden_layer = nn.Linear(dim, hidden)
        self.bn1 = nn.BatchNorm1d(hidden)
        self.dropout = nn.Dropout(dropout)
        self.output_layer = nn.Linear(hidden, 2)
        nn.init.xavier_uniform_(self.hidden_layer.weight)
        nn.init.xavier_uniform_(self.output_layer.weight)

    @property
    def dim(self) -> int:
        """Width of the feature vectors it reads."""
        return int(self.hidden_layer.in_features)

    @property
    def hidden(self) -> int:
        """Width of the hidden layer."""
        return int(self.hidden_layer.out_features)

    def forward(self, features: Tensor) -> Tensor:
        """Logits of a batch: (b, dim) float32 → (b, 2)."""
        hidden = self.dropout(torch.relu(self.bn1(self.hidden_layer(features))))  # (b, hidden)
        logits: Tensor = self.output_layer(hidden)  # (b, 2)
        return logits


class LinearModel(nn.Module):  # type: ignore[misc]
    """One linear layer; its two logits are (other, virus), and their difference is the log-odds of virus."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.output_layer = nn.Linear(dim, 2)

    @classmethod
    def of(cls, weights: np.ndarray, intercept: float) -> LinearModel:
        """The model whose log-odds are features · weights + intercept; weights (dim,) float64."""
        model, halves = cls(len(weights)), np.array([-0.5, 0.5])
        model.output_layer.weight.data = torch.tensor(np.outer(halves, weights), dtype=torch.float32)
        model.output_layer.bias.data = torch.tensor(halves * intercept, dtype=torch.float32)
        return model.eval()

    @property
    def dim(self) -> int:
        """Width of the feature vectors it reads."""
        return int(self.output_layer.in_features)

    def forward(self, features: Tensor) -> Tensor:
        """Logits of a batch: (b, dim) float32 → (b, 2)."""
        logits: Tensor = self.output_layer(features)  # (b, 2)
        return logits


Model = Mlp | LinearModel


class Origin(BaseModel):
    """Where a classifier comes from that was trained elsewhere; what it was trained on is not known."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    made_by: str  # the program
    file: str  # name of the imported file
    sha256: str


class ClassifierDescription(BaseModel):
    """What a classifier reads, and what it was trained on and with, which is known of our own only.

    Of one trained elsewhere, all from `seed` to `sketch` is None.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    variant: str
    encoders: dict[str, dict[str, str]]  # fingerprints
    dna_dim: PositiveInt  # width of the nucleotide vectors, the first columns of the features
    protein_dim: PositiveInt
    merged_dim: PositiveInt
    chunk_length: PositiveInt
    frame_rule: FrameRuleName = "stop_free"
    min_orf_aa: int = 0
    seed: int | None = None
    training: TrainingSettings | None = None
    split_digest: str | None = None
    data_digest: str | None = None  # of the rows trained and validated on
    best_epoch: PositiveInt | None = None  # 1-based
    penalty: PositiveFloat | None = None  # inverse strength, of the k-mer baseline's logistic regression
    temperature: PositiveFloat | None = None  # for `calibrated` scores; no call follows from it
    record_rule: RecordRule | None = None  # else a record is classified by the share of its viral chunks
    sketch: SketchDescription | None = None  # of the proteins trained and validated on
    origin: Origin | None = None
    score_columns: tuple[Literal["other"], Literal["virus"]] = ("other", "virus")
    weights_sha256: str = ""  # written by `save_classifier`

    @property
    def scores_chunks(self) -> bool:
        """Whether it is the k-mer baseline, which scores each chunk once instead of its frames."""
        return self.encoders.get("protein", {}).get("architecture") == "kmer"

    @property
    def miniature(self) -> bool:
        """Whether an encoder has random weights, so that the calls mean nothing."""
        return any(fingerprint["checkpoint"] == MINIATURE for fingerprint in self.encoders.values())

    @property
    def rule(self) -> FrameRule:
        """What was kept of the frames that it was trained on."""
        return FrameRule(self.frame_rule, self.min_orf_aa)

    def reads(self) -> str:
        """What it reads, in words."""
        if self.scores_chunks:
            return "composition of chunks and of their longest open stretches"
        return " and ".join(fingerprint["encoder"] for fingerprint in self.encoders.values())

    def pair(self) -> str:
        """The two encoders and the columns of each, for messages."""
        return shown_pair(self.encoders, {"dna": self.dna_dim, "protein": self.protein_dim})

    def require_match(
        self, encoders: Mapping[str, Mapping[str, str]], dims: Mapping[str, int], chunk_length: int, rule: FrameRule
    ) -> None:
        """Refuse features that the classifier was not trained for.

        Args:
            encoders: fingerprints of the features' encoders.
            dims: widths of the features' two parts.
            chunk_length: nt of the chunks that the features come from.
            rule: by which their frames were kept.

        Raises:
            ClassifierMismatch: lists every mismatch: what the classifier expects, what was found, and the remedy.
        """
        expected: dict[str, object] = {"chunk_length": self.chunk_length, "frame rule": str(self.rule)}
        expected |= {"dna_dim": self.dna_dim, "protein_dim": self.protein_dim}
        found: dict[str, object] = {"chunk_length": chunk_length, "frame rule": str(rule)}
        found |= {f"{side}_dim": dim for side, dim in dims.items()}
        for side, fingerprint in encoders.items():
            expected |= {f"{side} encoder: {key}": value for key, value in self.encoders[side].items()}
            found |= {f"{side} encoder: {key}": value for key, value in fingerprint.items()}
        mismatches = [
            f"  {name}: expected {expected.get(name, 'nothing')!r}, found {found.get(name, 'nothing')!r}"
            for name in sorted(expected.keys() | found.keys())
            if expected.get(name) != found.get(name)
        ]
        if mismatches:
            raise ClassifierMismatch(
                f"the {self.variant} classifier reads {self.pair()} and cannot score features of "
                f"{shown_pair(encoders, dims)}:\n" + "\n".join(mismatches) + "\nMake the features with its encoders, "
                "chunk length and frame rule, or train the classifier again on features like these."
            )


def shown_pair(encoders: Mapping[str, Mapping[str, str]], dims: Mapping[str, int]) -> str:
    """A pair of encoders by their fingerprints, and the columns of each, for messages."""
    dna, protein = (encoders[side]["encoder"] for side in ("dna", "protein"))
    return f"{dna} and {protein} ({dims['dna']} + {dims['protein']} = {sum(dims.values())} columns)"


def save_classifier(
    folder: Path,
    model: Model,
    description: ClassifierDescription,
    register: Callable[[ClassifierDescription], object] = lambda _: None,
    sketch: Sketch | None = None,
) -> ClassifierDescription:
    """Write weights, sketch and description, replacing what the folder holds.

    All are written in full under temporary names, then renamed, the description last: a process that dies between the
    renames leaves files that the older description's digests refuse, never a half-written classifier.

    Args:
        folder: of the variant.
        model: its weights are saved.
        description: without the digest of the weights and without the sketch, which the returned one has.
        register: called with the returned description before the renames; if it fails, the folder stays as it was.
        sketch: of the proteins trained and validated on.
    """
    weights = save_tensors({name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()})
    files = {WEIGHTS_FILE: weights}
    update: dict[str, Any] = {"weights_sha256": hashlib.sha256(weights).hexdigest(), "sketch": None}
    if sketch is not None:
        files[SKETCH_FILE], update["sketch"] = sketch.packed()
    described = description.model_copy(update=update)
    with atomic_write(folder / CLASSIFIER_FILE) as description_file, ExitStack() as stack:
        description_file.write_text(described.model_dump_json(indent=2) + "\n", encoding="utf-8")
        for name, content in files.items():
            stack.enter_context(atomic_write(folder / name)).write_bytes(content)
        register(described)
    return described


def load_classifier(folder: Path) -> tuple[Model, ClassifierDescription]:
    """The model, in eval mode on the CPU, and its description.

    Raises:
        ClassifierMismatch: a file is absent, the description is not one, or the weights are not those described.
    """
    again = "train the classifier again"
    if absent := [name for name in (WEIGHTS_FILE, CLASSIFIER_FILE) if not (folder / name).is_file()]:
        remedy = again if len(absent) == 1 else "train one: `virnuc demo` makes all that is missing"
        raise ClassifierMismatch(f"{folder}: no classifier: {' and '.join(absent)} not found; {remedy}")
    try:
        description = ClassifierDescription.model_validate_json((folder / CLASSIFIER_FILE).read_bytes())
    except ValidationError as error:
        raise ClassifierMismatch(
            f"{folder / CLASSIFIER_FILE}: not a classifier's description: {error}; {again}"
        ) from error
    weights = (folder / WEIGHTS_FILE).read_bytes()
    if (found := hashlib.sha256(weights).hexdigest()) != description.weights_sha256:
        raise ClassifierMismatch(
            f"{folder / WEIGHTS_FILE}: expected weights of sha256 {description.weights_sha256} in {CLASSIFIER_FILE}, "
            f"found {found}: damaged, or of another training; {again}"
        )
    tensors = load_tensors(weights)
    model: Model = LinearModel(description.merged_dim)
    if "hidden_layer.weight" in tensors:
        dropout = description.training.dropout if description.training else 0.0  # never at work in eval mode
        model = Mlp(description.merged_dim, len(tensors["hidden_layer.weight"]), dropout)
    model.load_state_dict(tensors)
    return model.eval(), description
