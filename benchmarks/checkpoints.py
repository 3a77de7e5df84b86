"""Checkpoint folders with random weights of any size, made by transformers in the hub's format."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import BertProcessing
from tokenizers.trainers import BpeTrainer
from transformers import EsmConfig, EsmForMaskedLM, EsmTokenizer, PreTrainedTokenizerFast

from benchmarks.contenders import Model
from virnuc_assets.encoders.miniature import ESM_FIELDS, ESM_VOCABULARY
from virnuc_assets.encoders.mosaic_bert import MosaicBertConfig, MosaicBertModel

_SPECIAL = {f"{role}_token": f"[{role.upper()}]" for role in ("unk", "cls", "sep", "pad", "mask")}


def write_checkpoint(folder: Path, model: Model, corpus: Sequence[str]) -> None:
    """Write config, tokenizer and weights.

    Args:
        folder: New folder.
        model: Its size.
        corpus: Nucleotides from which a nucleotide model's byte pairs are learned.
    """
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    shape = {
        "hidden_size": model.shape.hidden,
        "num_hidden_layers": model.shape.layers,
        "num_attention_heads": model.shape.heads,
        "intermediate_size": 4 * model.shape.hidden,
    }
    if not model.byte_pairs:
        config = EsmConfig(**{**ESM_FIELDS, **shape, "vocab_size": len(ESM_VOCABULARY)})
        EsmForMaskedLM(config).save_pretrained(folder)
        words = folder / "vocab.txt"
        words.write_text("\n".join(ESM_VOCABULARY), encoding="utf-8")
        EsmTokenizer(words).save_pretrained(folder)
        return
    config = MosaicBertConfig(vocab_size=model.byte_pairs, type_vocab_size=2, layer_norm_eps=1e-12, **shape)
    config.to_json_file(folder / "config.json")  # save_pretrained wants a config class with defaults for all
    save_file(MosaicBertModel(config).state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
    PreTrainedTokenizerFast(tokenizer_object=_byte_pairs(corpus, model.byte_pairs), **_SPECIAL).save_pretrained(folder)


def _byte_pairs(corpus: Sequence[str], vocabulary: int) -> Tokenizer:
    """Learned from the rows' own genomes, so that a token spans about as many nucleotides as it does in DNABERT-S."""
    special = list(_SPECIAL.values())
    tokenizer = Tokenizer(BPE(unk_token=_SPECIAL["unk_token"]))
    tokenizer.pre_tokenizer = Whitespace()
    trainer = BpeTrainer(vocab_size=vocabulary, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.post_processor = BertProcessing(*((token, special.index(token)) for token in ("[SEP]", "[CLS]")))
    return tokenizer
