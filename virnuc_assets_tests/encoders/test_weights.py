import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from virnuc_assets.encoders.esm import load_esm
from virnuc_assets.encoders.mosaic_bert import load_mosaic_bert
from virnuc_assets.encoders.weights import CheckpointError, read_weights

WEIGHTS = "model.safetensors"


def _altered(checkpoints: Path, name: str, to: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Path:
    folder = shutil.copytree(checkpoints / name, to / name)
    save_file(change(load_file(folder / WEIGHTS)), folder / WEIGHTS)
    return folder


def _hidden_of_dna(folder: Path) -> Tensor:
    model, tokenization = load_mosaic_bert(folder)
    with torch.inference_mode():
        return model.eval()(torch.from_numpy(tokenization(["ACGTTGCA"])[0])[None])


def _hidden_of_protein(folder: Path) -> Tensor:
    model, tokenization = load_esm(folder)
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


def test_every_misfit_is_listed(checkpoints: Path, tmp_path: Path) -> None:
    def change(weights: dict[str, Tensor]) -> dict[str, Tensor]:
        del weights["esm.encoder.layer.1.LayerNorm.bias"]
        weights["esm.encoder.layer.7.LayerNorm.bias"] = torch.zeros(5)
        weights["esm.embeddings.word_embeddings.weight"] = torch.zeros(33, 31)
        return weights

    with pytest.raises(CheckpointError) as caught:
        load_esm(_altered(checkpoints, "fastesm2_650_miniature", tmp_path, change))
    message = str(caught.value)
    assert "3 parameters do not fit EsmModel" in message
    assert "missing: encoder.layer.1.LayerNorm.bias (32,)" in message
    assert "unexpected: encoder.layer.7.LayerNorm.bias (5,)" in message
    assert "shape: embeddings.word_embeddings.weight expected (33, 32), found (33, 31)" in message


def test_a_head_is_not_taken_for_a_parameter_of_the_encoder(checkpoints: Path, tmp_path: Path) -> None:
    def change(weights: dict[str, Tensor]) -> dict[str, Tensor]:
        return weights | {"classifier.weight": torch.zeros(2, 32)}

    with pytest.raises(CheckpointError, match=r"unexpected: classifier.weight \(2, 32\)"):
        load_esm(_altered(checkpoints, "fastesm2_650_miniature", tmp_path, change))


def test_another_architecture_is_refused(checkpoints: Path) -> None:
    with pytest.raises(CheckpointError, match="model_type is 'bert', expected esm or fast_esm.*another architecture"):
        load_esm(checkpoints / "dnabert_s_miniature")
    with pytest.raises(CheckpointError, match="model_type is 'fast_esm', expected bert"):
        load_mosaic_bert(checkpoints / "fastesm2_650_miniature")


def test_an_incomplete_folder_names_what_it_lacks(checkpoints: Path, tmp_path: Path) -> None:
    lacking = {"config.json": "no config.json", "vocab.txt": "no vocab.txt", WEIGHTS: "neither model.safetensors"}
    for name, message in lacking.items():
        folder = shutil.copytree(checkpoints / "esm2_650_miniature", tmp_path / name)
        (folder / name).unlink()
        with pytest.raises(CheckpointError, match=message):
            load_esm(folder)
    config = json.loads((checkpoints / "esm2_650_miniature" / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k != "token_dropout"}))
    with pytest.raises(CheckpointError, match="lacks token_dropout"):
        load_esm(folder)


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
