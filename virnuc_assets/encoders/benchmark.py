"""Encoders side by side on the same rows: sequences a second and peak memory, each in a process of its own."""

from __future__ import annotations

import json
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
        specs: Encoders by the key that the result is to have, for example their slots.
        checkpoints: Folder of the miniatures.
        encoding: Precision, device and token budget, the same for all.
        frames: Columns nucleotides and protein of the same rows; each encoder reads the one of its alphabet.
        repeats: Timed passes over all rows, after a warm-up over the first few.

    Returns:
        By key: encoder, sequences, dim, precision, device, token_budget and layers as they were tuned, seconds (median
        of a pass), sequences_per_s and peak_memory_bytes (on a GPU of its allocator with small batches, equal for
        all; else what the process's resident set grew by since its libraries were imported; with the model, without
        what tuning took).

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

    from virnuc_assets.encoders.embedding import embed
    from virnuc_assets.encoders.loading import library_of, load_encoder
    from virnuc_assets.encoders.machine import resolve_device
    from virnuc_assets.encoders.peak_memory import PeakMemory
    from virnuc_assets.encoders.tuning import CPU_TOKENS

    library_of(spec)
    memory = PeakMemory(resolve_device(encoding.device))
    idle_bytes = memory.now()
    encoder = load_encoder(spec, checkpoints, encoding)
    memory.reset()
    embed(encoder, sequences[:_WARM_UP_SEQUENCES])
    token_budget, seconds = encoder.token_budget, []
    for _ in range(repeats):
        start = time.perf_counter()
        embed(encoder, sequences)
        seconds.append(time.perf_counter() - start)
    if encoder.on_gpu:  # a fitted budget fills the device whatever the encoder: memory is told for equal batches
        encoder.token_budget = CPU_TOKENS
        torch.cuda.empty_cache()
        memory.reset()
        embed(encoder, sequences[:_WARM_UP_SEQUENCES])
    median = statistics.median(seconds)
    return {
        "encoder": spec.name,
        "sequences": len(sequences),
        "dim": encoder.dim,
        "precision": encoding.precision,
        "device": torch.cuda.get_device_name() if encoder.on_gpu else "cpu",
        "token_budget": token_budget,
        "layers": encoder.tuning.layers,
        "seconds": median,
        "sequences_per_s": len(sequences) / median,
        "peak_memory_bytes": memory.highest() - idle_bytes,
    }


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
