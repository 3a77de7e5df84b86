"""Pickles that run something when they are unpickled: refused by the import, nothing run, the file untouched.

Each bomb touches a witness file. That it is armed is shown first, by pickle or by torch's unrestricted loader; then the
same bytes are imported in every place where a file of torch.save holds a pickle.
"""

from __future__ import annotations

import contextlib
import copyreg
import io
import pickle
import struct
import sys
import zipfile
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from virnuc_assets.errors import VirnucError
from virnuc_assets.exchange import ImportOptions, import_files
from virnuc_assets_tests.virnucpro_files import frame_ids

PROTO = b"\x80\x02"
EXTENSION = 0xE7


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


class TouchingWhenMade:
    def __new__(cls, path: str) -> TouchingWhenMade:
        Path(path).touch()
        return super().__new__(cls)


class TouchingByKey(dict[object, object]):
    def __setitem__(self, key: object, value: object) -> None:
        Path(str(key)).touch()


class TouchingByAppend(list[object]):
    def append(self, item: object) -> None:
        Path(str(item)).touch()

    def extend(self, items: object) -> None:
        for item in items:  # type: ignore[attr-defined]
            self.append(item)


SYSTEM = named("posix:system")
HERE = __name__


def storage_reference(kind: bytes, *rest: bytes) -> bytes:
    return b"(" + text("storage") + kind + b"".join(rest) + b"tQ"


def a_tensor(storage: bytes, hooks: bytes) -> bytes:
    return called(
        named("torch._utils:_rebuild_tensor_v2"), storage, b"K\x00", b"K\x01\x85", b"K\x01\x85", b"\x89", hooks
    )


FLOATS = storage_reference(named("torch:FloatStorage"), text("0"), text("cpu"), b"K\x01")


def inner(touch: str) -> bytes:
    """A whole file of torch.save with a bomb in it, as bytes of protocol 3."""
    payload = io.BytesIO()
    with zipfile.ZipFile(payload, "w") as archive:
        archive.writestr("archive/data.pkl", PROTO + called(SYSTEM, text(touch)) + b".")
        archive.writestr("archive/version", "3\n")
    return b"B" + struct.pack("<I", len(payload.getvalue())) + payload.getvalue()


def raw(value: bytes) -> bytes:
    return b"B" + struct.pack("<I", len(value)) + value


