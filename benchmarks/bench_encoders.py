"""Encoders compared: ours, transformers, fair-esm, and DNABERT-S one by one, in each native precision.

Rows are a seeded sample of the bundled genomes' frames (chunks of 500 nt, proteins of about 166 aa). Weights are
random and of true size. The contenders of a comparison are loaded at the same time and run in alternate order, each in
a process of its own: a ratio is that of one round, and its median, least and greatest are reported. A share
of the peak is GFLOP/s over those of plain matrix products right before and after. At last, memory beyond the model for
a small and a large frames table.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

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
from benchmarks.common import CONSOLE, GENOMES, Figures, fresh_process, in_fresh_process, options, publish, write
from virnuc_assets.encoders.embedding import embed, embed_windows
from virnuc_assets.encoders.loading import CPU_TOKENS, DTYPES, GPU_TOKENS, Encoder, load_encoder
from virnuc_assets.encoders.machine import cpu_name, native_precision
from virnuc_assets.encoders.miniature import ESM_FIELDS, ESM_VOCABULARY
from virnuc_assets.encoders.mosaic_bert import MosaicBertConfig, MosaicBertModel
from virnuc_assets.encoders.registry import ENCODERS
from virnuc_assets.sequences.catalogue import read_catalogue
from virnuc_assets.sequences.chunk_table import chunk_tables
from virnuc_assets.sequences.frame_table import open_frames
from virnuc_assets.sequences.planning import plan_source
from virnuc_assets.settings import EncodingSettings, Precision
from virnuc_assets.storage.reuse import KnownVectors, ShardVectors
from virnuc_assets.storage.schemas import embeddings_schema, frames_schema
from virnuc_assets.storage.tables import TableWriter, in_windows, write_table

Code = Literal["ours", "transformers", "fair_esm", "one_by_one"]


class Model(NamedTuple):
    """A model with random weights; one with byte pairs is a MosaicBERT, every other an ESM2."""

    hidden: int
    layers: int
    heads: int
    byte_pairs: int = 0

    def flop(self, lengths: Sequence[int]) -> float:
        """Operations of one pass: 2 * tokens * weights of the products + 4 * l * tokens * d per layer for attention.

        The products have 12 d^2 weights per layer of ESM2, 16 d^2 with MosaicBERT's gated FFN.
        """
        weights = (16 if self.byte_pairs else 12) * self.hidden**2
        return float(self.layers * sum(2 * length * weights + 4 * self.hidden * length**2 for length in lengths))


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
    "true": {
        "650m": Model(1280, 33, 20),
        "3b": Model(2560, 36, 40),
        "dnabert_s": Model(768, 12, 12, byte_pairs=4096),
        "one_layer": Model(1280, 1, 20),
    },
    "tiny": {
        "650m": Model(64, 2, 4),
        "3b": Model(128, 2, 4),
        "dnabert_s": Model(48, 2, 6, byte_pairs=64),
        "one_layer": Model(64, 1, 4),
    },
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
TABLES = "frame_tables"
TABLE_ROWS = {"true": (100, 10_000), "tiny": (20, 300)}
_ONE_BY_ONE = 8  # share of the rows for what takes equally long per row however many there are
_SHORT_AA = 20
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
        for name in given.only or (*COMPARISONS, TABLES):
            if name == TABLES:
                figures |= _frame_tables(checkpoints, frames, given)
            else:
                figures |= _compare(name, native, checkpoints, frames, given)
            write(figures, given.out)  # so that a run that is cut off keeps what it has
    return publish(figures, given.out)


def _arguments() -> argparse.Namespace:
    parser = options("bench-encoders", __doc__)
    names = (*COMPARISONS, TABLES)
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=names, help=f"run these alone: {', '.join(names)}")
    parser.add_argument("--scale", choices=SCALES, default="true", help="tiny: two narrow layers, to try the benchmark")
    parser.add_argument("--rounds", type=int, default=5, help="of each comparison (default 5)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where all of them run")
    return parser.parse_args()


def genome_frames() -> pa.Table:
    """Open frames of all bundled genomes cut into chunks of 500 nt, in a seeded random order."""
    plans = [plan_source(source.fasta, source.name, 500, 1000) for source in read_catalogue(GENOMES)]
    frames = pa.concat_tables(open_frames(chunks, None)[0] for plan in plans for _, chunks in chunk_tables(plan))
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
    rounds, vectors = list[dict[str, Figures]](), dict[str, np.ndarray]()
    with ExitStack() as stack:
        processes = {}
        for contender in dict.fromkeys(contender for pair in ratios.values() for contender in pair):
            process = processes[contender.name] = stack.enter_context(fresh_process())
            # A model of another size than ours is not compared by its vectors: fair-esm makes random weights itself.
            folder = checkpoints / contender.model if contender.model == our_model else None
            own = sequences[: max(rows // _ONE_BY_ONE, 1)] if contender.code == "one_by_one" else sequences
            process.submit(_load, contender, SCALES[given.scale][contender.model], folder, given.device, own).result()
        for number in range(given.rounds):
            rounds.append({})
            for contender_name in list(processes) if number % 2 == 0 else list(reversed(processes)):
                passed = processes[contender_name].submit(_pass).result()
                rounds[-1][contender_name], vectors[contender_name] = passed
            rates = {contender_name: round(one["sequences_per_s"], 3) for contender_name, one in rounds[-1].items()}
            CONSOLE.print(f"{name}, round {number + 1}, sequences/s: {rates}")
    rate = "sequences_per_s"
    metrics = {m: [one[a.name][rate] / one[b.name][rate] for one in rounds] for m, (a, b) in ratios.items()}
    if name == "protein_650m":
        for ours, _ in ratios.values():
            metrics[f"{ours.precision}_share_of_peak"] = [one[ours.name]["share_of_peak"] for one in rounds]
    return _summary(name, rounds, metrics, vectors)


def _summary(
    name: str,
    rounds: Sequence[dict[str, Figures]],
    metrics: Mapping[str, Sequence[float]],
    vectors: Mapping[str, np.ndarray],
) -> Figures:
    """Medians as `name.contender.figure`; metrics with _min, _max and _rounds, too."""
    found: Figures = {}
    for metric, values in metrics.items():
        spread = {"": statistics.median(values), "_min": min(values), "_max": max(values), "_rounds": len(values)}
        found |= {metric + ending: value for ending, value in spread.items()}
    expected = vectors[next(iter(rounds[0]))].astype(np.float64)  # (n, d), our encoder in fp32
    for contender, own in vectors.items():
        figures = pd.DataFrame([one[contender] for one in rounds]).median().to_dict()
        if own.shape[1] == expected.shape[1]:  # otherwise another model
            other, same = own.astype(np.float64), expected[: len(own)]
            cosines = (other * same).sum(1) / np.linalg.norm(other, axis=1) / np.linalg.norm(same, axis=1)
            figures |= {"min_cosine": float(cosines.min()), "max_difference": float(np.abs(other - same).max())}
        found |= {f"{name}.{contender}.{figure}": value for figure, value in figures.items()}
    return found


class _Loaded:
    """The contender of this process; its memory is counted without what its libraries and the matrices take."""

    def __init__(
        self, contender: Contender, model: Model, folder: Path | None, device: str, sequences: list[str]
    ) -> None:
        torch.set_num_threads(cpu_count())
        self.sequences, self.memory, self.device = sequences, PeakMemory(device == "cuda"), torch.device(device)
        lengths = _token_counts(model, folder, sequences)
        self.tokens, self.flop = sum(lengths), model.flop(lengths)
        self.matrices = _matrices(model.hidden, DTYPES[contender.precision], self.device)
        self.idle_bytes = self.memory.now()
        self.embed = _build(contender, model, folder, self.device)
        self.embed(sequences[:2])

    def gemm_gflops(self) -> float:
        """Rate of the two matrix products of a feed-forward network of the model's width, over a second."""
        narrow, wide, weights = self.matrices
        seconds: list[float] = []
        while len(seconds) < 2 or sum(seconds) < 1.0:
            start = time.perf_counter()
            torch.mm(narrow, weights.t(), out=wide)
            torch.mm(wide, weights, out=narrow)
            if self.device.type == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
        return 4e-9 * math.prod((*narrow.shape, wide.shape[1])) / statistics.median(seconds[1:])  # the first sets up


