"""Tiny twins of the checkpoints, written as ordinary checkpoint folders, the same bytes at every run.

The weights are random, so a miniature shows that the machinery works and says nothing about its model. File formats,
parameter names and config fields are those of the real checkpoints, so that the real loading code reads them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from virnuc_assets.encoders.registry import NUCLEOTIDES, EncoderSpec
from virnuc_assets.storage.atomic import atomic_folder

ESM_VOCABULARY = ("<cls>", "<pad>", "<eos>", "<unk>", *"LAGVSERTIDPKQNFYMHWCXBUZO.-", "<null_1>", "<mask>")
_SEED = 20_240_501
_DNA_SPECIAL = {f"{name}_token": f"[{name.upper()}]" for name in ("unk", "cls", "sep", "pad", "mask")}
ESM_FIELDS = {
    "pad_token_id": ESM_VOCABULARY.index("<pad>"),
    "mask_token_id": ESM_VOCABULARY.index("<mask>"),
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "max_position_embeddings": 1026,
    "layer_norm_eps": 1e-5,
    "position_embedding_type": "rotary",
    "emb_layer_norm_before": False,
    "token_dropout": True,
    "architectures": ["EsmForMaskedLM"],
}
_MOSAIC_BERT = {"type_vocab_size": 2, "layer_norm_eps": 1e-12, "model_type": "bert", "architectures": ["BertModel"]}
# Hidden width, layers and heads: different widths, and a candidate far cheaper than the baseline, as its original is.
_SIZES = {
    "dnabert_s": (48, 2, 6),
    "esm2_8m": (16, 2, 2),
    "esm2_35m": (24, 2, 2),
    "esm2_150m": (28, 2, 2),
    "fastesm2_650": (32, 2, 4),
    "esm2_650": (40, 2, 4),
    "esm2_3b": (64, 4, 8),
}


def write_miniature(spec: EncoderSpec, checkpoints: Path) -> Path:
    """Write a miniature's checkpoint folder unless it is there; returns it."""
    folder = checkpoints / spec.name
    checkpoints.mkdir(parents=True, exist_ok=True)
    with FileLock(checkpoints / ".miniatures.lock"):
        if not folder.exists():
            with atomic_folder(folder) as temporary:
                original = spec.base or spec.name.removesuffix("_miniature")
                write_drawn(temporary, original, *_SIZES[original])
    return folder


def write_drawn(folder: Path, original: str, hidden: int, layers: int, heads: int) -> None:
    """Write a checkpoint with random weights, of the architecture of a published encoder and of this size."""
    from safetensors.numpy import save_file
    from transformers import EsmConfig, EsmForMaskedLM, EsmTokenizer, PreTrainedTokenizerFast

    from virnuc_assets.encoders.mosaic_bert import MosaicBertConfig, MosaicBertModel

    shape = {"hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads}
    shape["intermediate_size"] = 4 * hidden
    if original == "dnabert_s":
        backend = _byte_pairs()
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **_DNA_SPECIAL)
        config = {**shape, "vocab_size": backend.get_vocab_size(), **_MOSAIC_BERT}
        state = MosaicBertModel(MosaicBertConfig(**config)).state_dict()
        heads_only = {"pooler.dense.weight": (hidden, hidden), "pooler.dense.bias": (hidden,)}
    else:
        vocabulary = folder / "vocab.txt"
        vocabulary.write_text("\n".join(ESM_VOCABULARY), encoding="utf-8")
        tokenizer = EsmTokenizer(vocabulary)
        config = {**shape, "vocab_size": len(ESM_VOCABULARY), **ESM_FIELDS}
        config["model_type"] = "fast_esm" if original.startswith("fastesm2") else "esm"
        state = EsmForMaskedLM(EsmConfig(**{**config, "model_type": "esm"})).state_dict()
        del state["lm_head.decoder.weight"]  # tied to the word embeddings
        heads_only = {}
    tokenizer.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    computed = {name: tensor.numpy() for name, tensor in state.items() if name.endswith("inv_freq")}
    shapes = {**{name: tuple(tensor.shape) for name, tensor in state.items()}, **heads_only}
    weights = {**_drawn_weights(f"{original}_miniature", shapes), **computed}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _drawn_weights(name: str, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, NDArray[np.float32]]:
    """Weights by numpy's own generator, in the order of their names, so that torch's cannot change them."""
    generator = np.random.Generator(np.random.PCG64([_SEED, *name.encode()]))
    weights = {}
    for parameter in sorted(name for name in shapes if not name.endswith("inv_freq")):
        shape = shapes[parameter]
        drawn = generator.standard_normal(shape, dtype=np.float32)
        if len(shape) == 1:  # biases around 0, the scales of layer normalizations around 1
            weights[parameter] = np.float32(0.1) * drawn + np.float32(parameter.endswith("weight"))
        else:  # products keep the variance of what goes in, and tokens are far apart
            fan_in = 1 if "embeddings" in parameter else shape[1]
            weights[parameter] = drawn / np.float32(math.sqrt(fan_in))
    return weights


def _byte_pairs() -> Any:  # noqa: ANN401
    """A tokenizer in the form of DNABERT-2's; its words are all of 1, 2 and 4 nucleotides."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    pairs = ["".join(pair) for pair in product(NUCLEOTIDES, repeat=2)]
    merges = [(a, b) for a, b in product(NUCLEOTIDES, repeat=2)] + [(a, b) for a, b in product(pairs, repeat=2)]
    special = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]
    words = [*special, *NUCLEOTIDES, *(a + b for a, b in merges)]
    tokenizer = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, merges, unk_token="[UNK]"))  # noqa: S106
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    tokenizer.add_special_tokens(special)
    return tokenizer
