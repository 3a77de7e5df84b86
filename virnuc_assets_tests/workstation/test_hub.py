"""`virnuc setup` against a stand-in of the hub that serves faithful folders: locked once, then taken exactly.

huggingface_hub reads HF_ENDPOINT and HF_HOME when it is imported. One test runs the whole command in processes of their
own; the others set the values that were read from them, since each process takes seconds to import torch.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants, file_download

from virnuc_assets.encoders.checkpoints import CheckpointError, CheckpointMissingError
from virnuc_assets.encoders.registry import registered
from virnuc_assets_tests.loopback import answering
from virnuc_assets_tests.workstation.hub_folders import (
    BROKEN_COMMIT,
    ESM2_650,
    FASTESM2_650,
    REPOSITORIES,
    break_config,
    write_repository,
)
from virnuc_assets_tests.workstation.hub_server import LISTING, Hub, Project

PIN, OTHER = registered("fastesm2_650").revision, "b" * 40
WEIGHTS = "model.safetensors"
TOKENIZER = ["special_tokens_map.json", "tokenizer_config.json", "vocab.txt"]
SHARDS = [f"pytorch_model{part}" for part in ("-00001-of-00002.bin", "-00002-of-00002.bin", ".bin.index.json")]
READ = {
    "dnabert_s": ["config.json", "pytorch_model.bin", TOKENIZER[0], "tokenizer.json", TOKENIZER[1]],
    "fastesm2_650": ["config.json", WEIGHTS, *TOKENIZER],
    "esm2_3b": ["config.json", *SHARDS, *TOKENIZER],
}
NAMED = '[checkpoints]\nfastesm2_650 = {{ revision = "{}" }}\n'
OWN = f'[encoders]\nown = {{ hub = "{ESM2_650}", architecture = "esm" }}\n'


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("hub")
    for repository in REPOSITORIES.values():
        write_repository(repository, root / repository)
    write_repository(FASTESM2_650, root / "broken")
    break_config(root / "broken")
    return root


@pytest.fixture
def hub(folders: Path) -> Iterator[Hub]:
    with answering(Hub()) as server:
        for name, repository in REPOSITORIES.items():
            server.add(repository, registered(name).revision, folders / repository)
            server.move(repository, "main", registered(name).revision)
        server.add(FASTESM2_650, BROKEN_COMMIT, folders / "broken")
        yield server


def downloads(hub: Hub) -> dict[tuple[str, str], int]:
    return {key: count for key, count in hub.gets.items() if key[1] != LISTING}


def point_to(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """Have this process use the hub at a URL."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", constants.HF_HUB_CACHE)  # put back at the end
    monkeypatch.setattr(constants, "ENDPOINT", url)
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(file_download, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.fixture
def machine(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Project]:
    point_to(monkeypatch, hub.url)
    return lambda name="first", *more, **options: Project(tmp_path / name, *more, **options)


@pytest.mark.slow
def test_two_set_ups_at_once_of_a_fresh_project_fetch_each_file_once_and_lock_it(
    hub: Hub, folders: Path, tmp_path: Path, project_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The settings are the repository's, but for the profile."""
    first = Project(tmp_path / "first")
    text = (project_root / "virnuc.toml").read_text(encoding="utf-8")
    first.config.write_text(re.sub('(?m)^profile = "[a-z]*"', 'profile = "full"', text), encoding="utf-8")
    own = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "first" / "home"), "no_proxy": "127.0.0.1"}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")} | own
    command = [Path(sys.executable).with_name("virnuc"), "setup"]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    both = [subprocess.Popen(command, cwd=first.root, env=environment, **pipes) for _ in range(2)]
    printed = [process.communicate(timeout=240)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], printed
    assert (first.root / "var" / "full" / "dagster" / "dagster.yaml").is_file()
    assert (first.root / "var" / "mlflow" / "mlflow.db").is_file()

    files = {(REPOSITORIES[name], file): 1 for name, names in READ.items() for file in names}
    assert downloads(hub) == files
    locked = json.loads(first.lock.read_text())
    for name, names in READ.items():
        folder = folders / REPOSITORIES[name]
        content = {file: (folder / file).read_bytes() for file in names}
        sums = {key: {"size": len(each), "sha256": hashlib.sha256(each).hexdigest()} for key, each in content.items()}
        entry = {"source": REPOSITORIES[name], "revision": registered(name).revision, "files": sums}
        assert locked.pop(name) == entry
        trusted = f"encoder {name}: {REPOSITORIES[name]} {registered(name).revision} was not in virnuc.lock: this copy"
        assert sorted(text.count(trusted) for text in printed) == [0, 1]
    assert locked == {}

    hub.requests = 0
    point_to(monkeypatch, hub.url)
    first.set_up()
    assert hub.requests == 0
    second = Project(tmp_path / "second", lock=first.lock)
    hub.gets.clear()
    second.set_up()
    assert downloads(hub) == files
    assert second.lock.read_bytes() == first.lock.read_bytes()


