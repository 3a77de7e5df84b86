"""Narrow copies of the hub's repositories: true file names, config fields, parameter names, dtypes and shards.

Only widths, depths and DNABERT-S's vocabulary are smaller, and the weights are random. The names are written out here
instead of taken from the code that loads them. Those of facebook/esm2_t33_650M_UR50D give, at its true width, a
safetensors file of 2,609,506,392 bytes, which is the size on the hub.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer
from torch import Tensor

DNABERT_S = "zhihan1996/DNABERT-S"
FASTESM2_650 = "Synthyra/FastESM2_650"
ESM2_650 = "facebook/esm2_t33_650M_UR50D"
ESM2_3B = "facebook/esm2_t36_3B_UR50D"
REPOSITORIES = {"dnabert_s": DNABERT_S, "fastesm2_650": FASTESM2_650, "esm2_650": ESM2_650, "esm2_3b": ESM2_3B}
"""By the encoder's name in the registry."""
BROKEN_COMMIT = "888b364d85f1059fc453bb365c7509a4d8f7be3b"
"""Of FastESM2_650, whose config.json lacks a comma."""
REMOTE_CODE_WAS_RUN = "remote code was run"

Shapes = dict[str, tuple[int, ...]]

_ESM_VOCABULARY = ["<cls>", "<pad>", "<eos>", "<unk>", *"LAGVSERTIDPKQNFYMHWCXBUZO.-", "<null_1>", "<mask>"]
_ESM_SPECIAL = {f"{name}_token": f"<{name}>" for name in ("cls", "eos", "mask", "pad", "unk")}
_DNA_SPECIAL = {f"{name}_token": f"[{name.upper()}]" for name in ("unk", "cls", "sep", "pad", "mask")}
_NO_LIMIT = int(1e30)  # how transformers writes "no model_max_length"
_SIZES = {  # hidden_size, num_attention_heads
    DNABERT_S: (48, 6),
    FASTESM2_650: (40, 4),
    ESM2_650: (40, 4),
    ESM2_3B: (64, 8),
}


