"""Attention maps of chosen frames as a file of arrays and a picture.

How much each token attends to each other one, by eager attention with an encoder's weights: ESM runs transformers' own
forward, which returns attention weights; MosaicBERT keeps them in each layer.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from torch import Tensor
from transformers import EsmModel

from virnuc_assets.cli.stages import Log, Report, device_locked
from virnuc_assets.defs.resources import Workspace
from virnuc_assets.encoders.checkpoints import find_checkpoint, fingerprint
from virnuc_assets.encoders.embedding import NonFiniteError
from virnuc_assets.encoders.loading import DTYPES, load_model, load_tokenizer, tokenization
from virnuc_assets.encoders.machine import prepare_cpu, resolve_device
from virnuc_assets.encoders.registry import EncoderSpec, check_alphabet
from virnuc_assets.errors import VirnucError
from virnuc_assets.settings import EncodingSettings
from virnuc_assets.storage.atomic import atomic_write
from virnuc_assets.storage.outputs import require_output
from virnuc_assets.storage.tables import content_digest, read_windows

_EXAMPLES = 5
_READ_ROWS = 1024
_PICTURED = 8  # frames: matplotlib draws 65,536 pixels a side at most
_PANEL_INCHES, _DPI = 7.0, 150
_TICKS = 24  # tokens named on an axis
_BRIGHTEST = 99  # percentile of a panel's weights; the few columns that all rows attend to would leave the rest dark

# What the picture shows of a frame: tokens (l), and weights (l, l) of the last layer and of all layers.
_Panels = tuple[list[str], NDArray[np.float32], NDArray[np.float32]]


def attention_file(
    workspace: Workspace, frames: Path, encoder_name: str, frame_ids: Sequence[str], to: Path, report: Report, log: Log
) -> dict[str, Any]:
    """Write attention maps of chosen frames as NPZ, and a picture with the suffix .png next to it, or neither.

    Arrays: `attention/<frame_id>` (layers, heads, tokens, tokens) float32 and `tokens/<frame_id>` for each frame;
    `provenance`, JSON with the digest of the frames table and the encoder's fingerprint. Returns what was counted.
    """
    if to.suffix != ".npz":
        raise VirnucError(f"--out: expected a file name that ends in .npz, found {to}")
    spec, encoding = workspace.encoder_named(encoder_name), workspace.settings.encoding
    folder, picture = attention_folder(spec, workspace.layout.checkpoints), to.with_suffix(".png")
    require_output(to, [frames])
    require_output(picture, [frames])
    sequences = _chosen(frames, spec.column, frame_ids)
    check_alphabet([*sequences.values()], spec.alphabet, spec.name, [*sequences])
    encoder = fingerprint(spec, folder, encoding.precision)
    provenance = {"table": "attention", "frames": content_digest(frames), "encoder": encoder}
    truncated = [frame_id for frame_id, sequence in sequences.items() if sequence[: spec.max_length] != sequence]
    for frame_id in truncated:
        log(f"{frame_id}: {len(sequences[frame_id])} residues or bases, cut to the first {spec.max_length}")
    with atomic_write(picture) as png, atomic_write(to) as npz:
        with device_locked(workspace, log):
            model = AttentionModel(spec, folder, encoding)
            panels = _write_maps(model, sequences, provenance, npz, report)
        _draw(panels, spec.name, png)
    if len(sequences) > len(panels):
        log(f"{picture}: shows the first {len(panels)} of {len(sequences)} frames")
    counts = {"frames": len(sequences), "truncated": len(truncated)}
    return {**counts, "encoder": spec.name, "device": model.device, "picture": picture}


def attention_folder(spec: EncoderSpec, checkpoints: Path) -> Path:
    """Checkpoint folder of an encoder, as `find_checkpoint`; one without attention is refused."""
    folder = find_checkpoint(spec, checkpoints)
    if folder is None:
        raise VirnucError(
            f"{spec.name}: architecture {spec.architecture} has no attention; choose an encoder of architecture esm or "
            "mosaic_bert"
        )
    return folder


class AttentionModel:
    """An encoder's model with eager attention, on its device and in its precision."""

    def __init__(self, spec: EncoderSpec, folder: Path, encoding: EncodingSettings) -> None:
        prepare_cpu()
        self.spec, self.device = spec, resolve_device(encoding.device)
        self._tokenizer = load_tokenizer(folder)
        model = load_model(spec, folder, DTYPES[encoding.precision], attention="eager")
        self.model = model.eval().requires_grad_(False).to(self.device)

    def tokenize(self, sequence: str) -> list[int]:
        """Token ids as the encoder has them, cut to its `max_length` residues or bases."""
        tokens: list[int] = tokenization(self.spec, self._tokenizer)([sequence[: self.spec.max_length]])[0].tolist()
        return tokens

    @torch.no_grad()
    def forward(self, token_ids: Tensor) -> tuple[Tensor, Tensor]:
        """(1, l) int64 to hidden states (1, l, d) and attention weights (layers, heads, l, l)."""
        if isinstance(self.model, EsmModel):
            out = EsmModel.forward(self.model, input_ids=token_ids, output_attentions=True)
            return out.last_hidden_state, torch.cat(out.attentions)
        hidden = self.model(token_ids)
        return hidden, torch.cat([layer.weights for layer in self.model.layers])

    def attention(self, frame_id: str, sequence: str) -> tuple[list[str], NDArray[np.float32]]:
        """Tokens and attention weights of an upper-case sequence of the encoder's alphabet.

        l tokens, special ones included, and (layers, heads, l, l): what row i attends to, in sum 1.
        """
        token_ids = self.tokenize(sequence)
        _, weights = self.forward(torch.tensor([token_ids], device=self.device))
        found = weights.float().cpu().numpy()
        if not np.isfinite(found).all():
            raise NonFiniteError(
                f"{self.spec.name}: attention of {frame_id} holds NaN or infinity; the weights are damaged or the "
                "precision is too narrow: run `virnuc doctor --verify`, or set precision = 'fp32' under [encoding]"
            )
        return self._tokenizer.convert_ids_to_tokens(token_ids), found


