"""The same test rows at three levels: frames as scored, chunks by VirNucPro's rule, records by ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from virnuc_assets.classifier.calls import VIRUS, chunk_calls, chunk_probability, record_calls

Level = Literal["frame", "chunk", "record"]
LEVELS: tuple[Level, ...] = get_args(Level)


@dataclass(frozen=True)
class Scored:
    """n frames, chunks or records with truth, call and score.

    Attributes:
        ids: (n,) str, of frames, chunks or records.
        viral: (n,) bool, the truth.
        called: (n,) bool, called virus.
        probability: (n,) float64 in [0, 1], higher for more viral: a frame's score_virus; a chunk's highest
            score_virus over the sum of both highest scores; a record's share of viral chunks.
    """

    ids: np.ndarray
    viral: np.ndarray
    called: np.ndarray
    probability: np.ndarray


def levels_of(table: pa.Table) -> dict[Level, Scored]:
    """Frames, chunks and records of an evaluation table, each in order of first appearance."""
    label_of = dict(zip(table["record_id"].to_pylist(), table["label"].to_pylist(), strict=True))
    chunks = chunk_calls(table)
    records = record_calls(chunks)
    found = {
        "frame": (table, "frame_id", table["score_virus"].to_numpy().astype(np.float64)),
        "chunk": (chunks, "chunk_id", chunk_probability(chunks)),
        "record": (records, "record_id", records["viral_fraction"].to_numpy()),
    }
    return {level: _scored(*found[level], label_of) for level in LEVELS}


def _scored(table: pa.Table, ids: str, probability: np.ndarray, label_of: Mapping[str, str]) -> Scored:
    return Scored(
        ids=np.array(table[ids].to_pylist(), dtype=np.str_),
        viral=np.array([label_of[record] == "viral" for record in table["record_id"].to_pylist()], dtype=bool),
        called=np.asarray(pc.equal(table["call"], VIRUS).to_numpy(), dtype=bool),
        probability=probability,
    )