# What touches the witness: from (shell command, witness path) to the opcodes that leave one object on the stack.
BOMBS: dict[str, Callable[[str, str], bytes]] = {
    "REDUCE os.system": lambda touch, _: called(SYSTEM, text(touch)),
    "REDUCE os.system by name os": lambda touch, _: called(named("os:system"), text(touch)),
    "REDUCE os.system by binary string": lambda touch, _: SYSTEM + b"(U" + bytes([len(touch)]) + touch.encode() + b"tR",
    "REDUCE exec": lambda _, path: called(named("builtins:exec"), text(f"open({path!r}, 'w')")),
    "REDUCE eval": lambda _, path: called(named("builtins:eval"), text(f"open({path!r}, 'w')")),
    "REDUCE eval by its old name": lambda _, path: called(named("__builtin__:eval"), text(f"open({path!r}, 'w')")),
    "REDUCE open": lambda _, path: called(named("io:open"), text(path), text("w")),
    "REDUCE subprocess": lambda touch, _: called(named("subprocess:getoutput"), text(touch)),
    "REDUCE pickle.loads": lambda touch, _: called(
        named("_pickle:loads"), raw(PROTO + called(SYSTEM, text(touch)) + b".")
    ),
    "REDUCE torch.storage": lambda touch, _: called(named("torch.storage:_load_from_bytes"), inner(touch)),
    "getattr chain": lambda touch, _: called(
        called(named("builtins:getattr"), called(named("builtins:__import__"), text("os")), text("system")), text(touch)
    ),
    "dotted name": lambda touch, _: called(called(named("operator:attrgetter"), text("system")), named("torch:os"))
    + b"("
    + text(touch)
    + b"tR",
    "partial called": lambda touch, _: called(called(named("functools:partial"), SYSTEM, text(touch))),
    "map over a tuple": lambda touch, _: called(
        named("builtins:tuple"), called(named("builtins:map"), SYSTEM, text(touch) + b"\x85")
    ),
    "numpy": lambda touch, _: called(
        named("numpy:fromfunction"), called(named("functools:partial"), SYSTEM, text(touch)), b")"
    ),
    "torch.hub.load": lambda touch, _: called(named("torch.hub:load"), called(SYSTEM, text(touch))),
    "INST": lambda touch, _: b"(" + text(touch) + b"iposix\nsystem\n",
    "OBJ": lambda touch, _: b"(" + SYSTEM + text(touch) + b"o",
    "STACK_GLOBAL": lambda touch, _: text("posix") + text("system") + b"\x93" + b"(" + text(touch) + b"tR",
    "NEWOBJ": lambda _, path: named(f"{HERE}:TouchingWhenMade") + text(path) + b"\x85\x81",
    "NEWOBJ_EX": lambda _, path: named(f"{HERE}:TouchingWhenMade") + text(path) + b"\x85}\x92",
    "BUILD": lambda _, path: named(f"{HERE}:Touching") + b")\x81" + text(path) + b"b",
    "SETITEM": lambda _, path: named(f"{HERE}:TouchingByKey") + b")\x81" + text(path) + b"Ns",
    "SETITEMS": lambda _, path: named(f"{HERE}:TouchingByKey") + b")\x81(" + text(path) + b"Nu",
    "APPEND": lambda _, path: named(f"{HERE}:TouchingByAppend") + b")\x81" + text(path) + b"a",
    "APPENDS": lambda _, path: named(f"{HERE}:TouchingByAppend") + b")\x81(" + text(path) + b"e",
    "EXT1": lambda touch, _: bytes([0x82, EXTENSION]) + b"(" + text(touch) + b"tR",
    "EXT2": lambda touch, _: bytes([0x83, EXTENSION, 0]) + b"(" + text(touch) + b"tR",
    "EXT4": lambda touch, _: bytes([0x84, EXTENSION, 0, 0, 0]) + b"(" + text(touch) + b"tR",
    "import by name alone": lambda touch, _: named("armed_by_import:anything"),
    "known class of a module that runs when imported": lambda touch, _: named("armed_by_import:MLPClassifier"),
    "popped before the end": lambda touch, _: called(SYSTEM, text(touch)) + b"0N",
    "kept in the memo": lambda touch, _: called(SYSTEM, text(touch)) + b"q\x000h\x00",
    "below a mark": lambda touch, _: b"(" + called(SYSTEM, text(touch)) + b"1N",
    "in the ids": lambda touch, _: b"}" + text("ids") + b"]" + called(SYSTEM, text(touch)) + b"as",
    "in the labels": lambda touch, _: b"}" + text("labels") + b"]" + called(SYSTEM, text(touch)) + b"as",
}  # fmt: skip
# Those that stand where only torch's own loader, which knows persistent ids, would meet them.
OF_TORCH: dict[str, Callable[[str, str], bytes]] = {
    "hooks of a tensor": lambda touch, _: a_tensor(FLOATS, called(SYSTEM, text(touch))),
    "storage type": lambda touch, _: storage_reference(called(SYSTEM, text(touch)), text("0"), text("cpu"), b"K\x01"),
    "location of a storage": lambda touch, _: storage_reference(
        named("torch:FloatStorage"), text("0"), called(SYSTEM, text(touch)), b"K\x01"
    ),
    "persistent id": lambda touch, _: called(SYSTEM, text(touch)) + b"Q",
    "module of the legacy format": lambda touch, _: b"(" + text("module") + SYSTEM + text("x.py") + text("x") + b"tQ("
    + text(touch) + b"tR",
    "state of a tensor": lambda touch, _: a_tensor(FLOATS, b"N") + called(SYSTEM, text(touch)) + b"b",
    "state of a module": lambda touch, _: named("torch.nn.modules.linear:Linear") + b")\x81}" + text("_modules")
    + called(SYSTEM, text(touch)) + b"sb",
}  # fmt: skip


