"""A classifier: its model, and on disk its weights as safetensors with a JSON of what must match before it scores."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, PositiveFloat, PositiveInt, ValidationError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from virnuc_assets.errors import VirnucError
from virnuc_assets.settings import TrainingSettings
from virnuc_assets.storage.atomic import atomic_write
from virnuc_assets.storage.layout import CLASSIFIER_FILE

Side = Literal["dna", "protein"]
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


class Origin(BaseModel):
    """Where a classifier comes from that was trained elsewhere; what it was trained on is not known.

    Attributes:
        made_by: the program.
        file: name of the file that was imported.
        sha256: of its bytes.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    made_by: str
    file: str
    sha256: str


class ClassifierDescription(BaseModel):
    """What a classifier reads, and what it was trained on and with, which is known of our own only.

    Attributes:
        variant: its pair of encoders.
        encoders: fingerprints of the nucleotide and the protein encoder.
        dna_dim: width of the nucleotide vectors, the first columns of the features.
        protein_dim: width of the protein vectors.
        merged_dim: their sum.
        chunk_length: nt.
        seed: of the training; it and all that follows up to `origin` are None of one trained elsewhere.
        training: its provenance.
        split_digest: of the split table.
        data_digest: of the rows trained and validated on.
        best_epoch: 1-based epoch of the weights.
        temperature: for `calibrated` scores; no call follows from it.
        origin: of one trained elsewhere.
        score_columns: order of the scores.
        weights_sha256: of the safetensors file; written by `save_classifier`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    variant: str
    encoders: dict[Side, dict[str, str]]
    dna_dim: PositiveInt
    protein_dim: PositiveInt
    merged_dim: PositiveInt
    chunk_length: PositiveInt
    seed: int | None = None
    training: TrainingSettings | None = None
    split_digest: str | None = None
    data_digest: str | None = None
    best_epoch: PositiveInt | None = None
    temperature: PositiveFloat | None = None
    origin: Origin | None = None
    score_columns: tuple[Literal["other"], Literal["virus"]] = ("other", "virus")
    weights_sha256: str = ""

    def pair(self) -> str:
        """The two encoders and the columns of each, for messages."""
        return told_pair(self.encoders["dna"], self.encoders["protein"], self.dna_dim, self.protein_dim)


def told_pair(dna: Mapping[str, str], protein: Mapping[str, str], dna_dim: int, protein_dim: int) -> str:
    """A pair of encoders by their fingerprints, and the columns of each, for messages."""
    names = " and ".join(side.get("encoder", "an unnamed encoder") for side in (dna, protein))
    return f"{names} ({dna_dim} + {protein_dim} = {dna_dim + protein_dim} columns)"


def save_classifier(
    folder: Path,
    model: Mlp,
    description: ClassifierDescription,
    register: Callable[[ClassifierDescription], object] = lambda _: None,
) -> ClassifierDescription:
    """Write weights and description, replacing what the folder holds.

    Both are written in full under temporary names, then renamed, the description last. Whoever dies between the
    two renames leaves weights that the older description's digest refuses: never a half-written classifier.

    Args:
        folder: of the variant.
        model: its weights are saved.
        description: what is known of it.
        register: called with the returned description before the renames; if it fails, the folder stays as it was.

    Returns:
        The description with the digest of the weights.
    """
    weights = save_tensors({name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()})
    described = description.model_copy(update={"weights_sha256": hashlib.sha256(weights).hexdigest()})
    with atomic_write(folder / CLASSIFIER_FILE) as description_aside:
        description_aside.write_text(described.model_dump_json(indent=2) + "\n", encoding="utf-8")
        with atomic_write(folder / WEIGHTS_FILE) as weights_aside:
            weights_aside.write_bytes(weights)
            register(described)
    return described


def load_classifier(folder: Path) -> tuple[Mlp, ClassifierDescription]:
    """The model, in eval mode on the CPU, and its description.

    Raises:
        ClassifierMismatch: a file is absent, the description is not one, or the weights are not those described.
    """
    again = "train the classifier again"
    if absent := [name for name in (WEIGHTS_FILE, CLASSIFIER_FILE) if not (folder / name).is_file()]:
        raise ClassifierMismatch(f"{folder}: no classifier: {' and '.join(absent)} not found; {again}")
    try:
        description = ClassifierDescription.model_validate_json((folder / CLASSIFIER_FILE).read_bytes())
    except ValidationError as error:
        raise ClassifierMismatch(
            f"{folder / CLASSIFIER_FILE}: not a classifier's description: {error}; {again}"
        ) from error
    weights = (folder / WEIGHTS_FILE).read_bytes()
    if (found := hashlib.sha256(weights).hexdigest()) != description.weights_sha256:
        raise ClassifierMismatch(
            f"{folder / WEIGHTS_FILE}: expected weights of sha256 {description.weights_sha256} as {CLASSIFIER_FILE} "
            f"tells, found {found}: damaged, or of another training; {again}"
        )
    tensors = load_tensors(weights)
    dropout = description.training.dropout if description.training else 0.0  # never at work in eval mode
    model = Mlp(description.merged_dim, len(tensors["hidden_layer.weight"]), dropout)
    model.load_state_dict(tensors)
    return model.eval(), description


def require_matches(
    description: ClassifierDescription,
    dna_fingerprint: dict[str, str],
    protein_fingerprint: dict[str, str],
    dna_dim: int,
    protein_dim: int,
    chunk_length: int,
) -> None:
    """Refuse features that a classifier was not trained for.

    Raises:
        ClassifierMismatch: lists every mismatch: what the classifier expects, what was found, and the remedy.
    """
    expected: dict[str, object] = {
        "dna_dim": description.dna_dim,
        "protein_dim": description.protein_dim,
        "chunk_length": description.chunk_length,
    }
    found: dict[str, object] = {"dna_dim": dna_dim, "protein_dim": protein_dim, "chunk_length": chunk_length}
    fingerprints: dict[Side, dict[str, str]] = {
        "dna": dna_fingerprint,
        "protein": protein_fingerprint,
    }
    for side, fingerprint in fingerprints.items():
        expected |= {f"{side} encoder: {key}": value for key, value in description.encoders[side].items()}
        found |= {f"{side} encoder: {key}": value for key, value in fingerprint.items()}
    mismatches = [
        f"  {name}: expected {expected.get(name, 'nothing')!r}, found {found.get(name, 'nothing')!r}"
        for name in sorted(expected.keys() | found.keys())
        if expected.get(name) != found.get(name)
    ]
    if mismatches:
        found_pair = told_pair(dna_fingerprint, protein_fingerprint, dna_dim, protein_dim)
        raise ClassifierMismatch(
            f"the {description.variant} classifier reads {description.pair()} and cannot score features of "
            f"{found_pair}:\n" + "\n".join(mismatches) + "\nMake the features with its encoders and chunk length, or "
            "train the classifier again on features like these."
        )
