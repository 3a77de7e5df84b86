"""geNomad's network and ours on the same fragments of the bundled genomes.

geNomad comes from PyPI, its weights with it, into a virtual environment below var/; it was trained on databases that
hold many of these genomes. Each of our scores is by a model that saw no relative. What has no scored chunk counts as
0.5. A call is certain if its expected error is at most the default of `max_error`. `virnuc predict` is
timed with the classifier of this folder's project; so is geNomad's command, both from start to end.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
import venv
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks import out_of_fold as folds
from benchmarks.common import CONSOLE, MB, ROOT, Figures, Limits
from virnuc_assets.sequences.records import UNAMBIGUOUS
from virnuc_assets.settings import EvaluationSettings

OPTIONS = {"only": (("genomad", "predict"), "what is run besides the k-mer variant")}
GENOMAD = "genomad==1.13.0"
FRAGMENTS = {"500": 300, "3000": 300}  # of each label, by length in nt; where a label has fewer, as many of both
LIMITS = {
    "auroc_500_default": (0.73, 1.0),
    "auroc_500_gain_over_genomad_nn": (0.0, 1.0),
    "auroc_3000_default": (0.8, 1.0),
    "error_of_certain_calls": (0.0, 0.2),
    "share_certain": (0.3, 1.0),
}


def measure(given: argparse.Namespace, scratch: Path) -> tuple[Figures, Limits]:
    """AUROC of fragments, calls of records, and speeds."""
    genomes = folds.Genomes.bundled()
    samples = {length: fragments(genomes, int(length), count) for length, count in FRAGMENTS.items()}
    ours = folds.out_of_fold(
        genomes, {"": genomes.chunks} | {length: folds.chunked(each) for length, each in samples.items()}
    )
    figures, mb, seconds = _calls(genomes, ours, "", genomes.sequences), 0.0, {"default": 0.0, "genomad_nn": 0.0}
    for length, sequences in samples.items():
        scores = {"default": folds.probability(ours[length], sequences)}
        file = scratch / f"{length}.fna"
        file.write_text(folds.as_fasta(sequences), encoding="ascii")
        mb += file.stat().st_size / MB
        if "predict" in given.only:
            virnuc = Path(sys.executable).with_name("virnuc")
            seconds["default"] += _run(virnuc, "predict", file, "--out", scratch / length, "--project", ROOT)
        if "genomad" in given.only:
            seconds["genomad_nn"] += _run(_genomad(given.out.parent), "nn-classification", "--cleanup", file, scratch)
            table = pd.read_csv(scratch / f"{length}_nn_classification/{length}_nn_classification.tsv", sep="\t")
            scores["genomad_nn"] = table.set_index("seq_name")["virus_score"].reindex(list(sequences)).to_numpy()
        figures |= _aurocs(genomes, length, sequences, scores) | _calls(genomes, ours, length, sequences)
    return figures | {f"mb_per_s_{who}": mb / taken for who, taken in seconds.items() if taken}, LIMITS


def fragments(genomes: folds.Genomes, length_nt: int, count: int) -> dict[str, str]:
    """Unambiguous fragments that do not overlap, a seeded draw of equally many of each label, named record/start."""
    found: dict[str, dict[str, str]] = {label: {} for label in folds.LABELS}
    for record, bases in genomes.sequences.items():
        for start in range(0, len(bases) - length_nt + 1, length_nt):
            if not set(fragment := bases[start : start + length_nt]) - set(UNAMBIGUOUS):
                found[str(genomes.sources[record].label)][f"{record}/{start}"] = fragment
    generator, drawn = np.random.default_rng(folds.SEED), dict[str, str]()
    count = min(count, *map(len, found.values()))
    for of_label in found.values():
        names = list(of_label)
        drawn |= {names[at]: of_label[names[at]] for at in sorted(generator.choice(len(names), count, replace=False))}
    return drawn


def _aurocs(genomes: folds.Genomes, length: str, names: Iterable[str], scores: Mapping[str, np.ndarray]) -> Figures:
    viral, clusters = genomes.labels_and_clusters(names)
    curves = {f"auroc_{length}_{who}": folds.auroc(viral, found) for who, found in scores.items()}
    if "genomad_nn" in scores:
        ours, theirs = curves.values()
        curves[f"auroc_{length}_gain_over_genomad_nn"] = lambda weights: ours(weights) - theirs(weights)
    return folds.intervals(curves, clusters, viral)


def _calls(
    genomes: folds.Genomes, ours: Mapping[str, Sequence[folds.Fold]], sample: str, names: Iterable[str]
) -> Figures:
    """How many calls are certain, and how many of these are wrong."""
    (viral, clusters), found = genomes.labels_and_clusters(names), folds.probability(ours[sample], names)
    certain = np.maximum(found, 1.0 - found) >= 1.0 - EvaluationSettings().max_error
    wrong, every = (found >= 0.5) != viral, np.ones(len(viral))
    named = {
        "share_certain": _ratio(certain, every),
        "error_of_certain_calls": _ratio(certain & wrong, certain),
        "error_of_all_calls": _ratio(wrong, every),
    }
    suffix = f"_{sample}" if sample else ""
    return folds.intervals({f"{name}{suffix}": figure for name, figure in named.items()}, clusters, viral)


def _ratio(part: np.ndarray, whole: np.ndarray) -> Callable[[np.ndarray], float]:
    return lambda weights: float(weights @ part / max(weights @ whole, np.finfo(float).tiny))


def _genomad(folder: Path) -> Path:
    """Its program, installed at the first call."""
    program = folder / "genomad/bin/genomad"
    if not program.exists():
        CONSOLE.print(f"installing {GENOMAD} into {folder}")
        venv.create(folder / "genomad", with_pip=True)
        _run(folder / "genomad/bin/pip", "install", "--quiet", GENOMAD)
    return program


def _run(*command: str | Path) -> float:
    """Seconds that a command took."""
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return time.perf_counter() - start