def as_zip(path: Path, body: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", PROTO + body + b".")
        archive.writestr("archive/byteorder", "little")
        archive.writestr("archive/data/0", struct.pack("<f", 1.0))
        archive.writestr("archive/version", "3\n")


def as_pickle(path: Path, body: bytes) -> None:
    path.write_bytes(b"\x80\x04" + body + b".")


def legacy_heads() -> list[bytes]:
    """The three pickles before the content."""
    buffer = io.BytesIO()
    torch.save(0, buffer, _use_new_zipfile_serialization=False)
    buffer.seek(0)
    ends = [0]
    for _ in range(3):
        pickle.load(buffer)
        ends.append(buffer.tell())
    return [buffer.getvalue()[start:end] for start, end in zip(ends, ends[1:], strict=False)]


def in_legacy(place: int) -> Callable[[Path, bytes], None]:
    """The bomb as magic number, version, system, content or list of storages."""

    def write(path: Path, body: bytes) -> None:
        pickles = [*legacy_heads(), PROTO + b"N.", PROTO + b"].", b""]
        pickles[place] = PROTO + body + b"."
        path.write_bytes(b"".join(pickles))

    return write


PLACES: dict[str, Callable[[Path, bytes], None]] = {
    "zip": as_zip,
    **{f"legacy {name}": in_legacy(n) for n, name in enumerate(("magic", "version", "system", "content", "storages"))},
    "bare pickle": as_pickle,
}


@pytest.fixture
def witness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file that is not there; and all that the bombs need to be armed."""
    path = tmp_path / "witness"
    code = f"from pathlib import Path\nPath({str(path)!r}).touch()\nanything = MLPClassifier = int\n"
    (tmp_path / "armed_by_import.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    copyreg.add_extension("posix", "system", EXTENSION)
    yield path
    copyreg.remove_extension("posix", "system", EXTENSION)
    sys.modules.pop("armed_by_import", None)


def bomb(bombs: dict[str, Callable[[str, str], bytes]], name: str, witness: Path) -> bytes:
    return bombs[name](f"touch {witness}", str(witness))


@pytest.mark.parametrize("name", BOMBS)
def test_every_bomb_is_armed(witness: Path, name: str) -> None:
    with contextlib.suppress(Exception):  # it may fall over what it did
        pickle.loads(PROTO + bomb(BOMBS, name, witness) + b".")
    assert witness.exists()


@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
@pytest.mark.parametrize("name", OF_TORCH)
def test_every_bomb_for_torch_is_armed(tmp_path: Path, witness: Path, name: str) -> None:
    write = in_legacy(3) if "legacy" in name else as_zip
    write(tmp_path / "x.pt", bomb(OF_TORCH, name, witness))
    with contextlib.suppress(Exception):
        torch.load(tmp_path / "x.pt", weights_only=False)
    assert witness.exists()


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", [*BOMBS, *OF_TORCH])
def test_a_bomb_is_refused_nothing_runs_and_the_file_is_untouched(
    tmp_path: Path, witness: Path, name: str, place: str
) -> None:
    path, out = tmp_path / ("x.pth" if "class" in name else "x_merged.pt"), tmp_path / "out"
    PLACES[place](path, bomb({**BOMBS, **OF_TORCH}, name, witness))
    path.chmod(0o444)
    before, state = path.read_bytes(), path.stat()
    with pytest.raises(VirnucError) as refused:
        import_files([path], out, ImportOptions())
    assert str(path) in str(refused.value)
    assert not witness.exists()
    assert "armed_by_import" not in sys.modules
    assert path.read_bytes() == before
    assert (path.stat().st_mtime_ns, path.stat().st_mode) == (state.st_mtime_ns, state.st_mode)
    assert not out.exists()


def test_a_bomb_among_good_files_leaves_no_table(tmp_path: Path, witness: Path) -> None:
    torch.save({"proteins": frame_ids(1), "data": [torch.ones(2)]}, tmp_path / "a_ESM.pt")
    as_zip(tmp_path / "b_ESM.pt", bomb(BOMBS, "REDUCE os.system", witness))
    with pytest.raises(VirnucError, match=r"b_ESM.pt: refused: names 'posix.system'.*nothing of the file was executed"):
        import_files([tmp_path / "a_ESM.pt", tmp_path / "b_ESM.pt"], tmp_path / "out", ImportOptions())
    assert not witness.exists()
    assert not (tmp_path / "out").exists()


def test_what_pickle_itself_writes_of_a_reduction_is_refused_in_every_protocol(tmp_path: Path, witness: Path) -> None:

    class Reduced:
        def __reduce__(self) -> tuple[object, ...]:
            return (__import__("os").system, (f"touch {witness}",))

    for protocol, value in product(
        range(pickle.HIGHEST_PROTOCOL + 1), (Reduced(), np.array([Reduced()], dtype=object))
    ):
        path = tmp_path / f"{protocol}.pt"
        path.write_bytes(pickle.dumps(value, protocol))
        with pytest.raises(VirnucError, match="refused"):
            import_files([path], tmp_path / "out", ImportOptions())
        torch.save(value, path, pickle_protocol=protocol)
        with pytest.raises(VirnucError, match="refused"):
            import_files([path], tmp_path / "out", ImportOptions())
    assert not witness.exists()
