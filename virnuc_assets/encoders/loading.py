"""From a registry row to an encoder that turns token ids into pooled vectors."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from virnuc_assets.encoders.checkpoints import checkpoint_folder
from virnuc_assets.encoders.device_memory import CudaMemory, fitted_budget
from virnuc_assets.encoders.fingerprint import fingerprint
from virnuc_assets.encoders.golden import check_golden
from virnuc_assets.encoders.machine import give_freed_memory_back, prepare_cpu, resolve_device
from virnuc_assets.encoders.pooling import LEFT_OUT, keep_mask, mean_pool
from virnuc_assets.encoders.registry import Architecture, EncoderSpec
from virnuc_assets.encoders.tuning import CPU_TOKENS, PROBE_LENGTH, Tuning, reform, tune
from virnuc_assets.errors import VirnucError
from virnuc_assets.settings import EncodingSettings, Precision

if TYPE_CHECKING:
    from virnuc_assets.encoders.esm import Esm
    from virnuc_assets.encoders.kmer import Kmer
    from virnuc_assets.encoders.mosaic_bert import MosaicBert
    from virnuc_assets.encoders.tokenization import TokenIds, Tokenization

    Model = Esm | MosaicBert | Kmer

DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# Byte pairs make some fifty lengths of chunks that are equally long; only many rows at once fill a batch of one.
_WINDOW_BATCHES: dict[Architecture, int] = {"esm": 8, "kmer": 8, "mosaic_bert": 64}
_PROBE_LETTERS = 512  # where an encoder has no longest sequence
TUNING_FILE = "tuning.json"  # beside the checkpoints: both belong to a machine


class Encoder:
    """A model with its tokenization and its pooling.

    Attributes:
        spec: Its row of the registry.
        dim: Width of its vectors, told by the checkpoint.
        fingerprint: What its numbers depend on.
        device: Where it runs.
        tuning: Tokens a batch and compilation as they were chosen, and why.
        token_budget: Tokens a batch from now on; halved when the device's memory runs out.
        window_rows: Rows that are read, embedded and written at a time: some batches of common lengths. A power of
            two, so that the windows of two encoders begin together at every row of the larger.
    """

    def __init__(
        self,
        spec: EncoderSpec,
        model: Model,
        tokenization: Tokenization,
        fingerprint: dict[str, str],
        tuning: Tuning,
    ) -> None:
        self.spec = spec
        self.fingerprint = fingerprint
        self.dim = model.dim
        self.tuning = tuning
        self.token_budget = tuning.token_budget
        self.window_rows = _window_rows(spec, self.token_budget)
        self._model = model
        self._tokenization = tokenization
        self.device = next(tensor.device for tensor in (*model.parameters(), *model.buffers()))
        self.on_gpu = self.device.type == "cuda"
        left_out = [tokenization.special[role] for role in LEFT_OUT[spec.pooling]]
        self._left_out = torch.tensor(left_out, device=self.device)

    def tokenize(self, sequences: Sequence[str]) -> list[TokenIds]:
        """Token ids of each sequence, (l,) int64, special tokens included, in input order."""
        return self._tokenization(sequences)

    @torch.no_grad()
    def forward(self, token_ids: Tensor) -> Tensor:
        """Pooled vectors of sequences with equally many tokens.

        Args:
            token_ids: (b, l) int64 on the encoder's device, without padding.

        Returns:
            (b, d) float32 on the same device.
        """
        hidden = self._model(token_ids)  # (b, l, d)
        return mean_pool(hidden, keep_mask(token_ids, self._left_out))

    def halve_budget(self, token_ids: Tensor) -> None:
        """Make later batches half as large as this one, for which memory ran out.

        Raises:
            torch.OutOfMemoryError: it was a single row already.
        """
        rows, length = token_ids.shape
        if rows == 1:
            raise torch.OutOfMemoryError(
                f"{self.spec.name}: not even one sequence of {length} tokens fits into the memory of {self.device}; "
                "end what else uses it, or set precision or device under [encoding] in virnuc.toml"
            )
        self.token_budget = rows * length // 2
        if self.on_gpu:
            torch.cuda.empty_cache()


def load_encoder(spec: EncoderSpec, checkpoints: Path, encoding: EncodingSettings) -> Encoder:
    """Load an encoder onto its device in its precision.

    Args:
        spec: Row of the registry.
        checkpoints: Folder of the miniatures.
        encoding: Precision, device, token budget and compilation.

    Raises:
        CheckpointMissingError: the weights are not on this machine.
        CheckpointError: they are incomplete, altered, or belong to another architecture.
        VirnucError: the requested device is absent.
    """
    prepare_cpu()
    device, dtype = resolve_device(encoding.device), DTYPES[encoding.precision]
    folder = checkpoint_folder(spec, checkpoints)
    model, tokenization = _load(spec, folder, dtype)
    model.eval().requires_grad_(False).to(device)
    tuning = tune(model, dtype, device, encoding, checkpoints / TUNING_FILE)
    reform(model.layers(), tuning.layers)
    give_freed_memory_back()  # what reading, joining and tuning left
    encoder = Encoder(spec, model, tokenization, fingerprint(spec, folder, encoding.precision), tuning)
    if encoder.on_gpu and not isinstance(encoding.token_budget, int) and spec.architecture != "kmer":
        encoder.token_budget = _fill_device(encoder)
        encoder.window_rows = _window_rows(spec, encoder.token_budget)
    return encoder


def load_for_run(spec: EncoderSpec, checkpoints: Path, encoding: EncodingSettings) -> Encoder:
    """`load_encoder`, after this installation was found to compute the golden vectors of the architecture.

    Raises:
        GoldenError: it computes other numbers, so that its vectors must not join those of existing tables.
    """
    check_golden(spec.architecture, encoding.device)
    return load_encoder(spec, checkpoints, encoding)


def _window_rows(spec: EncoderSpec, token_budget: int) -> int:
    rows = _WINDOW_BATCHES[spec.architecture] * token_budget // PROBE_LENGTH
    return int(2 ** math.floor(math.log2(max(rows, 1))))


def _fill_device(encoder: Encoder) -> int:
    length = len(encoder.tokenize(["A" * (encoder.spec.max_length or _PROBE_LETTERS)])[0])

    def run(tokens: int) -> None:
        encoder.forward(torch.full((max(tokens // length, 1), length), 5, device=encoder.device))

    return fitted_budget(run, max(CPU_TOKENS, length), CudaMemory())


def _load(spec: EncoderSpec, folder: Path | None, dtype: torch.dtype) -> tuple[Model, Tokenization]:
    library = library_of(spec)
    load: Callable[..., tuple[Model, Tokenization]] = getattr(library, f"load_{spec.architecture}")
    if spec.architecture == "kmer":
        return load(spec)
    if folder is None:
        raise VirnucError(f"{spec.name}: {spec.architecture} needs a checkpoint, and the registry names none")
    return load(folder, dtype)


def library_of(spec: EncoderSpec) -> ModuleType:
    """The architecture's module, imported only when it is asked for."""
    if spec.architecture == "kmer":
        from virnuc_assets.encoders import kmer

        return kmer
    if spec.architecture == "esm":
        from virnuc_assets.encoders import esm

        return esm
    from virnuc_assets.encoders import mosaic_bert

    return mosaic_bert
