import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest

from virnuc_assets.encoders.checkpoints import (
    CheckpointMissingError,
    checkpoint_folder,
    configured,
    fetch_checkpoint,
    find_checkpoint,
)
from virnuc_assets.encoders.fingerprint import fingerprint
from virnuc_assets.encoders.loading import load_encoder
from virnuc_assets.encoders.registry import ENCODERS, EncoderSpec
from virnuc_assets.encoders.verification import CheckpointError
from virnuc_assets.resources import Workspace
from virnuc_assets.settings import EncodingSettings, HubEncoder
from virnuc_assets.settings_file import load_settings

REMEDY = re.escape(
    'set in virnuc.toml [checkpoints.fastesm2_650] revision = "<its 40 hex digits>", or folder = "<a copy of it>"'
)


def test_a_miniature_that_is_not_written_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointMissingError, match="esm2_3b_miniature: no checkpoint in .*run `virnuc setup --encoder "
    ):
        checkpoint_folder(ENCODERS["esm2_3b_miniature"], tmp_path)


def test_a_written_miniature_is_found(checkpoints: Path) -> None:
    spec = ENCODERS["esm2_3b_miniature"]
    assert (
        checkpoint_folder(spec, checkpoints) == checkpoints / "esm2_3b_miniature" == fetch_checkpoint(spec, checkpoints)
    )


def test_kmers_need_none(tmp_path: Path) -> None:
    assert checkpoint_folder(ENCODERS["kmer_dna"], tmp_path) is None
    assert fetch_checkpoint(ENCODERS["kmer_dna"], tmp_path) is None


def test_a_hub_checkpoint_without_a_pin_is_refused_before_the_network_is_touched(tmp_path: Path) -> None:
    spec = replace(ENCODERS["fastesm2_650"], revision="")
    for get in (checkpoint_folder, fetch_checkpoint):
        with pytest.raises(CheckpointMissingError, match="no pinned revision of Synthyra/FastESM2_650.*" + REMEDY):
            get(spec, tmp_path)


def test_a_pinned_checkpoint_that_is_not_cached_names_the_remedy(tmp_path: Path) -> None:
    spec = replace(ENCODERS["esm2_650"], checkpoint="nobody/has-this", revision="0" * 40)
    with pytest.raises(CheckpointMissingError, match="nobody/has-this at revision 0{40}.*run `virnuc setup --encoder "):
        checkpoint_folder(spec, tmp_path)


def _workspace(folder: Path, text: str) -> Workspace:
    (folder / "virnuc.toml").write_text(f'profile = "full"\n[checkpoints.fastesm2_650]\n{text}')
    return Workspace(load_settings(folder / "virnuc.toml"))


@pytest.fixture
def local(checkpoints: Path, tmp_path: Path) -> EncoderSpec:
    """FastESM2 from a folder next to the settings, with its digest."""
    folder = shutil.copytree(checkpoints / "fastesm2_650_miniature", tmp_path / "models/fastesm2")
    digest = fingerprint(ENCODERS["fastesm2_650_miniature"], folder, "fp32")["checkpoint_digest"]
    text = f'folder = "models/fastesm2"\ndigest = "{digest}"'
    return _workspace(tmp_path, text).encoder("fastesm2")


def test_the_settings_know_the_encoders_of_the_hub() -> None:
    assert set(get_args(HubEncoder)) == {name for name, spec in ENCODERS.items() if spec.from_hub}


def test_a_revision_of_the_settings_pins_the_encoder(tmp_path: Path) -> None:
    workspace = _workspace(tmp_path, f'revision = "{"a" * 40}"')
    spec = workspace.encoder("fastesm2")
    assert spec == workspace.encoder_named("fastesm2_650") == replace(ENCODERS["fastesm2_650"], revision="a" * 40)
    assert workspace.encoder("esm2_3b") == ENCODERS["esm2_3b"]
    assert configured(ENCODERS["kmer_dna"], workspace.settings) == ENCODERS["kmer_dna"]
    with pytest.raises(CheckpointMissingError, match="at revision a{40} is not in the hub cache"):
        checkpoint_folder(spec, tmp_path)


def test_a_folder_of_the_settings_is_read_instead_of_the_hub(local: EncoderSpec, tmp_path: Path) -> None:
    folder = tmp_path / "models/fastesm2"
    for get in (find_checkpoint, checkpoint_folder, fetch_checkpoint):
        assert get(local, tmp_path / "nowhere") == folder
    encoder = load_encoder(local, tmp_path / "var", EncodingSettings(device="cpu"))
    assert encoder.dim == 32
    found = {key: encoder.fingerprint[key] for key in ("encoder", "checkpoint", "revision", "checkpoint_digest")}
    assert found == {
        "encoder": "fastesm2_650",
        "checkpoint": "Synthyra/FastESM2_650",
        "revision": "",
        "checkpoint_digest": local.digest,
    }


def test_an_altered_folder_is_refused_when_it_is_to_be_loaded(local: EncoderSpec, tmp_path: Path) -> None:
    path = Path(local.folder) / "vocab.txt"
    path.write_text(path.read_text().replace("L\nA", "A\nL"))
    assert find_checkpoint(local, tmp_path) == Path(local.folder)
    told = f"fastesm2_650: .*expected content with digest {local.digest}, found .*correct .checkpoints.fastesm2_650. in"
    with pytest.raises(CheckpointError, match=told):
        load_encoder(local, tmp_path, EncodingSettings(device="cpu"))


@pytest.mark.parametrize("name", ["config.json", "vocab.txt", "model.safetensors"])
def test_a_folder_without_or_with_an_empty_file_is_refused(local: EncoderSpec, tmp_path: Path, name: str) -> None:
    path, remedy = Path(local.folder) / name, ".*copy the checkpoint into .*models/fastesm2 again"
    path.write_bytes(b"")
    with pytest.raises(CheckpointError, match=f"fastesm2_650: .*{name}: cut off after 0 bytes{remedy}"):
        find_checkpoint(local, tmp_path)
    path.rename(path.with_name(f"{name}.incomplete"))
    with pytest.raises(CheckpointError, match=rf"{name}.*unfinished downloads: {name}\.incomplete.*{remedy}"):
        find_checkpoint(local, tmp_path)


def test_a_folder_that_is_not_there_is_refused(local: EncoderSpec, tmp_path: Path) -> None:
    shutil.rmtree(local.folder)
    with pytest.raises(CheckpointMissingError, match="fastesm2_650: no checkpoint in .*copy the checkpoint into"):
        fetch_checkpoint(local, tmp_path)


def test_a_damaged_miniature_names_the_remedy(checkpoints: Path, tmp_path: Path) -> None:
    spec = ENCODERS["esm2_3b_miniature"]
    folder = shutil.copytree(checkpoints / spec.name, tmp_path / spec.name)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    remedy = f"remove {re.escape(str(folder))} and run `virnuc setup --encoder {spec.name}`"
    for get in (find_checkpoint, checkpoint_folder, fetch_checkpoint):
        with pytest.raises(CheckpointError, match=f"cut off after .*{remedy}"):
            get(spec, tmp_path)
