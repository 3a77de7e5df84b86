"""Encoders compared: ours, transformers, fair-esm, and DNABERT-S one by one, in each native precision.

Rows are a seeded sample of the bundled genomes' frames (chunks of 500 nt, proteins of about 166 aa). Weights are
random and of true size. The contenders of a comparison are loaded at the same time and run in alternate order, each in
a process of its own: a ratio is that of one round, and its median, least and greatest are reported.
"""

from __future__ import annotations

import argparse
import re
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from joblib import cpu_count
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import BertProcessing
from tokenizers.trainers import BpeTrainer
from transformers import EsmConfig, EsmForMaskedLM, EsmTokenizer, PreTrainedTokenizerFast

from benchmarks import originals
from benchmarks.common import CONSOLE, GENOMES, Figures, fresh_process, options, publish, write
from virnuc_assets.cli.single_file import Framed
from virnuc_assets.encoders.embedding import embed
from virnuc_assets.encoders.loading import CPU_TOKENS, DTYPES, GPU_TOKENS, Encoder, load_encoder
from virnuc_assets.encoders.machine import cpu_name, native_precision
from virnuc_assets.encoders.miniature import ESM_FIELDS, ESM_VOCABULARY
from virnuc_assets.encoders.mosaic_bert import MosaicBertConfig, MosaicBertModel
from virnuc_assets.encoders.registry import ENCODERS
from virnuc_assets.sequences.catalogue import read_catalogue
from virnuc_assets.settings import EncodingSettings, Precision

Code = Literal["ours", "transformers", "fair_esm", "one_by_one"]


class Model(NamedTuple):
    """A model with random weights; one with byte pairs is a MosaicBERT, every other an ESM2."""

    hidden: int
    layers: int
    heads: int
    byte_pairs: int = 0


class Contender(NamedTuple):
    """Somebody's code with a model in a precision."""

    code: Code
    model: str
    precision: Precision = "fp32"

    @property
    def name(self) -> str:
        """Opens the names of its figures."""
        return "_".join(self)


Originals = Mapping[str, tuple[Code, str]]  # by metric, whose code and model ours is compared with

# Sizes are those of the checkpoints' own config files: ESM2-650M and FastESM2_650 (one shape), ESM2-3B, DNABERT-S.
SCALES: Mapping[str, Mapping[str, Model]] = {
    "true": {"650m": Model(1280, 33, 20), "3b": Model(2560, 36, 40), "dnabert_s": Model(768, 12, 12, byte_pairs=4096)},
    "tiny": {"650m": Model(64, 2, 4), "3b": Model(128, 2, 4), "dnabert_s": Model(48, 2, 6, byte_pairs=64)},
}
# Our model, the column that all read, rows, and originals. 12 proteins of 166 aa are one full batch of 2,048 tokens;
# chunks make byte pairs of some twenty counts, which fill batches of equal length from hundreds of rows only.
COMPARISONS: Mapping[str, tuple[str, str, int, Originals]] = {
    "protein_650m": (
        *("650m", "protein", 12),
        {
            "protein_speedup_vs_transformers": ("transformers", "650m"),
            "protein_speedup_vs_fair_esm_650m": ("fair_esm", "650m"),
        },
    ),
    "protein_3b": ("650m", "protein", 12, {"protein_speedup_vs_3b": ("fair_esm", "3b")}),
    "dna": ("dnabert_s", "nucleotides", 512, {"dna_speedup_vs_one_by_one": ("one_by_one", "dnabert_s")}),
}
_ONE_BY_ONE = 8  # share of the rows for what takes equally long per row however many there are
_SPECIAL = {f"{role}_token": f"[{role.upper()}]" for role in ("unk", "cls", "sep", "pad", "mask")}


def main() -> int:
    """Run what was asked for, print tables, write the figures."""
    given = _arguments()
    on_gpu = given.device == "cuda"
    native = [precision for precision in DTYPES if on_gpu or native_precision(precision)]
    figures: Figures = {"cores": cpu_count(), **{f"native_{name}": float(name in native) for name in DTYPES}}
    CONSOLE.print(torch.cuda.get_device_name() if on_gpu else cpu_name(), native)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="encoders-", dir=given.out.parent) as scratch:
        frames, checkpoints = genome_frames(), Path(scratch)
        for name, model in SCALES[given.scale].items():
            if name != "3b":  # fair-esm makes its own
                write_checkpoint(checkpoints / name, model, frames.column("nucleotides")[:4000].to_pylist())
        for name in given.only or COMPARISONS:
            figures |= _compare(name, native, checkpoints, frames, given)
            write(figures, given.out)  # so that a run that is cut off keeps what it has
    return publish(figures, given.out)


def _arguments() -> argparse.Namespace:
    parser = options("bench-encoders", __doc__)
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=COMPARISONS, help=f"of {', '.join(COMPARISONS)}")
    parser.add_argument("--scale", choices=SCALES, default="true", help="tiny: two narrow layers, to try the benchmark")
    parser.add_argument("--rounds", type=int, default=5, help="of each comparison (default 5)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where all of them run")
    return parser.parse_args()


