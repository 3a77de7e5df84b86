import hashlib
from dataclasses import replace
from pathlib import Path

from virnuc_assets.encoders.checkpoints import GOLDEN_FILE, fingerprint, identity
from virnuc_assets.encoders.registry import ENCODERS

SPEC = ENCODERS["fastesm2_650_miniature"]
FILES = {"config.json": b'{"token_dropout": true}', "vocab.txt": b"<cls>", "pytorch_model.bin": b"abc"}


def folder_of(path: Path, files: dict[str, bytes]) -> Path:
    path.mkdir()
    for name, content in files.items():
        (path / name).write_bytes(content)
    return path


def test_identity_holds_all_that_changes_numbers() -> None:
    found = identity(SPEC, "fp32")
    assert (found["encoder"], found["pooling"], found["max_length"]) == (SPEC.name, "residues", "1024")
    assert (found["precision"], found["token_dropout"]) == ("fp32", "")
    assert found["golden"] == hashlib.sha256(GOLDEN_FILE.read_bytes()).hexdigest()
    assert {key for key in found if key.startswith("version.")} == {"version.torch", "version.transformers"}
    assert "+" not in found["version.torch"]
    changes = ({"pooling": "tokens"}, {"max_length": 512}, {"revision": "1"}, {"token_dropout": False})
    assert all(identity(replace(SPEC, **change), "fp32") != found for change in changes)  # type: ignore[arg-type]
    assert identity(SPEC, "bf16") != found
    kmers = fingerprint(ENCODERS["kmer_dna"], None, "fp32")
    assert {key for key in kmers if key.startswith("version.")} == {"version.numpy"}
    assert (kmers["pooling"], kmers["checkpoint_digest"], kmers["golden"]) == ("composition", "", "")


def test_the_digest_of_a_folder_follows_names_and_bytes(tmp_path: Path) -> None:
    first = fingerprint(SPEC, folder_of(tmp_path / "a", FILES), "fp32")
    same = ({**FILES, "README.md": b"not read"}, dict(reversed(FILES.items())))
    moved = {"config.json": b'{"token_dropout": true}', "vocab.txt": b"<cls>", "pytorch_model-1.bin": b"abc"}
    other = (
        {**FILES, "pytorch_model.bin": b"abd"},
        {**FILES, "vocab.txt": b"<pad>"},
        {**FILES, "config.json": b'{"token_dropout": true }'},
        {**moved, "pytorch_model.bin.index.json": b'{"weight_map": {"w": "pytorch_model-1.bin"}}'},
    )
    found = [fingerprint(SPEC, folder_of(tmp_path / str(i), f), "fp32") for i, f in enumerate((*same, *other))]
    assert [one == first for one in found] == [True] * len(same) + [False] * len(other)
    (tmp_path / "a/pytorch_model.bin").write_bytes(b"abd")  # while the process runs
    assert fingerprint(SPEC, tmp_path / "a", "fp32") == found[len(same)]


def test_token_dropout_is_the_one_in_effect(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "a", FILES)
    found = [fingerprint(replace(SPEC, token_dropout=set_to), folder, "fp32") for set_to in (None, True, False)]
    assert [one["token_dropout"] for one in found] == ["True", "True", "False"]
    assert found[0] == found[1]


def test_the_digest_of_a_locked_checkpoint_is_the_locks_wherever_it_is_stored(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    for spec in (ENCODERS["esm2_650"], replace(SPEC, folder=str(tmp_path))):
        assert fingerprint(replace(spec, digest="abc"), tmp_path, "fp32")["checkpoint_digest"] == "abc"
    found = [fingerprint(replace(SPEC, folder=folder, digest="abc"), tmp_path, "fp32") for folder in ("a", "b")]
    assert found[0] == found[1]
