"""Checkpoints from a real server on loopback, in processes of their own: fetched once, verified, then offline.

`HF_ENDPOINT` and `HF_HOME` are read when huggingface_hub is imported, hence the processes.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from virnuc_assets.encoders.registry import ENCODERS
from virnuc_assets_tests.encoders.hub_server import LISTING, Hub, served

SPEC = ENCODERS["esm2_650"]
WEIGHTS = "model.safetensors"
_BEGIN = f"""
import sys
from pathlib import Path
from virnuc_assets.encoders.checkpoints import checkpoint_folder, fetch_checkpoint, find_checkpoint
from virnuc_assets.encoders.registry import ENCODERS
from virnuc_assets.errors import VirnucError
spec, nowhere = ENCODERS["{SPEC.name}"], Path("nowhere")
"""
FETCH = "print(fetch_checkpoint(spec, nowhere))"
FOLDER = "print(checkpoint_folder(spec, nowhere))"
FIND = "print(find_checkpoint(spec, nowhere))"
LOAD = """
from virnuc_assets.encoders.loading import load_encoder
from virnuc_assets.settings import EncodingSettings
encoder = load_encoder(spec, nowhere, EncodingSettings(device="cpu"))
print(encoder.dim, encoder.fingerprint["checkpoint_digest"])
"""


class Machine:
    """A machine whose hub client talks to one server and keeps its cache in one folder."""

    def __init__(self, url: str, home: Path) -> None:
        self.home = home
        offline = {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "no_proxy": "127.0.0.1"}
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        self._environment = {**inherited, **offline, "HF_ENDPOINT": url, "HF_HOME": str(home)}

    def start(self, body: str) -> subprocess.Popen[str]:
        """Run code in a new process; a message of ours is its whole stderr."""
        indented = "".join(f"    {line}\n" for line in body.strip().splitlines())
        code = f"{_BEGIN}try:\n{indented}except VirnucError as error:\n    sys.exit(str(error))\n"
        command = [sys.executable, "-c", code]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, env=self._environment, stdout=pipe, stderr=pipe, text=True)

    def run(self, body: str) -> str:
        """What code prints."""
        process = self.start(body)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        return out.strip()

    def refusal(self, body: str) -> str:
        """The message that code ends with."""
        process = self.start(body)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 1, err
        assert "Traceback" not in err
        return err.strip()

    @property
    def repository(self) -> Path:
        return self.home / "hub" / f"models--{SPEC.checkpoint.replace('/', '--')}"

    @property
    def snapshot(self) -> Path:
        return self.repository / "snapshots" / SPEC.revision


@pytest.fixture
def hub(checkpoints: Path) -> Iterator[Hub]:
    with served(checkpoints / "esm2_650_miniature", SPEC.checkpoint, SPEC.revision) as server:
        yield server


@pytest.fixture(scope="module")
def fetched(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """A machine that has fetched, and whose server is gone."""
    home = tmp_path_factory.mktemp("home")
    with served(checkpoints / "esm2_650_miniature", SPEC.checkpoint, SPEC.revision) as server:
        machine = Machine(server.url, home)
        machine.run(FETCH)
    return machine


@pytest.fixture
def copied(fetched: Machine, tmp_path: Path) -> Machine:
    """That machine again, for a test that damages its cache."""
    shutil.copytree(fetched.home, tmp_path / "home", symlinks=True)
    return Machine("http://127.0.0.1:9", tmp_path / "home")


def test_two_processes_download_every_file_once(hub: Hub, tmp_path: Path) -> None:
    hub.delay_s = 0.5
    machine = Machine(hub.url, tmp_path / "home")
    both = [machine.start(FETCH) for _ in range(2)]
    told = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    assert {out.strip() for out, _ in told} == {str(machine.snapshot)}
    assert dict(hub.gets) == {LISTING: 1, "config.json": 1, "vocab.txt": 1, WEIGHTS: 1}  # the second asked nothing
    sha256 = hashlib.sha256((hub.folder / WEIGHTS).read_bytes()).hexdigest()
    assert (machine.snapshot / WEIGHTS).readlink().name == sha256


def test_what_is_there_loads_and_sets_up_without_a_network(fetched: Machine) -> None:
    assert fetched.run(FETCH + LOAD).splitlines() == [str(fetched.snapshot), f"40 {SPEC.revision}"]


def test_a_download_that_is_cut_off_leaves_nothing_that_loads(hub: Hub, tmp_path: Path) -> None:
    hub.cut = {WEIGHTS}
    machine = Machine(hub.url, tmp_path / "home")
    told = machine.refusal(FETCH)
    assert f"{SPEC.name}: {SPEC.checkpoint} at revision {SPEC.revision} is not downloaded" in told
    told = machine.refusal(FOLDER)
    assert "neither model.safetensors nor pytorch_model.bin" in told
    assert re.search(r"unfinished downloads: [0-9a-f]{64}\.incomplete", told)
    assert f"run `virnuc setup --encoder {SPEC.name}`" in told
    hub.cut = set()
    assert machine.run(FETCH) == str(machine.snapshot)


def test_altered_files_are_refused_and_set_up_fetches_them_again(copied: Machine, hub: Hub) -> None:
    links = [copied.snapshot / name for name in ("config.json", "vocab.txt", WEIGHTS)]
    expected = []
    for link in links:
        content = bytearray(link.read_bytes())
        content[-2] ^= 1
        link.resolve().write_bytes(content)
        kind, digest = "git", hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        if link.name == WEIGHTS:
            kind, digest = "sha256", hashlib.sha256(content).hexdigest()
        expected.append(f"  {link}: expected content with {kind} hash {link.readlink().name}, found {digest}")
    remedy = f"run `virnuc setup --encoder {SPEC.name}` with a network"
    assert copied.refusal(LOAD).splitlines() == [f"{SPEC.name}: altered files:", *expected, remedy]
    assert Machine(hub.url, copied.home).run(FETCH) == str(copied.snapshot)
    assert dict(hub.gets) == {LISTING: 1, **{link.name: 1 for link in links}}


def test_missing_and_cut_files_are_refused_before_any_content_is_read(copied: Machine) -> None:
    weights, remedy = copied.snapshot / WEIGHTS, f": run `virnuc setup --encoder {SPEC.name}` with a network"
    with weights.open("rb+") as file:
        file.truncate(1000)
    told = copied.refusal(FIND)
    assert told == f"{SPEC.name}: {weights}: cut off after 1000 bytes; fetch the checkpoint again{remedy}"
    weights.unlink()
    assert f"{copied.snapshot}: neither {WEIGHTS} nor pytorch_model.bin" in copied.refusal(FIND)
    for name in ("config.json", "vocab.txt"):
        (copied.snapshot / name).unlink()
    told = copied.refusal(FIND)
    assert (
        told == f"{SPEC.name}: {copied.snapshot}: no config.json and no vocab.txt; fetch the checkpoint again{remedy}"
    )


def test_a_file_that_the_hub_does_not_have_is_missed(hub: Hub, tmp_path: Path) -> None:
    hub.hidden = {"vocab.txt"}
    assert "no vocab.txt" in Machine(hub.url, tmp_path / "home").refusal(FETCH)


def test_copies_instead_of_links_load_unless_cut(copied: Machine) -> None:
    for path in list(copied.snapshot.iterdir()):
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content)
    assert copied.run(FOLDER) == str(copied.snapshot)
    (copied.snapshot / WEIGHTS).write_bytes((copied.snapshot / WEIGHTS).read_bytes()[:-4])
    assert "cut off after" in copied.refusal(FOLDER)
