"""On a GPU: the CPU's vectors, no waiting inside the loop, a filled memory, and memory that runs out."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from virnuc_assets.encoders import embedding
from virnuc_assets.encoders.device_memory import CudaMemory
from virnuc_assets.encoders.embedding import embed
from virnuc_assets.encoders.loading import Encoder, load_encoder
from virnuc_assets.encoders.miniature import Shape, write_drawn_checkpoint
from virnuc_assets.encoders.registry import ENCODERS, EncoderSpec
from virnuc_assets.encoders.tuning import reform
from virnuc_assets.settings import EncodingSettings, Precision
from virnuc_assets_tests.encoders.drawn import MINIATURES, drawn

pytestmark = pytest.mark.gpu

LENGTHS = [33] * 40 + [*range(20, 167, 7)] + [166] * 60
WIDE = replace(ENCODERS["fastesm2_650_miniature"], name="wide")
WIDE_DNA = replace(ENCODERS["dnabert_s_miniature"], name="wide_dna")
TRUE_WIDTHS = {
    WIDE.name: Shape(hidden=1280, layers=2, heads=20, model_type="fast_esm"),
    WIDE_DNA.name: Shape(hidden=768, layers=2, heads=12, model_type="bert"),
}
SPECS = [*MINIATURES, WIDE, WIDE_DNA]
by_name = pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)


@pytest.fixture(scope="module")
def folder(checkpoints: Path) -> Path:
    """The miniatures, and modules of true width."""
    for name, shape in TRUE_WIDTHS.items():
        (checkpoints / name).mkdir()
        write_drawn_checkpoint(checkpoints / name, name, shape)
    return checkpoints


@pytest.fixture(autouse=True)
def exact_products() -> Iterator[None]:
    """No TF32, and afterwards no mode that raises where the host waits."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.cuda.set_sync_debug_mode("default")


def loaded(spec: EncoderSpec, folder: Path, device: str, precision: Precision = "fp32", budget: int = 4096) -> Encoder:
    fixed = EncodingSettings.model_validate(
        {"device": device, "precision": precision, "token_budget": budget, "compile": "never"}
    )
    return load_encoder(spec, folder, fixed)


def smallest_cosine(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    cosines = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return float(cosines.min())


@by_name
def test_the_vectors_are_those_of_the_cpu(spec: EncoderSpec, folder: Path) -> None:
    sequences = drawn(spec.alphabet, LENGTHS)
    on_cpu, on_gpu = (embed(loaded(spec, folder, device), sequences) for device in ("cpu", "cuda"))
    assert on_gpu.dtype == np.float32 and np.abs(on_cpu - on_gpu).max() <= 1e-4


@by_name
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_points_where_fp32_does(spec: EncoderSpec, precision: Precision, folder: Path) -> None:
    sequences = drawn(spec.alphabet, LENGTHS)
    full, half = (embed(loaded(spec, folder, "cuda", each), sequences) for each in ("fp32", precision))
    assert smallest_cosine(full, half) >= 0.9999


@by_name
def test_nothing_waits_for_the_gpu_inside_the_loop(spec: EncoderSpec, folder: Path) -> None:
    encoder = loaded(spec, folder, "cuda", "fp16", budget=512)
    sequences = drawn(spec.alphabet, LENGTHS)
    expected = embed(encoder, sequences)  # tables of every length are made
    batches = embedding._prepare(encoder, sequences, None)
    assert batches.token_ids.is_pinned() and batches.order.is_pinned()
    done: list[int] = []
    torch.cuda.set_sync_debug_mode("error")
    vectors = embedding._launch(encoder, batches, done.append)
    torch.cuda.set_sync_debug_mode("default")
    assert len(done) > 10 and vectors.host.is_pinned()
    np.testing.assert_allclose(vectors.numpy(), expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("spec", [WIDE, WIDE_DNA], ids=lambda spec: spec.name)
def test_the_measured_budget_fills_the_memory(spec: EncoderSpec, folder: Path) -> None:
    encoder = load_encoder(
        spec, folder, EncodingSettings.model_validate({"device": "cuda", "precision": "fp16", "compile": "never"})
    )
    memory = CudaMemory()
    memory.forget()
    total, length = memory.total(), len(encoder.tokenize(["A" * (spec.max_length or 512)])[0])
    assert encoder.token_budget > 100_000
    encoder.forward(torch.full((encoder.token_budget // length, length), 5, device=encoder.device))
    assert 0.80 <= memory.peak() / total <= 0.92


@by_name
def test_memory_that_runs_out_halves_the_budget_and_changes_no_vector(spec: EncoderSpec, folder: Path) -> None:
    sequences = drawn(spec.alphabet, [166] * 4000)
    encoder = loaded(spec, folder, "cuda")
    expected = embed(encoder, sequences)
    free, total = torch.cuda.mem_get_info()
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + (96 << 20)) / total)
    try:
        encoder.token_budget = 10**9
        found = embed(encoder, sequences)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert encoder.token_budget < 4000 * 168 and free > 0
    assert np.abs(found - expected).max() <= 1e-4


@pytest.mark.parametrize("spec", [WIDE, WIDE_DNA], ids=lambda spec: spec.name)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_compiled_layers_give_the_eager_vectors(spec: EncoderSpec, precision: Precision, folder: Path) -> None:
    encoder = loaded(spec, folder, "cuda", precision)
    sequences = drawn(spec.alphabet, [20, 33, 33, 33, 100, 100, 166])
    eager = embed(encoder, sequences)
    reform(encoder._model.layers(), "compiled")
    compiled = embed(encoder, sequences)
    assert smallest_cosine(eager, compiled) >= 0.9999
    assert precision != "fp32" or np.abs(eager - compiled).max() <= 1e-4
