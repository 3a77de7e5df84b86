"""Memory: loading holds no second copy of the weights, and a table takes no more the longer it is."""

from __future__ import annotations

import random
import sys
import threading
from pathlib import Path

import pytest
import torch

from benchmarks.bench_encoders import MODELS, memory_beyond_model
from benchmarks.common import in_fresh_process
from virnuc_assets.encoders.loading import DTYPES, Encoder, load_folder
from virnuc_assets.encoders.machine import prepare_cpu
from virnuc_assets.encoders.miniature import write_drawn
from virnuc_assets.encoders.registry import Architecture, EncoderSpec
from virnuc_assets.settings import Precision
from virnuc_assets_tests.encoders.drawn import drawn, write_frames
from virnuc_assets_tests.workstation.hub_folders import DNABERT_S, ESM2_3B, FASTESM2_650, write_repository

MIB = 1 << 20
FEW, MANY = 100, 10_000
PASSES = 33  # so often does one batch of FastESM2 go through a layer
pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="memory is read through /proc")]


def own_pages() -> int:
    """Those of a file that is mapped are the kernel's to drop, and no copy."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(next(line for line in status.splitlines() if line.startswith("RssAnon")).split()[1]) << 10


def loading(narrow: Path, wide: Path, architecture: Architecture, precision: Precision) -> tuple[int, int]:
    """Bytes that this process grew by while it loaded the wide model, as a thread samples them; and the model's."""

    def load(folder: Path) -> Encoder:
        spec = EncoderSpec("e", "dna", architecture, "tokens")
        return load_folder(spec, folder, DTYPES[precision], torch.device("cpu"))

    def watch() -> None:
        while not ended.wait(0.001):
            seen.append(own_pages())

    prepare_cpu()
    load(narrow)  # imports all
    seen, ended, thread = [before := own_pages()], threading.Event(), threading.Thread(target=watch)
    thread.start()
    encoder = load(wide)
    ended.set()
    thread.join()
    return max(seen) - before, sum(tensor.nbytes for tensor in encoder._model.parameters())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("repository", "architecture", "times"),
    [(FASTESM2_650, "esm", 44), (ESM2_3B, "esm", 28), (DNABERT_S, "mosaic_bert", 32)],
    ids=lambda value: str(value).rpartition("/")[2],
)
def test_loading_takes_no_second_copy_of_the_weights(
    repository: str, architecture: Architecture, times: int, precision: Precision, tmp_path: Path
) -> None:
    """Some 300 MB in safetensors, shards of torch's format, and one file of it.

    A layer's queries, keys and values are in memory twice while they are joined, and so is a parameter while its
    precision changes: both are large parts of these models of two layers. In fp32 the other weights stay in the mapped
    file.
    """
    for folder, factor in (("narrow", 1), ("wide", times)):
        write_repository(repository, tmp_path / folder, factor)
    grown, model = in_fresh_process(loading, tmp_path / "narrow", tmp_path / "wide", architecture, precision)
    assert model > 130 * MIB
    assert grown <= 1.25 * model + 32 * MIB


def test_ten_thousand_frames_take_no_more_memory_than_a_hundred(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    write_drawn(tmp_path / "model", *MODELS["one_layer"])
    beyond = {}
    for rows, passes in ((FEW, PASSES), (MANY, 1)):
        draw = random.Random(rows)  # three of four proteins are equally long, as those of whole chunks are
        lengths = [draw.choice([33, 33, 33, draw.randint(20, 32)]) for _ in range(rows)]
        write_frames(tmp_path / f"{rows}.parquet", drawn("protein", lengths, rows))
        frames = tmp_path / f"{rows}.parquet"
        beyond[rows] = in_fresh_process(memory_beyond_model, tmp_path / "model", frames, "cpu", passes)
    assert beyond[MANY] < 1.1 * beyond[FEW], beyond
