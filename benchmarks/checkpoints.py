"""Checkpoint folders in the hub's format with random weights of any size, written tensor by tensor.

Weights are drawn as transformers initializes them: products and embeddings with deviation 0.02, biases 0, scales 1.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from zlib import crc32

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import BertProcessing
from tokenizers.trainers import BpeTrainer
from torch import Tensor

from benchmarks.contenders import Model
from virnuc_assets.encoders.miniature import esm_parameters, mosaic_bert_parameters, write_drawn_checkpoint

_DEVIATION = 0.02
_SHARD_BYTES = 1 << 30
_WEIGHTS = "model.safetensors"
_SPECIAL = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]


def write_checkpoint(folder: Path, model: Model, corpus: Sequence[str]) -> None:
    """Write config, tokenizer and weights.

    Args:
        folder: New folder.
        model: What to draw.
        corpus: Nucleotides from which a nucleotide model's byte pairs are learned.
    """
    folder.mkdir(parents=True)
    write_drawn_checkpoint(folder, folder.name, replace(model.shape, layers=1))  # its config and tokenizer are kept
    (folder / _WEIGHTS).unlink()
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["num_hidden_layers"] = model.shape.layers
    if model.vocabulary:
        config["vocab_size"] = model.vocabulary
        _byte_pairs(corpus, model.vocabulary).save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    dtype = getattr(torch, model.stored)
    _write_shards(folder, ((name, tensor.to(dtype)) for name, tensor in drawn_weights(model)))


def drawn_weights(model: Model) -> Iterator[tuple[str, Tensor]]:
    """Names of the hub and float32 tensors, drawn one at a time; always the same for a name and a shape."""
    shapes = mosaic_bert_parameters(model.shape) if model.vocabulary else esm_parameters(model.shape)
    if model.vocabulary:
        shapes["embeddings.word_embeddings.weight"] = (model.vocabulary, model.shape.hidden)
    for name, shape in shapes.items():
        yield name, _drawn(name, shape)


def _drawn(name: str, shape: tuple[int, ...]) -> Tensor:
    if name.endswith("inv_freq"):
        return 10_000.0 ** -(torch.arange(shape[0], dtype=torch.float32) / shape[0])
    if len(shape) == 1:
        return torch.full(shape, float(name.endswith("weight")))
    generator = torch.Generator().manual_seed(crc32(name.encode()))
    return torch.empty(shape).normal_(0.0, _DEVIATION, generator=generator)


def _write_shards(folder: Path, tensors: Iterable[tuple[str, Tensor]]) -> None:
    shard: dict[str, Tensor] = {}
    weight_map: dict[str, str] = {}
    held = total = count = 0

    def flush() -> None:
        nonlocal held, count
        count += 1
        name = f"model-{count:05d}.safetensors"
        save_file(shard, folder / name, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(shard, name))
        shard.clear()
        held = 0

    for name, tensor in tensors:
        if shard and held + tensor.nbytes > _SHARD_BYTES:
            flush()
        shard[name] = tensor
        held += tensor.nbytes
        total += tensor.nbytes
    flush()
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / f"{_WEIGHTS}.index.json").write_text(json.dumps(index), encoding="utf-8")


def _byte_pairs(corpus: Sequence[str], vocabulary: int) -> Tokenizer:
    """Byte pairs learned from the rows' own genomes, so that a token spans about as many nucleotides as it does."""
    tokenizer = Tokenizer(BPE(unk_token="[UNK]"))  # noqa: S106 - a token of text
    tokenizer.pre_tokenizer = Whitespace()
    trainer = BpeTrainer(vocab_size=vocabulary, special_tokens=_SPECIAL, show_progress=False)
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.post_processor = BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    return tokenizer
