"""Tiny twins of the checkpoints, written as ordinary checkpoint folders, the same bytes at every run.

The weights are random, so a miniature shows that the machinery works and says nothing about its model. Names,
file formats and config fields are those of the real checkpoints, so that the real loading code reads them.
"""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from transformers import EsmConfig, EsmForMaskedLM

from virnuc_assets.encoders.alphabet import NUCLEOTIDES
from virnuc_assets.encoders.mosaic_bert import MosaicBert, MosaicBertConfig
from virnuc_assets.encoders.registry import EncoderSpec
from virnuc_assets.errors import VirnucError

_SEED = 20_240_501
_ESM_VOCABULARY = ["<cls>", "<pad>", "<eos>", "<unk>", *"LAGVSERTIDPKQNFYMHWCXBUZO.-", "<null_1>", "<mask>"]
_ESM_SPECIAL = {"cls_token": "<cls>", "eos_token": "<eos>", "mask_token": "<mask>", "pad_token": "<pad>"}
_DNA_SPECIAL = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"}


@dataclass(frozen=True)
class _Shape:
    hidden: int
    layers: int
    heads: int
    model_type: str


# Four different widths; the candidate is far cheaper than the baseline, as its original is.
_SHAPES = {
    "dnabert_s_miniature": _Shape(hidden=48, layers=2, heads=6, model_type="bert"),
    "fastesm2_650_miniature": _Shape(hidden=32, layers=2, heads=4, model_type="fast_esm"),
    "esm2_650_miniature": _Shape(hidden=40, layers=2, heads=4, model_type="esm"),
    "esm2_3b_miniature": _Shape(hidden=64, layers=4, heads=8, model_type="esm"),
}


def write_miniature(spec: EncoderSpec, checkpoints: Path) -> Path:
    """Write a miniature's checkpoint folder unless it is there; aside first, then renamed.

    Args:
        spec: A miniature of the registry.
        checkpoints: Folder that gets the folder `spec.name`.

    Returns:
        The checkpoint folder.

    Raises:
        VirnucError: there is no recipe for this name.
    """
    if spec.name not in _SHAPES:
        raise VirnucError(f"no miniature is called {spec.name!r}; there are: {', '.join(sorted(_SHAPES))}")
    folder = checkpoints / spec.name
    if not folder.exists():
        checkpoints.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{spec.name}-", dir=checkpoints))
        aside.chmod(0o755)
        _write(spec, aside)
        try:
            aside.rename(folder)
        except OSError:
            if not folder.exists():  # otherwise another process was first, with the same bytes
                raise
            shutil.rmtree(aside)
    return folder


def _write(spec: EncoderSpec, folder: Path) -> None:
    shape = _SHAPES[spec.name]
    if spec.architecture == "esm":
        config, given = _esm_parameters(shape)
        (folder / "vocab.txt").write_text("\n".join(_ESM_VOCABULARY), encoding="utf-8")
        special, tokenizer_class = {**_ESM_SPECIAL, "unk_token": "<unk>"}, "EsmTokenizer"
    else:
        config, given = _mosaic_bert_parameters(shape)
        _write_json(folder / "tokenizer.json", _bpe_tokenizer())
        special, tokenizer_class = {**_DNA_SPECIAL, "mask_token": "[MASK]"}, "PreTrainedTokenizerFast"
    _write_json(folder / "config.json", config)
    _write_json(folder / "special_tokens_map.json", special)
    _write_json(folder / "tokenizer_config.json", {**special, "tokenizer_class": tokenizer_class})
    save_file(_random_weights(spec.name, given), folder / "model.safetensors", metadata={"format": "pt"})


def _esm_parameters(shape: _Shape) -> tuple[dict[str, Any], dict[str, NDArray[np.float32]]]:
    config = {
        "vocab_size": len(_ESM_VOCABULARY),
        "pad_token_id": _ESM_VOCABULARY.index("<pad>"),
        "mask_token_id": _ESM_VOCABULARY.index("<mask>"),
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "intermediate_size": 4 * shape.hidden,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "max_position_embeddings": 1026,
        "layer_norm_eps": 1e-5,
        "position_embedding_type": "rotary",
        "emb_layer_norm_before": False,
        "token_dropout": True,
    }
    given = {name: tensor.numpy() for name, tensor in EsmForMaskedLM(EsmConfig(**config)).state_dict().items()}
    del given["lm_head.decoder.weight"]  # tied to the word embeddings, and not stored in the originals either
    return {**config, "model_type": shape.model_type, "architectures": ["EsmForMaskedLM"]}, given


def _mosaic_bert_parameters(shape: _Shape) -> tuple[dict[str, Any], dict[str, NDArray[np.float32]]]:
    config = MosaicBertConfig(
        vocab_size=len(_bpe_tokenizer()["model"]["vocab"]),
        type_vocab_size=2,
        hidden_size=shape.hidden,
        intermediate_size=4 * shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        layer_norm_eps=1e-12,
    )
    given = {name: tensor.numpy() for name, tensor in MosaicBert(config).state_dict().items()}
    given["pooler.dense.weight"] = np.empty((shape.hidden, shape.hidden), np.float32)
    given["pooler.dense.bias"] = np.empty(shape.hidden, np.float32)
    return {**asdict(config), "model_type": shape.model_type, "architectures": ["BertModel"]}, given


def _bpe_tokenizer() -> dict[str, Any]:
    """`tokenizer.json` in the form of DNABERT-2's; its words are all of 1, 2 and 4 nucleotides."""
    pairs = ["".join(pair) for pair in product(NUCLEOTIDES, repeat=2)]
    merges = [(a, b) for a, b in product(NUCLEOTIDES, repeat=2)] + [(a, b) for a, b in product(pairs, repeat=2)]
    special = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]
    words = [*special, *NUCLEOTIDES, *(a + b for a, b in merges)]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, "content": token, **flags} for i, token in enumerate(special)],
        "normalizer": None,
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 2], "cls": ["[CLS]", 1]},
        "decoder": None,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "[UNK]",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "vocab": {word: i for i, word in enumerate(words)},
            "merges": [list(merge) for merge in merges],
        },
    }


def _random_weights(name: str, given: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
    """Weights by numpy's own generator, in the order of their names, so that torch's cannot change them."""
    generator = np.random.Generator(np.random.PCG64([_SEED, *name.encode()]))
    weights = {}
    for parameter, shaped in sorted(given.items()):
        if parameter.endswith("inv_freq"):
            weights[parameter] = shaped  # rotary frequencies are computed, not learned
            continue
        drawn = generator.standard_normal(shaped.shape, dtype=np.float32)
        if shaped.ndim == 1:  # biases around 0, the scales of layer normalizations around 1
            weights[parameter] = np.float32(0.1) * drawn + np.float32(parameter.endswith("weight"))
        else:  # products keep the variance of what goes in, and tokens lie far apart
            fan_in = 1 if "embeddings" in parameter else shaped.shape[1]
            weights[parameter] = drawn / np.float32(math.sqrt(fan_in))
    return weights


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
