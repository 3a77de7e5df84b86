"""Checkpoints of folders and of fair-esm's files: locked by content, compared at run time by size and time."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from virnuc_assets.defs.resources import Workspace
from virnuc_assets.encoders.checkpoints import (
    DIGEST_FILE,
    VERIFIED_FILE,
    CheckpointError,
    CheckpointMissingError,
    find_checkpoint,
    folder_digest,
    note_digest,
    read_json,
)
from virnuc_assets.encoders.registry import registered
from virnuc_assets.settings import load_settings
from virnuc_assets_tests.workstation.hub_folders import REPOSITORIES, write_repository
from virnuc_assets_tests.workstation.hub_server import Project
from virnuc_assets_tests.workstation.test_fair_esm import checkpoint, saved

NAME = "esm2_650"
FOLDER = f'[checkpoints]\n{NAME} = {{ folder = "~/models" }}\n[decision]\nalso_compared = ["{NAME}"]\n'
INDEX = "pytorch_model.bin.index.json"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder below the home folder."""
    monkeypatch.setenv("HOME", str(tmp_path))
    write_repository(REPOSITORIES[NAME], tmp_path / "models")
    return tmp_path / "models"


@pytest.fixture
def project(folder: Path, tmp_path: Path) -> Project:
    return Project(tmp_path / "machine", FOLDER)


def test_what_needs_no_lock(tmp_path: Path, checkpoints: Path) -> None:
    assert find_checkpoint(registered("kmer_dna"), tmp_path) is None
    miniature = registered("esm2_3b_miniature")
    assert find_checkpoint(miniature, checkpoints) == checkpoints / "esm2_3b_miniature"
    with pytest.raises(CheckpointMissingError, match="no checkpoint in .*run `virnuc setup --encoder esm2_3b_mini"):
        find_checkpoint(miniature, tmp_path)


def test_a_folder_is_locked_and_its_change_named_at_run_time_and_at_set_up(folder: Path, project: Project) -> None:
    with pytest.raises(CheckpointMissingError, match=f"{NAME}: the checkpoint is not in virnuc.lock; run `virnuc setu"):
        project.find(NAME)
    assert "local files  was not in virnuc.lock: this copy is trusted" in project.set_up(NAME)[0]
    assert project.find(NAME) == folder
    vocabulary, locked = folder / "vocab.txt", project.lock.read_bytes()

    os.utime(vocabulary)
    named = f"{NAME}: {folder}: missing, or other than when it was verified .*: vocab.txt; run `virnuc setup --encoder"
    with pytest.raises(CheckpointError, match=named):
        project.find(NAME)
    assert project.set_up(NAME) == [f"encoder {NAME}: {folder}"]
    assert project.find(NAME) == folder

    vocabulary.write_bytes(vocabulary.read_bytes() + b"\nX1")
    with pytest.raises(CheckpointError, match=named):
        project.find(NAME)
    sha256 = project.locked(NAME).files["vocab.txt"].sha256
    refused = project.refusal("setup", "--encoder", NAME)
    changed = (
        f"{folder} is not what virnuc.lock has:\n  vocab.txt: expected 93 bytes with sha256 {sha256}, found 96 with "
    )
    assert changed in refused
    assert f"run `virnuc setup --update {NAME}` to lock what is there" in refused
    assert project.lock.read_bytes() == locked
    vocabulary.write_bytes(vocabulary.read_bytes()[:-3])

    for shard in ("a", "b"):
        table = project.layout.table("reference", f"{NAME}_embeddings", shard)
        table.parent.mkdir(parents=True, exist_ok=True)
        table.touch()
    project.layout.classifier(NAME).mkdir(parents=True)
    (folder / "special_tokens_map.json").unlink()
    stale = f"reference/{NAME}_embeddings (2 tables), {NAME}_classifier"
    assert project.set_up(update=[NAME])[0] == f"encoder {NAME}: virnuc.lock moved; stale now: {stale}"
    assert project.find(NAME) == folder


def test_doctor_names_a_file_that_size_and_time_do_not_show(folder: Path, project: Project) -> None:
    project.set_up(NAME)
    weights, verified = folder / "model.safetensors", project.layout.checkpoints / VERIFIED_FILE
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    content = read_json(verified)
    content[NAME]["files"][weights.name][1] = weights.stat().st_mtime_ns
    verified.write_text(json.dumps(content))
    assert project.find(NAME) == folder
    assert f"{NAME}: {weights}: expected" in project.refusal("doctor", "--verify")


def test_a_damaged_record_of_set_up_is_made_again(folder: Path, project: Project) -> None:
    project.set_up(NAME)
    verified = project.layout.checkpoints / VERIFIED_FILE
    whole = verified.read_bytes()
    verified.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointMissingError, match="was not verified on this machine; run `virnuc setup --encoder"):
        project.find(NAME)
    project.set_up(NAME)
    assert verified.read_bytes() == whole
    assert project.find(NAME) == folder


