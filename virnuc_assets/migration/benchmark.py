"""Encoders measured side by side on the same rows: seconds of each round and peak memory, each in its own process.

All encoders stay loaded and take turns in short rounds, so that whatever else the machine does slows all of them.
A machine with other work on it made the ratio of two equal encoders read 1.3 to 30 when one was measured after the
other. Rounds go on until the ratios are certain enough, or a limit is reached.
"""

from __future__ import annotations

import itertools
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from virnuc_assets.encoders.registry import EncoderSpec
from virnuc_assets.errors import VirnucError
from virnuc_assets.migration.criteria import speed_ratio
from virnuc_assets.settings import BenchmarkSettings, EncodingSettings

_WARM_UP_SEQUENCES = 64
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_CONFIDENCE = 0.95

Measurement = dict[str, Any]


def benchmark_encoders(
    specs: Mapping[str, EncoderSpec],
    checkpoints: Path,
    encoding: EncodingSettings,
    frames: Mapping[str, Sequence[str]],
    settings: BenchmarkSettings,
) -> dict[str, Measurement]:
    """Measure encoders in alternate rounds, each in a fresh interpreter, so that its peak memory is its own.

    Args:
        specs: Encoders by the key that the result is to have, for example their names in the graph.
        checkpoints: Folder of the miniatures.
        encoding: Precision, device and token budget, the same for all.
        frames: Columns nucleotides and protein of the same rows; each encoder reads the one of its alphabet.
        settings: Rounds go on until every ratio between two encoders has an interval narrower than `spread` of it, or
            `max_rounds` or `max_seconds` is reached, and are `min_rounds` at least.

    Returns:
        By key: encoder, sequences (of a round), dim, precision, device, token_budget, round_seconds, seconds (their
        median), sequences_per_s and peak_memory_bytes (with the model: on a GPU of its allocator, else what the
        process's resident set grew by since its libraries were imported).

    Raises:
        VirnucError: there are no rows, or a measurement failed; the message holds its error output.
    """
    import torch

    if not all(len(column) for column in frames.values()):
        raise VirnucError("the encoder benchmark needs at least one frame")
    gpu = torch.cuda.current_device() if torch.cuda.is_available() else None
    seconds: dict[str, Measurement] = {key: {"round_seconds": []} for key in specs}
    with ExitStack() as stack:
        workers = {
            key: stack.enter_context(
                _worker(
                    {
                        "spec": asdict(spec),
                        "checkpoints": str(checkpoints.absolute()),
                        "encoding": encoding.model_dump(),
                        "sequences": list(frames[spec.column]),
                        "gpu": gpu,
                    }
                )
            )
            for key, spec in specs.items()
        }
        end = time.monotonic() + settings.max_seconds
        for number in range(1, settings.max_rounds + 1):
            for key, worker in workers.items():
                seconds[key]["round_seconds"].append(worker.ask("round"))
            if number >= settings.min_rounds and (time.monotonic() > end or _certain(seconds, settings.spread)):
                break
        return {key: _measurement(worker.ask("facts"), **seconds[key]) for key, worker in workers.items()}


def _certain(seconds: Mapping[str, Measurement], spread: float) -> bool:
    """Whether each ratio between two encoders has an interval narrower than this share of it."""
    for one, other in itertools.combinations(seconds, 2):
        ratio, low, high = speed_ratio(seconds, [one], [other], _CONFIDENCE)
        if low is None or high is None or high - low > spread * ratio:
            return False
    return True


def _measurement(facts: Measurement, round_seconds: list[float]) -> Measurement:
    median = statistics.median(round_seconds)
    return {
        **facts,
        "round_seconds": round_seconds,
        "seconds": median,
        "sequences_per_s": facts["sequences"] / median,
    }


