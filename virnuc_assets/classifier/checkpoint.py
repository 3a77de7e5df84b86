"""A classifier: its model, on disk its weights as safetensors with a JSON of what must match, and what it scores.

Scores are probabilities of (other, virus) for each row of features (upstream: prediction.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
from pydantic import BaseModel, ConfigDict, PositiveFloat, PositiveInt, ValidationError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn
from torch.nn import functional

from virnuc_assets.classifier.calls import frame_calls
from virnuc_assets.classifier.novelty import SKETCH_FILE, Sketch, SketchDescription, load_sketch
from virnuc_assets.classifier.record_rule import RecordRule
from virnuc_assets.encoders.registry import MINIATURE, is_kmer
from virnuc_assets.errors import VirnucError
from virnuc_assets.sequences.frame_rule import FrameRule
from virnuc_assets.settings import FrameRuleName, TrainingSettings
from virnuc_assets.storage.atomic import atomic_write
from virnuc_assets.storage.layout import CLASSIFIER_FILE
from virnuc_assets.storage.merging import vectors_of
from virnuc_assets.storage.schemas import features_schema, predictions_schema, vector_dim

WEIGHTS_FILE = "classifier.safetensors"
_BLOCK = 32  # a multiple of the rows and columns that libraries of matrix products take at once
Encoders = Mapping[str, Mapping[str, str]]  # fingerprints by side
Dims = Mapping[str, int]  # widths by side


class ClassifierMismatch(VirnucError):  # noqa: N818  (as TableMismatch: what is wrong, not that something is)
    """A classifier is absent, damaged, or was trained for other encoders, dims or chunks; all reasons are listed."""


class Mlp(nn.Module):  # type: ignore[misc]
    """Linear → BatchNorm → ReLU → Dropout → Linear, Xavier weights; its two logits are (other, virus).

    Upstream: `MLPClassifier` in train.py.
    """

    def __init__(self, dim: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.dim, self.hidden = dim, hidden
        self.hidden_layer = nn.Linear(dim, hidden)
        self.bn1 = nn.BatchNorm1d(hidden)
        self.dropout = nn.Dropout(dropout)
        self.output_layer = nn.Linear(hidden, 2)
        nn.init.xavier_uniform_(self.hidden_layer.weight)
        nn.init.xavier_uniform_(self.output_layer.weight)

    def forward(self, features: Tensor) -> Tensor:
        """Logits of a batch: (b, dim) float32 → (b, 2)."""
        hidden = self.dropout(torch.relu(self.bn1(self.hidden_layer(features))))  # (b, hidden)
        logits: Tensor = self.output_layer(hidden)
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

    def forward(self, features: Tensor) -> Tensor:
        """Logits of a batch: (b, dim) float32 → (b, 2).

        Where the rows of an odd width begin in memory, a product rounds them differently; so they are filled up.
        """
        features, weights = (
            functional.pad(each, (0, -each.shape[1] % _BLOCK)) for each in (features, self.output_layer.weight)
        )
        return functional.linear(features, weights, self.output_layer.bias)


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
    inverse_strength: PositiveFloat | None = None  # of the penalty of the k-mer baseline: larger is weaker
    temperature: PositiveFloat | None = None  # for `calibrated` scores; no call follows from it
    record_rule: RecordRule | None = None  # else a record is classified by the share of its viral chunks
    sketch: SketchDescription | None = None  # of the proteins trained and validated on
    origin: Origin | None = None
    score_columns: tuple[Literal["other"], Literal["virus"]] = ("other", "virus")
    weights_sha256: str = ""  # written by `save_classifier`

    @property
    def is_kmer(self) -> bool:
        """Whether it is the k-mer baseline, which scores each chunk once instead of its frames."""
        return is_kmer(self.encoders)

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
        if self.is_kmer:
            return "composition of chunks and of their longest open stretches"
        return " and ".join(fingerprint["encoder"] for fingerprint in self.encoders.values())

    @property
    def dims(self) -> dict[str, int]:
        """Columns of each encoder."""
        return {"dna": self.dna_dim, "protein": self.protein_dim}

    def pair(self) -> str:
        """The two encoders and the columns of each, for messages."""
        return shown_pair(self.encoders, self.dims)

    def require_match(self, folder: Path, encoders: Encoders, dims: Dims, chunk_length: int, rule: FrameRule) -> None:
        """Refuse features that the classifier of a folder was not trained for; the rule is that of their frames.

        Raises:
            ClassifierMismatch: lists every mismatch: what the classifier expects, what was found, and the remedy.
        """
        expected = _facts(self.encoders, self.dims, self.chunk_length, self.rule)
        found = _facts(encoders, dims, chunk_length, rule)
        mismatches = [
            f"  {name}: expected {expected.get(name, 'nothing')!r}, found {found.get(name, 'nothing')!r}"
            for name in sorted(expected.keys() | found.keys())
            if expected.get(name) != found.get(name)
        ]
        if mismatches:
            raise ClassifierMismatch(
                f"{folder}: the {self.variant} classifier reads {self.pair()} and cannot score features of "
                f"{shown_pair(encoders, dims)}:\n" + "\n".join(mismatches) + "\nMake the features with its encoders, "
                "chunk length and frame rule, or train the classifier again on features like these."
            )


def _facts(encoders: Encoders, dims: Dims, chunk_length: int, rule: FrameRule) -> dict[str, object]:
    """All that features and their classifier must have in common, by what it is called in messages."""
    facts = {"chunk_length": chunk_length, "frame rule": str(rule), **{f"{side}_dim": dims[side] for side in dims}}
    for side, fingerprint in encoders.items():
        facts |= {f"{side} encoder: {key}": value for key, value in fingerprint.items()}
    return facts


def shown_pair(encoders: Encoders, dims: Dims) -> str:
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
    renames leaves files that the older description's digests refuse, never a half-written classifier. The returned
    description has the digest of the weights and the sketch; `register` is called with it before the renames, and if
    it fails, the folder stays as it was.
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


@torch.inference_mode()  # type: ignore[untyped-decorator]
def score(model: Model, features: np.ndarray, batch_rows: int = 4096) -> np.ndarray:
    """Softmax over (other, virus), (n, 2) float32, of features (n, d) float32, which may be memory-mapped.

    The model is put into eval mode. Matrix products round the last rows of a batch otherwise than rows within whole
    blocks, so that a row's score would depend on how many there are: batches are filled up with zeros to whole blocks.

    Raises:
        VirnucError: a score is not finite.
    """
    model.eval()
    device = model.output_layer.weight.device
    scores = np.empty((len(features), 2), dtype=np.float32)
    for start in range(0, len(features), batch_rows):
        batch = torch.tensor(features[start : start + batch_rows], device=device)
        logits = model(functional.pad(batch, (0, 0, 0, -len(batch) % _BLOCK)))  # (whole blocks, 2)
        scores[start : start + batch_rows] = torch.softmax(logits, dim=1)[: len(batch)].cpu().numpy()
    if bad := np.flatnonzero(~np.isfinite(scores).all(axis=1)).tolist():
        raise VirnucError(f"{len(bad)} of {len(scores)} scores are not finite, e.g. of rows {bad[:5]}")
    return scores


@dataclass(frozen=True)
class ServingClassifier:
    """A classifier that was found to fit the encoders and the chunk length in use."""

    model: Model
    description: ClassifierDescription

    @classmethod
    def load(
        cls, folder: Path, encoders: Encoders, dims: Dims, chunk_length: int, rule: FrameRule | None
    ) -> ServingClassifier:
        """Load a classifier for features of these encoders (arguments as of `require_match`).

        Without a rule the features are yet to be made, by the classifier's.

        Raises:
            ClassifierMismatch: it is absent, damaged, or was trained for others; all mismatches are listed.
        """
        model, description = load_classifier(folder)
        load_sketch(folder, description.sketch)  # refused here, not where it is read
        description.require_match(folder, encoders, dims, chunk_length, rule or description.rule)
        return cls(model, description)

    @property
    def digest(self) -> str:
        """Digest of the weights."""
        return self.description.weights_sha256

    @property
    def features_schema(self) -> pa.Schema:
        """The only features table it can read; the width is part of the type."""
        return features_schema(self.description.merged_dim)

    def predictions(self, features: pa.Table) -> pa.Table:
        """Predictions table of a features table, row for row.

        Raises:
            ClassifierMismatch: the features are of another width.
        """
        if (found := vector_dim(features.schema)) != self.description.merged_dim:
            raise ClassifierMismatch(
                f"the {self.description.variant} classifier reads {self.description.pair()}; these features have "
                f"{found} columns. Make them with its encoders, or use the classifier of theirs."
            )
        scores = score(self.model, vectors_of(features))  # (n, 2)
        known = [features[name] for name in ("frame_id", "chunk_id", "record_id")]
        return pa.table([*known, scores[:, 0], scores[:, 1], frame_calls(scores)], schema=predictions_schema())
