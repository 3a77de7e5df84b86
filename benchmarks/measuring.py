"""One contender in a process of its own, which loads once and then runs whenever it is asked to.

Both ends are here: `worker` starts `python -m benchmarks.measuring` and asks, `_main` answers; one line of JSON each,
the job first. The rate of plain matrix products is measured right before and after each pass.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from joblib import cpu_count
from transformers import PreTrainedTokenizerFast

from benchmarks import originals, ours
from benchmarks.contenders import SCALES, Contender, Model
from benchmarks.machine import Gemm, peak_bytes, reset_peak
from virnuc_assets.encoders.embedding import embed
from virnuc_assets.encoders.loading import CPU_TOKENS, DTYPES, GPU_TOKENS
from virnuc_assets.errors import VirnucError

Figures = dict[str, float]
ROOT = Path(__file__).parents[1]
_WARM_UP_ROWS = 2


class WorkerError(VirnucError):
    """A contender's process ended before it answered."""


class Job(NamedTuple):
    """What one process does.

    Attributes:
        contender: Whose code, which model and precision.
        scale: Key of `SCALES`.
        device: "cpu" or "cuda".
        folder: Checkpoint; empty where fair-esm makes random weights of its own.
        sequences: Rows of a pass.
        vectors: File that gets the pooled vectors.
    """

    contender: Contender
    scale: str
    device: str
    folder: str
    sequences: list[str]
    vectors: str

    @property
    def model(self) -> Model:
        """Its size."""
        return SCALES[self.scale].models[self.contender.model]


@contextmanager
def worker(job: Job) -> Iterator[Callable[[], Figures]]:
    """A loaded contender: each call is one pass and returns its figures.

    Raises:
        WorkerError: its process ended.
    """
    command = [sys.executable, "-m", "benchmarks.measuring"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=ROOT) as process:  # noqa: S603

        def ask(request: object) -> Figures:
            with suppress(BrokenPipeError):
                print(json.dumps(request), file=process.stdin, flush=True)
            if not (answer := cast("Any", process.stdout).readline()):
                raise WorkerError(
                    f"{job.contender.name}: its process ended with {process.wait()} instead of an answer, see its "
                    "errors above; -9 means that it was killed, most likely because memory ran out"
                )
            return cast("Figures", json.loads(answer))

        try:
            ask(job)
            yield partial(ask, "run")
        finally:
            process.kill()


def _build(job: Job) -> originals.Embed:
    code, precision = job.contender.code, job.contender.precision
    device, folder = torch.device(job.device), Path(job.folder)
    if code == "fair_esm":
        return originals.fair_esm(job.model, folder if job.folder else None, device)
    if code == "transformers":
        budget = CPU_TOKENS if job.device == "cpu" else GPU_TOKENS  # those of ours
        return originals.transformers_esm(folder, DTYPES[precision], device, budget)
    if code == "one_by_one":
        return originals.one_by_one(job.model, folder, device)
    return partial(embed, ours.load(folder, precision, job.device))


def _token_counts(job: Job) -> list[int]:
    if job.model.byte_pairs:
        return [len(ids) for ids in PreTrainedTokenizerFast.from_pretrained(job.folder)(job.sequences)["input_ids"]]
    return [len(sequence) + 2 for sequence in job.sequences]  # one token per residue, CLS and EOS


class _Loaded:
    """A contender in this process; its memory is counted without what its libraries take."""

    def __init__(self, job: Job) -> None:
        self._job, self._device = job, torch.device(job.device)
        torch.set_num_threads(cpu_count())
        lengths = _token_counts(job)
        self._tokens, self._flop = sum(lengths), job.model.flop(lengths)
        self._gemm = Gemm(DTYPES[job.contender.precision], self._device, job.model.shape.hidden)
        reset_peak(self._device)
        self._idle_bytes = peak_bytes(self._device)
        self._embed = _build(job)
        self._embed(job.sequences[:_WARM_UP_ROWS])

    def run(self) -> Figures:
        """One pass."""
        before = self._gemm.gflops()
        reset_peak(self._device)
        start = time.perf_counter()
        vectors = self._embed(self._job.sequences)
        seconds = time.perf_counter() - start
        memory = peak_bytes(self._device) - self._idle_bytes
        gflops, gemm = 1e-9 * self._flop / seconds, (before + self._gemm.gflops()) / 2
        np.save(self._job.vectors, vectors)
        return {
            "rows": len(vectors),
            "tokens": self._tokens,
            "seconds": seconds,
            "sequences_per_s": len(vectors) / seconds,
            "gflops": gflops,
            "gemm_gflops": gemm,
            "share_of_peak": gflops / gemm,
            "peak_memory_bytes": memory,
        }


def _main() -> None:
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)  # what libraries print is no answer
        contender, *others = json.loads(sys.stdin.readline())
        loaded = _Loaded(Job(Contender(*contender), *others))
        print("{}", file=answers, flush=True)
        for _ in sys.stdin:
            print(json.dumps(loaded.run()), file=answers, flush=True)


if __name__ == "__main__":
    _main()
