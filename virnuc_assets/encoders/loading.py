"""From a registry row to an encoder that turns sequences into token ids and token ids into pooled vectors.

Models are loaded by transformers from folders on this machine: no remote code, no network, weights only.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor, nn

from virnuc_assets.encoders.checkpoints import CONFIG_FILE, CheckpointError, find_checkpoint, fingerprint, read_json
from virnuc_assets.encoders.machine import give_freed_memory_back, prepare_cpu, resolve_device
from virnuc_assets.encoders.registry import AMINO_ACIDS, NUCLEOTIDES, Architecture, EncoderSpec, Pooling
from virnuc_assets.sequences.composition import WIDTHS
from virnuc_assets.settings import EncodingSettings, Precision

TokenIds = NDArray[np.int64]
Tokenize = Callable[[Sequence[str]], list[TokenIds]]

DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# Tokens in a batch with token_budget "auto": on a CPU so few that a layer's temporaries stay in its caches; on a GPU so
# many that it is busy, halved where its memory runs out. The GPU's number was not measured.
CPU_TOKENS, GPU_TOKENS = 2_048, 65_536
# Byte pairs make some fifty lengths of chunks that are equally long; only many rows at once fill a batch of one.
_WINDOW_BATCHES: dict[Architecture, int] = {"esm": 8, "mosaic_bert": 64}
_TOKENS_OF_A_ROW = 128  # of the order of a frame's
# Fields of config.json for which transformers would fill in a default of its own, and so other numbers.
_FIELDS = (
    *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"),
    "layer_norm_eps",
)
_MORE_FIELDS: dict[Architecture, str] = {"esm": "token_dropout", "mosaic_bert": "type_vocab_size"}
_ESM2 = {"model_type": ("esm", "fast_esm"), "position_embedding_type": ("rotary",), "emb_layer_norm_before": (False,)}
_EXPECTED: dict[Architecture, dict[str, Any]] = {"esm": _ESM2, "mosaic_bert": {"model_type": ("bert",)}}
# Heads that an encoder does not run, and what transformers computes by itself.
_HEADS = ("contact_head.", "lm_head.", "pooler.", "cls.", "embeddings.position_")
_COMPUTED = "rotary_embeddings.inv_freq"
# What the readers of weights raise over bytes that they cannot read; torch's unpickler fails in many ways.
_DAMAGED = (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError, TypeError, LookupError)


class Encoder:
    """A model with its tokenization and its pooling."""

    def __init__(self, spec: EncoderSpec, model: nn.Module, tokenize: Tokenize, left_out: Sequence[int]) -> None:
        self.spec, self.tokenize, self._model = spec, tokenize, model
        self.device = next(tensor.device for tensor in (*model.parameters(), *model.buffers()))
        self.on_gpu = self.device.type == "cuda"
        self.dim = int(model.config.hidden_size)  # type: ignore[union-attr,arg-type]
        self.fingerprint: dict[str, str] = {}
        self._left_out = torch.tensor(left_out, device=self.device)
        self.limit_batches(GPU_TOKENS if self.on_gpu else CPU_TOKENS)

    def limit_batches(self, tokens: int) -> None:
        """Set the token budget and, from it, the rows that are read, embedded and written at a time."""
        self.token_budget = tokens  # of a batch; halved when the device's memory runs out
        rows = _WINDOW_BATCHES[self.spec.architecture] * min(tokens, CPU_TOKENS * 8) // _TOKENS_OF_A_ROW
        self.window_rows = max(rows, 1)

    @torch.no_grad()
    def forward(self, token_ids: Tensor) -> Tensor:
        """Pooled vectors (b, d) float32 of sequences with equally many tokens, (b, l) int64 on the encoder's device."""
        hidden = self._model(token_ids)  # (b, l, d)
        return mean_pool(hidden, torch.isin(token_ids, self._left_out, invert=True))

    def halve_budget(self, token_ids: Tensor) -> None:
        """Make later batches half as large as this one, for which memory ran out; of a single row that is an error."""
        rows, length = token_ids.shape
        if rows == 1:
            raise torch.OutOfMemoryError(
                f"{self.spec.name}: not even one sequence of {length} tokens fits into the memory of {self.device}; "
                "end what else uses it, or set precision or device under [encoding] in virnuc.toml"
            )
        self.token_budget = rows * length // 2
        if self.on_gpu:
            torch.cuda.empty_cache()


