"""VirNucPro's `*_DNABERT_S.pt`, `*_ESM.pt` and `*_merged.pt` as ids and vectors, in and out.

Formats (upstream: `extract_DNABERT_S`, `extract_esm`, `merge_data` in units.py): ids and lists of floats under
"nucleotide" and "data"; ids and one tensor each under "proteins" and "data"; ids, one tensor of rows under "ids" and
"data", and in training one label for the whole file under "labels".
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from virnuc_assets.storage.atomic import atomic_write
from virnuc_assets.virnucpro.torch_files import ImportRefused, PickledModule, TorchFile, read_torch_file

Kind = Literal["DNABERT_S", "ESM", "merged"]
# Upstream's labels of a training file, by place.
LABELS = ("host", "viral")
_SIX_FRAME_ID = re.compile(r"[FR][123]$")
_EXAMPLES, _SHOWN = 3, 80
_LEAST_BYTES_OF_A_VALUE = 2


@dataclass(frozen=True)
class VectorFile:
    """Rows of one of VirNucPro's files."""

    kind: Kind  # the content decides, not the name
    path: Path
    sha256: str
    ids: list[str]  # of frames, one for each row, each once
    vectors: np.ndarray  # (n, d) float32, finite
    label: str | None = None  # of all its rows, where a merged file has one


def read_vectors(path: Path) -> VectorFile:
    """`vectors_in` of `read_torch_file`."""
    return vectors_in(read_torch_file(path))


def vectors_in(file: TorchFile) -> VectorFile:
    """Ids and vectors of a file; one of another kind, or whose ids and rows contradict each other, is refused."""
    labels, rows = None, list[object]()
    match file.content:
        case {"nucleotide": list(ids), "data": list(rows), **more} if not more:
            kind: Kind = "DNABERT_S"
        case {"proteins": list(ids), "data": list(rows), **more} if not more:
            kind = "ESM"
        case {"ids": list(ids), "data": Tensor() as data, **more} if data.dim() == 2 and more.keys() <= {"labels"}:
            kind, labels = "merged", more.get("labels")
            _require_ids(file, ids, len(data))  # before a view of each row is made
            rows = list(data)
        case _:
            raise ImportRefused(
                f"{file.path}: {_described(file.content)}; expected the keys nucleotide and data (DNABERT_S), proteins "
                "and data (ESM), or ids, data of two dims and perhaps labels (merged)"
            )
    _require_ids(file, ids, len(rows))
    if kind == "DNABERT_S":
        rows = [_listed(file, frame_id, row) for frame_id, row in zip(ids, rows, strict=True)]
    label = None if labels is None else _label(file, labels)
    return VectorFile(kind, file.path, file.sha256, ids, _stacked(file, ids, rows), label)


def write_vectors(
    path: Path, kind: Kind, ids: list[str], dim: int, windows: Iterable[np.ndarray], label: str | None = None
) -> None:
    """Write rows in VirNucPro's layout: vectors of the ids in their order, in windows, (m, dim) float32 each."""
    content: Mapping[str, object]
    if kind == "DNABERT_S":
        lists = (row for window in windows for row in window.tolist())
        data = [{"label": i, "mean_representation": row} for i, row in zip(ids, lists, strict=True)]
        content = {"nucleotide": ids, "data": data}
    else:
        vectors, start = np.empty((len(ids), dim), np.float32), 0
        for window in windows:
            vectors[start : start + len(window)] = window
            start += len(window)
        rows = torch.from_numpy(vectors)
        labels = {"labels": [LABELS.index(label)]} if label else {}
        content = {"proteins": ids, "data": list(rows)} if kind == "ESM" else {"ids": ids, "data": rows, **labels}
    with atomic_write(path) as temporary, temporary.open("wb") as handle:  # of a path, torch writes the name into it
        torch.save(content, handle)


def named(examples: Iterable[str]) -> str:
    """The first of them in brackets, quoted and cut as text of a file; nothing where there are none."""
    shown = [repr(example[:_SHOWN]) for example in list(examples)[:_EXAMPLES]]
    return f" (e.g. {', '.join(shown)})" if shown else ""


