"""What a frame rule leaves without a verdict, and what the verdicts on the others are worth.

On the bundled genomes, by both frame rules: chunks and complete genes with a frame, frames to embed, and the AUROC of
records, each scored by models that saw no relative of it; one without any scored chunk counts as 0.5. The k-mer variant
reads the longest stretch whatever the rule: by `stop_free` only its chunks with a frame without a stop count.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from benchmarks import common
from benchmarks.common import MB, Figures, Limits
from benchmarks.out_of_fold import (
    FOLDS,
    LABELS,
    RULES,
    Genomes,
    Kmer,
    auroc,
    chunked,
    framed,
    intervals,
    out_of_fold,
    parsed,
)
from virnuc_assets.sequences.cds import Treatment, cds_of
from virnuc_assets.sequences.records import UNAMBIGUOUS

OPTIONS = {
    "names": (0, "so many sources of each label; 0 = all"),
    "folds": (FOLDS, "of clusters of relatives"),
}
LIMITS = {
    "chunks_scored_viral_longest_orf": (0.98, 1.0),
    "chunks_scored_host_longest_orf": (0.98, 1.0),
    "complete_genes_scored_longest_orf": (0.99, 1.0),
}
_ROUNDS = 3


def measure(given: argparse.Namespace, _scratch: Path) -> tuple[Figures, Limits]:
    """Coverage, AUROC of records by both rules and what the second gains, and seconds from bases to scores."""
    genomes = Genomes.bundled(given.names or None, given.folds)
    viral, clusters = genomes.labels_and_clusters(genomes.sequences)
    found, seconds = out_of_fold(Kmer(), genomes, {}, str)["records"], list[float]()
    first, second = (auroc(viral, found.probability(genomes.sequences, rule)) for rule in RULES)
    named = {f"record_auroc_{rule}": curve for rule, curve in zip(RULES, (first, second), strict=True)}
    gain = {"record_auroc_gain": lambda weights: second(weights) - first(weights)}
    for _ in range(_ROUNDS):
        start = time.perf_counter()
        found.fitted[0].chunks(Kmer().features(chunked(genomes.sequences)))
        seconds.append(time.perf_counter() - start)
    mb = sum(map(len, genomes.sequences.values())) / MB
    figures = _coverage(genomes) | intervals({**named, **gain}, clusters, viral)
    return figures | {"seconds_per_mb": statistics.median(seconds) / mb}, LIMITS


def _coverage(genomes: Genomes) -> Figures:
    """Shares of chunks, and of genes (records of their own), with a frame by both rules, and frames for each chunk."""
    chunks, genes = chunked(genomes.sequences), complete_genes(genomes)
    of_genes, figures = chunked(genes), Figures({"complete_genes": len(genes)})
    viral, _ = genomes.labels_and_clusters(chunks["record_id"].to_pylist())
    for rule in RULES:
        frames, scored = framed(chunks, rule)
        figures[f"frames_per_chunk_{rule}"] = frames / len(scored)
        for label in LABELS:
            own = viral == (label == "viral")
            figures |= {f"chunks_{label}": int(own.sum()), f"chunks_scored_{label}_{rule}": scored[own].mean()}
        found = of_genes["record_id"].filter(pa.array(framed(of_genes, rule)[1]))
        figures[f"complete_genes_scored_{rule}"] = pc.count_distinct(found).as_py() / len(genes)
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


if __name__ == "__main__":
    raise SystemExit(common.run("bench-coverage", __doc__, OPTIONS, measure))
