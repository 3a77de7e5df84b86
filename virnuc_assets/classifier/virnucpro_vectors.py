"""VirNucPro's `*_DNABERT_S.pt`, `*_ESM.pt` and `*_merged.pt` as ids and vectors.

Formats (upstream: `extract_DNABERT_S`, `extract_esm`, `merge_data` in units.py): ids and lists of floats under
"nucleotide" and "data"; ids and one tensor each under "proteins" and "data"; ids, one tensor of rows under "ids" and
"data", and in training one label for the whole file under "labels".
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from virnuc_assets.errors import VirnucError
from virnuc_assets.storage.torch_files import PickledModule, TorchFile, read_torch_file

Kind = Literal["DNABERT_S", "ESM", "merged"]
MODEL_CLASS = "__main__.MLPClassifier"  # train.py is a script
_CLASSES = (
    MODEL_CLASS,
    "torch.nn.modules.linear.Linear",
    "torch.nn.modules.batchnorm.BatchNorm1d",
    "torch.nn.modules.dropout.Dropout",
)
_FLOATS = (torch.float16, torch.float32, torch.float64)
# Upstream's labels of a training file, by place.
LABELS = ("host", "viral")
_SIX_FRAME_ID = re.compile(r"[FR][123]$")
_EXAMPLES, _SHOWN = 3, 80
_LEAST_BYTES_OF_A_VALUE = 2


class ImportRefused(VirnucError):
    """A file of VirNucPro contradicts itself, the frames or the other files; all counts are named."""


@dataclass(frozen=True)
class VectorFile:
    """Rows of one of VirNucPro's files.

    Attributes:
        kind: which of the three; the content tells, not the name.
        path: the file.
        sha256: of its bytes.
        ids: frame ids, one a row, each once.
        vectors: (n, d) float32, finite.
        label: of all its rows, where a merged file tells it.
    """

    kind: Kind
    path: Path
    sha256: str
    ids: list[str]
    vectors: np.ndarray
    label: str | None = None


def read_virnucpro(path: Path) -> TorchFile:
    """A file of VirNucPro, vectors or model, of which nothing is executed.

    Raises:
        TorchFileRefused: it is no file of torch.save, is damaged, or names what no file of VirNucPro does.
    """
    return read_torch_file(path, _CLASSES)


def read_vectors(path: Path) -> VectorFile:
    """`vectors_in` of `read_virnucpro`."""
    return vectors_in(read_virnucpro(path))


def vectors_in(file: TorchFile) -> VectorFile:
    """Ids and vectors of a file.

    Raises:
        ImportRefused: it is none of the three kinds; ids and rows are not equally many (VirNucPro's merge drops a row
            that one side lacks and keeps its id); an id is no text, no six-frame id, or stands there twice; rows are
            not equally wide, or not finite.
    """
    label = None
    match file.content:
        case {"nucleotide": list(ids), "data": list(rows), **more} if not more:
            kind: Kind = "DNABERT_S"
            rows = [_listed(file, frame_id, row) for frame_id, row in _paired(file, ids, rows)]
        case {"proteins": list(ids), "data": list(rows), **more} if not more:
            kind = "ESM"
            rows = [_tensor(file, row, 1) for _, row in _paired(file, ids, rows)]
        case {"ids": list(ids), "data": Tensor() as data, **more} if more.keys() <= {"labels"}:
            kind = "merged"
            rows = [row for _, row in _paired(file, ids, _tensor(file, data, 2))]
            label = _label(file, more["labels"]) if more else None
        case _:
            raise ImportRefused(
                f"{file.path}: {_described(file.content)}; expected the keys nucleotide and data (DNABERT_S), proteins "
                "and data (ESM), or ids, data and perhaps labels (merged)"
            )
    frame_ids = _six_frame_ids(file, ids)
    return VectorFile(kind, file.path, file.sha256, frame_ids, _stacked(file, frame_ids, rows), label)


def named(examples: Sequence[str]) -> str:
    """The first of them; text of a file is quoted and cut."""
    return f"e.g. {', '.join(repr(example[:_SHOWN]) for example in examples[:_EXAMPLES])}"


def _described(content: object) -> str:
    if isinstance(content, PickledModule):
        return f"holds a module of class {content.name}, no vectors"
    keys = [str(key)[:_SHOWN] for key in list(content)[:10]] if isinstance(content, dict) else []
    return f"holds a {type(content).__name__}" + (f" of the keys {', '.join(map(repr, keys))}" if keys else "")


def _paired(file: TorchFile, ids: list[object], rows: Sequence[object] | Tensor) -> list[tuple[object, object]]:
    if len(ids) != len(rows):
        raise ImportRefused(
            f"{file.path}: {len(ids)} ids, but {len(rows)} rows: misaligned by {abs(len(ids) - len(rows))}. "
            "VirNucPro's merge drops a row that one side lacks and keeps its id, so that every later id has another's "
            "row; import both sides without the merged file"
        )
    return list(zip(ids, rows, strict=True))


def _listed(file: TorchFile, frame_id: object, row: object) -> list[object]:
    match row:
        case {"label": label, "mean_representation": list(values)} if type(label) is str and type(frame_id) is str:
            if label != frame_id:
                raise ImportRefused(
                    f"{file.path}: misaligned: the row of {frame_id[:_SHOWN]!r} says {label[:_SHOWN]!r}"
                )
            return values
    raise ImportRefused(f"{file.path}: a row is no dict with a label and a list as mean_representation")


def _tensor(file: TorchFile, row: object, dims: int) -> Tensor:
    if not file.holds(row) or row.dim() != dims or row.dtype not in _FLOATS:
        found = f"{row.dtype}, {row.dim()} dims" if isinstance(row, Tensor) else f"a {type(row).__name__}"
        raise ImportRefused(
            f"{file.path}: expected under data tensors of floats, {dims} dims, no larger than the file; found {found}"
        )
    return row


def _label(file: TorchFile, labels: object) -> str:
    match labels:
        case [int(label)] if label in (0, 1):
            return LABELS[label]
    raise ImportRefused(
        f"{file.path}: expected labels [0] (host) or [1] (viral), one for the file; found another value"
    )


def _six_frame_ids(file: TorchFile, ids: list[object]) -> list[str]:
    texts = [frame_id for frame_id in ids if isinstance(frame_id, str)]
    wrong = [text for text in texts if not _SIX_FRAME_ID.search(text)]
    if wrong or len(texts) < len(ids):
        raise ImportRefused(
            f"{file.path}: {len(wrong)} of {len(ids)} ids are no six-frame ids, which end in F1 to F3 or R1 to R3"
            f"{f' ({named(wrong)})' if wrong else ''}, {len(ids) - len(texts)} are no text"
        )
    if twice := [text for text, count in Counter(texts).items() if count > 1]:
        raise ImportRefused(
            f"{file.path}: {len(twice)} of {len(set(texts))} ids stand there more than once ({named(twice)})"
        )
    return texts


def _stacked(file: TorchFile, ids: list[str], rows: Sequence[list[object] | Tensor]) -> np.ndarray:
    """(n, d) float32 of rows that are equally wide and finite; doubles become the float32 that they were."""
    widths = Counter(map(len, rows))
    if len(widths) > 1:
        usual = widths.most_common(1)[0][0]
        odd = [frame_id for frame_id, row in zip(ids, rows, strict=True) if len(row) != usual]
        counts = ", ".join(f"{count} rows of {width}" for width, count in sorted(widths.items()))
        raise ImportRefused(f"{file.path}: rows are not equally wide: {counts} ({named(odd)})")
    dim = next(iter(widths), 0)
    if not dim:
        raise ImportRefused(f"{file.path}: holds no vectors")
    if len(rows) * dim * _LEAST_BYTES_OF_A_VALUE > file.size:  # one row that stands for many
        raise ImportRefused(f"{file.path}: {len(rows)} rows of {dim} values claimed by a file of {file.size} bytes")
    if any(isinstance(row, list) and set(map(type, row)) != {float} for row in rows):
        raise ImportRefused(f"{file.path}: a mean_representation holds something else than floats")
    with np.errstate(over="ignore"):  # found below
        arrays = [row if isinstance(row, list) else row.numpy(force=True) for row in rows]
        vectors = np.array(arrays, dtype=np.float32)
    if len(bad := np.flatnonzero(~np.isfinite(vectors).all(axis=1))):
        raise ImportRefused(
            f"{file.path}: {len(bad)} of {len(ids)} vectors are not finite ({named([ids[row] for row in bad])})"
        )
    return vectors