def _described(content: object) -> str:
    if isinstance(content, PickledModule):
        return f"holds a module of class {content.name}, no vectors"
    keys = [str(key)[:_SHOWN] for key in list(content)[:10]] if isinstance(content, dict) else []
    return f"holds a {type(content).__name__}" + (f" of the keys {', '.join(map(repr, keys))}" if keys else "")


def _require_ids(file: TorchFile, ids: list[str], rows: int) -> None:
    if len(ids) != rows:
        raise ImportRefused(
            f"{file.path}: {len(ids)} ids, but {rows} rows: misaligned by {abs(len(ids) - rows)}. "
            "VirNucPro's merge drops a row that one side lacks and keeps its id, so that every later id has another's "
            "row; import both sides without the merged file"
        )
    if wrong := [str(i) for i in ids if not isinstance(i, str) or not _SIX_FRAME_ID.search(i)]:
        raise ImportRefused(
            f"{file.path}: {len(wrong)} of {len(ids)} ids are no six-frame ids, which end in F1 to F3 or R1 to R3"
            f"{named(wrong)}"
        )
    counts = Counter(ids)
    if twice := [frame_id for frame_id, count in counts.items() if count > 1]:
        raise ImportRefused(f"{file.path}: {len(twice)} of {len(counts)} ids are there more than once{named(twice)}")


def _listed(file: TorchFile, frame_id: str, row: object) -> list[object]:
    match row:
        case {"label": label, "mean_representation": list(values)}:
            if label != frame_id:
                raise ImportRefused(
                    f"{file.path}: misaligned: the row of {frame_id[:_SHOWN]!r} is labelled {str(label)[:_SHOWN]!r}"
                )
            return values
    raise ImportRefused(f"{file.path}: a row is no dict with a label and a list as mean_representation")


def _label(file: TorchFile, labels: object) -> str:
    match labels:
        case [int(label)] if label in (0, 1):
            return LABELS[label]
    raise ImportRefused(
        f"{file.path}: expected labels [0] (host) or [1] (viral), one for the file; found another value"
    )


def _stacked(file: TorchFile, ids: list[str], rows: Sequence[object]) -> np.ndarray:
    """(n, d) float32 of rows that are equally wide and finite; doubles become the float32 that they were."""
    try:
        widths = Counter(map(len, rows))  # type: ignore[arg-type]  # what has no length is no row
        claimed = sum(width * count for width, count in widths.items())
        if claimed * _LEAST_BYTES_OF_A_VALUE > file.size:  # one row that stands for many, or a stride of 0
            raise ImportRefused(f"{file.path}: {claimed} values claimed by a file of {file.size} bytes")
        arrays = [row.numpy(force=True) if isinstance(row, Tensor) else np.asarray(row) for row in rows]
    except (TypeError, ValueError, RuntimeError) as error:
        raise ImportRefused(f"{file.path}: expected rows of floats, found {error}") from error
    if wrong := [f"{row.dtype} of {row.ndim} dims" for row in arrays if row.dtype.kind != "f" or row.ndim != 1]:
        raise ImportRefused(f"{file.path}: expected rows of floats, found {wrong[0]}")
    if len(widths) > 1:
        usual = widths.most_common(1)[0][0]
        odd = [frame_id for frame_id, row in zip(ids, arrays, strict=True) if len(row) != usual]
        counts = ", ".join(f"{count} rows of {width}" for width, count in sorted(widths.items()))
        raise ImportRefused(f"{file.path}: rows are not equally wide: {counts}{named(odd)}")
    if not sum(widths):
        raise ImportRefused(f"{file.path}: holds no vectors")
    with np.errstate(over="ignore"):  # found below
        vectors = np.array(arrays, dtype=np.float32)
    if bad := [ids[row] for row in np.flatnonzero(~np.isfinite(vectors).all(axis=1))]:
        raise ImportRefused(f"{file.path}: {len(bad)} of {len(ids)} vectors are not finite{named(bad)}")
    return vectors
