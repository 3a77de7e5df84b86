"""Files of torch.save, zip or legacy, read to plain values and arrays; see `inert_pickle` for why nothing is executed.

The file is read once, whole; what follows works on those bytes, and nothing is taken that they do not hold: torch.save
never compresses, so that an entry that would grow is refused. Formats: torch/serialization.py.
"""

from __future__ import annotations

import hashlib
import io
import math
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from virnuc_assets.storage.inert_pickle import InertPickle, Made, Name, TorchFileRefused, Vocabulary

_ZIP_START = b"PK\x03\x04"
_LEGACY_MAGIC, _LEGACY_VERSION = 0x1950A86A20F9469CFC6C, 1001
_DTYPES: dict[str, np.dtype[Any]] = {
    "torch.FloatStorage": np.dtype("<f4"),
    "torch.DoubleStorage": np.dtype("<f8"),
    "torch.HalfStorage": np.dtype("<f2"),
    "torch.LongStorage": np.dtype("<i8"),
    "torch.IntStorage": np.dtype("<i4"),
}
_MAX_LENGTH, _MAX_NUMBERS = 1 << 40, 17  # of a tensor's offset, shape and strides: eight dims


@dataclass(frozen=True)
class TorchFile:
    """What a file of torch.save holds.

    Attributes:
        path: the file.
        sha256: of its bytes.
        size: their number.
        content: dicts, lists, tuples, text, numbers, `Tensor`, and `Made` for objects of known classes.
    """

    path: Path
    sha256: str
    size: int
    content: object


class _Storage:
    """Values of one or several tensors; `values` is there once the whole file was read."""

    def __init__(self, dtype: np.dtype[Any], numel: int) -> None:
        self.dtype, self.numel = dtype, numel
        self.values = np.empty(0, dtype)


@dataclass(frozen=True)
class Tensor:
    """A contiguous piece of a storage, in the shape that the file tells."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of its values."""
        return self.storage.dtype

    def numpy(self) -> np.ndarray:
        """The values, read-only, in this shape."""
        return self.storage.values[self.offset : self.offset + math.prod(self.shape)].reshape(self.shape)


def read_torch_file(path: Path, is_class: Callable[[str], bool]) -> TorchFile:
    """Read a file of torch.save without executing anything of it.

    Args:
        path: the file; opened for reading only.
        is_class: whether the file may hold an object of the class of this name.

    Raises:
        TorchFileRefused: it is no such file, is damaged or cut off, would take more memory than its size accounts
            for, or names a class or function that is not known.
    """
    if not path.is_file():
        raise TorchFileRefused(f"{path}: no such file")
    data = path.read_bytes()
    storages = _Storages(is_class)
    try:
        content = _read_zip(data, storages) if data.startswith(_ZIP_START) else _read_legacy(data, storages)
    except TorchFileRefused as error:
        raise TorchFileRefused(f"{path}: refused: {error}") from error
    return TorchFile(path, hashlib.sha256(data).hexdigest(), len(data), content)


class _Storages:
    """The storages that a pickle names, by key, and the vocabulary of a file of torch.save."""

    def __init__(self, is_class: Callable[[str], bool]) -> None:
        self.by_key: dict[str, _Storage] = {}
        calls = {
            "torch._utils._rebuild_tensor_v2": _tensor,
            "torch._utils._rebuild_parameter": _parameter,
            "collections.OrderedDict": _ordered_dict,
        }
        known = {*calls, *_DTYPES, "__builtin__.set", "builtins.set"}
        self.vocabulary = Vocabulary(lambda name: name in known or is_class(name), calls, self._stored)

    def _stored(self, reference: object) -> object:
        """Storage of a persistent id; of a module's class, whose source the legacy format adds, the name."""
        match reference:
            case ("module", Name() as name, _, _):
                return name
            case ("storage", Name(kind), str(key), str(), int(numel), *_) if kind in _DTYPES:
                storage = self.by_key.setdefault(key, _Storage(_DTYPES[kind], numel))
                if (storage.dtype, storage.numel) != (_DTYPES[kind], numel):
                    raise TorchFileRefused(f"tells two types or sizes of storage {key!r}")
                return storage
        raise TorchFileRefused(f"refers to something else than a storage of {', '.join(_DTYPES)}")

    def fill(self, key: str, values: bytes) -> None:
        storage = self.by_key[key]
        if len(values) != storage.numel * storage.dtype.itemsize:
            raise TorchFileRefused(
                f"claims {storage.numel} values of {storage.dtype.itemsize} bytes in storage {key!r}, "
                f"which holds {len(values)} bytes"
            )
        storage.values = np.frombuffer(values, storage.dtype)