def mean_pool(hidden: Tensor, keep: Tensor) -> Tensor:
    """Mean of (b, l, d) over the tokens that (b, l) keeps: (b, d) in fp32 whatever the model's precision, 0 of none."""
    weights = keep.unsqueeze(-1).float()  # (b, l, 1)
    total = (hidden.float() * weights).sum(dim=1)  # (b, d)
    return total / weights.sum(dim=1).clamp(min=1.0)


def load_encoder(spec: EncoderSpec, checkpoints: Path, encoding: EncodingSettings) -> Encoder:
    """Load an encoder, as virnuc.lock has it, onto its device in its precision.

    Raises:
        CheckpointMissingError: the weights are not on this machine.
        CheckpointError: they are incomplete, altered, or belong to another architecture.
    """
    prepare_cpu()
    device = resolve_device(encoding.device)
    folder = find_checkpoint(spec, checkpoints)
    if folder is None:
        raise CheckpointError(f"{spec.name} is no language model: the k-mer variant reads chunks, not single sequences")
    encoder = load_folder(spec, folder, DTYPES[encoding.precision], device)
    encoder.fingerprint = fingerprint(spec, folder, encoding.precision)
    if isinstance(encoding.token_budget, int):
        encoder.limit_batches(encoding.token_budget)
    give_freed_memory_back()
    return encoder


def vector_width(spec: EncoderSpec, folder: Path | None) -> int:
    """Width of an encoder's vectors, without loading it."""
    return WIDTHS[spec.alphabet] if folder is None else int(read_json(folder / CONFIG_FILE)["hidden_size"])


def load_folder(spec: EncoderSpec, folder: Path, dtype: torch.dtype, device: torch.device) -> Encoder:
    """Load an encoder from a checkpoint folder; set-up checks a folder by it, too."""
    tokenizer = load_tokenizer(folder)
    model = load_model(spec, folder, dtype)
    if len(tokenizer) > model.config.vocab_size:
        raise CheckpointError(f"{folder}: {len(tokenizer)} tokens, but {CONFIG_FILE} has {model.config.vocab_size}")
    residues = NUCLEOTIDES if spec.alphabet == "dna" else AMINO_ACIDS
    if unknown := set(residues) - tokenizer.get_vocab().keys():
        raise CheckpointError(f"{folder}: the vocabulary lacks {', '.join(sorted(unknown))}; copy it again")
    if spec.architecture == "esm":
        model = model.fuse()
    model.eval().requires_grad_(False).to(device)
    return Encoder(spec, model, tokenization(spec, tokenizer), _left_out(tokenizer, spec.pooling))


