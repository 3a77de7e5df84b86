"""Half precision: nearly the same vectors, weights held once and in that precision, rotary tables in fp32."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from virnuc_assets.encoders.embedding import embed
from virnuc_assets.encoders.esm import LeanEsm
from virnuc_assets.encoders.loading import DTYPES, Encoder, load_encoder
from virnuc_assets.encoders.registry import ENCODERS, EncoderSpec
from virnuc_assets.settings import EncodingSettings, Precision
from virnuc_assets_tests.encoders.drawn import drawn

SPECS = [ENCODERS[f"{name}_miniature"] for name in ("dnabert_s", "fastesm2_650", "esm2_3b")]
LENGTHS = [*range(20, 167, 3)]
SMALLEST_COSINE = 0.9999
NOT_RUN = ("lm_head.", "esm.contact_head.", "contact_head.", "pooler.")
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


@pytest.mark.parametrize("precision", DTYPES)
def test_positions_are_rotated_in_fp32(precision: Precision, checkpoints: Path) -> None:
    name = "fastesm2_650_miniature"
    model = loaded(ENCODERS[name], checkpoints, precision)._model
    assert isinstance(model, LeanEsm)
    stored = load_file(checkpoints / name / "model.safetensors")
    angles = torch.outer(torch.arange(32.0), stored["esm.encoder.layer.0.attention.self.rotary_embeddings.inv_freq"])
    found = model._rotary_table(torch.full((2, 32), 5))[:, 0]
    torch.testing.assert_close(found, torch.polar(torch.ones_like(angles), angles), rtol=0, atol=0)