def write_repository(name: str, folder: Path, times: int = 1) -> None:
    """Write one of `REPOSITORIES`, the same bytes at every call.

    Args:
        name: One of the values.
        folder: Gets the files; created where it is missing.
        times: Factor of all widths.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "README.md").write_text(f"---\nlicense: mit\n---\n# {name.partition('/')[2]}\n")
    if name == DNABERT_S:
        _write_dnabert_s(folder, times)
    elif name == FASTESM2_650:
        _write_fastesm2_650(folder, times)
    elif name == ESM2_650:
        _write_esm2_650(folder, times)
    else:
        _write_esm2_3b(folder, times)


def break_config(folder: Path) -> None:
    """Take a comma from config.json, as at `BROKEN_COMMIT`."""
    path = folder / "config.json"
    before, _, after = path.read_text().rpartition(",")
    path.write_text(before + after)


def change_config(folder: Path, **fields: object) -> None:
    """Set fields of config.json; None takes one out."""
    path = folder / "config.json"
    changed = {**json.loads(path.read_text()), **fields}
    _write_json(path, {name: value for name, value in changed.items() if value is not None})


def change_weights(folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    """Write other tensors into `model.safetensors`, or else `pytorch_model.bin`."""
    path = folder / "model.safetensors"
    if path.is_file():
        save_file(change(load_file(path)), path, metadata={"format": "pt"})
    else:
        path = folder / "pytorch_model.bin"
        torch.save(change(torch.load(path, weights_only=True)), path)


def _write_dnabert_s(folder: Path, times: int) -> None:
    tokenizer = _dna_tokenizer()
    config = {
        **_sizes(DNABERT_S, times),
        "_name_or_path": "dnabert2",
        "alibi_starting_size": 512,
        "architectures": ["BertModel"],
        "attention_probs_dropout_prob": 0.0,
        "auto_map": {
            "AutoConfig": "configuration_bert.BertConfig",
            "AutoModel": "bert_layers.BertModel",
            "AutoModelForMaskedLM": "bert_layers.BertForMaskedLM",
            "AutoModelForSequenceClassification": "bert_layers.BertForSequenceClassification",
        },
        "classifier_dropout": None,
        "gradient_checkpointing": False,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "initializer_range": 0.02,
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": 512,
        "model_type": "bert",
        "position_embedding_type": "absolute",
        "torch_dtype": "float32",
        "transformers_version": "4.28.0",
        "type_vocab_size": 2,
        "use_cache": True,
        "vocab_size": len(tokenizer["model"]["vocab"]),
    }
    _write_json(folder / "config.json", config)
    _write_json(folder / "tokenizer.json", tokenizer, sort=False)
    _write_json(folder / "special_tokens_map.json", _DNA_SPECIAL)
    of_class = {"model_max_length": _NO_LIMIT, "tokenizer_class": "PreTrainedTokenizerFast"}
    _write_json(folder / "tokenizer_config.json", {**_DNA_SPECIAL, **of_class, "clean_up_tokenization_spaces": True})
    for module in ("bert_layers", "bert_padding", "configuration_bert", "flash_attn_triton"):
        _write_remote_code(folder / f"{module}.py")
    torch.save(_drawn(_mosaic_bert_shapes(config)), folder / "pytorch_model.bin")


def _write_fastesm2_650(folder: Path, times: int) -> None:
    """Files with line ends of Windows; no position embeddings, no contact head."""
    classes = {"Config": "Config", "Model": "Model"}
    classes |= {
        f"ModelFor{task}": f"For{task}" for task in ("MaskedLM", "SequenceClassification", "TokenClassification")
    }
    config = _esm_config(FASTESM2_650, times) | {
        "_name_or_path": ESM2_650,
        "architectures": ["FastEsmForMaskedLM"],
        "auto_map": {f"Auto{auto}": f"modeling_fastesm.FastEsm{own}" for auto, own in classes.items()},
        "model_type": "fast_esm",
        "transformers_version": "4.47.1",
    }
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    special = [i for i, token in enumerate(_ESM_VOCABULARY) if token in _ESM_SPECIAL.values()]
    added = {str(i): {"content": _ESM_VOCABULARY[i], **flags} for i in special}
    tokenizer = {"added_tokens_decoder": added, "clean_up_tokenization_spaces": True, **_ESM_SPECIAL}
    _write_esm_files(folder, config, tokenizer, newline="\r\n")
    _write_remote_code(folder / "modeling_fastesm.py")
    save_file(_drawn(_esm_shapes(config)), folder / "model.safetensors", metadata={"format": "pt"})


def _write_esm2_650(folder: Path, times: int) -> None:
    """The same weights in two formats, the tied decoder in pytorch_model.bin only."""
    config = _esm_config(ESM2_650, times)
    _write_esm_files(folder, config)
    weights = _drawn(_esm_shapes(config, positions=True, contact_head=True))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    torch.save(_with_decoder(weights), folder / "pytorch_model.bin")


def _write_esm2_3b(folder: Path, times: int) -> None:
    """Two shards, cut inside a layer where the limit of 10 GB cuts the true ones."""
    config = _esm_config(ESM2_3B, times)
    _write_esm_files(folder, config)
    weights = _with_decoder(_drawn(_esm_shapes(config, positions=True, contact_head=True)))
    names = list(weights)
    cut = names.index(f"esm.encoder.layer.{config['num_hidden_layers'] - 1}.output.dense.weight")
    shards = [names[:cut], names[cut:]]
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        file = f"pytorch_model-{number:05}-of-{len(shards):05}.bin"
        torch.save({name: weights[name] for name in shard}, folder / file)
        weight_map |= dict.fromkeys(shard, file)
    metadata = {"total_size": sum(tensor.nbytes for tensor in weights.values())}
    _write_json(folder / "pytorch_model.bin.index.json", {"metadata": metadata, "weight_map": weight_map})


def _sizes(name: str, times: int) -> dict[str, int]:
    hidden, heads = _SIZES[name]
    return {
        "hidden_size": times * hidden,
        "intermediate_size": times * 4 * hidden,
        "num_attention_heads": heads,
        "num_hidden_layers": 2,
    }


def _esm_config(name: str, times: int) -> dict[str, Any]:
    return {
        **_sizes(name, times),
        "_name_or_path": f"/tmp/{name}",
        "architectures": ["EsmForMaskedLM"],
        "attention_probs_dropout_prob": 0.0,
        "classifier_dropout": None,
        "emb_layer_norm_before": False,
        "esmfold_config": None,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "initializer_range": 0.02,
        "is_folding_model": False,
        "layer_norm_eps": 1e-05,
        "mask_token_id": _ESM_VOCABULARY.index("<mask>"),
        "max_position_embeddings": 1026,
        "model_type": "esm",
        "pad_token_id": _ESM_VOCABULARY.index("<pad>"),
        "position_embedding_type": "rotary",
        "token_dropout": True,
        "torch_dtype": "float32",
        "transformers_version": "4.25.0.dev0",
        "use_cache": True,
        "vocab_list": None,
        "vocab_size": len(_ESM_VOCABULARY),
    }


def _write_esm_files(
    folder: Path, config: Mapping[str, Any], tokenizer: Mapping[str, Any] | None = None, newline: str = "\n"
) -> None:
    _write_json(folder / "config.json", config)
    (folder / "vocab.txt").write_bytes(newline.join(_ESM_VOCABULARY).encode())
    _write_json(folder / "special_tokens_map.json", _ESM_SPECIAL, newline)
    of_class = {"model_max_length": _NO_LIMIT, "tokenizer_class": "EsmTokenizer"}
    _write_json(folder / "tokenizer_config.json", {**(tokenizer or {}), **of_class}, newline)


def _esm_shapes(config: Mapping[str, Any], *, positions: bool = False, contact_head: bool = False) -> Shapes:
    """In the order of the module's state dict, which decides where shards are cut."""
    d, wide, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    layers, words, longest = config["num_hidden_layers"], config["vocab_size"], config["max_position_embeddings"]
    found: Shapes = {"esm.embeddings.position_ids": (1, longest)} if positions else {}
    found["esm.embeddings.word_embeddings.weight"] = (words, d)
    if positions:
        found["esm.embeddings.position_embeddings.weight"] = (longest, d)
    for layer in (f"esm.encoder.layer.{i}" for i in range(layers)):
        for part in ("query", "key", "value"):
            found |= _affine(f"{layer}.attention.self.{part}", d, d)
        found[f"{layer}.attention.self.rotary_embeddings.inv_freq"] = (d // heads // 2,)
        found |= {
            **_affine(f"{layer}.attention.output.dense", d, d),
            **_affine(f"{layer}.attention.LayerNorm", d),
            **_affine(f"{layer}.intermediate.dense", wide, d),
            **_affine(f"{layer}.output.dense", d, wide),
            **_affine(f"{layer}.LayerNorm", d),
        }
    found |= _affine("esm.encoder.emb_layer_norm_after", d)
    if contact_head:
        found |= _affine("esm.contact_head.regression", 1, layers * heads)
    return found | {"lm_head.bias": (words,), **_affine("lm_head.dense", d, d), **_affine("lm_head.layer_norm", d)}


def _mosaic_bert_shapes(config: Mapping[str, Any]) -> Shapes:
    d, wide = config["hidden_size"], config["intermediate_size"]
    found: Shapes = {
        "embeddings.word_embeddings.weight": (config["vocab_size"], d),
        "embeddings.token_type_embeddings.weight": (config["type_vocab_size"], d),
        **_affine("embeddings.LayerNorm", d),
    }
    for layer in (f"encoder.layer.{i}" for i in range(config["num_hidden_layers"])):
        found |= {
            **_affine(f"{layer}.attention.self.Wqkv", 3 * d, d),
            **_affine(f"{layer}.attention.output.dense", d, d),
            **_affine(f"{layer}.attention.output.LayerNorm", d),
            f"{layer}.mlp.gated_layers.weight": (2 * wide, d),
            **_affine(f"{layer}.mlp.wo", d, wide),
            **_affine(f"{layer}.mlp.layernorm", d),
        }
    return found | _affine("pooler.dense", d, d)


def _affine(name: str, *shape: int) -> Shapes:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def _drawn(shapes: Shapes) -> dict[str, Tensor]:
    """Products keep the variance of their input, embeddings have variance 1, scales of LayerNorm are around 1."""
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for name, shape in shapes.items():
        if name.endswith("position_ids"):
            weights[name] = torch.arange(math.prod(shape)).view(shape)
        elif name.endswith("inv_freq"):
            weights[name] = 1.0 / 10000 ** (torch.arange(0, 2 * shape[0], 2).float() / (2 * shape[0]))
        elif len(shape) == 1:
            weights[name] = 0.1 * torch.randn(shape, generator=generator) + float(name.endswith("weight"))
        else:
            fan_in = 1 if "embeddings" in name else shape[1]
            weights[name] = torch.randn(shape, generator=generator) / math.sqrt(fan_in)
    return weights


def _with_decoder(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**weights, "lm_head.decoder.weight": weights["esm.embeddings.word_embeddings.weight"]}


def _dna_tokenizer() -> dict[str, Any]:
    """Byte pairs learned from random DNA, saved with truncation to 2,000 and padding to 2,000, merges as strings."""
    cls, sep = _DNA_SPECIAL["cls_token"], _DNA_SPECIAL["sep_token"]
    special = list(_DNA_SPECIAL.values())
    tokenizer = Tokenizer(BPE(unk_token=_DNA_SPECIAL["unk_token"]))
    tokenizer.pre_tokenizer = Whitespace()
    trainer = BpeTrainer(vocab_size=256, special_tokens=special, show_progress=False)
    generator = random.Random(0)
    tokenizer.train_from_iterator(("".join(generator.choices("ACGT", k=100)) for _ in range(100)), trainer)
    ids = [(token, tokenizer.token_to_id(token)) for token in (cls, sep)]
    pair = f"{cls} $A {sep} $B:1 {sep}:1"
    tokenizer.post_processor = TemplateProcessing(single=f"{cls} $A {sep}", pair=pair, special_tokens=ids)
    tokenizer.enable_truncation(2000)
    pad = _DNA_SPECIAL["pad_token"]
    tokenizer.enable_padding(length=2000, pad_id=tokenizer.token_to_id(pad), pad_token=pad)
    saved: dict[str, Any] = json.loads(tokenizer.to_str())
    saved["model"]["merges"] = [" ".join(merge) for merge in saved["model"]["merges"]]
    return saved


def _write_json(path: Path, content: Mapping[str, Any], newline: str = "\n", *, sort: bool = True) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=sort) + "\n", newline=newline)


def _write_remote_code(path: Path) -> None:
    path.write_text(f"raise SystemExit({REMOTE_CODE_WAS_RUN!r})\n")
