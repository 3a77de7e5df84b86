"""Calls of small samples, written by hand, and the `run.json` next to them."""

from __future__ import annotations

import json
import re
import zlib
from base64 import b64decode
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from virnuc_assets.classifier.sample_calls import SampleCalls, records_schema
from virnuc_assets.reports.sample_page import write_html

CHUNK_LENGTH, MIN_CONFIDENCE, MAX_ERROR = 100, 0.8, 0.2
NAN = float("nan")


def record(name: str, call: str, probabilities: Sequence[float], length_nt: int, **more: Any) -> dict[str, Any]:
    """A row of the records, and the probabilities of its chunks."""
    scored = [one for one in probabilities if one == one]
    viral = [one for one in scored if one >= 0.5]
    return {
        "source": "contigs.fna",
        "record_id": name,
        "length_nt": length_nt,
        "call": call,
        "probability": sum(scored) / len(scored) if scored else None,
        "novelty": None,
        "viral_fraction": len(viral) / len(scored) if scored else None,
        "chunks": len(probabilities),
        "chunks_scored": len(scored),
        "chunks_viral": len(viral),
        "chunks_uncertain": sum(0.2 < one < 0.8 for one in scored),
        "longest_viral_nt": 0,
        "reason": None if scored else "no open frame",
        "probabilities": probabilities,
        **more,
    }


def sample(*records: dict[str, Any]) -> SampleCalls:
    """Calls of these records; in scored chunks, frames F2 and R3 are open."""
    chunks = [each["probabilities"] for each in records]
    probability = np.array([one for each in chunks for one in each], np.float32)
    offsets = np.cumsum([0, *map(len, chunks)]).astype(np.int64)
    frames = np.where(np.isnan(probability), 0, 0b100010).astype(np.uint8)
    table = pa.Table.from_pylist(
        [{name: each[name] for name in records_schema().names} for each in records], schema=records_schema()
    )
    return SampleCalls(table, offsets, probability, frames, CHUNK_LENGTH, MIN_CONFIDENCE, MAX_ERROR)


def four_calls() -> SampleCalls:
    """Two virus records, one of each other call; some chunks without a score."""
    return sample(
        record("bacterium", "other", [0.1, 0.05, 0.9, NAN], 380, longest_viral_nt=100, novelty=0.25),
        record("phage", "virus", [0.95, 0.99, NAN, 0.7], 400, longest_viral_nt=200, novelty=0.99996),
        record("plasmid", "uncertain", [0.6, 0.45], 200, longest_viral_nt=100, novelty=1.0),
        record("intron", "not scored", [NAN, NAN], 150),
        record("long_phage", "virus", [0.99, NAN, NAN, NAN, NAN, NAN], 600, longest_viral_nt=100, novelty=1.0),
    )


def run_json(calls: SampleCalls, **model: Any) -> dict[str, Any]:
    """What `run.json` holds."""
    sources = dict.fromkeys(calls.records["source"].to_pylist())
    fingerprint = {"encoder": "dnabert_s", "revision": "00e47f96", "precision": "fp32"}
    return {
        "virnuc_version": "0.1.0",
        "command": "virnuc predict contigs.fna --out results",
        "started": "2026-11-30T14:00:01+00:00",
        "finished": "2026-11-30T14:03:09+00:00",
        "seconds": 188.2,
        "versions": {"python": "3.11.9", "torch": "2.13.0"},
        "model": {
            "variant": "fastesm2",
            "reads": "dnabert_s and fastesm2_650",
            "encoders": {"dna": fingerprint, "protein": {**fingerprint, "encoder": "fastesm2_650"}},
            "classifier": "d26d9fb0",
            "miniature": False,
            "trained_on": {"data_digest": "c05ea2d4", "temperature": 1.25, "training": {"hidden": 512}},
            **model,
        },
        "settings": {
            "chunk_length": calls.chunk_length,
            "min_confidence": calls.min_confidence,
            "max_error": MAX_ERROR,
            "min_length": 0,
        },
        "inputs": [{"source": one, "sha256": "ab" * 32, "records": 1} for one in sources],
        "totals": {"records": calls.records.num_rows, "chunks": len(calls.probability), "chunks_dropped_stop": 9},
    }


def html_of(folder: Path, calls: SampleCalls, **model: Any) -> str:
    """The page that is written of these calls."""
    write_html(folder / "report.html", calls, run_json(calls, **model))
    return (folder / "report.html").read_text(encoding="utf-8")


def packed(html: str) -> dict[str, Any]:
    """The table that the page's script reads, its blocks joined."""
    (data,) = re.findall(r'id="data">([^<]*)</script>', html)
    found: dict[str, Any] = json.loads(zlib.decompress(b64decode(data)))
    blocks = found.pop("blocks")
    return {**found, **{name: [one for block in blocks for one in block[name]] for name in (blocks or [{}])[0]}}
