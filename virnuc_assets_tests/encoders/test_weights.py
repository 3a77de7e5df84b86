import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from virnuc_assets.encoders.esm import load_esm
from virnuc_assets.encoders.mosaic_bert import load_mosaic_bert
from virnuc_assets.encoders.weights import CheckpointError, load_weights, read_weights

WEIGHTS = "model.safetensors"


def _altered(checkpoints: Path, name: str, to: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Path:
    folder = shutil.copytree(checkpoints / name, to / name)
    save_file(change(load_file(folder / WEIGHTS)), folder / WEIGHTS)
    return folder


def _hidden_of_dna(folder: Path) -> Tensor:
    model, tokenization = load_mosaic_bert(folder, torch.float32)
    with torch.inference_mode():
        return model.eval()(torch.from_numpy(tokenization(["ACGTTGCA"])[0])[None])


def _hidden_of_protein(folder: Path) -> Tensor:
    model, tokenization = load_esm(folder, torch.float32)
    with torch.inference_mode():
        return model.eval()(torch.from_numpy(tokenization(["MKVLAT"])[0])[None])


def test_names_with_and_without_prefix_and_with_heads_load_alike(checkpoints: Path, tmp_path: Path) -> None:
    def with_prefix(weights: dict[str, Tensor]) -> dict[str, Tensor]:
        heads = {"cls.predictions.decoder.bias": torch.zeros(3)}
        return {f"bert.{name}": tensor for name, tensor in weights.items()} | heads

    def without_prefix(weights: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name.removeprefix("esm."): tensor for name, tensor in weights.items() if "lm_head" not in name}

    def without_frequencies(weights: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: tensor for name, tensor in weights.items() if not name.endswith("inv_freq")}

    dna = _altered(checkpoints, "dnabert_s_miniature", tmp_path, with_prefix)
    assert torch.equal(_hidden_of_dna(dna), _hidden_of_dna(checkpoints / "dnabert_s_miniature"))
    expected = _hidden_of_protein(checkpoints / "esm2_650_miniature")
    for i, change in enumerate((without_prefix, without_frequencies)):
        protein = _altered(checkpoints, "esm2_650_miniature", tmp_path / str(i), change)
        assert torch.equal(_hidden_of_protein(protein), expected)


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16])
def test_weights_stored_in_half_precision_are_widened_and_their_frequencies_known(
    stored: torch.dtype, checkpoints: Path, tmp_path: Path
) -> None:
    def halved(weights: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: tensor.to(stored) for name, tensor in weights.items()}

    def rounded(weights: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: tensor.to(stored).float() for name, tensor in weights.items() if not name.endswith("inv_freq")}

    half, wide = (
        _altered(checkpoints, "esm2_650_miniature", tmp_path / change.__name__, change) for change in (halved, rounded)
    )
    assert torch.equal(_hidden_of_protein(half), _hidden_of_protein(wide))


def test_another_rotary_base_is_refused(checkpoints: Path, tmp_path: Path) -> None:
    def other_base(weights: dict[str, Tensor]) -> dict[str, Tensor]:
        frequencies = {name: tensor**1.5 for name, tensor in weights.items() if name.endswith("inv_freq")}
        return weights | {name: tensor.bfloat16() for name, tensor in frequencies.items()}

    with pytest.raises(CheckpointError, match="inv_freq are not ESM2's"):
        load_esm(_altered(checkpoints, "esm2_650_miniature", tmp_path, other_base), torch.float32)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"model": {"vo', "cut off or not JSON"),
        ("[]", "expected a JSON object"),
        ('{"model": {"type": "BPE"}}', "expected byte pairs"),
        ("{}", "expected byte pairs"),
    ],
)
def test_a_damaged_tokenizer_names_the_file(content: str, message: str, checkpoints: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoints / "dnabert_s_miniature", tmp_path / "damaged")
    (folder / "tokenizer.json").write_text(content)
    with pytest.raises(CheckpointError, match=f"damaged/tokenizer.json: {message}"):
        load_mosaic_bert(folder, torch.float32)


