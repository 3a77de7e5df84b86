"""What the benchmarks of calls are made of: no model of relatives scores anything, and intervals are over clusters."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from benchmarks.bench_coverage import complete_genes
from benchmarks.bench_peers import fragments, parts_of, record_of
from benchmarks.common import GENOMES
from benchmarks.out_of_fold import Genomes, auroc, chunked, intervals
from virnuc_assets.classifier.record_rule import equal_weights
from virnuc_assets.sequences.chunk_table import chunk_tables
from virnuc_assets.sequences.planning import plan_source


@pytest.fixture(scope="module")
def genomes() -> Genomes:
    return Genomes.bundled(names=8, folds=3)


def test_folds_keep_relatives_together(genomes: Genomes) -> None:
    folds = {}
    for record, cluster in genomes.clusters.items():
        assert folds.setdefault(cluster, genomes.folds[record]) == genomes.folds[record]
    assert set(folds.values()) == {0, 1, 2}
    arabidopsis = {genomes.clusters[name] for name, source in genomes.sources.items() if "Arabidopsis" in source.name}
    assert len(arabidopsis) == 1  # joined by the catalogue's word


def test_chunks_are_those_of_the_platform(genomes: Genomes) -> None:
    plan = plan_source(GENOMES / "viral/DWV.fna.gz", "DWV", 500, 10_000)
    ((_, expected),) = chunk_tables(plan)
    record = expected["record_id"][0].as_py()
    assert chunked({record: genomes.sequences[record]}).equals(expected)


def test_fragments_are_equally_many_and_named_by_their_place(genomes: Genomes) -> None:
    found = fragments(genomes, 3000, 10_000)
    labels = [name.partition("__")[0] for name in found]
    assert labels.count("viral") == labels.count("host") > 0
    for name, bases in found.items():
        start = int(name.rpartition("__")[2])
        assert start % 3000 == 0
        assert bases == genomes.sequences[record_of(name)][start : start + 3000]
        assert len(bases) == 3000


def test_complete_genes_begin_and_end_as_genes_do(genomes: Genomes) -> None:
    genes = complete_genes(genomes)
    stops = [bases[-3:] in {"TAA", "TAG", "TGA"} for name, bases in genes.items() if name.startswith("Bradyrhizobium")]
    assert len(stops) > 50
    assert all(stops)


def test_parts_are_neighbouring_chunks_of_one_record() -> None:
    chunks = pd.DataFrame({"record_id": ["a"] * 5 + ["b"], "probability": [0.0, 1.0, 2.0, 3.0, 4.0, 9.0]})
    sizes = list[int]()
    for name, part in parts_of(chunks).groupby("record_id", sort=False):
        values = part["probability"].tolist()
        assert values == [values[0] + step for step in range(len(values))]
        assert (values == [9.0]) == str(name).startswith("b\t")
        sizes.append(len(values))
    assert sizes == [1] * 5 + [2] * 2 + [4] + [1]


def test_clusters_and_labels_have_equal_shares() -> None:
    viral, clusters = np.array([True, True, True, False, False]), np.array(["a", "a", "b", "c", "c"])
    assert equal_weights(viral, clusters).tolist() == [0.125, 0.125, 0.25, 0.25, 0.25]


def test_intervals_are_as_wide_as_clusters_are_few() -> None:
    viral = np.repeat([False, True], 20)
    score = np.where(viral, 0.6, 0.4)
    score[[0, 1]] = 0.9  # one cluster of hosts is called wrong
    clusters = np.arange(40) // 2
    named = {"auroc": auroc(viral, score), "perfect": auroc(viral, viral.astype(float))}
    found = intervals({**named, "gain": lambda w: named["perfect"](w) - named["auroc"](w)}, clusters, viral)
    assert (found["perfect_low"], found["perfect"], found["perfect_high"]) == (1.0, 1.0, 1.0)
    assert found["auroc"] == pytest.approx(0.9)
    assert (found["auroc_low"], found["auroc_high"]) == pytest.approx((0.7, 1.0))
    assert (found["gain_low"], found["gain_high"]) == pytest.approx((0.0, 0.3))