_LOADED: list[_Loaded] = []


def _load(contender: Contender, model: Model, folder: Path | None, device: str, sequences: list[str]) -> None:
    _LOADED.append(_Loaded(contender, model, folder, device, sequences))


def _pass() -> tuple[Figures, np.ndarray]:
    """Figures and vectors of one pass of this process's contender."""
    (loaded,) = _LOADED
    before = loaded.gemm_gflops()
    loaded.memory.reset()
    start = time.perf_counter()
    vectors = loaded.embed(loaded.sequences)
    seconds = time.perf_counter() - start
    memory = loaded.memory.highest() - loaded.idle_bytes
    gflops, gemm = 1e-9 * loaded.flop / seconds, (before + loaded.gemm_gflops()) / 2
    figures: Figures = {
        "rows": len(vectors),
        "tokens": loaded.tokens,
        "seconds": seconds,
        "sequences_per_s": len(vectors) / seconds,
        "gflops": gflops,
        "gemm_gflops": gemm,
        "share_of_peak": gflops / gemm,
        "peak_memory_bytes": memory,
    }
    return figures, vectors


def _matrices(width: int, dtype: torch.dtype, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(2048, d), (2048, 4 d) and (4 d, d), whose products keep their values."""
    narrow, wide = (torch.ones(2048, columns, dtype=dtype, device=device) for columns in (width, 4 * width))
    return narrow, wide, torch.full((4 * width, width), 0.5 / width, dtype=dtype, device=device)


def _token_counts(model: Model, folder: Path | None, sequences: list[str]) -> list[int]:
    if model.byte_pairs:
        return [len(ids) for ids in PreTrainedTokenizerFast.from_pretrained(folder)(sequences)["input_ids"]]
    return [len(sequence) + 2 for sequence in sequences]  # one token per residue, CLS and EOS


def _build(contender: Contender, model: Model, folder: Path | None, device: torch.device) -> originals.Embed:
    if contender.code == "fair_esm":
        return originals.fair_esm(model.layers, model.hidden, model.heads, folder, device)
    assert folder is not None  # noqa: S101
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


def _frame_tables(checkpoints: Path, frames: pa.Table, given: argparse.Namespace) -> Figures:
    """Memory beyond the model for a small and a large frames table of short proteins, and the ratio of the two."""
    found: Figures = {}
    layers = SCALES[given.scale]["650m"].layers  # so often does one batch of the true model pass a layer
    for size, rows, passes in zip(("small", "large"), TABLE_ROWS[given.scale], (layers, 1), strict=True):
        taken = frames.take(np.arange(rows) % frames.num_rows)
        short = [protein[:_SHORT_AA].ljust(_SHORT_AA, "A") for protein in taken.column("protein").to_pylist()]
        table = taken.set_column(frames_schema().get_field_index("protein"), "protein", pa.array(short))
        path = checkpoints / f"{size}.parquet"
        write_table(path, table.cast(frames_schema()), {"table": "frames"})
        grown = in_fresh_process(memory_beyond_model, checkpoints / "one_layer", path, given.device, passes)
        found |= {f"frame_table_{size}.rows": rows, f"frame_table_{size}.bytes": grown}
    ratio = found["frame_table_large.bytes"] / found["frame_table_small.bytes"]
    return {**found, "frame_table_memory_ratio": ratio}


def memory_beyond_model(checkpoint: Path, frames: Path, device: str, passes: int) -> int:
    """Bytes that memory grew by, at its highest, after the model was loaded, on the way of the embedding assets.

    Args:
        checkpoint: Of one layer.
        frames: The table.
        device: "cpu" or "cuda".
        passes: How often the table is embedded and written. An allocator does not find the same places each time, and
            what libraries set up at their first use stays: for a table of one window the highest of one pass is luck.
    """
    encoder = load_ours(checkpoint, "fp32", device)
    known = KnownVectors(np.empty((0, 2), np.uint64), encoder.fingerprint, print)
    spec, memory = encoder.spec, PeakMemory(encoder.on_gpu)
    memory.reset()
    loaded = memory.highest()
    for _ in range(passes):
        schema = embeddings_schema(encoder.dim)
        with TableWriter(frames.with_suffix(".vectors"), schema, {"table": "embeddings"}) as writer:
            vectors = ShardVectors(
                frames,
                spec.column,
                spec.max_length,
                known,
                lambda windows: embed_windows(encoder, in_windows(windows, encoder.window_rows)),
            )
            for table in vectors.tables():
                writer.write(table)
    return memory.highest() - loaded


class PeakMemory:
    """Bytes now, and at the highest since the last reset: resident memory of this process, or of a GPU's tensors."""

    def __init__(self, on_gpu: bool) -> None:
        self._on_gpu = on_gpu

    def reset(self) -> None:
        """Count from what is in use now."""
        if self._on_gpu:
            torch.cuda.reset_peak_memory_stats()
        else:
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")

    def highest(self) -> int:
        """Bytes at the highest."""
        return torch.cuda.max_memory_allocated() if self._on_gpu else self._resident("VmHWM")

    def now(self) -> int:
        """Bytes in use."""
        return torch.cuda.memory_allocated() if self._on_gpu else self._resident("VmRSS")

    def _resident(self, name: str) -> int:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return int(next(line for line in lines if line.startswith(name)).split()[1]) * 1024


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
