import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from virnuc_assets.encoders.fingerprint import fingerprint, identity
from virnuc_assets.encoders.registry import ENCODERS
from virnuc_assets.encoders.verification import CheckpointError

SPEC = ENCODERS["fastesm2_650_miniature"]


def _folder(path: Path, files: dict[str, bytes]) -> Path:
    path.mkdir()
    for name, content in files.items():
        (path / name).write_bytes(content)
    return path


def test_identity_holds_all_that_changes_numbers() -> None:
    found = identity(SPEC, "fp32")
    assert found["encoder"] == "fastesm2_650_miniature"
    assert (found["pooling"], found["max_length"], found["precision"]) == ("residues", "1024", "fp32")
    assert {key for key in found if key.startswith("version.")} == {"version.torch"}
    assert "+" not in found["version.torch"]
    for other in (replace(SPEC, pooling="tokens"), replace(SPEC, max_length=512), replace(SPEC, revision="1")):
        assert identity(other, "fp32") != found
    assert identity(SPEC, "bf16") != found


def test_kmers_depend_on_numpy_only() -> None:
    found = fingerprint(ENCODERS["kmer_dna"], None, "fp32")
    assert {key for key in found if key.startswith("version.")} == {"version.numpy"}
    assert (found["k"], found["checkpoint_digest"]) == ("4", "")


def test_the_digest_of_a_folder_follows_names_and_bytes(tmp_path: Path) -> None:
    files = {"config.json": b"{}", "vocab.txt": b"<cls>", "pytorch_model.bin": b"abc"}
    first = fingerprint(SPEC, _folder(tmp_path / "a", files), "fp32")
    same = ({**files, "README.md": b"not read"}, dict(reversed(files.items())))
    moved = {"config.json": b"{}", "vocab.txt": b"<cls>", "pytorch_model-1.bin": b"abc"}
    other = (
        {**files, "pytorch_model.bin": b"abd"},
        {**files, "vocab.txt": b"<pad>"},
        {**files, "config.json": b"[]"},
        {**moved, "pytorch_model.bin.index.json": b'{"weight_map": {"w": "pytorch_model-1.bin"}}'},
    )
    found = [fingerprint(SPEC, _folder(tmp_path / str(i), files), "fp32") for i, files in enumerate((*same, *other))]
    assert [one == first for one in found] == [True] * len(same) + [False] * len(other)


def test_a_file_that_changes_under_the_process_is_hashed_again(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "a", {"config.json": b"{}", "vocab.txt": b"<cls>", "pytorch_model.bin": b"abc"})
    first = fingerprint(SPEC, folder, "fp32")
    (folder / "pytorch_model.bin").write_bytes(b"abd")
    assert fingerprint(SPEC, folder, "fp32") != first


def test_a_local_folder_counts_by_its_content_wherever_it_lies(tmp_path: Path, checkpoints: Path) -> None:
    miniature = checkpoints / "esm2_650_miniature"
    copy = shutil.copytree(miniature, tmp_path / "copy")
    specs = [replace(ENCODERS["esm2_650"], folder=str(folder), revision="") for folder in (miniature, copy)]
    found = [fingerprint(spec, Path(spec.folder), "fp32") for spec in specs]
    assert found[0] == found[1]
    assert found[0]["checkpoint_digest"] == fingerprint(SPEC, miniature, "fp32")["checkpoint_digest"]


def test_an_incomplete_folder_has_no_fingerprint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no vocab.txt"):
        fingerprint(SPEC, _folder(tmp_path / "a", {"config.json": b"{}", "pytorch_model.bin": b"abc"}), "fp32")


def test_the_digest_of_a_hub_checkpoint_is_its_revision(tmp_path: Path) -> None:
    spec = ENCODERS["esm2_650"]
    assert fingerprint(spec, tmp_path, "fp32")["checkpoint_digest"] == spec.revision
