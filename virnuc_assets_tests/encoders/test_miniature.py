from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, EsmModel, PreTrainedTokenizerFast

from virnuc_assets.encoders.esm import load_esm
from virnuc_assets.encoders.loading import load_encoder
from virnuc_assets.encoders.miniature import write_miniature
from virnuc_assets.encoders.mosaic_bert import load_mosaic_bert
from virnuc_assets.encoders.registry import ENCODERS, EncoderSpec
from virnuc_assets.errors import VirnucError
from virnuc_assets.settings import EncodingSettings
from virnuc_assets_tests.encoders.drawn import MINIATURES, drawn


@pytest.mark.parametrize("spec", MINIATURES, ids=lambda spec: spec.name)
def test_every_run_writes_the_same_bytes(spec: EncoderSpec, checkpoints: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)  # torch's generator must not matter
    again = write_miniature(spec, tmp_path)
    first = {path.name: path.read_bytes() for path in (checkpoints / spec.name).iterdir()}
    assert {path.name: path.read_bytes() for path in again.iterdir()} == first
    assert {"config.json", "model.safetensors", "tokenizer_config.json", "special_tokens_map.json"} < set(first)
    assert [path.name for path in tmp_path.iterdir()] == [spec.name]  # nothing is left aside


def test_dims_differ_and_are_the_checkpoints(checkpoints: Path) -> None:
    dims = {spec.name: load_encoder(spec, checkpoints, EncodingSettings()).dim for spec in MINIATURES}
    assert len(set(dims.values())) == len(MINIATURES)
    assert dims["fastesm2_650_miniature"] == load_esm(checkpoints / "fastesm2_650_miniature")[0].esm.config.hidden_size


def test_an_existing_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "esm2_650_miniature").mkdir()
    write_miniature(ENCODERS["esm2_650_miniature"], tmp_path)
    assert list((tmp_path / "esm2_650_miniature").iterdir()) == []


def test_what_is_no_miniature_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VirnucError, match="no miniature is called 'esm2_3b'; there are: dnabert_s_miniature"):
        write_miniature(ENCODERS["esm2_3b"], tmp_path)


def test_transformers_reads_an_esm_miniature_as_any_checkpoint(checkpoints: Path) -> None:
    folder = checkpoints / "esm2_3b_miniature"
    theirs = EsmModel.from_pretrained(folder, add_pooling_layer=False).eval()
    ours, tokenization = load_esm(folder)
    sequence = drawn("protein", [40])[0] + "XBZUO"
    ids = AutoTokenizer.from_pretrained(folder)(sequence, return_tensors="pt")["input_ids"]
    assert ids[0].tolist() == tokenization([sequence])[0].tolist()
    with torch.inference_mode():
        torch.testing.assert_close(ours.eval()(ids), theirs(ids).last_hidden_state, rtol=0, atol=1e-6)


def test_transformers_reads_the_dna_tokenizer_as_any_checkpoint(checkpoints: Path) -> None:
    folder = checkpoints / "dnabert_s_miniature"
    _, tokenization = load_mosaic_bert(folder)
    theirs = PreTrainedTokenizerFast.from_pretrained(folder)
    for sequence in drawn("dna", [1, 2, 31, 300]):
        assert tokenization([sequence])[0].tolist() == theirs(sequence)["input_ids"]
    assert theirs.convert_ids_to_tokens(tokenization(["AANAACG"])[0]) == ["[CLS]", "AA", "[UNK]", "AACG", "[SEP]"]
