"""Files as VirNucPro writes them: torch.save in upstream's layouts, and modules pickled by a script's `__main__`."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch

from virnuc_assets.storage.schemas import frames_schema


def save(content: object, path: Path) -> Path:
    torch.save(content, path)
    return path


def dnabert_s(path: Path, ids: Sequence[str], vectors: np.ndarray) -> Path:
    rows = [{"label": i, "mean_representation": row} for i, row in zip(ids, vectors.tolist(), strict=True)]
    return save({"nucleotide": list(ids), "data": rows}, path)


def esm(path: Path, ids: Sequence[str], vectors: np.ndarray) -> Path:
    rows = [torch.tensor(row).clone() for row in vectors]
    return save({"proteins": list(ids), "data": rows}, path)


def merged(path: Path, ids: Sequence[str], vectors: np.ndarray, label: int | None = None) -> Path:
    labels = {} if label is None else {"labels": [label]}
    return save({"ids": list(ids), "data": torch.stack([torch.tensor(row) for row in vectors]), **labels}, path)


WRITERS: dict[str, Callable[..., Path]] = {"DNABERT_S": dnabert_s, "ESM": esm, "merged": merged}


def upstreams_reading(path: Path) -> dict[str, Any]:
    """As upstream reads a file of its own, with torch's restricted unpickler in place of the one that executes."""
    return dict(torch.load(path, weights_only=True))


# Upstream's class is in its training script, so its pickles name `__main__`.
_SCRIPT = """
import json, sys
import torch
from torch import nn

class MLPClassifier(nn.Module):
    def __init__(self, input_dim, hidden_dim, num_class):
        super().__init__()
        self.hidden_layer = nn.Linear(input_dim, hidden_dim)
        self.bn1 = nn.BatchNorm1d(hidden_dim)
        self.output_layer = nn.Linear(hidden_dim, num_class)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x):
        return self.output_layer(self.dropout(torch.relu(self.bn1(self.hidden_layer(x)))))

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden_layer = nn.Linear(3, 2)

for name, (dim, hidden, classes, change) in json.loads(sys.argv[1]).items():
    torch.manual_seed(7)
    model = MLPClassifier(dim, hidden, classes)
    rows = torch.randn(16, dim) * 2 + 1
    model(rows)
    scores = torch.softmax(model.eval()(rows), dim=1).detach()
    exec(change)
    torch.save({"rows": rows, "scores": scores}, name + ".scores")
    torch.save(model, name + ".pth")
"""


class Model(NamedTuple):
    """What a model is made with: columns, hidden width, classes, and statements on `model` before it is saved."""

    dim: int
    hidden: int
    classes: int = 2
    change: str = ""


def write_models(folder: Path, models: Mapping[str, Model]) -> None:
    """Whole-module pickles NAME.pth, and what the module says of some rows in NAME.scores."""
    script = [sys.executable, "-W", "ignore", "-c", _SCRIPT, json.dumps(models)]
    subprocess.run(script, check=True, cwd=folder)


def frames(ids: Sequence[str], label: str | None = None) -> pa.Table:
    """A frames table of these frame ids; sequences differ from frame to frame."""
    codes = [format(number, "b").replace("0", "A").replace("1", "C") for number in range(1, len(ids) + 1)]
    rows = [
        {
            "frame_id": frame_id,
            "chunk_id": frame_id[:-2],
            "record_id": frame_id.partition("_chunk_")[0],
            "strand": "+" if frame_id[-2] == "F" else "-",
            "frame": int(frame_id[-1]),
            "nucleotides": f"{code}G",
            "protein": f"M{code}",
            "label": label,
            "group": None if label is None else f"some {label}",
            "annotated": None if label is None else False,
        }
        for frame_id, code in zip(ids, codes, strict=True)
    ]
    return pa.Table.from_pylist(rows, schema=frames_schema())


def frame_ids(count: int, record: str = "NC_1.1") -> list[str]:
    suffixes = ("F1", "F2", "F3", "R1", "R2", "R3")
    return [f"{record}_chunk_{number // 6 + 1}{suffixes[number % 6]}" for number in range(count)]


def drawn(rows: int, dim: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, dim)).astype(np.float32)
