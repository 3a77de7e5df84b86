"""Trains VirNucPro's MLP on the features and the split of a variant, with VirNucPro's hyperparameters.

Early stopping is decided by rows of no relative of a training or test record. Upstream (train.py) the test rows decide
when to stop, the best weights are kept by reference (so that the last ones are saved), and nothing is saved unless the
patience runs out; none of this is done here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  (the field's name for it)

from virnuc_assets.classifier.calls import fit_temperature, frame_calls
from virnuc_assets.classifier.checkpoint import ClassifierDescription, Encoders, Mlp, Model, load_classifier, score
from virnuc_assets.classifier.datasets import (
    WINDOW_ROWS,
    Drawn,
    LabelledRows,
    balanced_rows,
    draw,
    records_of_split,
    rows_at,
    rows_of_split,
    store_rows,
)
from virnuc_assets.classifier.linear import fit_linear
from virnuc_assets.classifier.novelty import Sketch, TrainedProteins, load_sketch, sketch_settings
from virnuc_assets.classifier.record_rule import fit_record_rule, novel_chunks
from virnuc_assets.encoders.registry import Alphabet, Variant
from virnuc_assets.errors import VirnucError
from virnuc_assets.sequences.frame_rule import STOP_FREE, FrameRule
from virnuc_assets.settings import SplitSettings, TrainingSettings
from virnuc_assets.split.assignment import Split, split_schema
from virnuc_assets.storage.digests import digest_of
from virnuc_assets.storage.merging import vectors_of
from virnuc_assets.storage.tables import content_digest, read_provenance, read_schema, read_table

OnEpoch = Callable[[int, Mapping[str, float]], None]
Sides = tuple[Alphabet, ...]
BOTH: Sides = ("dna", "protein")
_EXAMPLE_ROWS = 2
# A random 16-bit integer decides whether a hidden value is kept; torch draws four of them at once.
_LEVELS, _LOWEST = 2**16, -(2**15)
# Smaller units of the velocity are brought back to ones: far from where float32 ends.
_SMALLEST_UNIT = 2.0**-16


@dataclass(frozen=True)
class TrainedClassifier:
    """The model of the epoch with the lowest validation loss, in eval mode on the CPU, and how it was found."""

    model: Model
    best_epoch: int | None  # 1-based; None of a linear model
    history: list[dict[str, float]]  # of each epoch train_loss, validation_loss, validation_accuracy, learning_rate
    temperature: float  # at which the model's scores of the validation rows are likeliest
    inverse_strength: float | None = None  # of the penalty of a linear model
    out_of_fold: pd.DataFrame | None = None  # of a linear model, as of `LinearFit.out_of_fold`


def data_digest(
    features: Mapping[str, Path],
    split: Path,
    training: TrainingSettings,
    relatives: SplitSettings | None,
    sides: Sides = BOTH,
) -> str:
    """Digest of all that decides a classifier: feature rows and their columns, split, settings."""
    contents = {shard: content_digest(path) for shard, path in features.items()}
    settings: dict[str, object] = {"training": training.model_dump(), "sides": sides}
    settings["sketch"] = sketch_settings(relatives) if relatives else None
    return digest_of({"features": contents, "split": content_digest(split), **settings})


@dataclass(frozen=True)
class Fit:
    """What a variant's classifier is trained on."""

    variant: Variant
    encoders: Encoders
    features: Mapping[str, Path]  # tables by shard, already found to be current
    split: Path
    chunk_length: int
    training: TrainingSettings
    sides: Sides = BOTH  # whose columns are trained on and scored by; a classifier that is saved reads both
    rule: FrameRule = STOP_FREE
    proteins: TrainedProteins | None = None  # of the features' frames

    def found_in(self, folder: Path) -> ClassifierDescription | None:
        """The description of a classifier that this very fit made, if the folder holds it."""
        try:
            _, description = load_classifier(folder)
            load_sketch(folder, description.sketch)
        except VirnucError:  # absent, or damaged: it is not this fit's, and training replaces it
            return None
        facts = ("data_digest", "encoders", "chunk_length", "rule")
        return description if all(getattr(description, name) == getattr(self, name) for name in facts) else None

    def train(self, scratch: Path, on_epoch: OnEpoch | None = None, device: str = "cpu") -> TrainedClassifier:
        """Train on balanced rows of the training split, stopped on balanced rows of the validation split (see `train`).

        The rows are copied into the scratch folder.
        """
        if self.variant.is_kmer:
            return self._train_linear(on_epoch)
        rows = []
        for split, drawn in self.drawn.items():
            features = store_rows(scratch / f"{split}.rows", drawn.positions, self._schema, self.columns)
            rows.append(LabelledRows(features, drawn.labels))
        return train(rows[0], rows[1], self.training, on_epoch, device)

    def _train_linear(self, on_step: OnEpoch | None) -> TrainedClassifier:
        """A linear model of all rows of training and validation; parts of both decide its penalty in turn."""
        vectors, known = list[np.ndarray](), list[pa.Table]()
        for drawn in self.drawn.values():
            for path, positions in drawn.positions.items():
                vectors += rows_at(path, positions, self._schema)
                rows = read_table(path, self._schema, columns=["record_id", "label", "group"])
                known.append(rows.take(pa.array(positions)))
        facts = pa.concat_tables(known).to_pandas()
        facts = facts.sort_values("record_id", kind="stable")  # a record may be in several shards
        features = np.concatenate(vectors)[facts.index.to_numpy()]
        clusters = read_table(self.split, split_schema(), columns=["record_id", "cluster"]).to_pandas()
        facts["cluster"] = facts["record_id"].map(clusters.set_index("record_id")["cluster"])
        fit = fit_linear(features, facts, self.training.seed, on_step)
        labels, groups = (facts[name].to_numpy().astype(str) for name in ("label", "group"))
        balanced = balanced_rows(labels, groups, self.training.seed)
        temperature = fit_temperature(fit.log_odds[balanced], labels[balanced] == "viral")
        scores = fit.out_of_fold(facts, temperature)
        return TrainedClassifier(fit.model, None, fit.history, temperature, fit.inverse_strength, scores)

    def scored(self, model: Model, split: Split) -> pa.Table:
        """All rows of a split in the features' order: their columns but the vector, score_other, score_virus, call."""
        parts = []
        for rows in rows_of_split(self.features.values(), self._schema, read_table(self.split), split):
            scores = score(model, np.ascontiguousarray(vectors_of(rows)[:, self.columns]))  # (b, 2)
            columns = {"score_other": scores[:, 0], "score_virus": scores[:, 1], "call": frame_calls(scores)}
            known = rows.drop_columns("vector")
            parts.append(pa.table({**{name: known[name] for name in known.column_names}, **columns}))
        return pa.concat_tables(parts)

    def describe(self, trained: TrainedClassifier) -> ClassifierDescription:
        """What is written next to the weights.

        The record rule is fitted on the validation rows; they chose the epoch and the temperature, too, but trained no
        weight. Of a linear model, on rows out of fold.
        """
        chunks = trained.out_of_fold
        if chunks is None:
            scored = self.scored(trained.model, "validation")
            chunks = novel_chunks(scored, read_table(self.split), trained.temperature)
        return ClassifierDescription(
            variant=self.variant.name,
            encoders={side: dict(fingerprint) for side, fingerprint in self.encoders.items()},
            **self.dims,
            chunk_length=self.chunk_length,
            frame_rule=self.rule.name,
            min_orf_aa=self.rule.min_orf_aa,
            seed=self.training.seed,
            training=self.training,
            split_digest=content_digest(self.split),
            data_digest=self.data_digest,
            best_epoch=trained.best_epoch,
            inverse_strength=trained.inverse_strength,
            temperature=trained.temperature,
            record_rule=fit_record_rule(chunks, self.training.seed),
        )

    def sketch(self) -> Sketch | None:
        """Of the proteins of the training and validation records."""
        if self.proteins is None:
            return None
        table = read_table(self.split, split_schema())
        return self.proteins.sketch(records_of_split(table, "train") + records_of_split(table, "validation"))

    def params(self) -> dict[str, Any]:
        """What a tracking server should show of the fit; the digests of its tables included."""
        return {
            "variant": self.variant.name,
            "dna_encoder": self.encoders["dna"]["encoder"],
            "protein_encoder": self.encoders["protein"]["encoder"],
            **self.dims,
            "chunk_length": self.chunk_length,
            "frame_rule": str(self.rule),
            "precision": self.encoders["protein"]["precision"],
            **{f"training.{name}": value for name, value in self.training.model_dump().items()},
            "data_digest": self.data_digest,
            "split_digest": content_digest(self.split),
            **{f"{split}_rows": len(drawn.labels) for split, drawn in self.drawn.items()},
            **{f"{split}_rows_by_group": dict(drawn.counts) for split, drawn in self.drawn.items()},
            **{f"{split}_rows_available": dict(drawn.available) for split, drawn in self.drawn.items()},
        }

    def example(self) -> np.ndarray:
        """A training row, more than once because a batch is exported: (b, dim) float32."""
        path, positions = next((path, rows) for path, rows in self.drawn["train"].positions.items() if len(rows))
        (row,) = rows_at(path, positions[:1], self._schema)
        return np.repeat(row[:, self.columns], _EXAMPLE_ROWS, axis=0)

    @cached_property
    def drawn(self) -> dict[Split, Drawn]:
        """The balanced rows of training and validation, drawn once."""
        table, seed = read_table(self.split, split_schema()), self.training.seed
        splits: tuple[Split, Split] = ("train", "validation")
        records = {split: records_of_split(table, split) for split in splits}
        tables, balanced = self.features.values(), not self.variant.is_kmer
        return {split: draw(tables, self._schema, records[split], seed, balanced) for split in splits}

    @property
    def columns(self) -> slice:
        """Columns of the features that are trained on."""
        edges = {"dna": (0, self.dims["dna_dim"]), "protein": (self.dims["dna_dim"], self.dims["merged_dim"])}
        return slice(edges[self.sides[0]][0], edges[self.sides[-1]][1])

    @cached_property
    def data_digest(self) -> str:
        """Of all that decides the weights and the sketch."""
        relatives = self.proteins.settings if self.proteins else None
        return data_digest(self.features, self.split, self.training, relatives, self.sides)

    @cached_property
    def dims(self) -> dict[str, int]:
        """dna_dim, protein_dim and merged_dim, as the tables have them."""
        dims = read_provenance(next(iter(self.features.values())))["dims"]
        return {"dna_dim": dims["dna"], "protein_dim": dims["protein"], "merged_dim": dims["dna"] + dims["protein"]}

    @cached_property
    def _schema(self) -> pa.Schema:
        return read_schema(next(iter(self.features.values())))