def genome_frames() -> pa.Table:
    """Open frames of all bundled genomes cut into chunks of 500 nt, in a seeded random order."""
    sources = read_catalogue(GENOMES)
    frames = pa.concat_tables(
        window for source in sources for window in Framed(source.fasta, 500).windows(lambda done, total: None)
    )
    return frames.take(np.random.default_rng(0).permutation(frames.num_rows))


def _compare(
    name: str, precisions: Sequence[Precision], checkpoints: Path, frames: pa.Table, given: argparse.Namespace
) -> Figures:
    """Load the contenders of a comparison, run them in rounds, and sum up."""
    our_model, column, rows, originals_by_metric = COMPARISONS[name]
    ratios: dict[str, tuple[Contender, Contender]] = {}
    for precision in precisions:
        ours, ending = Contender("ours", our_model, precision), "" if precision == "fp32" else f"_{precision}"
        for metric, (code, model) in originals_by_metric.items():
            # As VirNucPro has them; transformers as ours.
            ratios[metric + ending] = ours, Contender(code, model, precision if code == "transformers" else "fp32")
    rows = rows if given.scale == "true" else rows // 4
    sequences = frames.column(column).slice(0, rows).to_pylist()
    passes = list[dict[str, Any]]()
    with ExitStack() as stack:
        processes = {}
        for contender in dict.fromkeys(contender for pair in ratios.values() for contender in pair):
            process = processes[contender.name] = stack.enter_context(fresh_process())
            own = sequences[: max(rows // _ONE_BY_ONE, 1)] if contender.code == "one_by_one" else sequences
            process.submit(
                _load, contender, SCALES[given.scale][contender.model], checkpoints, given.device, own
            ).result()
        for number in range(given.rounds):
            for each in list(processes) if number % 2 == 0 else list(reversed(processes)):
                figures = processes[each].submit(_pass).result()
                passes.append({"round": number, "contender": each, **figures})
                CONSOLE.print(f"{name}, round {number + 1}, {each}: {figures['sequences_per_s']:.3f} sequences/s")
    table = pd.DataFrame(passes)
    rates = table.pivot(index="round", columns="contender", values="sequences_per_s")
    found: Figures = {}
    for metric, (ours, theirs) in ratios.items():
        values = rates[ours.name] / rates[theirs.name]
        found |= {metric: values.median(), f"{metric}_min": values.min(), f"{metric}_max": values.max()}
        found[f"{metric}_rounds"] = len(values)
    medians = table.drop(columns="round").groupby("contender").median().stack()
    return found | {f"{name}.{contender}.{figure}": value for (contender, figure), value in medians.items()}


_LOADED: list[tuple[originals.Embed, list[str], torch.device, int]] = []  # what this process runs; bytes before it


def _load(contender: Contender, model: Model, checkpoints: Path, device: str, sequences: list[str]) -> None:
    torch.set_num_threads(cpu_count())
    place = torch.device(device)
    idle = _memory("VmRSS", place)
    embed = _build(contender, model, checkpoints / contender.model, place)
    embed(sequences[:2])
    _LOADED.append((embed, sequences, place, idle))


def _pass() -> Figures:
    """Figures of one pass of this process's contender; memory without what its libraries take."""
    ((embed, sequences, device, idle),) = _LOADED
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    start = time.perf_counter()
    rows = len(embed(sequences))
    seconds, memory = time.perf_counter() - start, _memory("VmHWM", device) - idle
    return {"rows": rows, "seconds": seconds, "sequences_per_s": rows / seconds, "peak_memory_bytes": memory}


def _memory(field: str, device: torch.device) -> int:
    """Bytes now (VmRSS), or at the highest since the last reset (VmHWM): of this process, or of a GPU's tensors."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated() if field == "VmRSS" else torch.cuda.max_memory_allocated()
    (kilobytes,) = re.findall(rf"{field}:\s+(\d+)", Path("/proc/self/status").read_text(encoding="ascii"))
    return int(kilobytes) * 1024


def _build(contender: Contender, model: Model, folder: Path, device: torch.device) -> originals.Embed:
    if contender.code == "fair_esm":
        return originals.fair_esm(model.layers, model.hidden, model.heads, device)
    if contender.code == "transformers":
        budget = CPU_TOKENS if device.type == "cpu" else GPU_TOKENS  # as our encoder
        return originals.transformers_esm(folder, DTYPES[contender.precision], device, budget)
    if contender.code == "one_by_one":
        return originals.one_by_one(model.layers, model.heads, folder, device)
    return partial(embed, load_ours(folder, contender.precision, device.type))


def load_ours(folder: Path, precision: Precision, device: str) -> Encoder:
    """Our encoder of a checkpoint folder, loaded as a miniature is: from a folder that no lock has to name."""
    row = "esm2_650_miniature" if (folder / "vocab.txt").is_file() else "dnabert_s_miniature"
    encoding = EncodingSettings.model_validate({"precision": precision, "device": device})
    return load_encoder(replace(ENCODERS[row], name=folder.name), folder.parent, encoding)


def write_checkpoint(folder: Path, model: Model, corpus: Sequence[str]) -> None:
    """Write config, tokenizer and random weights in the hub's format; byte pairs are learned from the corpus."""
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    shape = {
        "hidden_size": model.hidden,
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.heads,
        "intermediate_size": 4 * model.hidden,
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


if __name__ == "__main__":
    raise SystemExit(main())
