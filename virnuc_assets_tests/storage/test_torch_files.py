"""Files of torch.save are read as they are; what claims more than it holds, or is damaged, is refused cheaply."""

from __future__ import annotations

import hashlib
import json
import math
import resource
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from virnuc_assets.storage.torch_files import Made, Tensor, TorchFileRefused, read_torch_file
from virnuc_assets_tests.virnucpro_files import FORMATS, dnabert_s, drawn, frame_ids, save

pytest_plugins = ["virnuc_assets_tests.upstream_models"]

in_a_folder = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def no_class(name: str) -> bool:
    return False


def read(path: Path, is_class: Callable[[str], bool] = no_class) -> Any:
    return read_torch_file(path, is_class).content


def plain(content: Any) -> Any:
    """Tensors as arrays and nothing else changed."""
    if isinstance(content, Tensor):
        return (str(content.dtype), content.numpy().tolist())
    if isinstance(content, dict):
        return {key: plain(value) for key, value in content.items()}
    return type(content)(map(plain, content)) if isinstance(content, list | tuple) else content


def as_arrays(content: Any) -> Any:
    if isinstance(content, torch.Tensor):
        return (str(content.numpy().dtype), content.tolist())
    if isinstance(content, dict):
        return {key: as_arrays(value) for key, value in content.items()}
    return type(content)(map(as_arrays, content)) if isinstance(content, list | tuple) else content


def a_tensor(values: tuple[str, list[int], int]) -> torch.Tensor:
    kind, shape, seed = values
    torch.manual_seed(seed)
    return (torch.randn(shape) * 100).to(getattr(torch, kind))


tensors = st.tuples(
    st.sampled_from(["float32", "float64", "float16", "int64", "int32"]),
    st.lists(st.integers(0, 4), max_size=4),
    st.integers(0, 9),
).map(a_tensor)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.text(max_size=8)
    | tensors
)
contents = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.lists(inner, max_size=5).map(tuple)
        | st.dictionaries(st.text(max_size=4) | st.integers(-300, 70_000), inner, max_size=4)
    ),
    max_leaves=12,
)


@pytest.mark.parametrize("form", FORMATS)
@in_a_folder
@given(content=contents)
def test_what_torch_saves_is_read(tmp_path: Path, form: str, content: Any) -> None:
    assert plain(read(save(content, tmp_path / "x.pt", form))) == as_arrays(content)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("count", [1, 999, 1000, 1001, 2500])
def test_lists_of_floats_of_any_length_are_read(tmp_path: Path, form: str, count: int) -> None:
    values = [math.ldexp(n + 0.5, n % 60 - 30) for n in range(count)]
    assert read(save({"x": values, "y": [*values, 1, *values]}, tmp_path / "x.pt", form)) == {
        "x": values,
        "y": [*values, 1, *values],
    }


@pytest.mark.parametrize("form", FORMATS)
def test_rows_that_share_a_storage_are_read(tmp_path: Path, form: str) -> None:
    whole = torch.arange(12.0).reshape(3, 4)
    found = read(save([whole[1], whole, whole[2:]], tmp_path / "x.pt", form))
    assert [tensor.numpy().tolist() for tensor in found] == [whole[1].tolist(), whole.tolist(), whole[2:].tolist()]


@pytest.mark.parametrize("form", FORMATS)
def test_a_module_is_names_and_tensors(upstream_models: Path, form: str) -> None:
    path = upstream_models / f"small.{form}"
    made = read(path, lambda name: name == "__main__.MLPClassifier" or name.startswith("torch.nn.modules."))
    assert type(made) is Made
    assert made.name == "__main__.MLPClassifier"
    linear = made.state["_modules"]["hidden_layer"]
    assert (linear.name, linear.args) == ("torch.nn.modules.linear.Linear", ())
    assert linear.state["_parameters"]["weight"].numpy().shape == (4, 6)
    with pytest.raises(TorchFileRefused, match="names '__main__.MLPClassifier'"):
        read(path)


@pytest.mark.parametrize("form", FORMATS)
def test_what_has_gaps_or_another_type_is_refused(tmp_path: Path, form: str) -> None:
    with pytest.raises(TorchFileRefused, match=r"shape \[3, 2\], strides \[1, 3\] .* without gaps"):
        read(save(torch.randn(2, 3).T, tmp_path / "x.pt", form))
    with pytest.raises(TorchFileRefused, match=r"shape \[1000\], strides \[0\]"):
        read(save(torch.zeros(1).expand(1000), tmp_path / "x.pt", form))
    with pytest.raises(TorchFileRefused, match="names 'torch.BFloat16Storage'"):
        read(save(torch.zeros(1, dtype=torch.bfloat16), tmp_path / "x.pt", form))


