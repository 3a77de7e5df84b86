"""Encoders side by side on the same rows: sequences a second and peak memory, each in a process of its own."""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from virnuc_assets.encoders.registry import EncoderSpec
from virnuc_assets.errors import VirnucError
from virnuc_assets.settings import EncodingSettings

_WARM_UP_SEQUENCES = 64
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")

Measurement = dict[str, float | int | str]


def benchmark_encoders(
    specs: Mapping[str, EncoderSpec],
    checkpoints: Path,
    encoding: EncodingSettings,
    frames: Mapping[str, Sequence[str]],
    repeats: int,
) -> dict[str, Measurement]:
    """Measure encoders one after the other, each in a fresh interpreter, so that its peak memory is its own.

    Args:
        specs: Encoders by the key that the result is to have, for example their encoder_names.
        checkpoints: Folder of the miniatures.
        encoding: Precision, device and token budget, the same for all.
        frames: Columns nucleotides and protein of the same rows; each encoder reads the one of its alphabet.
        repeats: Timed passes over all rows, after a warm-up over the first few.

    Returns:
        By key: encoder, sequences, dim, precision, device, token_budget, seconds (median of a pass), sequences_per_s
        and peak_memory_bytes (with the model: on a GPU of its allocator, else what the process's resident set grew by
        since its libraries were imported).

    Raises:
        VirnucError: there are no rows or no repeats, or a measurement failed; the message holds its error output.
    """
    import torch

    if repeats < 1 or not all(len(column) for column in frames.values()):
        raise VirnucError("the encoder benchmark needs at least one frame and one repeat")
    return {
        key: _measure_apart(
            {
                "spec": asdict(spec),
                "checkpoints": str(checkpoints.absolute()),
                "encoding": encoding.model_dump(),
                "sequences": list(frames[spec.column]),
                "repeats": repeats,
                "gpu": torch.cuda.current_device() if torch.cuda.is_available() else None,
            }
        )
        for key, spec in specs.items()
    }


def measure(
    spec: EncoderSpec, checkpoints: Path, encoding: EncodingSettings, sequences: Sequence[str], repeats: int
) -> Measurement:
    """Measure one encoder in this process; as `benchmark_encoders` says."""
    import torch

    # Imported before memory is measured: libraries are no part of an encoder's.
    from virnuc_assets.encoders import esm, mosaic_bert  # noqa: F401
    from virnuc_assets.encoders.embedding import embed
    from virnuc_assets.encoders.loading import load_encoder
    from virnuc_assets.encoders.machine import resolve_device

    memory = PeakMemory(resolve_device(encoding.device).type == "cuda")
    idle_bytes = memory.now()
    encoder = load_encoder(spec, checkpoints, encoding)
    memory.reset()
    embed(encoder, sequences[:_WARM_UP_SEQUENCES])
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        embed(encoder, sequences)
        seconds.append(time.perf_counter() - start)
    median = statistics.median(seconds)
    return {
        "encoder": spec.name,
        "sequences": len(sequences),
        "dim": encoder.dim,
        "precision": encoding.precision,
        "device": torch.cuda.get_device_name() if encoder.on_gpu else "cpu",
        "token_budget": encoder.token_budget,
        "seconds": median,
        "sequences_per_s": len(sequences) / median,
        "peak_memory_bytes": memory.highest() - idle_bytes,
    }


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


def _measure_apart(job: Mapping[str, Any]) -> Measurement:
    # A new interpreter, not multiprocessing: a spawned child would import the parent's main module first.
    command = [sys.executable, "-m", __name__]
    done = subprocess.run(command, input=json.dumps(job), capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise VirnucError(f"the benchmark of {job['spec']['name']} failed ({done.returncode}):\n{done.stderr.strip()}")
    measurement: Measurement = json.loads(done.stdout.splitlines()[-1])
    return measurement


def _main() -> None:
    import torch

    job = json.load(sys.stdin)
    if job["gpu"] is not None:  # the one that the parent holds
        torch.cuda.set_device(job["gpu"])
    result = measure(
        EncoderSpec(**job["spec"]),
        Path(job["checkpoints"]),
        EncodingSettings(**job["encoding"]),
        job["sequences"],
        job["repeats"],
    )
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    _main()