def _chosen(frames: Path, column: str, frame_ids: Sequence[str]) -> dict[str, str]:
    """Sequences of the chosen frames by id, in the order of choice."""
    wanted = list(dict.fromkeys(frame_ids))
    found = dict[str, str]()
    for window in read_windows(frames, _READ_ROWS, require={"table": "frames"}, columns=["frame_id", column]):
        rows = window.filter(pc.is_in(window["frame_id"], pa.array(wanted)))
        found |= dict(zip(rows["frame_id"].to_pylist(), rows[column].to_pylist(), strict=True))
    if unknown := [frame_id for frame_id in wanted if frame_id not in found]:
        first = next(iter(read_windows(frames, _EXAMPLES, require={"table": "frames"}, columns=["frame_id"])))
        raise VirnucError(
            f"{frames}: no frame is called {', '.join(unknown)}; there are, for example: "
            f"{', '.join(first.column('frame_id').to_pylist())}; `virnuc fasta {frames} --column {column}` prints all"
        )
    return {frame_id: found[frame_id] for frame_id in wanted}


def _write_maps(
    model: AttentionModel, sequences: Mapping[str, str], provenance: Mapping[str, Any], path: Path, report: Report
) -> dict[str, _Panels]:
    """Write the arrays as numpy.savez does, with one map in memory at a time; returns what the picture shows."""
    panels: dict[str, _Panels] = {}
    with zipfile.ZipFile(path, "w") as archive:
        _add(archive, "provenance", np.array(json.dumps(provenance, sort_keys=True)))
        for frame_id, sequence in sequences.items():
            tokens, weights = model.attention(frame_id, sequence)
            _add(archive, f"attention/{frame_id}", weights)
            _add(archive, f"tokens/{frame_id}", np.array(tokens))
            if len(panels) < _PICTURED:
                panels[frame_id] = (tokens, weights[-1].mean(0), weights.mean((0, 1)))
            report(1, len(sequences))
    return panels


def _add(archive: zipfile.ZipFile, name: str, array: NDArray[Any]) -> None:
    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
        np.lib.format.write_array(member, array, allow_pickle=False)


def _draw(panels: Mapping[str, _Panels], encoder: str, path: Path) -> None:
    """One row of two panels per frame."""
    with rc_context({"text.parse_math": False, "font.size": 9}):  # a frame's id may hold dollar signs
        figure = Figure((2 * _PANEL_INCHES + 1, _PANEL_INCHES * len(panels)), dpi=_DPI, layout="constrained")
        rows = zip(figure.subplots(len(panels), 2, squeeze=False), panels.items(), strict=True)
        for axes, (frame_id, (tokens, last, all_layers)) in rows:
            _panel(axes[0], last, tokens, f"{frame_id}\n{encoder}: last layer, mean over its heads")
            _panel(axes[1], all_layers, tokens, f"{frame_id}\n{encoder}: mean over all layers and heads")
        figure.savefig(path, format="png")


def _panel(axes: Axes, weights: NDArray[np.float32], tokens: Sequence[str], title: str) -> None:
    brightest = float(np.percentile(weights, _BRIGHTEST))
    image = axes.imshow(weights, cmap="viridis", vmin=0, vmax=brightest, interpolation="none")
    rounded = MaxNLocator(_TICKS, steps=[1, 2, 5, 10], integer=True).tick_values(0, len(tokens) - 1)
    places = [int(place) for place in rounded if place < len(tokens)]
    names = [f"{tokens[place]} {place}" for place in places]
    axes.set_xticks(places, names, rotation=90, family="monospace")
    axes.set_yticks(places, names, family="monospace")
    axes.set(title=title, xlabel="token attended to (with its position)", ylabel="token that attends")
    label = f"attention weight (the highest {100 - _BRIGHTEST} % in the brightest colour)"
    axes.figure.colorbar(image, ax=axes, shrink=0.7, extend="max", label=label)