def test_every_misfit_is_listed(checkpoints: Path, tmp_path: Path) -> None:
    def change(weights: dict[str, Tensor]) -> dict[str, Tensor]:
        del weights["esm.encoder.layer.1.LayerNorm.bias"]
        weights["esm.encoder.layer.7.LayerNorm.bias"] = torch.zeros(5)
        weights["esm.embeddings.word_embeddings.weight"] = torch.zeros(33, 31)
        weights["esm.encoder.emb_layer_norm_after.bias"] = torch.zeros(32, dtype=torch.int8)
        return weights

    with pytest.raises(CheckpointError) as caught:
        load_esm(_altered(checkpoints, "fastesm2_650_miniature", tmp_path, change), torch.float32)
    message = str(caught.value)
    assert "4 parameters do not fit Esm:" in message
    assert "missing: encoder.layer.1.LayerNorm.bias (32,)" in message
    assert "unexpected: encoder.layer.7.LayerNorm.bias (5,)" in message
    assert "shape: embeddings.word_embeddings.weight expected (33, 32), found (33, 31)" in message
    assert "type: encoder.emb_layer_norm_after.bias expected floating point, found torch.int8" in message


def test_a_head_is_not_taken_for_a_parameter_of_the_encoder(checkpoints: Path, tmp_path: Path) -> None:
    def change(weights: dict[str, Tensor]) -> dict[str, Tensor]:
        return weights | {"classifier.weight": torch.zeros(2, 32)}

    with pytest.raises(CheckpointError, match=r"unexpected: classifier.weight \(2, 32\)"):
        load_esm(_altered(checkpoints, "fastesm2_650_miniature", tmp_path, change), torch.float32)


def test_another_architecture_is_refused(checkpoints: Path) -> None:
    with pytest.raises(CheckpointError, match="model_type is 'bert', expected esm or fast_esm.*another architecture"):
        load_esm(checkpoints / "dnabert_s_miniature", torch.float32)
    with pytest.raises(CheckpointError, match="model_type is 'fast_esm', expected bert"):
        load_mosaic_bert(checkpoints / "fastesm2_650_miniature", torch.float32)


def test_an_incomplete_folder_names_what_it_lacks(checkpoints: Path, tmp_path: Path) -> None:
    lacking = {"config.json": "no config.json", "vocab.txt": "no vocab.txt", WEIGHTS: "neither model.safetensors"}
    for name, message in lacking.items():
        folder = shutil.copytree(checkpoints / "esm2_650_miniature", tmp_path / name)
        (folder / name).unlink()
        with pytest.raises(CheckpointError, match=message):
            load_esm(folder, torch.float32)
    config = json.loads((checkpoints / "esm2_650_miniature" / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k != "token_dropout"}))
    with pytest.raises(CheckpointError, match="lacks token_dropout"):
        load_esm(folder, torch.float32)


@pytest.mark.parametrize("whole", ["model.safetensors", "pytorch_model.bin"])
def test_both_formats_are_read_whole_and_in_shards(whole: str, tmp_path: Path) -> None:
    def write(tensors: dict[str, Tensor], path: Path) -> None:
        save_file(tensors, path) if path.suffix == ".safetensors" else torch.save(tensors, path)

    tensors = {"a": torch.arange(3.0), "b": torch.ones(2, 2)}
    stem, suffix = whole.rsplit(".", 1)
    shards = [f"{stem}-0000{i}-of-00002.{suffix}" for i in (1, 2)]
    for folder in ("whole", "shards"):
        (tmp_path / folder).mkdir()
    write(tensors, tmp_path / "whole" / whole)
    index = {"weight_map": dict(zip(tensors, shards, strict=True))}
    (tmp_path / "shards" / f"{whole}.index.json").write_text(json.dumps(index))
    for (name, tensor), shard in zip(tensors.items(), shards, strict=True):
        write({name: tensor}, tmp_path / "shards" / shard)
    for folder in ("whole", "shards"):
        found = read_weights(tmp_path / folder)
        assert set(found) == {"a", "b"}
        assert torch.equal(found["a"], tensors["a"]) and torch.equal(found["b"], tensors["b"])
    (tmp_path / "shards" / shards[1]).unlink()
    with pytest.raises(CheckpointError, match=f"names shards that are missing: {shards[1]}"):
        read_weights(tmp_path / "shards")


