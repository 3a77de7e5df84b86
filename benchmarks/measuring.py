"""One contender in a process of its own: its rate between two looks at the machine's, and its memory at the highest.

Started by `bench_encoders` as `python -m benchmarks.measuring`; a job comes in as JSON, its figures go out as JSON.
"""

from __future__ import annotations

import importlib
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import originals, ours
from benchmarks.contenders import Contender, Model
from benchmarks.machine import gemm_gflops
from virnuc_assets.cores import usable_cores
from virnuc_assets.encoders.loading import DTYPES
from virnuc_assets.encoders.miniature import Shape
from virnuc_assets.encoders.peak_memory import PeakMemory
from virnuc_assets.encoders.tokenization import BpeTokenization, EsmTokenization
from virnuc_assets.encoders.tuning import CPU_TOKENS
from virnuc_assets.settings import EncodingSettings

# What each embedder imports only when it is built; libraries are no part of a contender's memory.
_LIBRARIES = {
    "fair_esm": ("esm.data", "esm.model.esm2"),
    "transformers": ("transformers.models.esm.modeling_esm", "transformers.models.esm.tokenization_esm"),
    "sentence_transformers": ("sentence_transformers", "transformers.models.esm.modeling_esm"),
    "upstream_one_by_one": ("transformers.tokenization_utils_fast",),
    "ours_int8": ("torch.ao.quantization",),
}
_WARM_UP_ROWS, _WARM_UP_ROWS_COMPILED = 2, 12


@dataclass(frozen=True)
class Job:
    """What is to be measured.

    Attributes:
        contender: Who.
        model: Its size.
        folder: Its checkpoint; beside it lies the file of earlier tunings.
        device: "cpu" or "cuda".
    """

    contender: Contender
    model: Model
    folder: Path
    device: str

    @property
    def encoding(self) -> EncodingSettings:
        """As a user would set it."""
        if self.contender.tuned:
            return EncodingSettings.model_validate({"precision": self.contender.precision, "device": self.device})
        fixed = {"token_budget": CPU_TOKENS, "compile": "never"}
        return EncodingSettings.model_validate({"precision": self.contender.precision, "device": self.device, **fixed})


def build(job: Job) -> tuple[originals.Embed, str]:
    """The contender, loaded, and what is to be told of it."""
    device, dtype = torch.device(job.device), DTYPES[job.contender.precision]
    if job.contender.embedder == "fair_esm":
        return originals.fair_esm(job.model, device), ""
    if job.contender.embedder == "transformers":
        return originals.transformers_esm(job.folder, dtype, device), ""
    if job.contender.embedder == "sentence_transformers":
        return originals.sentence_transformers_esm(job.folder, device), "of its own; its mean counts CLS and EOS"
    if job.contender.embedder == "upstream_one_by_one":
        return originals.upstream_one_by_one(job.folder, device), ""
    encoder = ours.load(job.folder, job.encoding)
    way = {"ours": ours.batched, "ours_one_by_one": ours.one_by_one, "ours_int8": ours.int8}
    return way[job.contender.embedder](encoder), ours.told(encoder)


def measure(job: Job, sequences: Sequence[str], vectors: Path) -> dict[str, Any]:
    """Figures of a contender; its pooled vectors are saved to `vectors`."""
    contender, device = job.contender, torch.device(job.device)
    torch.set_num_threads(usable_cores())
    for library in _LIBRARIES.get(contender.embedder, ()):
        importlib.import_module(library)
    memory = PeakMemory(device)
    idle = memory.now()
    embed, told = build(job)
    embed(sequences[: _WARM_UP_ROWS_COMPILED if contender.tuned else _WARM_UP_ROWS])
    highest = [memory.highest()]

    def machine_gflops() -> float:
        rate = gemm_gflops(DTYPES[contender.precision], device, job.model.shape.hidden)
        memory.reset()
        return rate

    rates, seconds = [machine_gflops()], []
    for _ in range(contender.repeats):
        start = time.perf_counter()
        found = embed(sequences)
        seconds.append(time.perf_counter() - start)
        highest.append(memory.highest())
        rates.append(machine_gflops())
    np.save(vectors, found)
    tokenize = (EsmTokenization if (job.folder / "vocab.txt").is_file() else BpeTokenization)(job.folder)
    lengths = [len(tokens) for tokens in tokenize(sequences)]
    median, peak = statistics.median(seconds), statistics.median(rates)
    gflops = 1e-9 * job.model.flop(lengths) / median
    return {
        "told": told,
        "rows": len(sequences),
        "tokens": sum(lengths),
        "repeats": contender.repeats,
        "seconds": median,
        "sequences_per_s": len(sequences) / median,
        "tokens_per_s": sum(lengths) / median,
        "gflops": gflops,
        "gemm_peak_gflops": peak,
        "share_of_peak": gflops / peak,
        "peak_memory_bytes": max(highest) - idle,
    }


def _main() -> None:
    given = json.load(sys.stdin)
    model = Model(**{**given["model"], "shape": Shape(**given["model"]["shape"])})
    job = Job(Contender(**given["contender"]), model, Path(given["folder"]), given["device"])
    # Only loaded: so that tuning is measured and kept apart from the contender's own process.
    only_load = given["only_load"]
    found = {"told": build(job)[1]} if only_load else measure(job, given["sequences"], Path(given["vectors"]))
    sys.stdout.write("\n" + json.dumps(found) + "\n")


if __name__ == "__main__":
    _main()
