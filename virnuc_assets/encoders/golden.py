"""Golden vectors of the miniatures: whether this installation still computes the numbers of existing tables.

`golden.json` holds a handful of sequences for each alphabet, the pooled vectors that each miniature gave for them in
fp32 on a CPU, and the libraries that gave them. Every embedding run computes them again first, by the code path of a
real encoder.
"""

from __future__ import annotations

import functools
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from virnuc_assets.encoders.checkpoints import GOLDEN_FILE, versions
from virnuc_assets.encoders.embedding import embed
from virnuc_assets.encoders.loading import Encoder, load_encoder
from virnuc_assets.encoders.machine import resolve_device
from virnuc_assets.encoders.miniature import write_miniature
from virnuc_assets.encoders.registry import ENCODERS, Architecture, EncoderSpec
from virnuc_assets.errors import VirnucError
from virnuc_assets.settings import EncodingSettings

TOLERANCE = 1e-5
"""Largest accepted difference of a vector's element: the one within which order and batches change nothing."""

LIBRARIES = ("torch", "transformers", "tokenizers", "numpy")
_DECIMALS = 8
Vectors = dict[str, list[float]]


class GoldenError(VirnucError):
    """This installation computes other numbers than those of the golden file."""


def load_for_run(spec: EncoderSpec, checkpoints: Path, encoding: EncodingSettings) -> Encoder:
    """`load_encoder`, after this installation was found to compute the golden vectors of the architecture."""
    encoder = load_encoder(spec, checkpoints, encoding)
    check_golden(spec.architecture, encoding.device)
    return encoder


@functools.cache
def check_golden(architecture: Architecture, device: str, path: Path = GOLDEN_FILE) -> float:
    """Largest difference of this installation to the golden file, found once in a process.

    The miniatures of the architecture are computed on the CPU and, where the run asks for it, on the GPU.

    Raises:
        GoldenError: a difference exceeds `TOLERANCE`, so that vectors must not join those of existing tables.
    """
    golden, largest = json.loads(path.read_text(encoding="utf-8")), 0.0
    names = [name for name in golden["vectors"] if ENCODERS[name].architecture == architecture]
    for used in sorted({"cpu", resolve_device(device).type}):
        size, where = largest_difference(golden, {name: golden_vectors(name, golden, used) for name in names})
        if not size <= TOLERANCE:
            raise GoldenError(
                f"{architecture}: the golden vectors in {path} are not those that this installation computes: the "
                f"largest difference is {size:.1e} ({where} on {used}), accepted is {TOLERANCE:.0e}. Written by "
                f"{golden['versions']}; installed are {versions(LIBRARIES)}. Install those versions "
                "(constraints.txt), or write the vectors again, in the checkout, by `python -m "
                "virnuc_assets_tests.encoders.write_golden`; everything is then embedded again"
            )
        largest = max(largest, size)
    return largest


def golden_vectors(name: str, golden: dict[str, Any], device: str) -> Vectors:
    """Pooled vector of each golden sequence, through a checkpoint folder as any encoder's."""
    spec = ENCODERS[name]
    sequences: dict[str, str] = golden["sequences"][spec.alphabet]
    with tempfile.TemporaryDirectory(prefix="virnuc-golden-") as folder:
        write_miniature(spec, Path(folder))
        encoder = load_encoder(spec, Path(folder), EncodingSettings.model_validate({"device": device}))
        vectors = embed(encoder, list(sequences.values()))
    return {key: [round(x, _DECIMALS) for x in row] for key, row in zip(sequences, vectors.tolist(), strict=True)}


def largest_difference(golden: dict[str, Any], found: dict[str, Vectors]) -> tuple[float, str]:
    """Largest difference of an element, and of which sequence and encoder."""
    return max(
        (float(np.abs(np.subtract(golden["vectors"][encoder][name], vector)).max()), f"sequence {name!r} of {encoder}")
        for encoder, vectors in found.items()
        for name, vector in vectors.items()
    )