def train(
    rows: LabelledRows,
    validation: LabelledRows,
    settings: TrainingSettings,
    on_epoch: OnEpoch | None = None,
    device: str = "cpu",
) -> TrainedClassifier:
    """Train until the validation loss has not fallen for `patience` epochs, or for `max_epochs`.

    The seed decides weights, order and dropout, to the bit on one machine; the caller's random state is left as it was.
    Validation rows, no relatives of what is trained on, decide the best epoch and the temperature. `on_epoch` is called
    after every epoch with its 1-based number and its entry of the history.

    Raises:
        VirnucError: a loss is not finite.
    """
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(settings.seed)
        model = Mlp(rows.features.shape[1], settings.hidden, settings.dropout).to(device)
        loop = EpochLoop(model, rows, settings)
    history: list[dict[str, float]] = []
    best_epoch, best_loss, best_weights = 0, math.inf, model.state_dict()
    for epoch in range(1, settings.max_epochs + 1):
        rate = settings.learning_rate * settings.step_gamma ** ((epoch - 1) // settings.step_epochs)
        metrics = {"train_loss": loop.epoch(rate), **_losses(_logits(model, validation.features), validation.labels)}
        metrics["learning_rate"] = rate
        if not all(map(math.isfinite, metrics.values())):
            raise VirnucError(f"epoch {epoch}: a loss is not finite: {metrics}; lower learning_rate")
        history.append(metrics)
        if on_epoch is not None:
            on_epoch(epoch, metrics)
        if metrics["validation_loss"] < best_loss:
            best_epoch, best_loss = epoch, metrics["validation_loss"]
            best_weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        elif epoch - best_epoch >= settings.patience:
            break
    model.load_state_dict(best_weights)
    logits = _logits(model, validation.features).numpy()
    temperature = fit_temperature(logits[:, 1] - logits[:, 0], validation.labels)
    return TrainedClassifier(model.cpu().eval(), best_epoch, history, temperature)


@torch.inference_mode()  # type: ignore[untyped-decorator]
def _logits(model: Mlp, features: np.ndarray) -> Tensor:
    """(n, 2) float64 on the CPU, of the model in eval mode."""
    device, starts = model.eval().hidden_layer.weight.device, range(0, len(features), WINDOW_ROWS)
    windows = (torch.tensor(features[start : start + WINDOW_ROWS], device=device) for start in starts)
    return torch.cat([model(window).double().cpu() for window in windows])


def _losses(logits: Tensor, labels: np.ndarray) -> dict[str, float]:
    """Mean loss over rows (upstream: over batches, which weighs the last batch's rows more), and accuracy."""
    truth = torch.tensor(labels)
    return {
        "validation_loss": float(F.cross_entropy(logits, truth)),
        "validation_accuracy": float((logits.argmax(dim=1) == truth).double().mean()),
    }


class EpochLoop:
    """Epochs of a model over rows in shuffled batches; what it takes from one to the next is its momentum."""

    def __init__(self, model: Mlp, rows: LabelledRows, settings: TrainingSettings) -> None:
        """Train on the model's device. The seed of dropout is drawn from torch's own generator."""
        weight = model.hidden_layer.weight
        self.model, self._device, self._batch_rows = model, weight.device, settings.batch_rows
        self._features = np.asarray(rows.features)  # a memmap is slower to index
        self._truth = F.one_hot(torch.tensor(rows.labels), 2).t().to(weight)  # (2, n)
        self._order = torch.Generator().manual_seed(settings.seed)
        dropout = torch.Generator(weight.device).manual_seed(int(torch.randint(2**31, ())))
        self._step = SgdStep(model, settings.momentum, dropout)

    def epoch(self, rate: float) -> float:
        """Train on every row once; returns the mean loss over rows, each as it was before its batch's step."""
        order = torch.randperm(self._truth.shape[1], generator=self._order)
        truth = self._truth.index_select(1, order.to(self._device))  # (2, n)
        logits, rows = torch.empty_like(truth), order.numpy()
        end = 0
        for size in batch_sizes(len(rows), self._batch_rows):
            start, end = end, end + size
            batch = torch.from_numpy(self._features[rows[start:end]]).to(self._device)
            self._step(batch, truth[:, start:end], rate, logits[:, start:end])
        return float(F.cross_entropy(logits.t().double(), truth.t().double()))


def batch_sizes(rows: int, batch_rows: int) -> list[int]:
    """Rows of every batch; a single last row, which BatchNorm cannot normalise, goes with the batch before it."""
    sizes = [min(batch_rows, rows - start) for start in range(0, rows, batch_rows)]
    if len(sizes) > 1 and sizes[-1] == 1:
        sizes[-2:] = [sizes[-2] + 1]
    return sizes


class SgdStep:
    """Steps of SGD with momentum on a model's own parameters, as torch's modules, autograd and SGD take them.

    At VirNucPro's 32 rows, autograd and torch.optim.SGD(fused=True) take twice the time of these steps on two cores, at
    2,048 columns as at 80: it goes into calls, and into writing and reading gradients as large as the hidden weights.
    Here that gradient is never written: its product is added onto the momentum (`velocity = momentum * velocity +
    grad`, `weight -= rate * velocity`). A product that scales what it is added onto takes twice as long in MKL, so the
    velocity is in units that shrink with the momentum, and is brought back to ones now and then. The hidden layer
    is transposed, (hidden, b): so both large products are fast, and means over rows are products with a vector.

    The hidden layer's bias is left as it is: BatchNorm takes it away again, so its gradient is zero.
    The rate of dropout is exact to 2^-16.
    """

    mask: Tensor  # of the last batch, (hidden, b): 0 where dropped out, else what survivors are scaled by

    def __init__(self, model: Mlp, momentum: float, generator: torch.Generator) -> None:
        """Dropout is drawn from the generator, which is on the model's device."""
        norm, out = model.bn1, model.output_layer
        self._weight, self._bias = model.hidden_layer.weight.detach(), model.hidden_layer.bias.detach()[:, None]
        self._small = [tensor.detach() for tensor in (norm.weight, norm.bias, out.weight, out.bias)]
        self._norm, self._norm_momentum = dict(norm.named_buffers()), cast(float, norm.momentum)
        self._eps = norm.eps
        self._velocity, self._unit = torch.zeros_like(self._weight), 1.0  # what it is times the unit
        self._small_velocity = [torch.zeros_like(tensor) for tensor in self._small]
        self._momentum, self._generator = momentum, generator
        self._kept = min(round((1.0 - model.dropout.p) * _LEVELS), _LEVELS - 1) if model.dropout.p else _LEVELS

    def __call__(self, features: Tensor, truth: Tensor, rate: float, logits: Tensor) -> None:
        """One batch of at least two rows: features (b, dim), truth (2, b) with 1 at each row's class, learning rate.

        Writes the model's logits (2, b) before the step, under dropout.
        """
        gamma, beta, out, out_bias = self._small
        rows = features.shape[0]
        average = self._weight.new_full((rows, 1), 1.0 / rows)
        normalised, spread = self._normalised(features, average)
        active = torch.addcmul(beta[:, None], normalised, gamma[:, None]).clamp_min_(0.0)  # (hidden, b)
        self.mask = self._drawn_mask(active)
        torch.addmm(out_bias[:, None], out, active.mul_(self.mask), out=logits)
        slope = torch.softmax(logits, dim=0).sub_(truth).div_(rows)  # (2, b), of the loss along the logits
        out_gradient, out_bias_gradient = slope @ active.t(), slope.sum(dim=1)
        # What survived ReLU and dropout is positive in `active`; the scale of the survivors goes with the slope.
        inner = (out.t() @ slope.mul_(_LEVELS / self._kept)).mul_(active.sign_())  # (hidden, b)
        mean, along = inner @ average, (inner * normalised) @ average  # (hidden, 1) each
        self._shrink_unit()
        inner.sub_(mean).addcmul_(normalised, along, value=-1.0).mul_(spread.mul_(gamma[:, None]).div_(self._unit))
        self._velocity.addmm_(inner, features)
        self._weight.add_(self._velocity, alpha=-rate * self._unit)
        torch._foreach_mul_(self._small_velocity, self._momentum)
        gradients = [along.mul_(rows)[:, 0], mean.mul_(rows)[:, 0], out_gradient, out_bias_gradient]
        torch._foreach_add_(self._small_velocity, gradients)
        torch._foreach_add_(self._small, self._small_velocity, alpha=-rate)

    def _normalised(self, features: Tensor, average: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised hidden values, (hidden, b), and one over their standard deviation before, (hidden, 1)."""
        rows = features.shape[0]
        hidden = self._weight @ features.t()
        mean = hidden @ average
        variance = torch.square(hidden.sub_(mean)) @ average
        self._norm["running_mean"][:, None].lerp_(mean.add_(self._bias), self._norm_momentum)
        self._norm["running_var"][:, None].lerp_(variance * (rows / (rows - 1)), self._norm_momentum)
        self._norm["num_batches_tracked"].add_(1)
        spread = variance.add_(self._eps).rsqrt_()
        return hidden.mul_(spread), spread

    def _shrink_unit(self) -> None:
        """The velocity times the momentum."""
        self._unit *= self._momentum
        if self._unit < _SMALLEST_UNIT:
            self._velocity.mul_(self._unit)
            self._unit = 1.0

    def _drawn_mask(self, like: Tensor) -> Tensor:
        if self._kept == _LEVELS:
            return torch.ones_like(like)
        bits = torch.empty(-(-like.numel() // 4), dtype=torch.int64, device=like.device)
        drawn = bits.random_(-(2**63), None, generator=self._generator).view(torch.int16)[: like.numel()]
        return (drawn < self._kept + _LOWEST).view_as(like).to(like.dtype).mul_(_LEVELS / self._kept)