def test_a_moved_main_changes_nothing_until_the_lock_is_updated(
    hub: Hub, folders: Path, machine: Callable[..., Project], tmp_path: Path
) -> None:
    first = machine("first", OWN)
    first.set_up("own")
    old = first.locked("own")
    assert old.revision == registered("esm2_650").revision
    shutil.copytree(folders / ESM2_650, tmp_path / "moved")
    (tmp_path / "moved" / "special_tokens_map.json").write_text("{}")
    hub.add(ESM2_650, OTHER, tmp_path / "moved")
    hub.move(ESM2_650, "main", OTHER)
    hub.requests = 0
    first.set_up("own")
    assert hub.requests == 0
    second = machine("second", OWN, lock=first.lock)
    second.set_up("own")
    assert second.find("own") == second.cache / "models--facebook--esm2_t33_650M_UR50D/snapshots" / old.revision

    assert "encoder own: virnuc.lock moved; stale now: nothing" in first.set_up(update=["own"])
    found = first.locked("own")
    changed = [name for name in found.files if found.files[name] != old.files[name]]
    assert (found.revision, changed) == (OTHER, ["special_tokens_map.json"])
    second.lock.write_bytes(first.lock.read_bytes())
    with pytest.raises(CheckpointError, match="own: .* is not what virnuc.lock has; run `virnuc setup --encoder own`"):
        second.find("own")


def test_the_registrys_pin_gives_way_to_an_updated_lock_and_the_settings_do_not(
    hub: Hub, folders: Path, machine: Callable[..., Project]
) -> None:
    hub.add(FASTESM2_650, OTHER, folders / FASTESM2_650)
    hub.move(FASTESM2_650, "main", OTHER)
    first = machine()
    for update in ([], ["fastesm2_650"], []):
        first.set_up("fastesm2_650", update=update)
    assert first.locked("fastesm2_650").revision == OTHER
    named = "c" * 40
    hub.add(FASTESM2_650, named, folders / FASTESM2_650)
    first.config.write_text(first.config.read_text() + NAMED.format(named))
    differs = f"names revision {named}, virnuc.lock {OTHER}; run `virnuc setup --update fastesm2_650` to move the lock"
    assert differs in first.refusal("setup", "--encoder", "fastesm2_650")
    with pytest.raises(CheckpointMissingError, match="fastesm2_650: the checkpoint is not in virnuc.lock"):
        first.find("fastesm2_650")
    first.set_up(update=["fastesm2_650"])
    assert first.locked("fastesm2_650").revision == named


def test_an_altered_file_is_downloaded_again_from_an_intact_hub_and_refused_from_another(
    hub: Hub, folders: Path, machine: Callable[..., Project]
) -> None:
    first = machine()
    first.set_up("fastesm2_650")
    folder = first.find("fastesm2_650")
    assert folder is not None
    for name in ("vocab.txt", WEIGHTS):
        (folder / name).write_bytes((folder / name).read_bytes()[::-1])
    with pytest.raises(CheckpointError, match=r"other than when it was verified .*: model.safetensors, vocab.txt; run"):
        first.find("fastesm2_650")
    hub.gets.clear()
    lines = first.set_up("fastesm2_650")
    assert [line for line in lines if "was altered; downloading it again" in line] == [
        f"fastesm2_650: {folder / name} was altered; downloading it again" for name in (WEIGHTS, "vocab.txt")
    ]
    assert downloads(hub) == {(FASTESM2_650, name): 1 for name in (WEIGHTS, "vocab.txt")}
    assert first.find("fastesm2_650") == folder

    for name in ("config.json", WEIGHTS):
        content = (folders / FASTESM2_650 / name).read_bytes()
        hub.altered = {(FASTESM2_650, name): content.replace(b"e", b"f")}
        second = machine(f"of {name}", lock=first.lock)
        sha256 = first.locked("fastesm2_650").files[name].sha256
        message = second.refusal("setup", "--encoder", "fastesm2_650")
        assert f"altered files:\n  {name}: expected sha256 {sha256}" in message
        with pytest.raises(CheckpointMissingError, match="was not verified on this machine"):
            second.find("fastesm2_650")
    third = machine("third")  # the hub publishes the sha256 of large files: nothing altered is trusted
    assert f"altered files:\n  {WEIGHTS}: expected sha256" in third.refusal("setup", "--encoder", "fastesm2_650")
    assert not third.lock.exists()


