"""Files of fair-esm's own ESM2, converted, and run by transformers: the same vectors as by fair-esm."""

import os
import re
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from esm.model.esm2 import ESM2
from esm.pretrained import load_model_and_alphabet_core
from safetensors.torch import load_file
from transformers import AutoTokenizer, EsmConfig, EsmForMaskedLM, EsmModel

from virnuc_assets.workstation.fair_esm import FairEsmError, convert_fair_esm

LAYERS, WIDTH, HEADS = 2, 40, 4
TOLERANCE = 1e-5
ALPHABET = "ACDEFGHIKLMNPQRSTVWYXBZUO.-"


def checkpoint(token_dropout: bool = True, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """What fair-esm's files hold: fairseq's names, tied weights that share memory, and options of its training."""
    torch.manual_seed(0)
    model = ESM2(LAYERS, WIDTH, HEADS, "ESM-1b", token_dropout)
    for parameter in model.parameters():  # an exchanged normalization or bias would not show in ones and zeros
        torch.nn.init.normal_(parameter, parameter.mean().item(), 0.2)
    options = {"encoder_layers": LAYERS, "encoder_embed_dim": WIDTH, "encoder_attention_heads": HEADS}
    state = {
        f"encoder.{'' if name.startswith('lm_head.') else 'sentence_encoder.'}{name}": tensor
        for name, tensor in model.to(dtype).state_dict().items()
        if not name.startswith("contact_head.")
    }
    cfg = {"model": Namespace(**options, token_dropout=token_dropout, arch="esm"), "task": {"seed": 1, "lr": [4e-4]}}
    return {"args": None, "cfg": cfg, "model": state, "extra_state": {"epoch": 3, "val_loss": None}}


def saved(folder: Path, content: object, **options: Any) -> Path:
    torch.save(content, folder / "esm2_t2.pt", **options)
    return folder / "esm2_t2.pt"


def drawn(length: int) -> str:
    return "".join(np.random.default_rng(length).choice(list(ALPHABET), size=length))


@pytest.mark.filterwarnings("ignore:Regression weights not found")
@pytest.mark.parametrize(
    ("token_dropout", "dtype"), [(True, torch.float32), (False, torch.float32), (True, torch.float16)], ids=str
)
@torch.inference_mode()
def test_the_folder_gives_the_vectors_of_fair_esm(tmp_path: Path, token_dropout: bool, dtype: torch.dtype) -> None:
    file = saved(tmp_path, checkpoint(token_dropout, dtype))
    folder = convert_fair_esm(file, tmp_path / "esm2")

    original, alphabet = load_model_and_alphabet_core("esm2_t2", torch.load(file, weights_only=False))
    convert = alphabet.get_batch_converter()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model, info = EsmModel.from_pretrained(
        folder, dtype=torch.float32, add_pooling_layer=False, output_loading_info=True
    )
    assert {name.split(".")[0] for name in info["missing_keys"]} == {"contact_head"}
    assert {name.split(".")[0] for name in info["unexpected_keys"]} == {"lm_head"}
    original.eval(), model.eval()
    for sequence in [*map(drawn, (1, 2, 3, 33, 500, 1023, 1024)), *(f"MK{letter}VL" for letter in ALPHABET), "X" * 30]:
        _, _, tokens = convert([("", sequence)])
        encoded = tokenizer(sequence, return_tensors="pt")
        assert torch.equal(encoded["input_ids"], tokens)
        residues = slice(1, len(sequence) + 1)
        expected = original(tokens, repr_layers=[LAYERS])["representations"][LAYERS][0, residues].mean(0)
        found = model(**encoded).last_hidden_state[0, residues].mean(0)
        assert (found - expected).abs().max() <= TOLERANCE
    logits = EsmForMaskedLM.from_pretrained(folder, dtype=torch.float32).eval()(**encoded).logits
    torch.testing.assert_close(logits, original(tokens)["logits"], rtol=0, atol=TOLERANCE)


def test_stored_values_and_the_hubs_config_are_written(tmp_path: Path) -> None:
    content = checkpoint(token_dropout=False, dtype=torch.float16)
    folder = convert_fair_esm(saved(tmp_path, content), tmp_path / "esm2")
    weights = load_file(folder / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float16}
    assert len(weights) == len(content["model"]) - 1  # the tied decoder
    config = EsmConfig.from_pretrained(folder)
    assert (config.model_type, config.architectures, config.dtype) == ("esm", ["EsmForMaskedLM"], torch.float16)
    assert (config.vocab_size, config.pad_token_id, config.mask_token_id) == (33, 1, 32)
    assert (config.max_position_embeddings, config.layer_norm_eps, config.emb_layer_norm_before) == (1026, 1e-5, False)
    assert (config.token_dropout, config.position_embedding_type) == (False, "rotary")


class Armed:
    """Runs a program when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.mark}",)


def test_an_armed_file_is_refused_and_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "run"
    file = saved(tmp_path, {**checkpoint(), "extra_state": Armed(mark)})
    with pytest.raises(FairEsmError, match=rf"{re.escape(str(file))}: names posix\.system.*Nothing of.*`virnuc setup`"):
        convert_fair_esm(file, tmp_path / "esm2")
    assert sorted(tmp_path.iterdir()) == [file]
    torch.load(file, weights_only=False)
    assert mark.exists()  # it was armed


def with_tensors(content: dict[str, Any], **changed: torch.Tensor | None) -> dict[str, Any]:
    tensors = {**content["model"], **{f"encoder.{name}": tensor for name, tensor in changed.items()}}
    return {**content, "model": {name: tensor for name, tensor in tensors.items() if tensor is not None}}


def with_heads(content: dict[str, Any], heads: int) -> dict[str, Any]:
    content["cfg"]["model"].encoder_attention_heads = heads
    return content


BIAS, POSITIONS = "sentence_encoder.layers.1.fc1.bias", "sentence_encoder.embed_positions.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda found: {"args": Namespace(arch="roberta_large"), "model": found["model"]}, "architecture 'roberta_l"),
        (lambda found: found["model"], "lacks `model`, or `cfg.model`"),
        (lambda found: with_heads(found, 2), r"inv_freq: .*\[5\].*\[10\]"),
        (lambda found: with_tensors(found, **{BIAS: None}), r"Missing.*1\.intermediate\.dense\.bias"),
        (lambda found: with_tensors(found, **{POSITIONS: torch.ones(9, 4)}), r"Unexpected.*positions\.weight"),
        (lambda found: with_tensors(found, **{"lm_head.weight": torch.ones(33, WIDTH)}), "differs from embed_tokens"),
    ],
)
def test_another_model_is_refused(tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str) -> None:
    file = saved(tmp_path, change(checkpoint()))
    with pytest.raises(FairEsmError, match=f"(?s){message}"):
        convert_fair_esm(file, tmp_path / "esm2")
    assert sorted(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("damage", ["cut off", "wrong checksum", "no zip file"])
def test_a_damaged_or_legacy_file_is_named(tmp_path: Path, damage: str) -> None:
    file = saved(tmp_path, checkpoint(), _use_new_zipfile_serialization=damage != "no zip file")
    data, middle = bytearray(file.read_bytes()), file.stat().st_size // 2
    data[middle] ^= damage == "wrong checksum"
    file.write_bytes(data[:middle] if damage == "cut off" else data)
    with pytest.raises(FairEsmError, match=f"{re.escape(str(file))}: .*{damage}"):
        convert_fair_esm(file, tmp_path / "esm2")
    assert sorted(tmp_path.iterdir()) == [file]
