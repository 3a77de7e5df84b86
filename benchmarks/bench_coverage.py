"""What a frame rule leaves without a verdict, and what the verdicts on the others are worth.

On the bundled genomes, by both frame rules: chunks and complete genes with a frame, frames to embed, and the AUROC of
records, each scored by models that saw no relative of it; one without any scored chunk counts as 0.5. The k-mer variant
reads the longest stretch whatever the rule: by `stop_free` only its chunks with a frame without a stop count.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.common import MB, Figures, Limits, parsed
from benchmarks.out_of_fold import (
    FOLDS,
    LABELS,
    RULES,
    Genomes,
    Kmer,
    Miniature,
    auroc,
    chunked,
    framed,
    intervals,
    out_of_fold,
)
from virnuc_assets.sequences.cds import Treatment, cds_of
from virnuc_assets.sequences.records import UNAMBIGUOUS

LIMITS = {
    f"{what}_scored{label}_longest_orf": (least, 1.0)
    for what, label, least in (("chunks", "_viral", 0.98), ("chunks", "_host", 0.98), ("complete_genes", "", 0.99))
}
OPTIONS = {
    "only": (("kmer", "miniature"), "variants whose records are scored"),
    "names": (0, "so many sources of each label; 0 = all"),
    "folds": (FOLDS, "of clusters of relatives"),
}
_ROUNDS = 3


def measure(given: argparse.Namespace, _scratch: Path) -> tuple[Figures, Limits]:
    """Coverage, then AUROCs of the chosen variants."""
    genomes = Genomes.bundled(given.names or None, given.folds)
    figures = chunk_coverage(genomes) | gene_coverage(complete_genes(genomes))
    if "kmer" in given.only:
        figures |= _kmer(genomes)
    if "miniature" in given.only:
        figures |= _miniature(genomes)
    return figures, LIMITS


def chunk_coverage(genomes: Genomes) -> Figures:
    """Shares of chunks with a frame by both rules, and frames for each chunk."""
    chunks, figures = chunked(genomes.sequences), Figures()
    viral, _ = genomes.labels_and_clusters(chunks["record_id"].to_pylist())
    for rule in RULES:
        frames, scored = framed(chunks, rule)
        for label in LABELS:
            own = viral == (label == "viral")
            figures |= {f"chunks_{label}": int(own.sum()), f"chunks_scored_{label}_{rule}": scored[own].mean()}
        figures[f"frames_per_chunk_{rule}"] = frames / len(scored)
    return figures


def complete_genes(genomes: Genomes) -> dict[str, str]:
    """Bases of every CDS of the GenBank files that is whole and unambiguous, each under a name of its own."""
    genes = dict[str, str]()
    for name, path in {source.name: source.genbank for source in genomes.sources.values()}.items():
        for record in parsed(path, "genbank") if path else []:
            for feature in record.features:
                if feature.type == "CDS" and cds_of(feature)["treatment"] != Treatment.PSEUDO:
                    bases = str(feature.extract(record.seq)).upper()
                    if not set(str(feature.location)) & set("<>") and not set(bases) - set(UNAMBIGUOUS):
                        genes[f"{name}_{len(genes)}"] = bases
    return genes


def gene_coverage(genes: Mapping[str, str]) -> Figures:
    """Shares of genes, each a record of its own, of which a chunk has a frame."""
    chunks, figures = chunked(genes), Figures({"complete_genes": len(genes)})
    for rule in RULES:
        records = chunks["record_id"].filter(pa.array(framed(chunks, rule)[1]))
        figures[f"complete_genes_scored_{rule}"] = pc.count_distinct(records).as_py() / len(genes)
    return figures


def _kmer(genomes: Genomes) -> Figures:
    found = out_of_fold(Kmer(), genomes, {}, str)["records"]
    probability = {rule: found.probability(genomes.sequences, rule) for rule in RULES}
    return _aurocs(genomes, probability, "") | {"seconds_per_mb": _seconds_per_mb(genomes, found.fitted[0].chunks)}


def _miniature(genomes: Genomes) -> Figures:
    by_rule = {name: out_of_fold(Miniature(rule), genomes, {}, str)["records"] for name, rule in RULES.items()}
    probability = {name: found.probability(genomes.sequences) for name, found in by_rule.items()}
    return _aurocs(genomes, probability, "miniature_")


def _aurocs(genomes: Genomes, probability: Mapping[str, np.ndarray], variant: str) -> Figures:
    """Of records by both rules, and what the second gains."""
    viral, clusters = genomes.labels_and_clusters(genomes.sequences)
    first, second = (auroc(viral, values) for values in probability.values())
    named = {f"record_auroc_{variant}{name}": each for name, each in zip(probability, (first, second), strict=True)}
    gain = {f"record_auroc_{variant}gain": lambda weights: second(weights) - first(weights)}
    return intervals({**named, **gain}, clusters, viral)


def _seconds_per_mb(genomes: Genomes, score: Callable[[pa.Table], object]) -> float:
    """Of the k-mer variant, from bases to scores of chunks."""
    seconds = list[float]()
    for _ in range(_ROUNDS):
        start = time.perf_counter()
        score(Kmer().features(chunked(genomes.sequences)))
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds) / (sum(map(len, genomes.sequences.values())) / MB)
