"""fair-esm's ESM2 files (`esm2_t36_3B_UR50D.pt`) as ordinary checkpoint folders of transformers.

File format: `_load_model_and_alphabet_core_v2` in esm/pretrained.py of fair-esm 2.0.0.
"""

from __future__ import annotations

import json
import pickle
import zipfile
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from safetensors import SafetensorError
from torch import Tensor
from transformers import EsmConfig, EsmForMaskedLM

from virnuc_assets.encoders.checkpoints import CONFIG_FILE
from virnuc_assets.encoders.miniature import ESM_FIELDS, ESM_VOCABULARY
from virnuc_assets.errors import VirnucError
from virnuc_assets.storage.atomic import atomic_folder

# Parts of a parameter's name in fair-esm and in EsmForMaskedLM, replaced in this order.
_RENAMED = {
    "encoder.sentence_encoder.": "",
    "encoder.lm_head.": "lm_head.",
    "lm_head.weight": "lm_head.decoder.weight",
    "embed_tokens.": "esm.embeddings.word_embeddings.",
    "emb_layer_norm_after.": "esm.encoder.emb_layer_norm_after.",
    "contact_head.": "esm.contact_head.",
    "layers.": "esm.encoder.layer.",
    ".self_attn.q_proj.": ".attention.self.query.",
    ".self_attn.k_proj.": ".attention.self.key.",
    ".self_attn.v_proj.": ".attention.self.value.",
    ".self_attn.rot_emb.": ".attention.self.rotary_embeddings.",
    ".self_attn.out_proj.": ".attention.output.dense.",
    ".self_attn_layer_norm.": ".attention.LayerNorm.",
    ".fc1.": ".intermediate.dense.",
    ".fc2.": ".output.dense.",
    ".final_layer_norm.": ".LayerNorm.",
}
_EMBEDDING, _DECODER = "esm.embeddings.word_embeddings.weight", "lm_head.decoder.weight"
_SHOWN = 1_000  # characters of torch's list of parameters
# What torch raises for a pickle that is more than plain data, or damaged.
_UNREADABLE = (pickle.UnpicklingError, RuntimeError, ValueError, TypeError, LookupError, AttributeError, EOFError)


class FairEsmError(VirnucError):
    """A file is not an intact ESM2 checkpoint of fair-esm, or cannot be converted; nothing of it was executed."""


def convert_fair_esm(file: Path, folder: Path) -> Path:
    """Write fair-esm's ESM2 checkpoint as a folder that `EsmModel.from_pretrained` loads, or nothing.

    The folder holds the same bytes at every run, whichever version of transformers is installed. Every tensor keeps its
    dtype, and is mapped from the file rather than copied to memory.
    """
    fields, weights = _fields_and_weights(file, _content(file))
    _check(file, EsmConfig(**fields), weights)
    fields["torch_dtype"] = str(weights[_EMBEDDING].dtype).removeprefix("torch.")
    del weights[_DECODER]  # transformers ties it to the embeddings
    with atomic_folder(folder) as partial:
        (partial / "vocab.txt").write_text("\n".join(ESM_VOCABULARY), encoding="utf-8")
        for name, content in ((CONFIG_FILE, fields), ("tokenizer_config.json", {"tokenizer_class": "EsmTokenizer"})):
            (partial / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        try:
            save_torch_state_dict(weights, partial)
        except SafetensorError as error:  # also of a full disk, where others raise OSError
            raise FairEsmError(f"{folder}: cannot write the weights of {file}: {error}") from error
    return folder


def _refused(file: Path, found: str) -> FairEsmError:
    return FairEsmError(
        f"{file}: {found}. Expected: an ESM2 checkpoint of fair-esm, such as esm2_t36_3B_UR50D.pt. Nothing of the file "
        "was executed. Get an intact copy, or remove `file` from [checkpoints] in virnuc.toml: `virnuc setup` then "
        "downloads the checkpoint from the hub."
    )


def _content(file: Path) -> object:
    """What torch.save wrote: plain values, argparse.Namespace, and tensors mapped from the file."""
    try:
        with zipfile.ZipFile(file) as archive:
            damaged = archive.testzip()  # torch does not compare checksums
    except (zipfile.BadZipFile, OSError) as error:
        raise _refused(file, f"missing, cut off, or no zip file of torch.save ({error})") from error
    if damaged:
        raise _refused(file, f"damaged: wrong checksum of {damaged}")
    with torch.serialization.safe_globals([Namespace]):
        try:
            unsafe = torch.serialization.get_unsafe_globals_in_checkpoint(str(file))
            content: object = None if unsafe else torch.load(file, "cpu", mmap=True, weights_only=True)
        except _UNREADABLE as error:
            raise _refused(file, f"not plain data of torch.save ({type(error).__name__})") from error
    if unsafe:
        raise _refused(file, f"names {', '.join(sorted(unsafe))}, and is more than plain data")
    return content


def _fields_and_weights(file: Path, content: object) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The fields of the hub's config.json, and the tensors by their names in EsmForMaskedLM."""
    match content:
        case {
            "cfg": {
                "model": Namespace(
                    encoder_layers=int(layers),
                    encoder_embed_dim=int(width),
                    encoder_attention_heads=int(heads),
                    token_dropout=bool(token_dropout),
                )
            },
            "model": dict(state),
        }:
            weights = {hub_name(str(name)): tensor for name, tensor in state.items() if isinstance(tensor, Tensor)}
        case {"args": Namespace(arch=architecture)}:
            raise _refused(file, f"holds the architecture {architecture!r} (ESM-1, ESM-1b, MSA, ...), which is no ESM2")
        case _:
            raise _refused(file, "lacks `model`, or `cfg.model` with encoder_layers and the other options of an ESM2")
    shape = {"num_hidden_layers": layers, "hidden_size": width, "num_attention_heads": heads}
    shape |= {"intermediate_size": 4 * width, "vocab_size": len(ESM_VOCABULARY)}
    return {**ESM_FIELDS, **shape, "model_type": "esm", "token_dropout": token_dropout}, weights


def hub_name(name: str) -> str:
    """The name in EsmForMaskedLM of a parameter of fair-esm's ESM2."""
    for fair_esm, transformers in _RENAMED.items():
        name = name.replace(fair_esm, transformers)
    return name


def _check(file: Path, config: EsmConfig, weights: dict[str, Tensor]) -> None:
    """Compare names and shapes with those of transformers' model; the number of heads shows in inv_freq."""
    with torch.device("meta"):
        model = EsmForMaskedLM(config)
    # fair-esm publishes the contact head as a file of its own.
    heads = {name: each for name, each in model.state_dict().items() if name.startswith("esm.contact_head.")}
    try:
        model.load_state_dict({**heads, **weights}, assign=True)
    except RuntimeError as error:
        raise _refused(file, f"parameters do not fit its options: {str(error)[:_SHOWN]}") from error
    if not torch.equal(weights[_DECODER], weights[_EMBEDDING]):
        raise _refused(file, "lm_head.weight differs from embed_tokens.weight, which ESM2 ties to it")
