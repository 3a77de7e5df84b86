"""Tiny twins of the checkpoints, written as ordinary checkpoint folders, the same bytes at every run.

The weights are random, so a miniature shows that the machinery works and says nothing about its model. Names,
file formats and config fields are those of the real checkpoints, so that the real loading code reads them; the
names are stated here once more, apart from the modules that load them.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from virnuc_assets.encoders.alphabet import NUCLEOTIDES
from virnuc_assets.encoders.registry import EncoderSpec
from virnuc_assets.errors import VirnucError

ParameterShapes = dict[str, tuple[int, ...]]

_SEED = 20_240_501
_ESM_VOCABULARY = ["<cls>", "<pad>", "<eos>", "<unk>", *"LAGVSERTIDPKQNFYMHWCXBUZO.-", "<null_1>", "<mask>"]
_ESM_SPECIAL = {"cls_token": "<cls>", "eos_token": "<eos>", "mask_token": "<mask>", "pad_token": "<pad>"}
_DNA_SPECIAL = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"}


@dataclass(frozen=True)
class Shape:
    """Size of a checkpoint that is drawn; the feed-forward layer is four times as wide as the hidden states.

    Attributes:
        hidden: Width of the hidden states.
        layers: Count of layers.
        heads: Attention heads, a divisor of `hidden`.
        model_type: As in `config.json`; "bert" is a MosaicBERT, everything else an ESM.
    """

    hidden: int
    layers: int
    heads: int
    model_type: str


# Four different widths; the candidate is far cheaper than the baseline, as its original is.
_SHAPES = {
    "dnabert_s_miniature": Shape(hidden=48, layers=2, heads=6, model_type="bert"),
    "fastesm2_650_miniature": Shape(hidden=32, layers=2, heads=4, model_type="fast_esm"),
    "esm2_650_miniature": Shape(hidden=40, layers=2, heads=4, model_type="esm"),
    "esm2_3b_miniature": Shape(hidden=64, layers=4, heads=8, model_type="esm"),
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
        aside = Path(tempfile.mkdtemp(prefix=f".{spec.name}.{os.getpid()}.", suffix=".partial", dir=checkpoints))
        aside.chmod(0o755)
        write_drawn_checkpoint(aside, spec.name, _SHAPES[spec.name])
        try:
            aside.rename(folder)
        except OSError:
            if not folder.exists():  # otherwise another process was first, with the same bytes
                raise
            shutil.rmtree(aside)
    return folder


def write_drawn_checkpoint(folder: Path, name: str, shape: Shape) -> None:
    """Write a checkpoint of any size with weights drawn by rule: config, tokenizer and `model.safetensors`.

    Args:
        folder: Existing folder that gets the files.
        name: Seeds the weights: the same name and shape give the same bytes.
        shape: Size and kind of the model.
    """
    if shape.model_type == "bert":
        config, shapes = _mosaic_bert_config(shape), mosaic_bert_parameters(shape)
        _write_json(folder / "tokenizer.json", _bpe_tokenizer())
        special, tokenizer_class = {**_DNA_SPECIAL, "mask_token": "[MASK]"}, "PreTrainedTokenizerFast"
    else:
        config, shapes = _esm_config(shape), esm_parameters(shape)
        (folder / "vocab.txt").write_text("\n".join(_ESM_VOCABULARY), encoding="utf-8")
        special, tokenizer_class = {**_ESM_SPECIAL, "unk_token": "<unk>"}, "EsmTokenizer"
    _write_json(folder / "config.json", config)
    _write_json(folder / "special_tokens_map.json", special)
    _write_json(folder / "tokenizer_config.json", {**special, "tokenizer_class": tokenizer_class})
    save_file(_drawn_weights(name, shapes), folder / "model.safetensors", metadata={"format": "pt"})


def _esm_config(shape: Shape) -> dict[str, Any]:
    return {
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
        "model_type": shape.model_type,
        "architectures": ["EsmForMaskedLM"],
    }


def esm_parameters(shape: Shape) -> ParameterShapes:
    """Names and shapes in the hub's ESM checkpoints.

    Left out as in the originals: the head's decoder, which is tied to the word embeddings.
    """
    d, words = shape.hidden, len(_ESM_VOCABULARY)
    found: ParameterShapes = {
        "esm.embeddings.word_embeddings.weight": (words, d),
        **_normalization("esm.encoder.emb_layer_norm_after", d),
        **_linear("esm.contact_head.regression", 1, shape.layers * shape.heads),
        "lm_head.bias": (words,),
        **_linear("lm_head.dense", d, d),
        **_normalization("lm_head.layer_norm", d),
    }
    for layer in (f"esm.encoder.layer.{i}" for i in range(shape.layers)):
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            found |= _linear(f"{layer}.attention.{part}", d, d)
        found |= {
            f"{layer}.attention.self.rotary_embeddings.inv_freq": (d // shape.heads // 2,),
            **_normalization(f"{layer}.attention.LayerNorm", d),
            **_linear(f"{layer}.intermediate.dense", 4 * d, d),
            **_linear(f"{layer}.output.dense", d, 4 * d),
            **_normalization(f"{layer}.LayerNorm", d),
        }
    return found


def _mosaic_bert_config(shape: Shape) -> dict[str, Any]:
    return {
        "vocab_size": len(_bpe_tokenizer()["model"]["vocab"]),
        "type_vocab_size": 2,
        "hidden_size": shape.hidden,
        "intermediate_size": 4 * shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "layer_norm_eps": 1e-12,
        "model_type": shape.model_type,
        "architectures": ["BertModel"],
    }


def mosaic_bert_parameters(shape: Shape) -> ParameterShapes:
    """Names and shapes in DNABERT-S's checkpoint, the pooler included, which no embedding passes through."""
    d = shape.hidden
    found: ParameterShapes = {
        "embeddings.word_embeddings.weight": (len(_bpe_tokenizer()["model"]["vocab"]), d),
        "embeddings.token_type_embeddings.weight": (2, d),
        **_normalization("embeddings.LayerNorm", d),
        **_linear("pooler.dense", d, d),
    }
    for layer in (f"encoder.layer.{i}" for i in range(shape.layers)):
        found |= {
            **_linear(f"{layer}.attention.self.Wqkv", 3 * d, d),
            **_linear(f"{layer}.attention.output.dense", d, d),
            **_normalization(f"{layer}.attention.output.LayerNorm", d),
            f"{layer}.mlp.gated_layers.weight": (2 * 4 * d, d),
            **_linear(f"{layer}.mlp.wo", d, 4 * d),
            **_normalization(f"{layer}.mlp.layernorm", d),
        }
    return found