def load_model(spec: EncoderSpec, folder: Path, dtype: torch.dtype, attention: str = "sdpa") -> Any:  # noqa: ANN401
    """The model (`LeanEsm` as it comes, or `MosaicBertModel`) with every parameter from the folder.

    Attention is "sdpa", or "eager", which gives attention weights. Misfits are all listed in one CheckpointError.
    """
    from transformers import EsmConfig
    from transformers.utils import logging

    from virnuc_assets.encoders.esm import LeanEsm
    from virnuc_assets.encoders.mosaic_bert import MosaicBertConfig, MosaicBertModel

    logging.set_verbosity_error()  # what is missing or unexpected becomes an error here
    logging.disable_progress_bar()  # of shards
    is_esm = spec.architecture == "esm"
    config = (EsmConfig if is_esm else MosaicBertConfig)(**_config_fields(spec, folder))
    if spec.token_dropout is not None:
        config.token_dropout = spec.token_dropout
    try:
        model, found = (LeanEsm if is_esm else MosaicBertModel).from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            attn_implementation=attention,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are listed, with all other faults
            local_files_only=True,
            weights_only=True,
            **({"add_pooling_layer": False} if is_esm else {}),
        )
    except (*_DAMAGED, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise CheckpointError(
            f"{folder}: damaged weights ({reason}); run `virnuc setup --encoder {spec.name}`"
        ) from error
    _refuse_misfits(folder, model, found)
    return model


def load_tokenizer(folder: Path) -> Any:  # noqa: ANN401 - transformers has no types
    """The tokenizer of a checkpoint, from its own files."""
    from transformers import EsmTokenizer, PreTrainedTokenizerFast

    kind = EsmTokenizer if (folder / "vocab.txt").is_file() else PreTrainedTokenizerFast
    try:
        return kind.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # noqa: BLE001 - as tokenizers raises them
        raise CheckpointError(f"{folder}: damaged tokenizer files ({error})") from error


def _config_fields(spec: EncoderSpec, folder: Path) -> dict[str, Any]:
    """All of config.json; that of another architecture, and one that lacks what shapes the model, are refused."""
    path, fields = folder / CONFIG_FILE, read_json(folder / CONFIG_FILE)
    for name, expected in _EXPECTED[spec.architecture].items():
        if fields.get(name) not in expected:
            raise CheckpointError(
                f"{path}: {name} is {fields.get(name)!r}, expected {' or '.join(map(repr, expected))}; this checkpoint "
                "belongs to another architecture"
            )
    if missing := [name for name in (*_FIELDS, _MORE_FIELDS[spec.architecture]) if name not in fields]:
        raise CheckpointError(f"{path}: lacks {', '.join(missing)}")
    return {name: value for name, value in fields.items() if name not in ("model_type", "auto_map", "torch_dtype")}


def _refuse_misfits(folder: Path, model: nn.Module, found: dict[str, Any]) -> None:
    def is_used(name: str) -> bool:
        return not name.startswith(_HEADS) and not name.endswith(_COMPUTED)

    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    faults = [f"missing: {name}" for name in found["missing_keys"] if is_used(name)]
    faults += [f"unexpected: {name}" for name in found["unexpected_keys"] if is_used(name)]
    faults += [
        f"other shape than {shapes[name]}: {name}"
        for name in found["mismatched_keys"]
        if not name.startswith(_HEADS)  # stored frequencies are of as many heads as the model has
    ]
    faults += found["error_msgs"]
    if faults:
        raise CheckpointError(f"{folder}: {len(faults)} parameters do not fit:\n  " + "\n  ".join(sorted(faults)))


def tokenization(spec: EncoderSpec, tokenizer: Any) -> Tokenize:  # noqa: ANN401
    """Sequences to token ids, as the checkpoint's tokenizer gives them, but never truncated or padded."""
    if spec.architecture == "esm":
        return residues_to_ids(tokenizer)
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    return lambda sequences: [np.array(each.ids, np.int64) for each in backend.encode_batch_fast(list(sequences))]


def residues_to_ids(tokenizer: Any) -> Tokenize:  # noqa: ANN401
    """One token a residue between BOS and EOS; a letter that the vocabulary lacks (J) is the unknown token.

    As EsmTokenizer does, at a hundred times its 2,000 proteins a second, which would keep a GPU waiting.
    """
    table = np.full(256, tokenizer.unk_token_id, dtype=np.int64)
    for token, index in tokenizer.get_vocab().items():
        if len(token) == 1:
            table[ord(token)] = index
    begin, end = [tokenizer.cls_token_id], [tokenizer.eos_token_id]

    def tokenize(sequences: Sequence[str]) -> list[TokenIds]:
        residues = (np.frombuffer(sequence.encode("ascii"), dtype=np.uint8) for sequence in sequences)
        return [np.concatenate([begin, table[each], end]) for each in residues]

    return tokenize


def _left_out(tokenizer: Any, pooling: Pooling) -> list[int]:  # noqa: ANN401
    """Ids of the special tokens that the mean leaves out."""
    names = ("pad",) if pooling == "tokens" else ("cls", "eos" if tokenizer.eos_token else "sep", "pad")
    ids = [getattr(tokenizer, f"{name}_token_id") for name in names]
    if None in ids:
        raise CheckpointError(f"{tokenizer.name_or_path}: the tokenizer lacks one of the tokens {', '.join(names)}")
    return ids