@pytest.mark.parametrize("whole", ["model.safetensors", "pytorch_model.bin"])
def test_what_is_cut_off_or_damaged_names_the_file(whole: str, tmp_path: Path) -> None:
    path = tmp_path / whole
    tensors = {"a": torch.arange(5000.0)}
    save_file(tensors, path) if path.suffix == ".safetensors" else torch.save(tensors, path)
    content = path.read_bytes()
    for damaged in (content[:-100], content[:200], content[:5], b"", b"<html>not found</html>", bytes(9000)):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=rf"{re.escape(str(path))}: (cut off after|damaged) .*fetch"):
            read_weights(tmp_path)
    middle = len(content) // 2
    for i in (9, 40, middle, len(content) - 30):
        path.write_bytes(content[:i] + bytes([content[i] ^ 255]) + content[i + 1 :])
        try:  # a byte of a tensor may pass here; it is the digest of the content that finds it
            assert list(read_weights(tmp_path)) == ["a"]
        except CheckpointError as error:
            assert str(path) in str(error)  # noqa: PT017


class Opener:
    """What a hostile pickle would call."""

    def __reduce__(self) -> tuple[Callable[..., None], tuple[Path]]:
        return Path.touch, (Path("touched"),)


def test_a_torch_file_runs_no_code_and_holds_only_tensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"a": Opener()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="damaged"):
        read_weights(tmp_path)
    assert not (tmp_path / "touched").exists()
    for content in ([torch.ones(2)], {"model": {"a": torch.ones(2)}}):
        torch.save(content, tmp_path / "pytorch_model.bin")
        with pytest.raises(CheckpointError, match="expected tensors by name, found"):
            read_weights(tmp_path)


def test_torch_files_of_old_are_read(tmp_path: Path) -> None:
    torch.save({"a": torch.arange(3.0)}, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    assert torch.equal(read_weights(tmp_path)["a"], torch.arange(3.0))


@pytest.mark.parametrize("whole", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_meta_module_gets_tensors_of_its_own_in_the_working_precision(
    whole: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    stored = {"weight": torch.randn(3, 4), "bias": torch.randn(3).to(torch.float16), "head.position_ids": torch.ones(2)}
    path = tmp_path / whole
    save_file(stored, path) if path.suffix == ".safetensors" else torch.save(stored, path)
    with torch.device("meta"):
        module = nn.Linear(4, 3)
    tensors = read_weights(tmp_path)
    load_weights(module, tensors, tmp_path, ("head.",), dtype)
    assert tensors == {}
    with path.open("rb+") as file:  # the file may go away under a loaded module
        file.write(bytes(path.stat().st_size))
    for name, parameter in module.named_parameters():
        assert parameter.dtype == dtype and parameter.device.type == "cpu"
        assert torch.equal(parameter, stored[name].to(dtype))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_weights_are_never_in_memory_twice(tmp_path: Path) -> None:
    """Peak beyond what loading begins with: the model in half precision and less than a quarter of the file."""
    layers, width = 16, 1024
    save_file({f"{i}.weight": torch.zeros(width, width) for i in range(layers)}, tmp_path / WEIGHTS)
    code = f"""
import torch, resource
from pathlib import Path
from torch import nn
from virnuc_assets.encoders.weights import load_weights, read_weights
with torch.device("meta"):
    module = nn.Sequential(*(nn.Linear({width}, {width}, bias=False) for _ in range({layers})))
def bytes_of(key):
    return 1024 * next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(key))
before, folder = bytes_of("VmRSS"), Path({str(tmp_path)!r})
Path("/proc/self/clear_refs").write_text("5")
load_weights(module, read_weights(folder), folder, (), torch.bfloat16)
print(bytes_of("VmHWM") - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    file_bytes = 4 * layers * width**2
    assert int(done.stdout) < 0.75 * file_bytes
