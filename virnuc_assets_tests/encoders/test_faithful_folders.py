"""The loader on folders laid out as the hub's: transformers' vectors, nothing run, and every fault named."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoTokenizer, EsmConfig, EsmModel, EsmTokenizer

from virnuc_assets.encoders.checkpoints import CheckpointError
from virnuc_assets.encoders.embedding import embed
from virnuc_assets.encoders.loading import Encoder, load_encoder, load_folder
from virnuc_assets.encoders.registry import registered
from virnuc_assets.settings import EncodingSettings
from virnuc_assets_tests.encoders.drawn import drawn
from virnuc_assets_tests.workstation.hub_folders import REPOSITORIES, change_config, change_weights, write_repository
from virnuc_assets_tests.workstation.hub_server import Project

PROTEINS = [*drawn("protein", [1, 2, 33, 300]), "MKTXBZUO"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("faithful")
    for name, repository in REPOSITORIES.items():
        write_repository(repository, root / name)
    return root


@pytest.fixture
def copied(folders: Path, tmp_path: Path) -> Callable[[str], Path]:
    return lambda name: Path(shutil.copytree(folders / name, tmp_path / name))


def load(name: str, folder: Path) -> Encoder:
    return load_folder(registered(name), folder, torch.float32, torch.device("cpu"))


def assert_close(found: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@torch.no_grad()
def transformers_vectors(folder: Path, token_dropout: bool = True) -> NDArray[np.float32]:
    config = EsmConfig.from_pretrained(folder, token_dropout=token_dropout)
    model = EsmModel.from_pretrained(folder, config=config, add_pooling_layer=False).eval()
    tokenizer = EsmTokenizer.from_pretrained(folder)
    hidden = (model(**tokenizer(each, return_tensors="pt")).last_hidden_state[0, 1:-1] for each in PROTEINS)
    return np.stack([rows.mean(0).numpy() for rows in hidden])


@pytest.mark.parametrize("name", ["fastesm2_650", "esm2_650", "esm2_3b"])
def test_vectors_of_each_esm_are_those_of_the_unmodified_model(folders: Path, name: str) -> None:
    """Safetensors and sharded .bin; a module of the repository that is imported ends the process."""
    assert_close(embed(load(name, folders / name), PROTEINS), transformers_vectors(folders / name))


def test_dnabert_s_reads_all_of_a_sequence_and_pads_none(folders: Path, copied: Callable[[str], Path]) -> None:
    sequences = [*drawn("dna", [12_000]), "ACGT", "N"]
    stored = AutoTokenizer.from_pretrained(folders / "dnabert_s").backend_tokenizer
    assert len(stored.from_file(str(folders / "dnabert_s" / "tokenizer.json")).encode("N")) == 2000
    encoder = load("dnabert_s", folders / "dnabert_s")
    ids = encoder.tokenize(sequences)
    assert len(ids[0]) > 2002
    assert stored.decode(ids[0].tolist()).replace(" ", "") == sequences[0]
    assert ids[2].tolist() == [1, 0, 2]
    folder = copied("dnabert_s")
    change_weights(
        folder, lambda found: {"cls.bias": torch.ones(3), **{f"bert.{key}": each for key, each in found.items()}}
    )
    assert_close(embed(load("dnabert_s", folder), sequences), embed(encoder, sequences))


@pytest.mark.parametrize(
    ("name", "bias", "scale"),
    [
        ("fastesm2_650", "esm.encoder.layer.0.output.dense.bias", "esm.encoder.layer.1.LayerNorm.weight"),
        ("dnabert_s", "encoder.layer.0.mlp.wo.bias", "encoder.layer.1.mlp.layernorm.weight"),
    ],
)
def test_all_parameters_that_do_not_fit_are_named(
    copied: Callable[[str], Path], name: str, bias: str, scale: str
) -> None:
    folder, extra = copied(name), bias.replace("layer.0", "layer.2")

    def change(found: dict[str, Tensor]) -> dict[str, Tensor]:
        found[extra] = found.pop(bias)
        return {**found, scale: torch.ones(7)}

    change_weights(folder, change)
    with pytest.raises(CheckpointError) as caught:
        load(name, folder)
    first, *faults = str(caught.value).splitlines()
    assert first == f"{folder}: 3 parameters do not fit:"
    width = json.loads((folder / "config.json").read_text())["hidden_size"]
    named = [f"missing: {bias}", f"other shape than ({width},): {scale}", f"unexpected: {extra}"]
    assert [fault.strip().replace(": esm.", ": ") for fault in faults] == [each.replace("esm.", "") for each in named]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_attention_heads": 2}, r"other shape than \(10,\): encoder.layer.0.*inv_freq"),
        (
            {"position_embedding_type": "absolute"},
            "position_embedding_type is 'absolute'.*expected 'rotary'.*another architecture",
        ),
        ({"model_type": "bert"}, "config.json: model_type is 'bert', expected 'esm' or 'fast_esm'"),
        ({"token_dropout": None, "layer_norm_eps": None}, "config.json: lacks layer_norm_eps, token_dropout"),
    ],
)
def test_a_config_of_another_model_or_that_leaves_a_choice_to_a_default_is_refused(
    copied: Callable[[str], Path], fields: dict[str, object], message: str
) -> None:
    folder = copied("fastesm2_650")
    change_config(folder, **fields)
    with pytest.raises(CheckpointError, match=message):
        load("fastesm2_650", folder)


def test_frequencies_are_computed_or_taken_as_they_were_rounded(folders: Path, copied: Callable[[str], Path]) -> None:
    folder, expected = copied("fastesm2_650"), embed(load("fastesm2_650", folders / "fastesm2_650"), PROTEINS)
    change_weights(folder, lambda found: {key: each for key, each in found.items() if "inv_freq" not in key})
    assert_close(embed(load("fastesm2_650", folder), PROTEINS), expected)

    shutil.copy(folders / "fastesm2_650" / "model.safetensors", folder)
    change_weights(folder, lambda found: {k: each.half() if "inv_freq" in k else each for k, each in found.items()})
    rounded = embed(load("fastesm2_650", folder), PROTEINS)
    assert_close(rounded, transformers_vectors(folder))
    assert np.abs(rounded - expected).max() > 1e-5


def test_token_dropout_of_the_settings_decides_vectors_and_fingerprint(folders: Path, tmp_path: Path) -> None:
    folder = folders / "fastesm2_650"
    settings = f'[checkpoints]\nfastesm2_650 = {{ folder = "{folder}" }}\n[encoders]\n'
    for name, choice in (("on", "true"), ("off", "false")):
        settings += f'{name} = {{ like = "fastesm2_650", token_dropout = {choice} }}\n'
    project, digests = Project(tmp_path, settings), set()
    for name, chosen in {"fastesm2_650": "True", "on": "True", "off": "False"}.items():
        project.set_up(name)
        spec = project.workspace.encoder_named(name)
        encoder = load_encoder(spec, project.layout.checkpoints, EncodingSettings(device="cpu"))
        assert encoder.fingerprint["token_dropout"] == chosen
        assert_close(embed(encoder, PROTEINS), transformers_vectors(folder, token_dropout=name != "off"))
        digests.add(encoder.fingerprint["checkpoint_digest"])
    assert len(digests) == 1
    assert np.abs(transformers_vectors(folder) - transformers_vectors(folder, token_dropout=False)).max() > 1e-2


def test_an_esm_with_tokenizer_json_alone_has_the_same_tokens(folders: Path, copied: Callable[[str], Path]) -> None:
    folder = copied("fastesm2_650")
    words = (folder / "vocab.txt").read_text().split()
    model = {"type": "WordLevel", "vocab": {word: i for i, word in enumerate(words)}, "unk_token": "<unk>"}
    (folder / "tokenizer.json").write_text(json.dumps({"version": "1.0", "model": model, "added_tokens": []}))
    (folder / "vocab.txt").unlink()
    expected = load("fastesm2_650", folders / "fastesm2_650")
    found = load("fastesm2_650", folder)
    assert [ids.tolist() for ids in found.tokenize(PROTEINS)] == [ids.tolist() for ids in expected.tokenize(PROTEINS)]
    assert_close(embed(found, PROTEINS), embed(expected, PROTEINS))


@pytest.mark.parametrize(
    ("name", "file", "length", "message"),
    [
        ("fastesm2_650", "model.safetensors", -100, "damaged weights.*`virnuc setup --encoder fastesm2_650`"),
        ("dnabert_s", "pytorch_model.bin", -100, "damaged weights.*pytorch_model.bin"),
        ("esm2_3b", "pytorch_model-00002-of-00002.bin", -100, "damaged weights.*-00002-of-00002.bin"),
        ("esm2_3b", "pytorch_model.bin.index.json", -100, "damaged weights"),
        ("esm2_650", "vocab.txt", 60, "the vocabulary lacks C, W; copy it again"),
        ("fastesm2_650", "tokenizer_config.json", 60, "damaged tokenizer files"),
        ("dnabert_s", "tokenizer.json", 6000, "damaged tokenizer files"),
        ("esm2_650", "config.json", 60, "config.json: not valid JSON"),
    ],
)
def test_a_cut_file_is_refused(copied: Callable[[str], Path], name: str, file: str, length: int, message: str) -> None:
    folder = copied(name)
    (folder / file).write_bytes((folder / file).read_bytes()[:length])
    with pytest.raises(CheckpointError, match=f"{re.escape(str(folder))}.*{message}"):
        load(name, folder)
