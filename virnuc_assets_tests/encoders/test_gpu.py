"""On a GPU: the CPU's vectors, no waiting inside the loop, and memory that runs out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from virnuc_assets.encoders import embedding
from virnuc_assets.encoders.embedding import embed
from virnuc_assets.encoders.loading import Encoder, load_encoder
from virnuc_assets.encoders.registry import ENCODERS, EncoderSpec
from virnuc_assets.settings import EncodingSettings, Precision
from virnuc_assets_tests.encoders.drawn import drawn
from virnuc_assets_tests.workstation.hub_folders import DNABERT_S, ESM2_3B, write_repository

pytestmark = pytest.mark.gpu

LENGTHS = [33] * 40 + [*range(20, 167, 7)] + [166] * 60
# Heads of width 64, as the originals have.
WIDE_DNA, WIDE = (replace(ENCODERS[f"{name}_miniature"], name=f"wide_{name}") for name in ("dnabert_s", "esm2_3b"))
models = pytest.mark.parametrize("spec", [WIDE_DNA, WIDE], ids=lambda spec: spec.name)


@pytest.fixture(scope="module")
def folder(checkpoints: Path) -> Path:
    write_repository(DNABERT_S, checkpoints / WIDE_DNA.name, times=8)
    write_repository(ESM2_3B, checkpoints / WIDE.name, times=8)
    return checkpoints


@pytest.fixture(autouse=True)
def exact_products() -> Iterator[None]:
    """No TF32, and afterwards no mode that raises where the host waits."""
    torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.cuda.set_sync_debug_mode("default")


def loaded(spec: EncoderSpec, folder: Path, device: str, precision: Precision = "fp32", budget: int = 4096) -> Encoder:
    encoding = {"device": device, "precision": precision, "token_budget": budget}
    return load_encoder(spec, folder, EncodingSettings.model_validate(encoding))


@models
def test_the_vectors_are_those_of_the_cpu(spec: EncoderSpec, folder: Path) -> None:
    sequences = drawn(spec.alphabet, LENGTHS)
    on_cpu, on_gpu = (embed(loaded(spec, folder, device), sequences) for device in ("cpu", "cuda"))
    assert on_gpu.dtype == np.float32 and np.abs(on_cpu - on_gpu).max() <= 1e-4


@models
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_points_where_fp32_does(spec: EncoderSpec, precision: Precision, folder: Path) -> None:
    sequences = drawn(spec.alphabet, LENGTHS)
    full, half = (embed(loaded(spec, folder, "cuda", each), sequences) for each in ("fp32", precision))
    cosine = (full * half).sum(axis=1) / np.linalg.norm(full, axis=1) / np.linalg.norm(half, axis=1)
    assert cosine.min() >= 0.9999


@models
def test_nothing_waits_for_the_gpu_inside_the_loop(spec: EncoderSpec, folder: Path) -> None:
    """Tables of a length's positions are copied to the GPU at its first batch; these batches are of one length."""
    encoder = loaded(spec, folder, "cuda", "fp16", budget=512)
    sequences = ["ACDEFGHIK" * 11] * 100 if spec.alphabet == "protein" else ["ACGTTGCA" * 12] * 100
    expected = embed(encoder, sequences)
    batches = embedding._prepare(encoder, sequences, sequences)
    assert batches.token_ids.is_pinned() and batches.order.is_pinned()
    done: list[int] = []
    torch.cuda.set_sync_debug_mode("error")
    arriving = embedding._launch(encoder, batches, done.append)
    torch.cuda.set_sync_debug_mode("default")
    assert len(done) > 5
    np.testing.assert_allclose(arriving(), expected, rtol=0, atol=1e-3)


@models
def test_memory_that_runs_out_halves_the_budget_and_changes_no_vector(spec: EncoderSpec, folder: Path) -> None:
    sequences = drawn(spec.alphabet, [166] * 4000)
    encoder = loaded(spec, folder, "cuda")
    expected = embed(encoder, sequences)
    torch.cuda.empty_cache()
    total = torch.cuda.mem_get_info()[1]
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + (96 << 20)) / total)
    try:
        encoder.token_budget = 10**9
        found = embed(encoder, sequences)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert encoder.token_budget < 4000 * 168
    assert np.abs(found - expected).max() <= 1e-4