def _linear(name: str, width_out: int, width_in: int) -> ParameterShapes:
    return {f"{name}.weight": (width_out, width_in), f"{name}.bias": (width_out,)}


def _normalization(name: str, width: int) -> ParameterShapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


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


def _drawn_weights(name: str, shapes: ParameterShapes) -> dict[str, NDArray[np.float32]]:
    """Weights by numpy's own generator, in the order of their names, so that torch's cannot change them."""
    generator = np.random.Generator(np.random.PCG64([_SEED, *name.encode()]))
    weights = {}
    for parameter, shape in sorted(shapes.items()):
        if parameter.endswith("inv_freq"):
            weights[parameter] = _rotary_frequencies(shape[0])
            continue
        drawn = generator.standard_normal(shape, dtype=np.float32)
        if len(shape) == 1:  # biases around 0, the scales of layer normalizations around 1
            weights[parameter] = np.float32(0.1) * drawn + np.float32(parameter.endswith("weight"))
        else:  # products keep the variance of what goes in, and tokens lie far apart
            fan_in = 1 if "embeddings" in parameter else shape[1]
            weights[parameter] = drawn / np.float32(math.sqrt(fan_in))
    return weights


def _rotary_frequencies(count: int) -> NDArray[np.float32]:
    """1 / 10000^(i / count), computed and not learned; rounded to fp32 after each step, as the originals are."""
    exponents = np.arange(count, dtype=np.float32) / np.float32(count)
    return np.float32(1) / (10000.0 ** exponents.astype(np.float64)).astype(np.float32)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
