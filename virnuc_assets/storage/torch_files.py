"""Files of torch.save as plain data, by torch's restricted reader: nothing of a file is imported or executed.

A whole module comes as a stand-in that keeps its state. What torch's reader does not look at is compared first: that no
entry of the zip file is compressed or larger than the file (torch.save never compresses), and that checksums fit.
A file made to harm can still end the process, by a key of deeply nested tuples, or keep it busy.
"""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeGuard

from virnuc_assets.errors import VirnucError

if TYPE_CHECKING:
    from torch import Tensor

_ZIP_START = b"PK\x03\x04"
_LEGACY_MAGIC, _LEGACY_HEAD = (0x1950A86A20F9469CFC6C).to_bytes(10, "little"), 32
_LEGACY = (
    "is in the format of torch before 1.6, which is not read. If you trust its source (loading executes what the file "
    "names), convert it in the environment that wrote it, with torch 1.6 or newer: torch.save(torch.load(path), path); "
    "from torch 2.6 on, a whole model needs torch.load(path, weights_only=False)"
)
_NAME_LENGTH = 80


class TorchFileRefused(VirnucError):
    """A file is not one of torch.save, is damaged, or holds what VirNucPro does not write; nothing of it was run."""


class PickledModule:
    """An object of a class that the caller knows by name: no module of torch, only what was pickled of one.

    Attributes:
        name: of its class, in full.
        state: what the file tells of it.
    """

    name: ClassVar[str]
    state: object = None

    def __setstate__(self, state: object) -> None:
        """Keep the state as it stands in the file."""
        self.state = state


@dataclass(frozen=True)
class TorchFile:
    """What a file of torch.save holds.

    Attributes:
        path: the file.
        sha256: of its bytes.
        size: their number.
        content: dicts, lists, tuples, text, numbers, tensors on the CPU, and `PickledModule`.
    """

    path: Path
    sha256: str
    size: int
    content: object

    def holds(self, value: object) -> TypeGuard[Tensor]:
        """Whether this is an ordinary tensor of no more bytes than the file: a stride of 0 makes a few bytes many."""
        import torch

        return (
            isinstance(value, torch.Tensor)
            and (value.layout, value.device.type) == (torch.strided, "cpu")
            and not (value.is_nested or value.is_quantized)
            and value.numel() * value.element_size() <= self.size
        )


def read_torch_file(path: Path, classes: Collection[str] = ()) -> TorchFile:
    """Read a file of torch.save without executing anything of it.

    Args:
        path: the file; opened for reading only, once.
        classes: full names of those whose objects it may hold.

    Raises:
        TorchFileRefused: it is no such file, of the format before torch 1.6, damaged or cut off, has entries that
            would take more memory than its size accounts for, or names a class or function that is not known.
    """
    if not path.is_file():
        raise TorchFileRefused(f"{path}: no such file")
    data = path.read_bytes()
    try:
        content = _content(data, classes)
    except Exception as error:  # noqa: BLE001 damage raises whatever it meets in zipfile, pickle or torch
        found = error if isinstance(error, TorchFileRefused) else _found(error)
        raise TorchFileRefused(f"{path}: refused: {found}; nothing of the file was executed") from error
    return TorchFile(path, hashlib.sha256(data).hexdigest(), len(data), content)


def _content(data: bytes, classes: Collection[str]) -> object:
    import torch

    if not data.startswith(_ZIP_START):
        raise TorchFileRefused(_LEGACY if _LEGACY_MAGIC in data[:_LEGACY_HEAD] else "is no file of torch.save")
    _require_sound_zip(data)
    known: list[Any] = [(type("Pickled", (PickledModule,), {"name": name}), name) for name in classes]
    with torch.serialization.safe_globals(known):
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def _require_sound_zip(data: bytes) -> None:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = archive.infolist()
        if packed := [entry.filename for entry in entries if entry.compress_type != zipfile.ZIP_STORED]:
            raise TorchFileRefused(f"holds {len(packed)} compressed entries (e.g. {packed[0]!r}); torch.save has none")
        if (claimed := sum(entry.file_size for entry in entries)) > len(data):
            raise TorchFileRefused(f"claims {claimed} bytes of entries, but has {len(data)} bytes itself")
        if damaged := archive.testzip():
            raise TorchFileRefused(f"is damaged: wrong checksum of {damaged!r}")


def _found(error: Exception) -> str:
    """What torch's reader stopped at: a class or function that is not known, or damage."""
    if named := re.search(r"GLOBAL (\S+)", str(error)):
        return f"names {named[1][:_NAME_LENGTH]!r}, which no file of VirNucPro does"
    return f"is damaged, or more than plain data ({type(error).__name__})"
