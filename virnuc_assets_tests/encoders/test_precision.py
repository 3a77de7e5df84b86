"""Half precision: nearly the same vectors, weights held once and in that precision, rotary tables in fp32."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from virnuc_assets.encoders.embedding import embed
from virnuc_assets.encoders.esm import Esm
from virnuc_assets.encoders.loading import DTYPES, Encoder, load_encoder
from virnuc_assets.encoders.registry import EncoderSpec
from virnuc_assets.settings import EncodingSettings, Precision
from virnuc_assets_tests.encoders.drawn import MINIATURES, drawn

LENGTHS = [*range(20, 167, 3)]
SMALLEST_COSINE = 0.9999
HEADS = ("lm_head.", "esm.contact_head.", "pooler.")


def loaded(spec: EncoderSpec, checkpoints: Path, precision: Precision) -> Encoder:
    return load_encoder(spec, checkpoints, EncodingSettings(device="cpu", precision=precision))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("spec", MINIATURES, ids=lambda spec: spec.name)
def test_vectors_point_where_those_of_fp32_do(spec: EncoderSpec, precision: Precision, checkpoints: Path) -> None:
    sequences = drawn(spec.alphabet, LENGTHS)
    full, half = (embed(loaded(spec, checkpoints, p), sequences) for p in ("fp32", precision))
    assert half.dtype == np.float32 and not np.array_equal(full, half)
    cosine = (full * half).sum(axis=1) / np.linalg.norm(full, axis=1) / np.linalg.norm(half, axis=1)
    assert cosine.min() >= SMALLEST_COSINE


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("spec", MINIATURES, ids=lambda spec: spec.name)
def test_weights_are_held_once_in_the_precision(spec: EncoderSpec, precision: Precision, checkpoints: Path) -> None:
    encoder = loaded(spec, checkpoints, precision)
    model = encoder._model
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    assert {tensor.dtype for tensor in tensors.values()} == {DTYPES[precision]}
    # Each tensor is all of its own memory: no view of a larger one, and none that two names share.
    assert [t.untyped_storage().nbytes() for t in tensors.values()] == [t.nbytes for t in tensors.values()]
    assert len({t.untyped_storage().data_ptr() for t in tensors.values()}) == len(tensors)
    # As many numbers as the checkpoint has apart from its heads: nothing is left of what was fused.
    stored = load_file(checkpoints / spec.name / "model.safetensors")
    used = [t.numel() for name, t in stored.items() if not name.startswith(HEADS) and not name.endswith("inv_freq")]
    assert sum(tensor.numel() for tensor in tensors.values()) == sum(used)
    embed(encoder, drawn(spec.alphabet, [30, 60]))
    assert {**dict(model.named_parameters()), **dict(model.named_buffers())}.keys() == tensors.keys()
    assert encoder.fingerprint["precision"] == precision


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_positions_are_turned_in_fp32_by_a_table_made_once_a_length(precision: Precision, checkpoints: Path) -> None:
    spec = next(spec for spec in MINIATURES if spec.architecture == "esm")
    model = loaded(spec, checkpoints, precision)._model
    assert isinstance(model, Esm)
    stream, turns, room = model.layer_inputs(torch.full((2, 32), 5))
    assert stream.dtype == DTYPES[precision]
    assert room.shape == (2 * 32 * 4 * model.dim,) and room.dtype == stream.dtype
    assert turns.dtype == torch.complex64 and turns.shape == (32, 1, 4)
    assert model.layer_inputs(torch.full((1, 32), 5))[1] is turns
    assert model.layer_inputs(torch.full((1, 9), 5))[1].shape == (9, 1, 4)
