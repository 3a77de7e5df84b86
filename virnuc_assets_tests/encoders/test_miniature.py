import hashlib
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from virnuc_assets.encoders.loading import load_encoder
from virnuc_assets.encoders.miniature import write_miniature
from virnuc_assets.encoders.registry import ENCODERS, EncoderSpec
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
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == [spec.name]  # no temporary folder remains
    found = hashlib.sha256(first["model.safetensors"]).hexdigest()
    assert found == WEIGHTS_SHA256.get(spec.name, found)


def test_transformers_reads_the_tokenizers_as_any_checkpoints(checkpoints: Path) -> None:
    proteins = [drawn("protein", [40])[0] + "XBZUO"]
    given = {"esm2_3b_miniature": proteins, "dnabert_s_miniature": drawn("dna", [1, 2, 31, 300])}
    for name, sequences in given.items():
        encoder = load_encoder(ENCODERS[name], checkpoints, EncodingSettings())
        theirs = AutoTokenizer.from_pretrained(checkpoints / name)
        for sequence in sequences:
            assert encoder.tokenize([sequence])[0].tolist() == theirs(sequence)["input_ids"]
    tokens = theirs.convert_ids_to_tokens(encoder.tokenize(["AANAACG"])[0].tolist())
    assert tokens == ["[CLS]", "AA", "[UNK]", "AACG", "[SEP]"]
