"""What each frame rule leaves unscored of the bundled genomes, and the AUROC of records, out of fold.

One without any scored chunk counts as 0.5. The k-mer variant reads the longest stretch whatever the rule: by
`stop_free` only its chunks with a frame without a stop count.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from benchmarks import common
from benchmarks import out_of_fold as folds
from benchmarks.common import MB, Figures, Limits
from virnuc_assets.classifier.checkpoint import score
from virnuc_assets.sequences.cds import Treatment, cds_of
from virnuc_assets.sequences.records import UNAMBIGUOUS
from virnuc_assets.storage.merging import vectors_of

OPTIONS = {
    "names": (0, "so many sources of each label; 0 = all"),
    "folds": (folds.FOLDS, "of clusters of relatives"),
}
LIMITS = {
    "chunks_scored_viral_longest_orf": (0.98, 1.0),
    "chunks_scored_host_longest_orf": (0.98, 1.0),
    "complete_genes_scored_longest_orf": (0.99, 1.0),
}


def measure(given: argparse.Namespace, _scratch: Path) -> tuple[Figures, Limits]:
    """Coverage, AUROC of records by both rules and what the second gains, and seconds from bases to scores."""
    genomes = folds.Genomes.bundled(given.names or None, given.folds)
    chunks, genes = genomes.chunks, complete_genes(genomes)
    of_genes, of_records = folds.chunked(genes), folds.out_of_fold(genomes, {"records": chunks})["records"]
    viral, clusters = genomes.labels_and_clusters(genomes.sequences)
    of_viral, _ = genomes.labels_and_clusters(chunks["record_id"].to_pylist())
    figures, curves = Figures({"complete_genes": len(genes)}), {}
    for rule in folds.RULES:
        frames, scored = folds.framed(chunks, rule)
        figures[f"frames_per_chunk_{rule}"] = frames / len(scored)
        for label in folds.LABELS:
            own = of_viral == (label == "viral")
            figures |= {f"chunks_{label}": int(own.sum()), f"chunks_scored_{label}_{rule}": scored[own].mean()}
        found = of_genes["record_id"].filter(pa.array(folds.framed(of_genes, rule)[1]))
        figures[f"complete_genes_scored_{rule}"] = pc.count_distinct(found).as_py() / len(genes)
        with_frame = chunks["chunk_id"].filter(pa.array(scored)).to_pylist()
        curves[rule] = folds.auroc(viral, folds.probability(of_records, genomes.sequences, with_frame))
    named = {f"record_auroc_{rule}": curve for rule, curve in curves.items()}
    named["record_auroc_gain"] = lambda weights: curves["longest_orf"](weights) - curves["stop_free"](weights)
    start = time.perf_counter()
    score(of_records[0].model, vectors_of(folds.features(folds.chunked(genomes.sequences))))
    seconds = time.perf_counter() - start
    mb = sum(map(len, genomes.sequences.values())) / MB
    return figures | folds.intervals(named, clusters, viral) | {"seconds_per_mb": seconds / mb}, LIMITS


def complete_genes(genomes: folds.Genomes) -> dict[str, str]:
    """Bases of every CDS of the GenBank files that is whole and unambiguous, each under a name of its own."""
    genes = dict[str, str]()
    for name, path in {source.name: source.genbank for source in genomes.sources.values()}.items():
        for record in common.parsed(path, "genbank") if path else []:
            for feature in record.features:
                if feature.type == "CDS" and cds_of(feature)["treatment"] != Treatment.PSEUDO:
                    bases = str(feature.extract(record.seq)).upper()
                    if not set(str(feature.location)) & set("<>") and not set(bases) - set(UNAMBIGUOUS):
                        genes[f"{name}_{len(genes)}"] = bases
    return genes
