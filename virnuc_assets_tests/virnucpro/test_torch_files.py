"""Files of torch.save are read as plain data; what would run, is damaged or claims more than it holds is refused.

Each bomb would touch a witness file; torch's unrestricted reader then shows that it does.
"""

from __future__ import annotations

import contextlib
import hashlib
import pickle
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from virnuc_assets.errors import VirnucError
from virnuc_assets.virnucpro.exchange import import_files
from virnuc_assets.virnucpro.torch_files import ImportRefused, read_torch_file
from virnuc_assets_tests.virnucpro.files import save

LEGACY = r"x.pt: refused: is in the format of torch before 1.6.*If you trust.*torch.save\(torch.load\(path\), path\)"


def test_plain_data_is_read_to_the_bit(tmp_path: Path) -> None:
    whole = torch.tensor([[1.1, -0.0, 3e-45], [3.4e38, float("nan"), float("-inf")]])
    path = save({"ids": ["text\udc80é", 2**70, None], "data": {1: [whole, whole.T.double()]}}, tmp_path / "x.pt")
    found = read_torch_file(path)
    content: Any = found.content
    assert content["ids"] == ["text\udc80é", 2**70, None]
    assert [t.numpy().tobytes() for t in content["data"][1]] == [t.numpy().tobytes() for t in (whole, whole.T.double())]
    data = path.read_bytes()
    assert (found.path, found.sha256, found.size) == (path, hashlib.sha256(data).hexdigest(), len(data))


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def named(name: str) -> bytes:
    """GLOBAL of `module:attribute`."""
    module, attribute = name.split(":")
    return f"c{module}\n{attribute}\n".encode()


def called(function: bytes, *arguments: bytes) -> bytes:
    return function + b"(" + b"".join(arguments) + b"tR"


class Touching:
    """Touches the file that its state names."""

    def __setstate__(self, state: str) -> None:
        Path(state).touch()


SYSTEM, LINEAR = named("posix:system"), named("torch.nn.modules.linear:Linear")
FLOATS = b"(" + text("storage") + named("torch:FloatStorage") + text("0") + text("cpu") + b"%stQ"


def number(value: int) -> bytes:
    return b"\x8a\x09" + value.to_bytes(9, "little")


def a_tensor(numel: int = 1, shape: int = 1, stride: int = 1) -> bytes:
    sizes = [number(value) + b"\x85" for value in (shape, stride)]
    return called(named("torch._utils:_rebuild_tensor_v2"), FLOATS % number(numel), b"K\x00", *sizes, b"\x89", b"}")


# From (shell command, witness path) to the opcodes that leave one object on the stack, and what the refusal names.
BOMBS: dict[str, tuple[Callable[[str, str], bytes], str | None]] = {
    "old name": (lambda _, path: called(named("__builtin__:eval"), text(f"open({path!r}, 'w')")), "eval"),
    "STACK_GLOBAL": (lambda touch, _: text("posix") + text("system") + b"\x93(" + text(touch) + b"tR", None),
    "BUILD": (lambda _, path: named(f"{__name__}:Touching") + b")\x81" + text(path) + b"b", f"{__name__}.Touching"),
    "import alone": (lambda _, __: named("armed_by_import:MLPClassifier"), "armed_by_import.MLPClassifier"),
    "in the ids": (lambda touch, _: b"}" + text("ids") + b"]" + called(SYSTEM, text(touch)) + b"as", "posix.system"),
    "state of a module": (lambda touch, _: LINEAR + b")\x81" + called(SYSTEM, text(touch)) + b"b", "posix.system"),
}  # fmt: skip