def _tensor(args: tuple[object, ...]) -> Tensor:
    match args:
        case (_Storage() as storage, int(offset), tuple(shape), tuple(strides), bool(), *_) if _lengths(
            offset, *shape, *strides
        ) and len(shape) == len(strides):
            step, contiguous = 1, True
            for length, stride in zip(reversed(shape), reversed(strides), strict=True):
                contiguous &= length == 1 or stride == step
                step *= length
            if not step or (contiguous and offset + step <= storage.numel):
                return Tensor(storage, offset if step else 0, shape)
            raise TorchFileRefused(
                f"claims a tensor of shape {list(shape)}, strides {list(strides)} at {offset} of a storage of "
                f"{storage.numel} values; expected one that lies in it without gaps"
            )
    raise TorchFileRefused("makes a tensor of something else than a storage, an offset, a shape and strides")


def _lengths(*numbers: object) -> bool:
    """Whether these can be a tensor's offset, shape and strides."""
    sound = all(type(number) is int and 0 <= number < _MAX_LENGTH for number in numbers)
    return sound and len(numbers) <= _MAX_NUMBERS


def _parameter(args: tuple[object, ...]) -> Tensor:
    match args:
        case (Tensor() as tensor, bool(), *_):
            return tensor
    raise TorchFileRefused("makes a parameter of something else than a tensor")


def _ordered_dict(args: tuple[object, ...]) -> dict[object, object]:
    if args:
        raise TorchFileRefused("makes an ordered dict of something; torch.save sets its items")
    return {}


def _read_zip(data: bytes, storages: _Storages) -> object:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            root = _sound_root(archive, len(data))
            if f"{root}/byteorder" in archive.namelist() and archive.read(f"{root}/byteorder") != b"little":
                raise TorchFileRefused("was written on a big-endian machine")
            content, _ = InertPickle(archive.read(f"{root}/data.pkl"), 0, storages.vocabulary).load()
            for key in storages.by_key:
                storages.fill(key, archive.read(f"{root}/data/{key}"))
            return content
    # What zipfile raises for damage: its own, a name that is no text or not there, a version or flag it does not know.
    except (zipfile.BadZipFile, EOFError, KeyError, NotImplementedError, RuntimeError, ValueError, OSError) as error:
        raise TorchFileRefused(f"is a damaged zip file ({error})") from error


def _sound_root(archive: zipfile.ZipFile, size: int) -> str:
    """The folder that holds data.pkl, of an archive without compression whose entries are no larger than the file."""
    entries = archive.infolist()
    if packed := [entry.filename for entry in entries if entry.compress_type != zipfile.ZIP_STORED]:
        raise TorchFileRefused(f"holds {len(packed)} compressed entries (e.g. {packed[0]!r}); torch.save has none")
    if (claimed := sum(entry.file_size for entry in entries)) > size:
        raise TorchFileRefused(f"claims {claimed} bytes of entries, but has {size} bytes itself")
    roots = [name.removesuffix("/data.pkl") for name in archive.namelist() if name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise TorchFileRefused(f"is a zip file with {len(roots)} data.pkl; torch.save writes one")
    return roots[0]


def _read_legacy(data: bytes, storages: _Storages) -> object:
    at, heads = 0, []
    for _ in range(3):
        head, at = InertPickle(data, at, storages.vocabulary).load()
        heads.append(head)
        if heads[0] != _LEGACY_MAGIC:
            raise TorchFileRefused("is no file of torch.save, neither zip nor legacy")
    match heads:
        case [_, version, {"little_endian": True}] if version == _LEGACY_VERSION:
            content, at = InertPickle(data, at, storages.vocabulary).load()
        case _:
            raise TorchFileRefused("is of a version or byte order that torch.save does not write here")
    keys, at = InertPickle(data, at, storages.vocabulary).load()
    if not isinstance(keys, list) or any(type(key) is not str for key in keys) or set(keys) != storages.by_key.keys():
        raise TorchFileRefused("lists other storages than its tensors name")
    for key in keys:
        end = at + 8 + storages.by_key[key].numel * storages.by_key[key].dtype.itemsize
        if end > len(data) or int.from_bytes(data[at : at + 8], "little", signed=True) != storages.by_key[key].numel:
            raise TorchFileRefused(f"is cut off or damaged in storage {key!r} at byte {at} of {len(data)}")
        storages.fill(key, data[at + 8 : end])
        at = end
    return content


__all__ = ["Made", "Tensor", "TorchFile", "TorchFileRefused", "read_torch_file"]
