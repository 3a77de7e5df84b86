"""Golden vectors of the miniatures: whether this installation still computes the numbers of existing tables.

`golden.json` holds a handful of sequences for each alphabet, the pooled vectors that each miniature gave for them
in fp32 on a CPU, and the libraries that gave them. Every embedding run computes them anew first, by the code path
of a real encoder. Composition has no golden vectors: k-mer counts are whole numbers, which no library rounds
otherwise.

    python -m virnuc_assets.encoders.golden     writes the vectors anew where this installation's differ

Imports nothing heavy before it computes: the digest of the file is part of every fingerprint.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import sys
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple

from virnuc_assets.encoders.registry import ENCODERS, MINIATURE, Architecture, EncoderSpec
from virnuc_assets.errors import VirnucError
from virnuc_assets.settings import EncodingSettings

GOLDEN_FILE = Path(__file__).with_name("golden.json")
TOLERANCE = 1e-5
"""Largest difference of a vector's element that is let pass: the one within which order and batches change nothing."""

_LIBRARIES = ("torch", "tokenizers", "numpy")
_DECIMALS = 8
_TOKEN_BUDGET = 2048

Device = Literal["cpu", "cuda"]
Vectors = dict[str, list[float]]


class GoldenError(VirnucError):
    """This installation computes other numbers than those of the golden file."""


class Difference(NamedTuple):
    """Largest difference to the golden vectors, and where it is."""

    size: float
    encoder: str
    sequence: str


def check_golden(architecture: Architecture, device: str, path: Path = GOLDEN_FILE) -> float:
    """Compare this installation with the golden file, once a process for each architecture and device.

    Args:
        architecture: Its miniatures are computed.
        device: "auto", "cpu" or "cuda", as the run asks for it; the CPU is checked in any case.
        path: The golden file.

    Returns:
        The largest difference found, 0 for an architecture without golden vectors.

    Raises:
        GoldenError: a difference exceeds `TOLERANCE`; the message names it, the versions and the remedy.
        VirnucError: the requested device is absent.
    """
    if architecture == "kmer":
        return 0.0
    from virnuc_assets.encoders.machine import resolve_device

    devices: set[Device] = {"cpu", "cuda" if resolve_device(device).type == "cuda" else "cpu"}
    return max(_check(architecture, each, path) for each in sorted(devices))


@functools.cache
def golden_digest() -> str:
    """sha256 of the golden file: tables made under different golden files hold different numbers."""
    return hashlib.sha256(GOLDEN_FILE.read_bytes()).hexdigest()


@functools.cache
def _check(architecture: Architecture, device: Device, path: Path) -> float:
    golden = _read(path)
    found = {spec.name: _vectors(spec, golden, device) for spec in _miniatures(architecture)}
    largest = max(_differences(golden, found))
    if not largest.size <= TOLERANCE:
        raise GoldenError(
            f"{architecture}: the golden vectors in {path} are not those that this installation computes: "
            f"sequence {largest.sequence!r} of {largest.encoder} differs by {largest.size:.1e} on {device}, "
            f"tolerated are {TOLERANCE:.0e}.\n"
            f"  installed: {_listed(_installed())}\n"
            f"  golden:    {_listed(golden['versions'])}\n"
            "The numbers of this installation are not those of existing tables, and nothing was embedded. Install the "
            "versions of constraints.txt; or, if the change is meant, write the golden file anew with "
            "`python -m virnuc_assets.encoders.golden` and embed everything anew."
        )
    return largest.size


def write_golden(path: Path = GOLDEN_FILE) -> Difference:
    """Write vectors and versions anew where a difference exceeds `TOLERANCE`; the sequences stay.

    The file stays as it is where the numbers hold, so that its digest does not change by rounding.

    Returns:
        The largest difference between the file as it was and this installation, infinite for a missing vector.
    """
    golden = _read(path)
    found = {spec.name: _vectors(spec, golden, "cpu") for spec in _miniatures()}
    largest = max(_differences(golden, found))
    if not largest.size <= TOLERANCE:
        path.write_text(_formatted({**golden, "versions": _installed(), "vectors": found}), encoding="utf-8")
    return largest


def _read(path: Path) -> dict[str, Any]:
    golden: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return golden


def _miniatures(architecture: Architecture | None = None) -> list[EncoderSpec]:
    specs = [spec for spec in ENCODERS.values() if spec.checkpoint == MINIATURE]
    return [spec for spec in specs if architecture in (None, spec.architecture)]


def _vectors(spec: EncoderSpec, golden: Mapping[str, Any], device: Device) -> Vectors:
    """Pooled vector of each golden sequence, through a checkpoint folder as any encoder's."""
    from virnuc_assets.encoders.embedding import embed
    from virnuc_assets.encoders.loading import load_encoder
    from virnuc_assets.encoders.miniature import write_miniature

    sequences: dict[str, str] = golden["sequences"][spec.alphabet]
    # Nothing measured: budget and compilation would move the last digits, and compiling takes longer than the check.
    encoding = EncodingSettings(precision="fp32", device=device, token_budget=_TOKEN_BUDGET, compile="never")
    with tempfile.TemporaryDirectory(prefix="virnuc-golden-") as folder:
        write_miniature(spec, Path(folder))
        encoder = load_encoder(spec, Path(folder), encoding)
        vectors = embed(encoder, list(sequences.values()))
    return {name: [round(x, _DECIMALS) for x in row] for name, row in zip(sequences, vectors.tolist(), strict=True)}


def _differences(golden: Mapping[str, Any], found: Mapping[str, Vectors]) -> list[Difference]:
    return [
        Difference(_largest(golden["vectors"].get(encoder, {}).get(sequence, []), vector), encoder, sequence)
        for encoder, vectors in found.items()
        for sequence, vector in vectors.items()
    ]


def _largest(expected: list[float], found: list[float]) -> float:
    if len(expected) != len(found):
        return math.inf
    return max(abs(a - b) for a, b in zip(expected, found, strict=True))


def _installed() -> dict[str, str]:
    """Versions without a local build label (`+cpu`, `+cu130`)."""
    return {name: version(name).partition("+")[0] for name in _LIBRARIES}


def _listed(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in versions.items())


def _formatted(golden: Mapping[str, Any]) -> str:
    """JSON with one vector a line, so that a change shows as the vectors that changed."""
    vectors = [
        f"  {json.dumps(encoder)}: {{\n"
        + ",\n".join(f"   {json.dumps(name)}: {json.dumps(vector)}" for name, vector in rows.items())
        + "\n  }"
        for encoder, rows in golden["vectors"].items()
    ]
    head = json.dumps({name: golden[name] for name in ("versions", "sequences")}, indent=1)
    return head.removesuffix("\n}") + ',\n "vectors": {\n' + ",\n".join(vectors) + "\n }\n}\n"


def _main() -> None:
    largest = write_golden()
    where = f"{largest.size:.1e} at most (sequence {largest.sequence!r} of {largest.encoder})"
    if largest.size <= TOLERANCE:
        sys.stdout.write(f"{GOLDEN_FILE} holds and was left alone: it differs by {where}\n")
    else:
        sys.stdout.write(f"{GOLDEN_FILE} was written anew: it differed by {where}; embed everything anew\n")


if __name__ == "__main__":
    _main()