def pickled(path: Path, body: bytes) -> Path:
    """A zip file as torch.save writes it, with another pickle."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {"data.pkl": b"\x80\x02" + body + b".", "version": b"3\n", "data/0": bytes(4)}.items():
            archive.writestr(f"archive/{name}", content)
    return path


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_by_what_it_names_and_nothing_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    witness, (armed, unknown) = tmp_path / "witness", BOMBS[name]
    (tmp_path / "armed_by_import.py").write_text(f"open({str(witness)!r}, 'w')\nMLPClassifier = int\n")
    monkeypatch.syspath_prepend(tmp_path)
    path = pickled(tmp_path / "x.pt", armed(f"touch {witness}", str(witness)))
    with pytest.raises(VirnucError) as refused:
        import_files([path], tmp_path / "out")
    shown = f"names '{unknown}', which no file" if unknown else "is damaged, or more than plain data"
    assert str(refused.value).startswith(f"{path}: refused: {shown}")
    assert str(refused.value).endswith("; nothing of the file was executed")
    assert not witness.exists() and not (tmp_path / "out").exists()
    assert "armed_by_import" not in sys.modules
    with contextlib.suppress(Exception):  # it may fall over what it did
        torch.load(path, weights_only=False)
    sys.modules.pop("armed_by_import", None)
    assert witness.exists()


def test_the_format_before_torch_1_6_is_refused_with_the_way_to_convert_it(tmp_path: Path) -> None:
    for protocol in (4, 2):
        torch.save({"ids": []}, tmp_path / "x.pt", _use_new_zipfile_serialization=False, pickle_protocol=protocol)
        with pytest.raises(ImportRefused, match=LEGACY):
            read_torch_file(tmp_path / "x.pt")
    torch.save(torch.load(tmp_path / "x.pt"), tmp_path / "x.pt")
    assert read_torch_file(tmp_path / "x.pt").content == {"ids": []}


def test_what_is_no_such_file_is_named(tmp_path: Path) -> None:
    for name, content in {"text": b"ids,data\n", "empty": b"", "pickle": pickle.dumps(1), "zip": b"PK\x03\x04"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ImportRefused, match=f"{name}: refused: is {'damaged' if name == 'zip' else 'no file'}"):
            read_torch_file(tmp_path / name)
    for path in (tmp_path / "absent.pt", tmp_path):
        with pytest.raises(ImportRefused, match="no such file"):
            read_torch_file(path)


def test_a_file_that_is_cut_off_anywhere_or_has_a_wrong_bit_is_refused(tmp_path: Path) -> None:
    path, values = tmp_path / "x.pt", torch.arange(9.0)
    whole = save({"ids": ["a", "b"], "data": values, "floats": [0.5, 1.5]}, path).read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(ImportRefused):
            read_torch_file(path)
    path.write_bytes(whole.replace(values.numpy().tobytes(), (values + 1).numpy().tobytes()))
    with pytest.raises(ImportRefused, match="wrong checksum of 'x/data/0'"):
        read_torch_file(path)


def test_a_zip_bomb_and_entries_that_claim_more_than_the_file_are_refused_unread(tmp_path: Path) -> None:
    path = pickled(tmp_path / "x.pt", b"N")
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive, archive.open("archive/data/1", "w") as entry:
        for _ in range(100):
            entry.write(bytes(1 << 20))
    with pytest.raises(ImportRefused, match=r"1 compressed entries \(e.g. 'archive/data/1'\)"):
        read_torch_file(path)
    whole = pickled(path, b"N").read_bytes()
    entry_at = whole.rindex(b"PK\x01\x02", 0, whole.rindex(b"archive/data/0"))
    sizes = struct.pack("<II", 1 << 30, 1 << 30)  # compressed and uncompressed, in the central directory
    path.write_bytes(whole[: entry_at + 20] + sizes + whole[entry_at + 28 :])
    with pytest.raises(ImportRefused, match="claims 107374.* bytes of entries, but has"):
        read_torch_file(path)


@pytest.mark.parametrize("body", [a_tensor(1 << 62), a_tensor(shape=1 << 39), b"X\xff\xff\xff\xff"])
def test_a_pickle_that_claims_more_than_there_is_is_refused(tmp_path: Path, body: bytes) -> None:
    with pytest.raises(ImportRefused, match="is damaged, or more than plain data"):
        read_torch_file(pickled(tmp_path / "x.pt", body))
