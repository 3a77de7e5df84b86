"""Half precision: nearly the same vectors."""

from pathlib import Path

import numpy as np
import pytest

from virnuc_assets.encoders.embedding import embed
from virnuc_assets.encoders.loading import Encoder, load_encoder
from virnuc_assets.encoders.registry import ENCODERS, EncoderSpec
from virnuc_assets.settings import EncodingSettings, Precision
from virnuc_assets_tests.encoders.drawn import drawn

SPECS = [ENCODERS[f"{name}_miniature"] for name in ("dnabert_s", "fastesm2_650", "esm2_3b")]
LENGTHS = [*range(20, 167, 3)]
SMALLEST_COSINE = 0.9999
every_spec = pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)


def loaded(spec: EncoderSpec, checkpoints: Path, precision: Precision) -> Encoder:
    return load_encoder(spec, checkpoints, EncodingSettings(device="cpu", precision=precision))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@every_spec
def test_vectors_point_where_those_of_fp32_do(spec: EncoderSpec, precision: Precision, checkpoints: Path) -> None:
    sequences = drawn(spec.alphabet, LENGTHS)
    full, half = (embed(loaded(spec, checkpoints, p), sequences) for p in ("fp32", precision))
    assert half.dtype == np.float32 and not np.array_equal(full, half)
    cosine = (full * half).sum(axis=1) / np.linalg.norm(full, axis=1) / np.linalg.norm(half, axis=1)
    assert cosine.min() >= SMALLEST_COSINE