def test_of_a_folder_made_here_only_what_changed_is_hashed_again(tmp_path: Path, checkpoints: Path) -> None:
    folder = shutil.copytree(checkpoints / "esm2_3b_miniature", tmp_path / "tuned")
    hashed, note, weights = folder_digest(folder), folder / DIGEST_FILE, folder / "model.safetensors"
    note_digest(folder)
    assert folder_digest(folder) == hashed
    noted = read_json(note) | {"digest": "as noted"}
    note.write_text(json.dumps(noted))
    assert folder_digest(folder) == "as noted"
    os.utime(weights)
    assert folder_digest(folder) == hashed
    note.write_text(json.dumps(noted)[:-9])
    assert folder_digest(folder) == hashed


def test_a_copied_snapshot_with_dangling_links_says_how_to_copy(tmp_path: Path) -> None:
    write_repository(REPOSITORIES["esm2_3b"], tmp_path / "blobs")
    (tmp_path / "copy").mkdir()
    for path in (tmp_path / "blobs").iterdir():
        (tmp_path / "copy" / path.name).symlink_to(path)
    project = Project(tmp_path, '[checkpoints]\nesm2_3b = { folder = "../copy" }\n')
    project.set_up("esm2_3b")
    shutil.rmtree(tmp_path / "blobs")
    with pytest.raises(CheckpointError, match=r"links to files that are not here: config.json, .*index.json.*`cp -rL`"):
        project.set_up("esm2_3b")


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (NAME, shutil.rmtree, "no folder .*correct it in virnuc.toml"),
        (NAME, lambda folder: (folder / "config.json").unlink(), "no config.json; copy"),
        (NAME, lambda folder: (folder / "vocab.txt").unlink(), "no vocab.txt or tokenizer.json; copy"),
        (NAME, lambda folder: (folder / "model.safetensors").write_bytes(b""), "missing or empty: model.safetensors;"),
        ("dnabert_s", lambda folder: (folder / "pytorch_model.bin").unlink(), "no model.safetensors or pytorch_model"),
        ("esm2_3b", lambda folder: (folder / INDEX).write_text('{"weight_map": {"a": "b"}}'), "missing or empty: b;"),
        ("esm2_3b", lambda folder: (folder / INDEX).write_text('{"weight_map": []}'), f"{INDEX} has no weight_map"),
    ],
)
def test_what_a_folder_lacks_is_named(
    tmp_path: Path, name: str, change: Callable[[Path], object], message: str
) -> None:
    write_repository(REPOSITORIES[name], tmp_path / "copy")
    project = Project(tmp_path, f'[checkpoints]\n{name} = {{ folder = "../copy" }}\n')
    change(tmp_path / "copy")
    with pytest.raises((CheckpointError, CheckpointMissingError), match=f"{name}: .*{message}"):
        project.set_up(name)
    assert not project.lock.exists()


def test_fair_esms_file_is_converted_once_and_again_where_it_was_replaced(tmp_path: Path) -> None:
    file = saved(tmp_path, checkpoint())
    settings = f'[checkpoints]\nesm2_3b = {{ file = "{file}" }}\n'
    project = Project(tmp_path / "machine", settings)
    folder = project.layout.checkpoints / "esm2_3b_converted"
    converting = f"esm2_3b: converting {file}"
    assert project.set_up("esm2_3b")[0] == converting
    assert project.set_up("esm2_3b") == [f"encoder esm2_3b: {folder}"]
    assert project.find("esm2_3b") == folder
    moved = tmp_path / "moved"
    project.root.rename(moved)
    spec = Workspace(load_settings(moved)).encoder_named("esm2_3b")
    assert find_checkpoint(spec, moved / "var/checkpoints") == moved / "var/checkpoints/esm2_3b_converted"
    moved.rename(project.root)
    other = Project(tmp_path / "other", settings, project.lock)
    assert other.set_up("esm2_3b")[0] == converting  # to the bytes that are locked
    assert other.locked("esm2_3b") == project.locked("esm2_3b")

    (folder / "vocab.txt").write_text("")
    with pytest.raises(CheckpointError, match=f"esm2_3b: .*empty: vocab.txt; remove {folder} to convert {file} again"):
        project.set_up("esm2_3b")
    shutil.rmtree(folder)
    assert project.set_up("esm2_3b")[0] == converting

    saved(tmp_path, checkpoint(token_dropout=False))
    refused = project.refusal("setup", "--encoder", "esm2_3b")
    assert f"{folder} is not what virnuc.lock has:\n  config.json: expected" in refused
    assert f"remove {folder} to convert {file} again, or run `virnuc setup --update esm2_3b`" in refused
    assert "virnuc.lock moved" in project.set_up(update=["esm2_3b"])[0]  # converted before it was refused
    file.unlink()
    with pytest.raises(CheckpointMissingError, match=r"no file .*correct \[checkpoints\] esm2_3b in virnuc.toml"):
        project.set_up("esm2_3b")
