"""Encoders measured side by side on the same rows: seconds of each round and peak memory, each in its own process.

All encoders stay loaded and take turns in short rounds, so that whatever else the machine does slows all of them.
A machine with other work on it made the ratio of two equal encoders read 1.3 to 30 when one was measured after the
other. Rounds continue until the ratios are certain enough, or a limit is reached.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import resource
import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from virnuc_assets.encoders.registry import EncoderSpec
from virnuc_assets.errors import VirnucError
from virnuc_assets.migration.criteria import speed_ratio
from virnuc_assets.settings import BenchmarkSettings, EncodingSettings

_WARM_UP_SEQUENCES = 64
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_CONFIDENCE = 0.95


def benchmark_encoders(
    specs: Mapping[str, EncoderSpec],
    checkpoints: Path,
    encoding: EncodingSettings,
    frames: Mapping[str, Sequence[str]],
    settings: BenchmarkSettings,
) -> dict[str, dict[str, Any]]:
    """Measure encoders in alternate rounds, each in a fresh interpreter, so that its peak memory is its own.

    Each encoder reads the column of its alphabet, nucleotides or protein, of the same rows. Rounds continue until every
    ratio between two encoders has an interval narrower than `spread` of it, or `max_rounds` or `max_seconds` is
    reached, and are `min_rounds` at least.

    Returns:
        By key of the specs: encoder, sequences (of a round), dim, precision, device, token_budget, round_seconds,
        seconds (their median), sequences_per_s and peak_memory_bytes (with the model: on a GPU of its allocator, else
        what the process's resident set grew by since its libraries were imported).

    Raises:
        VirnucError: a measurement failed; the message names the encoder.
    """
    import torch

    gpu = torch.cuda.current_device() if torch.cuda.is_available() else None
    rounds: dict[str, list[float]] = {key: [] for key in specs}
    with ExitStack() as stack:
        processes = {key: stack.enter_context(_process()) for key in specs}
        for key, spec in specs.items():
            _ask(processes[key], spec.name, _load, spec, checkpoints.absolute(), encoding, frames[spec.column], gpu)
        end = time.monotonic() + settings.max_seconds
        for number in range(1, settings.max_rounds + 1):
            for key, process in processes.items():
                rounds[key].append(_ask(process, specs[key].name, _round))
            if number >= settings.min_rounds and (time.monotonic() > end or _certain(rounds, settings.spread)):
                break
        facts = {key: _ask(process, specs[key].name, _facts) for key, process in processes.items()}
    for key, measured in facts.items():
        seconds = statistics.median(rounds[key])
        measured |= {"round_seconds": rounds[key], "seconds": seconds}
        measured["sequences_per_s"] = measured["sequences"] / seconds
    return facts


def _process() -> ProcessPoolExecutor:
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1, context, initializer=_end_with, initargs=(os.getpid(),))


def _end_with(parent: int) -> None:
    """End this process soon after its parent, which held the lock of the GPU, and may have been killed."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _ask(process: ProcessPoolExecutor, encoder: str, function: Callable[..., Any], *given: object) -> Any:  # noqa: ANN401
    """What a function returns in a process."""
    try:
        return process.submit(function, *given).result()
    except (VirnucError, RuntimeError, OSError, BrokenProcessPool) as error:  # the last where memory ran out
        raise VirnucError(f"the benchmark of {encoder} failed: {error}") from error


def _certain(rounds: Mapping[str, list[float]], spread: float) -> bool:
    """Whether each ratio between two encoders has an interval narrower than this share of it."""
    for one, other in itertools.combinations(rounds.values(), 2):
        ratio, low, high = speed_ratio([one], [other], _CONFIDENCE)
        if low is None or high is None or high - low > spread * ratio:
            return False
    return True


_loaded: dict[str, Any] = {}  # by `_load`, in the process of one encoder


def _load(
    spec: EncoderSpec, checkpoints: Path, encoding: EncodingSettings, sequences: Sequence[str], gpu: int | None
) -> None:
    import torch

    # Imported before memory is measured: libraries are no part of an encoder's.
    from virnuc_assets.encoders import esm, mosaic_bert  # noqa: F401
    from virnuc_assets.encoders.embedding import embed
    from virnuc_assets.encoders.loading import load_encoder
    from virnuc_assets.encoders.machine import resolve_device

    if gpu is not None:  # the one that the parent has locked
        torch.cuda.set_device(gpu)
    on_gpu = resolve_device(encoding.device).type == "cuda"
    idle = 0 if on_gpu else _resident_bytes("VmRSS")
    encoder = load_encoder(spec, checkpoints, encoding)
    if on_gpu:  # loading takes more than embedding does
        torch.cuda.reset_peak_memory_stats()
    elif _CLEAR.exists():
        _CLEAR.write_text("5", encoding="ascii")
    embed(encoder, sequences[:_WARM_UP_SEQUENCES])
    _loaded.update(encoder=encoder, sequences=sequences, precision=encoding.precision, idle=idle)


def _round() -> float:
    from virnuc_assets.encoders.embedding import embed

    start = time.perf_counter()
    embed(_loaded["encoder"], _loaded["sequences"])
    return time.perf_counter() - start


def _facts() -> dict[str, Any]:
    import torch

    encoder = _loaded["encoder"]
    peak = torch.cuda.max_memory_allocated() if encoder.on_gpu else _resident_bytes("VmHWM")
    return {
        "encoder": encoder.spec.name,
        "sequences": len(_loaded["sequences"]),
        "dim": encoder.dim,
        "precision": _loaded["precision"],
        "device": torch.cuda.get_device_name() if encoder.on_gpu else "cpu",
        "token_budget": encoder.token_budget,
        "peak_memory_bytes": peak - _loaded["idle"],
    }


def _resident_bytes(name: str) -> int:
    """VmRSS (now) or VmHWM (highest) of this process; without /proc, the highest since its start.

    Not ru_maxrss on Linux: a child starts with its parent's peak there.
    """
    if _STATUS.is_file():
        lines = _STATUS.read_text(encoding="ascii").splitlines()
        return int(next(line for line in lines if line.startswith(name)).split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