class _Worker:
    """An interpreter that has loaded one encoder and answers one line for each line that it is sent."""

    def __init__(self, name: str, process: subprocess.Popen[str], errors: IO[str]) -> None:
        self._name, self._process, self._errors = name, process, errors

    def ask(self, line: str) -> Any:  # noqa: ANN401  (whatever JSON holds)
        assert self._process.stdin is not None and self._process.stdout is not None  # noqa: S101  (both are pipes)
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            code = self._process.wait()
            self._errors.seek(0)
            raise VirnucError(f"the benchmark of {self._name} failed ({code}):\n{self._errors.read().strip()}")
        return json.loads(answer)


@contextmanager
def _worker(job: Mapping[str, Any]) -> Iterator[_Worker]:
    # A new interpreter, not multiprocessing: a spawned child would import the parent's main module first.
    command = [sys.executable, "-m", __name__]
    with tempfile.TemporaryFile("w+", encoding="utf-8") as errors:
        process = subprocess.Popen(  # noqa: S603
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
        )
        try:
            worker = _Worker(job["spec"]["name"], process, errors)
            worker.ask(json.dumps(job))
            yield worker
        finally:
            process.kill()
            process.communicate()


class PeakMemory:
    """Bytes now, and at the highest since the last reset: resident memory of this process, or of a GPU's tensors.

    Where the system cannot reset a peak (no Linux), the highest is that since the process started, and so is now.
    """

    def __init__(self, on_gpu: bool) -> None:
        self._on_gpu = on_gpu

    def reset(self) -> None:
        """Count from what is in use now."""
        if self._on_gpu:
            import torch

            torch.cuda.reset_peak_memory_stats()
        elif _CLEAR.exists():
            _CLEAR.write_text("5", encoding="ascii")

    def highest(self) -> int:
        """Bytes at the highest."""
        return self._of("max_memory_allocated", "VmHWM")

    def now(self) -> int:
        """Bytes in use."""
        return self._of("memory_allocated", "VmRSS")

    def _of(self, of_gpu: str, of_process: str) -> int:
        if self._on_gpu:
            import torch

            return int(getattr(torch.cuda, of_gpu)())
        # Not ru_maxrss on Linux: a child starts with its parent's peak there.
        if _STATUS.is_file():
            lines = _STATUS.read_text(encoding="ascii").splitlines()
            return int(next(line for line in lines if line.startswith(of_process)).split()[1]) * 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def _main() -> None:
    """Load the encoder that the first line describes; then answer each line: a round's seconds, or the facts."""
    import torch

    # Imported before memory is measured: libraries are no part of an encoder's.
    from virnuc_assets.encoders import esm, mosaic_bert  # noqa: F401
    from virnuc_assets.encoders.embedding import embed
    from virnuc_assets.encoders.loading import load_encoder
    from virnuc_assets.encoders.machine import resolve_device

    job = json.loads(sys.stdin.readline())
    if job["gpu"] is not None:  # the one that the parent has locked
        torch.cuda.set_device(job["gpu"])
    spec, encoding = EncoderSpec(**job["spec"]), EncodingSettings(**job["encoding"])
    memory = PeakMemory(resolve_device(encoding.device).type == "cuda")
    idle_bytes = memory.now()
    encoder = load_encoder(spec, Path(job["checkpoints"]), encoding)
    memory.reset()
    embed(encoder, job["sequences"][:_WARM_UP_SEQUENCES])
    _answer("loaded")
    for line in sys.stdin:
        if line == "round\n":
            start = time.perf_counter()
            embed(encoder, job["sequences"])
            _answer(time.perf_counter() - start)
            continue
        _answer(
            {
                "encoder": spec.name,
                "sequences": len(job["sequences"]),
                "dim": encoder.dim,
                "precision": encoding.precision,
                "device": torch.cuda.get_device_name() if encoder.on_gpu else "cpu",
                "token_budget": encoder.token_budget,
                "peak_memory_bytes": memory.highest() - idle_bytes,
            }
        )


def _answer(value: object) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    _main()
