import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.numpy import load_file
from transformers import AutoTokenizer, EsmConfig, EsmForMaskedLM, PreTrainedTokenizerFast

from virnuc_assets.encoders.loading import load_encoder
from virnuc_assets.encoders.miniature import Shape, esm_parameters, write_drawn_checkpoint, write_miniature
from virnuc_assets.encoders.registry import ENCODERS, EncoderSpec
from virnuc_assets.errors import VirnucError
from virnuc_assets.settings import EncodingSettings
from virnuc_assets_tests.encoders.drawn import MINIATURES, drawn

# Existing tables were made with these weights.
WEIGHTS_SHA256 = {
    "dnabert_s_miniature": "7d89791ede9e47a78e2154311c093200d3f7fb2c735e59ff3deb08bd2f27b832",
    "fastesm2_650_miniature": "aadc15d7fa383e0064ff5d43c7afecbfe9db6573314c843c86c946a8249768d6",
    "esm2_650_miniature": "02d13f22b38e7bd192b7a9474c6f7c763e6296880ea99f8c1cb1e503c93ae28d",
    "esm2_3b_miniature": "1b4040b81b6c2ae10b948eddfc036fb0b9a7a8b207add80104ab4b62709da157",
}


@pytest.mark.parametrize("spec", MINIATURES, ids=lambda spec: spec.name)
def test_every_run_writes_the_same_bytes(spec: EncoderSpec, checkpoints: Path, tmp_path: Path) -> None:
    again = write_miniature(spec, tmp_path)
    first = {path.name: path.read_bytes() for path in (checkpoints / spec.name).iterdir()}
    assert {path.name: path.read_bytes() for path in again.iterdir()} == first
    assert {"config.json", "model.safetensors", "tokenizer_config.json", "special_tokens_map.json"} < set(first)
    assert [path.name for path in tmp_path.iterdir()] == [spec.name]  # nothing is left aside
    assert hashlib.sha256(first["model.safetensors"]).hexdigest() == WEIGHTS_SHA256[spec.name]


def test_dims_differ_and_are_the_checkpoints(checkpoints: Path) -> None:
    dims = {spec.name: load_encoder(spec, checkpoints, EncodingSettings()).dim for spec in MINIATURES}
    assert len(set(dims.values())) == len(MINIATURES)
    for name, dim in dims.items():
        assert json.loads((checkpoints / name / "config.json").read_text(encoding="utf-8"))["hidden_size"] == dim


def test_an_existing_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "esm2_650_miniature").mkdir()
    write_miniature(ENCODERS["esm2_650_miniature"], tmp_path)
    assert list((tmp_path / "esm2_650_miniature").iterdir()) == []


def test_what_is_no_miniature_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VirnucError, match="no miniature is called 'esm2_3b'; there are: dnabert_s_miniature"):
        write_miniature(ENCODERS["esm2_3b"], tmp_path)


def test_writing_needs_no_framework() -> None:
    code = "import sys, virnuc_assets.encoders.miniature; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"torch", "tokenizers", "transformers"}.isdisjoint(done.stdout.split())


@pytest.mark.parametrize("shape", [Shape(32, 2, 4, "fast_esm"), Shape(48, 3, 6, "esm")], ids=str)
def test_names_shapes_and_rotary_frequencies_are_those_of_transformers(shape: Shape, tmp_path: Path) -> None:
    write_drawn_checkpoint(tmp_path, "drawn", shape)
    config = EsmConfig(**json.loads((tmp_path / "config.json").read_text(encoding="utf-8")))
    theirs = {name: tensor.numpy() for name, tensor in EsmForMaskedLM(config).state_dict().items()}
    del theirs["lm_head.decoder.weight"]  # tied to the word embeddings, and not stored in the originals either
    written = load_file(tmp_path / "model.safetensors")
    assert esm_parameters(shape) == {name: tensor.shape for name, tensor in theirs.items()}
    assert {name: array.shape for name, array in written.items()} == esm_parameters(shape)
    assert {name: array.dtype for name, array in written.items()} == {
        name: array.dtype for name, array in theirs.items()
    }
    computed = [name for name in theirs if name.endswith("inv_freq")]
    assert len(computed) == shape.layers
    assert all(written[name].tolist() == theirs[name].tolist() for name in computed)


def test_rotary_frequencies_of_true_heads_are_those_of_transformers(tmp_path: Path) -> None:
    shape = Shape(128, 1, 2, "esm")
    write_drawn_checkpoint(tmp_path, "drawn", shape)
    name = "esm.encoder.layer.0.attention.self.rotary_embeddings.inv_freq"
    config = EsmConfig(**json.loads((tmp_path / "config.json").read_text(encoding="utf-8")))
    written = load_file(tmp_path / "model.safetensors")[name]
    assert written.tolist() == EsmForMaskedLM(config).state_dict()[name].tolist()


def test_transformers_reads_an_esm_miniatures_tokenizer_as_any_checkpoints(checkpoints: Path) -> None:
    encoder = load_encoder(ENCODERS["esm2_3b_miniature"], checkpoints, EncodingSettings())
    theirs = AutoTokenizer.from_pretrained(checkpoints / "esm2_3b_miniature")
    sequence = drawn("protein", [40])[0] + "XBZUO"
    assert encoder.tokenize([sequence])[0].tolist() == theirs(sequence)["input_ids"]


def test_transformers_reads_the_dna_tokenizer_as_any_checkpoints(checkpoints: Path) -> None:
    encoder = load_encoder(ENCODERS["dnabert_s_miniature"], checkpoints, EncodingSettings())
    theirs = PreTrainedTokenizerFast.from_pretrained(checkpoints / "dnabert_s_miniature")
    for sequence in drawn("dna", [1, 2, 31, 300]):
        assert encoder.tokenize([sequence])[0].tolist() == theirs(sequence)["input_ids"]
    tokens = theirs.convert_ids_to_tokens(encoder.tokenize(["AANAACG"])[0].tolist())
    assert tokens == ["[CLS]", "AA", "[UNK]", "AACG", "[SEP]"]
