"""Files of torch.save as plain data, by torch's restricted reader: nothing of a file is imported or executed.

A whole module becomes a `PickledModule`. What torch's reader does not read is compared first: that no
entry of the zip file is compressed or larger than the file (torch.save never compresses), and that checksums fit.
A file made to harm can still end the process, by a key of deeply nested tuples, or keep it busy.
"""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from virnuc_assets.errors import VirnucError

MODEL_CLASS = "__main__.MLPClassifier"  # train.py is a script
_CLASSES = (
    MODEL_CLASS,
    "torch.nn.modules.linear.Linear",
    "torch.nn.modules.batchnorm.BatchNorm1d",
    "torch.nn.modules.dropout.Dropout",
)
_ZIP_START = b"PK\x03\x04"
_LEGACY_MAGIC, _LEGACY_HEAD = (0x1950A86A20F9469CFC6C).to_bytes(10, "little"), 32
_LEGACY = (
    "is in the format of torch before 1.6, which is not read. If you trust its source (loading executes what the file "
    "names), convert it in the environment that wrote it, with torch 1.6 or newer: torch.save(torch.load(path), path); "
    "from torch 2.6 on, a whole model needs torch.load(path, weights_only=False)"
)
_NAME_LENGTH = 80


class ImportRefused(VirnucError):
    """A file is no file of VirNucPro, is damaged, or contradicts itself, the frames or other files."""


class PickledModule:
    """What was pickled of a module: the full name of its class, and its state as the file has it."""

    name: ClassVar[str]
    state: object = None

    def __setstate__(self, state: object) -> None:
        """Run none of the module's own code."""
        self.state = state


@dataclass(frozen=True)
class TorchFile:
    """What a file of torch.save holds."""

    path: Path
    sha256: str
    size: int  # in bytes; no content may claim more
    content: object  # dicts, lists, tuples, text, numbers, tensors, and `PickledModule`


def read_torch_file(path: Path) -> TorchFile:
    """Read a file of torch.save, vectors or a model of VirNucPro, without executing anything of it."""
    if not path.is_file():
        raise ImportRefused(f"{path}: no such file")
    data = path.read_bytes()
    try:
        content = _content(data)
    except Exception as error:  # noqa: BLE001 damage raises whatever it meets in zipfile, pickle or torch
        found = error if isinstance(error, ImportRefused) else _found(error)
        raise ImportRefused(f"{path}: refused: {found}; nothing of the file was executed") from error
    return TorchFile(path, hashlib.sha256(data).hexdigest(), len(data), content)


def _content(data: bytes) -> object:
    if not data.startswith(_ZIP_START):
        raise ImportRefused(_LEGACY if _LEGACY_MAGIC in data[:_LEGACY_HEAD] else "is no file of torch.save")
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = archive.infolist()
        if packed := [entry.filename for entry in entries if entry.compress_type != zipfile.ZIP_STORED]:
            raise ImportRefused(f"holds {len(packed)} compressed entries (e.g. {packed[0]!r}); torch.save has none")
        if (claimed := sum(entry.file_size for entry in entries)) > len(data):
            raise ImportRefused(f"claims {claimed} bytes of entries, but has {len(data)} bytes itself")
        if damaged := archive.testzip():
            raise ImportRefused(f"is damaged: wrong checksum of {damaged!r}")
    known: list[Any] = [(type("Pickled", (PickledModule,), {"name": name}), name) for name in _CLASSES]
    with torch.serialization.safe_globals(known):
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def _found(error: Exception) -> str:
    """What torch's reader stopped at: a class or function that is not known, or damage."""
    if named := re.search(r"GLOBAL (\S+)", str(error)):
        return f"names {named[1][:_NAME_LENGTH]!r}, which no file of VirNucPro does"
    return f"is damaged, or more than plain data ({type(error).__name__})"
