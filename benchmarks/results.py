"""From figures of contenders to the named metrics, and to the table that is printed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from benchmarks.contenders import BASELINE_3B, BASELINE_DNA

Figures = dict[str, float]
_HALVES = ("bf16", "fp16")
# Our 3B is stored rounded and widened, fair-esm's is not; sentence-transformers takes another mean.
_OTHER_VECTORS = (BASELINE_3B, "sentence_transformers")


def compare_vectors(figures: Figures, folder: Path) -> None:
    """Add the smallest cosine and the largest difference of each contender's vectors to ours in fp32."""
    for path in sorted(folder.glob("*.npy")):
        name = path.stem
        model = next(model for model in ("650m", "3b", "dnabert_s") if model in name)
        reference = folder / f"ours_{model}_fp32.npy"
        if reference.is_file() and path != reference and not name.startswith(_OTHER_VECTORS):
            found, expected = np.load(path), np.load(reference)
            rows = min(len(found), len(expected))
            figures[f"{name}.min_cosine"] = float(_cosines(found[:rows], expected[:rows]).min())
            figures[f"{name}.max_difference"] = float(np.abs(found[:rows] - expected[:rows]).max())


def _cosines(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    x, y = a.astype(np.float64), b.astype(np.float64)
    cosines: NDArray[np.float64] = (x * y).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)
    return cosines


def name_metrics(figures: Figures, headline: str) -> None:
    """Add the metrics that the figures suffice for; speeds and memory in the headline precision and in each."""

    def ratio(metric: str, figure: str, above: str, below: str) -> None:
        if (top := figures.get(f"{above}.{figure}")) and (bottom := figures.get(f"{below}.{figure}")):
            figures[metric] = top / bottom

    endings = {"": headline, **{f"_{precision}": precision for precision in ("fp32", *_HALVES)}}
    for ending, precision in endings.items():
        protein, dna = f"ours_650m_{precision}", f"ours_dnabert_s_{precision}"
        ratio(f"protein_speedup_vs_3b{ending}", "sequences_per_s", protein, BASELINE_3B)
        ratio(f"protein_speedup_vs_fair_esm_650m{ending}", "sequences_per_s", protein, "fair_esm_650m_fp32")
        ratio(f"dna_speedup_vs_one_by_one{ending}", "sequences_per_s", dna, BASELINE_DNA)
        ratio(f"memory_ratio_650m_to_3b{ending}", "peak_memory_bytes", protein, BASELINE_3B)
    for precision in ("fp32", *_HALVES):
        ratio(
            f"protein_speedup_vs_transformers_{precision}",
            "sequences_per_s",
            f"ours_650m_{precision}",
            f"transformers_650m_{precision}",
        )
    ratio("int8_speedup_vs_fp32", "sequences_per_s", "ours_650m_int8", "ours_650m_fp32")
    ratio("frame_table_memory_ratio", "bytes", "frame_table_large", "frame_table_small")
    for metric, figure in {
        "fp32_share_of_peak": "ours_650m_fp32.share_of_peak",
        "bf16_share_of_peak": "ours_650m_bf16.share_of_peak",
        "min_cosine_int8": "ours_650m_int8.min_cosine",
        "max_difference_to_fair_esm": "fair_esm_650m_fp32.max_difference",
    }.items():
        if figure in figures:
            figures[metric] = figures[figure]
    for precision in _HALVES:
        names = [f"ours_{model}_{precision}.min_cosine" for model in ("650m", "dnabert_s")]
        if found := [figures[name] for name in names if name in figures]:
            figures[f"min_cosine_{precision}"] = min(found)


def contender_table(figures: Mapping[str, float], names: list[str], told: Mapping[str, Any]) -> Table:
    """A line a contender."""
    table = Table(
        "contender", *("rows", "seq/s", "tokens/s", "GFLOP/s", "GEMM", "share", "memory", "cosine"), "batches"
    )
    for name in names:
        if f"{name}.sequences_per_s" not in figures:
            continue
        of = {key.partition(".")[2]: value for key, value in figures.items() if key.startswith(f"{name}.")}
        table.add_row(
            name,
            f"{of['rows']:.0f} x {of['repeats']:.0f}",
            f"{of['sequences_per_s']:.3g}",
            f"{of['tokens_per_s']:.0f}",
            f"{of['gflops']:.4g}",
            f"{of['gemm_peak_gflops']:.4g}",
            f"{of['share_of_peak']:.1%}",
            f"{of['peak_memory_bytes'] / 2**30:.2f} GiB",
            f"{of['min_cosine']:.7f}" if "min_cosine" in of else "",
            str(told.get(name, "")),
        )
    return table


def metric_table(figures: Mapping[str, float]) -> Table:
    """A line a named metric."""
    table = Table("metric", "value")
    for name in sorted(name for name in figures if "." not in name):
        table.add_row(name, f"{figures[name]:.7g}")
    return table
