"""geNomad's network and ours on the same fragments of the bundled genomes, and on the project's test records.

geNomad comes from PyPI, its weights with it, into a virtual environment below var/; it was trained on databases that
hold many of these genomes. Each of our scores is by a model that saw no relative. What has no scored chunk counts as
0.5. A call is certain if its expected error is at most the default of `max_error`. `virnuc predict` is timed with the
classifier of this folder's project; so is geNomad's command, both from start to end.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
import venv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.common import CONSOLE, MB, ROOT, Figures, Limits
from benchmarks.out_of_fold import (
    LABELS,
    RULES,
    SEED,
    Genomes,
    Kmer,
    Miniature,
    OutOfFold,
    auroc,
    intervals,
    out_of_fold,
)
from virnuc_assets.classifier.datasets import records_of_split
from virnuc_assets.classifier.record_rule import equal_weights
from virnuc_assets.defs.resources import Workspace
from virnuc_assets.sequences.records import UNAMBIGUOUS
from virnuc_assets.settings import EvaluationSettings, load_settings
from virnuc_assets.storage.tables import read_table

GENOMAD = "genomad==1.13.0"
FRAGMENTS = {"500": 300, "3000": 300}  # of each label, by length in nt; where a label has fewer, as many of both
TESTED = "test_records"
LIMITS = {
    "auroc_500_default": (0.73, 1.0),
    "auroc_500_gain_over_genomad_nn": (0.0, 1.0),
    "auroc_3000_default": (0.8, 1.0),
    "error_of_certain_calls": (0.0, 0.2),
    "share_certain": (0.3, 1.0),
}
OPTIONS = {"only": (("genomad", "miniature", "predict"), "what is run besides the k-mer variant")}
_SIZES, _PARTS = 2 ** np.arange(7), 6  # chunks of a part of a record; parts of each size
Sequences = Mapping[str, str]


def measure(given: argparse.Namespace, scratch: Path) -> tuple[Figures, Limits]:
    """AUROC of fragments and test records, calls of records, and speeds."""
    genomes = Genomes.bundled()
    samples = {length: fragments(genomes, int(length), count) for length, count in FRAGMENTS.items()}
    tested = records_of_split(read_table(Workspace(load_settings(ROOT)).layout.split), "test")
    scores = {"default": out_of_fold(Kmer(), genomes, samples, record_of)}
    if "miniature" in given.only:
        minis = {name: out_of_fold(Miniature(rule), genomes, samples, record_of) for name, rule in RULES.items()}
        scores |= {f"miniature_{name}": found for name, found in minis.items()}
    figures = certain_calls(genomes, scores["default"]["records"], EvaluationSettings().max_error)
    samples[TESTED] = {record: genomes.sequences[record] for record in tested}
    files = {name: scratch / f"{name}.fna" for name in samples}
    for name, file in files.items():
        file.write_text("".join(f">{one}\n{bases}\n" for one, bases in samples[name].items()), encoding="ascii")
    peer = _genomad(files, given.out.parent / "genomad", figures) if "genomad" in given.only else {}
    if "predict" in given.only:
        figures["mb_per_s_default"] = _predict_mb_per_s([files[length] for length in FRAGMENTS])
    for name, sequences in samples.items():
        of = "records" if name == TESTED else name
        probability = {
            variant: found[of].probability(sequences, variant.partition("_")[2] or "longest_orf")
            for variant, found in scores.items()
        }
        probability["kmer_stop_free"] = scores["default"][of].probability(sequences, "stop_free")
        if name in peer:
            probability["genomad_nn"] = peer[name].reindex(list(sequences)).to_numpy()
        figures |= _aurocs(genomes, name, sequences, probability)
    return figures, LIMITS


def fragments(genomes: Genomes, length_nt: int, count: int) -> dict[str, str]:
    """Unambiguous fragments that do not overlap, a seeded draw of equally many of each label, by name (`record_of`)."""
    found: dict[str, dict[str, str]] = {label: {} for label in LABELS}
    for record, bases in genomes.sequences.items():
        source = genomes.sources[record]
        for start in range(0, len(bases) - length_nt + 1, length_nt):
            if not set(fragment := bases[start : start + length_nt]) - set(UNAMBIGUOUS):
                found[str(source.label)][f"{source.label}__{source.name}__{record}__{start}"] = fragment
    generator, drawn = np.random.default_rng(SEED), dict[str, str]()
    count = min(count, *map(len, found.values()))
    for of_label in found.values():
        names = list(of_label)
        drawn |= {names[at]: of_label[names[at]] for at in sorted(generator.choice(len(names), count, replace=False))}
    return drawn


def record_of(fragment: str) -> str:
    """The record that a fragment, named label__source__record__start, is of."""
    return fragment.rpartition("__")[0].split("__", 2)[2]


def _aurocs(genomes: Genomes, name: str, sequences: Sequences, probability: Mapping[str, np.ndarray]) -> Figures:
    records = sequences if name == TESTED else [record_of(one) for one in sequences]
    viral, clusters = genomes.labels_and_clusters(records)
    curves = {f"auroc_{name}_{who}": auroc(viral, found) for who, found in probability.items()}
    if "genomad_nn" in probability:
        ours, theirs = (curves[f"auroc_{name}_{who}"] for who in ("default", "genomad_nn"))
        curves[f"auroc_{name}_gain_over_genomad_nn"] = lambda weights: ours(weights) - theirs(weights)
    return {f"sequences_{name}": len(sequences), **intervals(curves, clusters, viral)}


def certain_calls(genomes: Genomes, found: OutOfFold, max_error: float) -> Figures:
    """How many calls are certain and how many of these are wrong: of whole records, and of parts of 1 to 64 chunks.

    Of parts, clusters of a label weigh the same, and so do the labels.
    """
    figures: Figures = {}
    parts = pd.concat(
        fitted.probability(parts_of(chunks)) for fitted, chunks in zip(found.fitted, found.chunks, strict=True)
    )
    whole = pd.Series(found.probability(genomes.sequences), list(genomes.sequences))
    for suffix, probability in (("", whole), ("_parts", parts)):
        viral, clusters = genomes.labels_and_clusters(name.partition("\t")[0] for name in probability.index)
        values = probability.to_numpy()
        share = equal_weights(viral, clusters) if suffix else np.ones(len(viral))
        certain = np.maximum(values, 1.0 - values) >= 1.0 - max_error
        wrong = certain & ((values >= 0.5) != viral)
        named = {
            f"share_certain{suffix}": _ratio(certain * share, share),
            f"error_of_certain_calls{suffix}": _ratio(wrong * share, certain * share),
            f"error_of_all_calls{suffix}": _ratio(((values >= 0.5) != viral) * share, share),
        }
        figures |= intervals(named, clusters, viral)
    return figures


def _ratio(part: np.ndarray, whole: np.ndarray) -> Callable[[np.ndarray], float]:
    return lambda weights: float(weights @ part / max(weights @ whole, np.finfo(float).tiny))


def parts_of(chunks: pd.DataFrame) -> pd.DataFrame:
    """Some parts of each record, of 1, 2, 4 … 64 neighbouring scored chunks, as records of their own."""
    generator, parts = np.random.default_rng(SEED), list[pd.DataFrame]()
    for record, own in chunks.groupby("record_id", sort=False):
        for size in _SIZES[len(own) >= _SIZES].tolist():
            for start in sorted(generator.integers(0, len(own) - size + 1, min(_PARTS, len(own) // size)).tolist()):
                parts.append(own.iloc[start : start + size].assign(record_id=f"{record}\t{len(parts)}"))
    return pd.concat(parts, ignore_index=True)


def _genomad(files: Mapping[str, Path], folder: Path, figures: Figures) -> dict[str, pd.Series]:
    """Virus scores of each file's sequences; adds the speed on the fragments to the figures."""
    program = folder / "bin/genomad"
    if not program.exists():
        CONSOLE.print(f"installing {GENOMAD} into {folder}")
        venv.create(folder, with_pip=True)
        _run(folder / "bin/pip", "install", "--quiet", GENOMAD)
    found, seconds = dict[str, pd.Series](), dict[str, float]()
    for name, file in files.items():
        out = file.with_name(f"{name}_genomad")
        seconds[name] = _run(program, "nn-classification", "--cleanup", file, out)
        table = pd.read_csv(out / f"{name}_nn_classification/{name}_nn_classification.tsv", sep="\t")
        found[name] = table.set_index("seq_name")["virus_score"]
    figures["mb_per_s_genomad_nn"] = _mb([files[name] for name in FRAGMENTS]) / sum(seconds[name] for name in FRAGMENTS)
    return found


def _predict_mb_per_s(files: Sequence[Path]) -> float:
    virnuc = Path(sys.executable).with_name("virnuc")
    return _mb(files) / sum(
        _run(virnuc, "predict", file, "--out", file.with_suffix(""), "--project", ROOT) for file in files
    )


def _mb(files: Sequence[Path]) -> float:
    return sum(file.stat().st_size for file in files) / MB


def _run(*command: str | Path) -> float:
    """Seconds that a command took."""
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return time.perf_counter() - start