def test_what_the_cache_lacks_is_named_where_the_hub_is_not_reached(
    hub: Hub, machine: Callable[..., Project], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = machine()
    first.set_up("fastesm2_650")
    folder = first.find("fastesm2_650")
    assert folder is not None
    (folder / WEIGHTS).resolve().unlink()
    point_to(monkeypatch, "http://127.0.0.1:9")
    message = first.refusal("setup", "--encoder", "fastesm2_650")
    assert f"at revision {PIN}: {folder} lacks {WEIGHTS}, and the hub did not send it; check the network" in message


def test_a_cut_download_locks_nothing_and_is_repeated(hub: Hub, machine: Callable[..., Project]) -> None:
    first, hub.cut = machine(), {(FASTESM2_650, WEIGHTS)}
    message = first.refusal("setup", "--encoder", "fastesm2_650")
    assert f"fastesm2_650: {FASTESM2_650} at revision {PIN} is not downloaded" in message
    assert not first.lock.exists()
    hub.cut = set()
    first.set_up("fastesm2_650")
    assert first.find("fastesm2_650") is not None


def test_a_commit_with_a_broken_config_is_refused_before_anything_is_made(
    hub: Hub, machine: Callable[..., Project]
) -> None:
    first = machine("first", NAMED.format(BROKEN_COMMIT))
    message = first.refusal("setup")
    refused = f"fastesm2_650: this commit's config.json is not valid JSON; use {PIN} ({FASTESM2_650} at {BROKEN_COMMIT}"
    assert message.startswith(refused)
    made = {path.relative_to(first.root).as_posix() for path in first.root.rglob("*") if path.is_file()}
    assert made == {"virnuc.toml", "var/checkpoints/.setup.lock"}
    assert {name for _, name in hub.gets} == {LISTING, "config.json"}


def test_what_cannot_be_fetched_is_one_message(
    hub: Hub, machine: Callable[..., Project], monkeypatch: pytest.MonkeyPatch
) -> None:
    unknown = machine("unknown", OWN.replace(ESM2_650, "no/such")).refusal("setup", "--encoder", "own")
    assert "own: no/such at revision main is not downloaded (RepositoryNotFoundError: 404 Client Error" in unknown
    assert 'name a copy by folder = "..." in [encoders.own]' in unknown
    invalid = machine("invalid", OWN.replace(ESM2_650, "no/su--ch")).refusal("setup", "--encoder", "own")
    assert "is not downloaded (HFValidationError: " in invalid
    revision = machine("revision", NAMED.format(OTHER)).refusal("setup", "--encoder", "fastesm2_650")
    assert f"at revision {OTHER} is not downloaded (RevisionNotFoundError: 404" in revision
    hub.hidden = {(FASTESM2_650, "vocab.txt"), (REPOSITORIES["esm2_3b"], SHARDS[1])}
    lacking = machine("lacking")
    message = lacking.refusal("setup", "--encoder", "fastesm2_650")
    assert f"fastesm2_650: {FASTESM2_650} at {PIN}: no vocab.txt or tokenizer.json" in message
    assert f"missing: {SHARDS[1]}; name another commit" in lacking.refusal("setup", "--encoder", "esm2_3b")
    point_to(monkeypatch, "http://127.0.0.1:9")
    offline = machine("offline").refusal("setup")
    assert offline.startswith(f"dnabert_s: {REPOSITORIES['dnabert_s']} at revision ")
    assert "is not downloaded (ConnectionError: [Errno 111] Connection refused); check the network, " in offline
    assert 'run `virnuc setup` again, name a copy by folder = "..." in [checkpoints.dnabert_s], or use prof' in offline
    assert len(offline.splitlines()) == 1