@pytest.mark.parametrize("form", FORMATS)
def test_a_file_that_is_cut_off_anywhere_is_refused(tmp_path: Path, form: str) -> None:
    content = {"ids": ["a", "b"], "data": torch.randn(2, 3), "floats": [0.5, 1.5]}
    whole = save(content, tmp_path / "x.pt", form).read_bytes()
    for length in range(0, len(whole), 7 if form == "zip" else 1):
        (tmp_path / "cut.pt").write_bytes(whole[:length])
        with pytest.raises(TorchFileRefused):
            read(tmp_path / "cut.pt")


@pytest.mark.parametrize("form", FORMATS)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_bytes_are_refused_or_read_never_worse(tmp_path: Path, form: str, data: st.DataObject) -> None:
    path = dnabert_s(tmp_path / "x.pt", frame_ids(3), drawn(3, 4), form)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        read(path)
    except TorchFileRefused as error:
        assert str(path) in str(error)


def test_what_is_no_such_file_is_named(tmp_path: Path) -> None:
    for name, content in {
        "text": b"ids,data\n",
        "empty": b"",
        "pickle": b"\x80\x02K\x01.",
        "new": b"\x80\x04K\x01.",
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(TorchFileRefused, match=f"{name}: refused"):
            read(tmp_path / name)
    with pytest.raises(TorchFileRefused, match="no such file"):
        read(tmp_path / "absent.pt")
    with pytest.raises(TorchFileRefused, match="no such file"):
        read(tmp_path)


def test_reading_leaves_the_file_as_it_was_and_tells_its_digest(tmp_path: Path) -> None:
    path = save({"ids": []}, tmp_path / "x.pt")
    path.chmod(0o444)
    before, state = path.read_bytes(), path.stat()
    found = read_torch_file(path, no_class)
    assert (found.sha256, found.size) == (hashlib.sha256(before).hexdigest(), len(before))
    assert path.read_bytes() == before
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == (state.st_mtime_ns, state.st_ino)
    assert list(tmp_path.iterdir()) == [path]


# Resource bombs: (pickle, what the message says). Each is some bytes that would cost gigabytes, or the process.
def float_tensor(numel: int, shape: bytes, strides: bytes, offset: int = 0) -> bytes:
    storage = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu"
    return (
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(" + storage + number(numel) + b"tQ" + number(offset)
        + shape + strides + b"\x89ccollections\nOrderedDict\n)RtR."
    )  # fmt: skip


def number(value: int) -> bytes:
    return b"\x8a\x09" + value.to_bytes(9, "little", signed=True)


RESOURCE_BOMBS = {
    "deep tuples for a key": (b"\x80\x02})" + b"\x85" * 2_000_000 + b"Ns.", "more lists, dicts and tuples"),
    "deep lists": (b"\x80\x02]" + b"]a" * 2_000_000 + b".", "more lists, dicts and tuples"),
    "a tuple for a key": (b"\x80\x02})Ns.", "has a tuple for a key"),
    "a memo index": (b"\x80\x02Nr\xff\xff\xff\xff0.", "opcode POP"),
    "many dicts": (b"\x80\x02(" + b"}" * 8_000_000 + b"t.", "more lists, dicts and tuples"),
    "text of 4 GB": (b"\x80\x02X\xff\xff\xff\xff.", "is cut off"),
    "bytes of 2^63": (b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7f.", "pickle protocol 4"),
    "a number without end": (b"\x80\x02\x8b\xff\xff\xff\x7f.", "opcode LONG4"),
    "a storage of 2^62 values": (
        float_tensor(1 << 62, b"K\x01\x85", b"K\x01\x85"),
        "claims 4611686018427387904 values",
    ),
    "a negative storage": (float_tensor(-1, b"K\x00\x85", b"K\x01\x85"), "claims -1 values"),
    "a shape beyond the storage": (float_tensor(1, number(1 << 39) + b"\x85", b"K\x01\x85"), "lies in it without gaps"),
    "a shape beyond numbers": (float_tensor(1, b"\x8a\xff" + b"\x7f" * 255 + b"\x85", b"K\x01\x85"), "something else"),
    "many dims": (float_tensor(1, b"(" + b"K\x01" * 99 + b"t", b"(" + b"K\x01" * 99 + b"t"), "something else"),
    "an offset beyond": (float_tensor(1, b"K\x01\x85", b"K\x01\x85", offset=1), "lies in it without gaps"),
    "an offset before": (float_tensor(1, b"K\x01\x85", b"K\x01\x85", offset=-1), "something else"),
    "a stride of nothing": (float_tensor(1, number(1 << 39) + b"\x85", b"K\x00\x85"), "lies in it without gaps"),
    "floats one by one": (b"\x80\x02(" + (b"G" + bytes(8) + b"N") * 300_000 + b"t.", "<class 'tuple'>"),
    "no end": (b"\x80\x02NNN", "is cut off"),
    "nothing": (b"\x80\x02.", "damaged pickle"),
    "no such memo": (b"\x80\x02h\x05.", "damaged pickle"),
    "no mark": (b"\x80\x02t.", "damaged pickle"),
    "no text": (b"\x80\x02X\x01\x00\x00\x00\xff.", "damaged pickle"),
    "a list within itself": (b"\x80\x02]q\x00h\x00a.", "<class 'list'>"),
}
_LIMITED = """
import json, resource, sys, time
from pathlib import Path
from virnuc_assets.storage.torch_files import TorchFileRefused, read_torch_file
found = {}
for path in sorted(Path(sys.argv[1]).iterdir(), key=lambda path: path.stat().st_size):
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    try:
        message = str(type(read_torch_file(path, lambda name: False).content))
    except TorchFileRefused as error:
        message = str(error)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    found[path.stem] = [message, grown * 1024, time.process_time() - started]
print(json.dumps(found))
"""


def pickled(path: Path, pickle: bytes) -> Path:
    """A zip file as torch.save writes it, with another pickle."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle)
        archive.writestr("archive/data/0", struct.pack("<f", 1.0))
    return path


def test_resource_bombs_are_refused_in_little_memory_and_time(tmp_path: Path) -> None:
    """In a process of their own: what these do to pickle or to torch.load ends it."""
    sizes = {
        name: pickled(tmp_path / f"{name}.pt", pickle).stat().st_size for name, (pickle, _) in RESOURCE_BOMBS.items()
    }
    done = subprocess.run([sys.executable, "-c", _LIMITED, tmp_path], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found.keys() == sizes.keys()
    for name, (_, told) in RESOURCE_BOMBS.items():
        message, grown, seconds = found[name]
        assert told in message, name
        assert grown < 12 * sizes[name] + 20_000_000, name
        assert seconds < 10, name


def test_a_zip_bomb_is_refused_unopened(tmp_path: Path) -> None:
    path = pickled(tmp_path / "x.pt", b"\x80\x02N.")
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive, archive.open("archive/data/1", "w") as entry:
        for _ in range(100):
            entry.write(bytes(1 << 20))
    assert path.stat().st_size < 200_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(TorchFileRefused, match=r"1 compressed entries \(e.g. 'archive/data/1'\)"):
        read(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000


def test_entries_that_claim_more_than_the_file_or_twice_its_bytes_are_refused(tmp_path: Path) -> None:
    path = save({"data": torch.randn(100)}, tmp_path / "x.pt")
    whole = path.read_bytes()
    entry = whole.rindex(b"PK\x01\x02", 0, whole.rindex(b"x/data/0"))
    for field in (20, 24):  # compressed and uncompressed size in the central directory
        whole = whole[: entry + field] + struct.pack("<I", 1 << 30) + whole[entry + field + 4 :]
    path.write_bytes(whole)
    with pytest.raises(TorchFileRefused, match="claims 107374.* bytes of entries, but has"):
        read(path)


def test_a_legacy_storage_that_claims_more_than_the_file_is_refused(tmp_path: Path) -> None:
    path = save({"data": torch.randn(100)}, tmp_path / "x.pt", "legacy")
    whole = path.read_bytes()
    for wrong in (99, 101, 1 << 40, -1):
        path.write_bytes(whole.replace(struct.pack("<q", 100), struct.pack("<q", wrong)))
        with pytest.raises(TorchFileRefused, match="cut off or damaged in storage"):
            read(path)


def test_an_array_is_what_was_saved_to_the_bit(tmp_path: Path) -> None:
    values = np.array([1.1, -0.0, 3e-45, 3.4e38], dtype=np.float32)
    assert read(save(torch.tensor(values), tmp_path / "x.pt")).numpy().tobytes() == values.tobytes()
