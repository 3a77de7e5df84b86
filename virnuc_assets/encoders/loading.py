"""From a registry row to an encoder that turns token ids into pooled vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from virnuc_assets.encoders.checkpoints import checkpoint_folder
from virnuc_assets.encoders.fingerprint import fingerprint
from virnuc_assets.encoders.pooling import LEFT_OUT, keep_mask, mean_pool
from virnuc_assets.encoders.registry import EncoderSpec
from virnuc_assets.errors import VirnucError
from virnuc_assets.settings import EncodingSettings

if TYPE_CHECKING:
    from virnuc_assets.encoders.esm import Esm
    from virnuc_assets.encoders.kmer import Kmer
    from virnuc_assets.encoders.mosaic_bert import MosaicBert
    from virnuc_assets.encoders.tokenization import TokenIds, Tokenization

    Model = Esm | MosaicBert | Kmer

DTYPES = {"fp32": torch.float32}


class Encoder:
    """A model with its tokenization and its pooling.

    Attributes:
        spec: Its row of the registry.
        dim: Width of its vectors, told by the checkpoint.
        fingerprint: What its numbers depend on.
        device: Where it runs.
    """

    def __init__(
        self, spec: EncoderSpec, model: Model, tokenization: Tokenization, fingerprint: dict[str, str]
    ) -> None:
        self.spec = spec
        self.fingerprint = fingerprint
        self.dim = model.dim
        self._model = model.eval()
        self._tokenization = tokenization
        self.device = next(tensor.device for tensor in (*model.parameters(), *model.buffers()))
        left_out = [tokenization.special[role] for role in LEFT_OUT[spec.pooling]]
        self._left_out = torch.tensor(left_out, device=self.device)

    def tokenize(self, sequences: Sequence[str]) -> list[TokenIds]:
        """Token ids of each sequence, (l,) int64, special tokens included, in input order."""
        return self._tokenization(sequences)

    @torch.inference_mode()
    def forward(self, token_ids: Tensor) -> Tensor:
        """Pooled vectors of sequences with equally many tokens.

        Args:
            token_ids: (b, l) int64 on the encoder's device, without padding.

        Returns:
            (b, d) float32 on the same device.
        """
        hidden = self._model(token_ids)  # (b, l, d)
        return mean_pool(hidden, keep_mask(token_ids, self._left_out))


def load_encoder(spec: EncoderSpec, checkpoints: Path, encoding: EncodingSettings) -> Encoder:
    """Load an encoder onto its device in its precision.

    Args:
        spec: Row of the registry.
        checkpoints: Folder of the miniatures.
        encoding: Precision and device.

    Raises:
        CheckpointMissingError: the weights are not on this machine.
        CheckpointError: they are incomplete or belong to another architecture.
        VirnucError: the requested device is absent.
    """
    device = resolve_device(encoding.device)
    folder = checkpoint_folder(spec, checkpoints)
    model, tokenization = _load(spec, folder)
    model.to(device, DTYPES[encoding.precision])
    return Encoder(spec, model, tokenization, fingerprint(spec, folder, encoding.precision))


def resolve_device(requested: str) -> torch.device:
    """The device to use: `auto` is a GPU where there is one.

    Raises:
        VirnucError: `cuda` was asked for and is absent.
    """
    present = torch.cuda.is_available()
    if requested == "cuda" and not present:
        raise VirnucError("device = 'cuda' is set, but torch finds no GPU; set device to 'auto' or 'cpu'")
    return torch.device("cuda" if present and requested != "cpu" else "cpu")


def _load(spec: EncoderSpec, folder: Path | None) -> tuple[Model, Tokenization]:
    library = library_of(spec)
    if spec.architecture != "kmer" and folder is None:
        raise VirnucError(f"{spec.name}: {spec.architecture} needs a checkpoint, and the registry names none")
    load: Callable[..., tuple[Model, Tokenization]] = getattr(library, f"load_{spec.architecture}")
    return load(spec if folder is None else folder)


def library_of(spec: EncoderSpec) -> ModuleType:
    """The architecture's module, imported only when it is asked for: transformers alone takes seconds."""
    if spec.architecture == "kmer":
        from virnuc_assets.encoders import kmer

        return kmer
    if spec.architecture == "esm":
        from virnuc_assets.encoders import esm

        return esm
    from virnuc_assets.encoders import mosaic_bert

    return mosaic_bert
