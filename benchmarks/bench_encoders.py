"""Encoders compared: ours, transformers, fair-esm, and DNABERT-S one by one, in each native precision.

Rows are a seeded sample of the bundled genomes' frames. Weights are random and of true size. The contenders of a
comparison run in alternate order, each in a process of its own: a ratio is that of one round. A share of the peak is
FLOP/s over those of plain matrix products right before and after. At last, memory beyond the model for a small and a
large frames table.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from esm.model.esm2 import ESM2
from joblib import cpu_count

from benchmarks import common, originals
from benchmarks.common import GENOMES, Figures, Limits, speedup, spread
from virnuc_assets.encoders.embedding import embed, embed_windows
from virnuc_assets.encoders.loading import DTYPES, Encoder, load_encoder
from virnuc_assets.encoders.machine import native_precision
from virnuc_assets.encoders.miniature import write_drawn
from virnuc_assets.encoders.registry import ENCODERS
from virnuc_assets.sequences.catalogue import read_catalogue
from virnuc_assets.sequences.chunk_table import chunk_tables
from virnuc_assets.sequences.frame_table import open_frames
from virnuc_assets.sequences.planning import plan_source
from virnuc_assets.settings import EncodingSettings, Precision
from virnuc_assets.storage.reuse import KnownVectors, ShardVectors
from virnuc_assets.storage.schemas import embeddings_schema, frames_schema
from virnuc_assets.storage.tables import TableWriter, in_windows, write_table


class Model(NamedTuple):
    """A model with random weights."""

    original: str  # encoder whose architecture it has
    hidden: int
    layers: int
    heads: int

    def flop(self, lengths: Sequence[int]) -> float:
        """Operations of a pass of an ESM2: per layer 2 * tokens * 12 d^2 for the products, 4 * l * tokens * d else."""
        each = (24 * length * self.hidden**2 + 4 * self.hidden * length**2 for length in lengths)
        return float(self.layers * sum(each))


class Contender(NamedTuple):
    """Somebody's code with a model in a precision."""

    code: str
    model: str
    precision: Precision = "fp32"


# Sizes are those of the checkpoints' own config files: ESM2-650M and FastESM2_650 (one shape), ESM2-3B, DNABERT-S.
MODELS = {
    "650m": Model("esm2_650", 1280, 33, 20),
    "3b": Model("esm2_3b", 2560, 36, 40),
    "dnabert_s": Model("dnabert_s", 768, 12, 12),
    "one_layer": Model("esm2_650", 1280, 1, 20),
}
# Our model, the column that all read, rows, and whose code and model ours is compared with. 12 proteins of 166 aa are
# one full batch of 2,048 tokens; nucleotides fill batches of equal length from hundreds of rows only.
COMPARISONS = {
    "protein_speedup_vs_transformers": ("650m", "protein", 12, "transformers", "650m"),
    "protein_speedup_vs_fair_esm_650m": ("650m", "protein", 12, "fair_esm", "650m"),
    "protein_speedup_vs_3b": ("650m", "protein", 12, "fair_esm", "3b"),
    "dna_speedup_vs_one_by_one": ("dnabert_s", "nucleotides", 512, "one_by_one", "dnabert_s"),
}
TABLES = "frame_tables"
OPTIONS = {
    "only": ((*COMPARISONS, TABLES), "run these alone"),
    "rounds": (5, "of each comparison"),
    "device": ("cpu", "where all of them run, or cuda"),
}
_ONE_BY_ONE = 8  # share of the rows for what takes equally long per row however many there are
_SHORT_AA = 20


def measure(given: argparse.Namespace, scratch: Path, models: Mapping[str, Model] = MODELS) -> tuple[Figures, Limits]:
    """Run what was asked for."""
    plans = [plan_source(source.fasta, source.name, 500, 1000) for source in read_catalogue(GENOMES)]
    frames = pa.concat_tables(open_frames(chunks, None)[0] for plan in plans for _, chunks in chunk_tables(plan))
    frames = frames.take(np.random.default_rng(0).permutation(frames.num_rows))
    for name, model in models.items():
        (scratch / name).mkdir()
        if name != "3b":  # fair-esm makes its own
            write_drawn(scratch / name, *model)
    figures: Figures = {"cores": cpu_count()}
    for name in given.only:
        if name == TABLES:
            figures |= _frame_tables(scratch, frames, given.device, models["650m"].layers)
        else:
            figures |= _compare(name, scratch, frames, given, models)
    return figures, {}


