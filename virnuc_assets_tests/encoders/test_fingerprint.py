from dataclasses import replace
from pathlib import Path

from virnuc_assets.encoders.fingerprint import fingerprint, identity
from virnuc_assets.encoders.registry import ENCODERS

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
    assert {key for key in found if key.startswith("version.")} == {"version.torch", "version.transformers"}
    assert "+" not in found["version.torch"]
    for other in (replace(SPEC, pooling="tokens"), replace(SPEC, max_length=512), replace(SPEC, revision="1")):
        assert identity(other, "fp32") != found
    assert identity(SPEC, "bf16") != found


def test_kmers_depend_on_numpy_only() -> None:
    found = fingerprint(ENCODERS["kmer_dna"], None, "fp32")
    assert {key for key in found if key.startswith("version.")} == {"version.numpy"}
    assert (found["k"], found["checkpoint_digest"]) == ("4", "")


def test_the_digest_of_a_folder_follows_names_and_bytes(tmp_path: Path) -> None:
    files = {"config.json": b"{}", "model.safetensors": b"abc"}
    first = fingerprint(SPEC, _folder(tmp_path / "a", files), "fp32")
    assert fingerprint(SPEC, _folder(tmp_path / "b", dict(reversed(files.items()))), "fp32") == first
    for i, changed in enumerate(
        ({**files, "model.safetensors": b"abd"}, {"configs.json": b"{}", "model.safetensors": b"abc"})
    ):
        assert fingerprint(SPEC, _folder(tmp_path / f"c{i}", changed), "fp32") != first


def test_the_digest_of_a_hub_checkpoint_is_its_revision(tmp_path: Path) -> None:
    spec = ENCODERS["esm2_650"]
    assert fingerprint(spec, tmp_path, "fp32")["checkpoint_digest"] == spec.revision