def _compare(
    name: str, checkpoints: Path, frames: pa.Table, given: argparse.Namespace, models: Mapping[str, Model]
) -> Figures:
    """Load the contenders of a comparison, run them in rounds, and sum up."""
    our_model, column, rows, code, model = COMPARISONS[name]
    precisions = [precision for precision in DTYPES if given.device == "cuda" or native_precision(precision)]
    ours = {precision: Contender("ours", our_model, precision) for precision in precisions}
    # As VirNucPro has them; transformers as ours.
    theirs = {each: Contender(code, model, each if code == "transformers" else "fp32") for each in precisions}
    sequences, ways = frames[column].slice(0, rows).to_pylist(), dict[str, Callable[[], Figures]]()
    with ExitStack() as stack:
        for contender in dict.fromkeys([*ours.values(), *theirs.values()]):
            process = stack.enter_context(common.fresh_process())
            own = sequences[: len(sequences) // _ONE_BY_ONE] if contender.code == "one_by_one" else sequences
            folder, device = checkpoints / contender.model, torch.device(given.device)
            process.submit(_load, contender, models[contender.model], folder, device, own).result()
            ways["_".join(contender)] = lambda process=process: process.submit(_pass).result()  # type: ignore[misc]
        found = common.alternate(given.rounds, ways)
    figures: Figures = {}
    for precision, one in ours.items():
        ending = "" if precision == "fp32" else f"_{precision}"
        own, other = found["_".join(one)], found["_".join(theirs[precision])]
        figures |= speedup(name + ending, own, other)
        if code == "transformers":
            shares = [each["share_of_peak"] for each in own]
            figures |= spread(f"{precision}_share_of_peak", shares)
    return figures


_loaded: dict[str, Any] = {}  # the contender of this process


def _load(contender: Contender, model: Model, folder: Path, device: torch.device, sequences: list[str]) -> None:
    torch.set_num_threads(cpu_count())
    embed_all, width = _build(contender, model, folder, device), model.hidden
    embed_all(sequences[:2])
    factors = [torch.rand(shape, device=device) for shape in ((2048, width), (width, 4 * width))]
    flop = model.flop([len(sequence) + 2 for sequence in sequences])  # a token per residue, CLS and EOS
    _loaded.update(embed=embed_all, sequences=sequences, flop=flop)
    _loaded["factors"] = [factor.to(DTYPES[contender.precision]) for factor in factors]


def _peak() -> float:
    """FLOP/s of a matrix product of the model's feed-forward network, over a second."""
    one, other = _loaded["factors"]
    product, seconds = one @ other, list[float]()
    while sum(seconds) < 1.0:
        start = time.perf_counter()
        torch.mm(one, other, out=product)
        if one.is_cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return float(2 * len(one) * other.numel() / statistics.median(seconds))


def _pass() -> Figures:
    """Of one pass of this process's contender; the share of the peak is an ESM2's."""
    before, start = _peak(), time.perf_counter()
    _loaded["embed"](_loaded["sequences"])
    seconds = time.perf_counter() - start
    peak = (before + _peak()) / 2
    return {"per_s": len(_loaded["sequences"]) / seconds, "share_of_peak": _loaded["flop"] / seconds / peak}


def _build(contender: Contender, model: Model, folder: Path, device: torch.device) -> originals.Embed:
    match contender.code:
        case "fair_esm":
            return originals.fair_esm(ESM2(model.layers, model.hidden, model.heads, "ESM-1b").to(device))
        case "transformers":
            return originals.transformers_esm(folder, DTYPES[contender.precision], device)
        case "one_by_one":
            return originals.one_by_one(ENCODERS["dnabert_s_miniature"], folder, device)
    return partial(embed, load_ours(folder, contender.precision, device.type))


def load_ours(folder: Path, precision: Precision, device: str) -> Encoder:
    """Our encoder of a checkpoint folder, loaded as a miniature is: from a folder that no lock has to name."""
    row = "esm2_650_miniature" if (folder / "vocab.txt").is_file() else "dnabert_s_miniature"
    encoding = EncodingSettings.model_validate({"precision": precision, "device": device})
    return load_encoder(replace(ENCODERS[row], name=folder.name), folder.parent, encoding)


def _frame_tables(checkpoints: Path, frames: pa.Table, device: str, layers: int) -> Figures:
    """The ratio of the memory beyond the model for a large frames table of short proteins to that for a small one."""
    short = pc.utf8_rpad(pc.utf8_slice_codeunits(frames["protein"], 0, _SHORT_AA), _SHORT_AA, "A")
    frames = frames.set_column(frames_schema().get_field_index("protein"), "protein", short).cast(frames_schema())
    found = []
    for rows, passes in ((100, layers), (10_000, 1)):  # one batch of the true model passes a layer so often
        path = checkpoints / f"{rows}.parquet"
        write_table(path, frames.take(np.arange(rows) % frames.num_rows), {"table": "frames"})
        found.append(common.in_fresh_process(memory_beyond_model, checkpoints / "one_layer", path, device, passes))
    return {"frame_table_memory_ratio": found[1] / found[0]}


def memory_beyond_model(checkpoint: Path, frames: Path, device: str, passes: int) -> int:
    """Bytes that memory grew by, at its highest, after a model of one layer was loaded, as the embedding assets do it.

    The table is embedded and written so many times: an allocator does not find the same places each time, and what
    libraries set up at their first use stays, so that for a table of one window the highest of one pass is luck.
    """
    encoder = load_ours(checkpoint, "fp32", device)
    known = KnownVectors(np.empty((0, 2), np.uint64), encoder.fingerprint, print)
    spec, highest = encoder.spec, torch.cuda.max_memory_allocated if encoder.on_gpu else common.peak_bytes
    if encoder.on_gpu:
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    loaded = highest()

    def embedded(windows: Iterator[pa.Table]) -> Generator[pa.Table, None, None]:
        return embed_windows(encoder, in_windows(windows, encoder.window_rows))

    for _ in range(passes):
        vectors = ShardVectors(frames, spec.column, spec.max_length, known, embedded)
        with TableWriter(frames.with_suffix(".vectors"), embeddings_schema(encoder.dim), {"table": "embeddings"}) as to:
            for table in vectors.tables():
                to.write(table)
    return highest() - loaded
