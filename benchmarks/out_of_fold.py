"""Sequences of the bundled genomes, each scored by the k-mer variant, fitted without any relative of it.

Whole clusters of related records are left out, a fold of them in turn. Penalty, record rule and its calibration are
chosen on the records that remain; a fold's own are scored once, and decide nothing.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold

from benchmarks.common import GENOMES, Figures, parsed
from virnuc_assets.classifier.checkpoint import LinearModel, score
from virnuc_assets.classifier.linear import fit_linear
from virnuc_assets.classifier.record_rule import RecordRule, fit_record_rule, record_probability
from virnuc_assets.migration.comparison import cluster_weights
from virnuc_assets.sequences.catalogue import Label, Source, read_catalogue
from virnuc_assets.sequences.chunk_table import chunk_tables
from virnuc_assets.sequences.composition import composition_features
from virnuc_assets.sequences.frame_rule import FrameRule
from virnuc_assets.sequences.frame_table import open_frames
from virnuc_assets.sequences.planning import plan_source
from virnuc_assets.settings import SequenceSettings, SplitSettings
from virnuc_assets.split.relatives import Clusters, find_relatives
from virnuc_assets.storage.merging import vectors_of

FOLDS, SEED, ROUNDS = 8, 0, 1000
CHUNK_NT, MIN_ORF_AA = SequenceSettings().chunk_length, SequenceSettings().min_orf_aa
RULES = {"stop_free": FrameRule(), "longest_orf": FrameRule("longest_orf", MIN_ORF_AA)}
LABELS: tuple[Label, Label] = ("host", "viral")


@dataclass(frozen=True)
class Genomes:
    """The bundled records by id: bases, and the row of the catalogue that each is of."""

    sequences: Mapping[str, str]
    sources: Mapping[str, Source]
    fold_count: int = FOLDS

    @classmethod
    def bundled(cls, names: int | None = None, folds: int = FOLDS) -> Genomes:
        """All of them, or those of so many sources of each label."""
        sequences, sources = dict[str, str](), dict[str, Source]()
        catalogue = read_catalogue(GENOMES)
        for label in LABELS:
            for source in [each for each in catalogue if each.label == label][:names]:
                for record in parsed(source.fasta, "fasta"):
                    sequences[record.id], sources[record.id] = str(record.seq).upper(), source
        return cls(sequences, sources, folds)

    @cached_property
    def chunks(self) -> pa.Table:
        """Of all records."""
        return chunked(self.sequences)

    @cached_property
    def clusters(self) -> dict[str, str]:
        """Cluster of relatives of each record, by sequence and by the catalogue's names."""
        named = defaultdict[str, set[str]](set)
        for record, source in self.sources.items():
            for kind, name in (("organism", source.organism), ("relatives", source.relatives)):
                if name:
                    named[f"{kind} {name}"].add(record)
        bases = ((record, sequence.encode()) for record, sequence in self.sequences.items())
        return Clusters(find_relatives(bases, named, SplitSettings(), {})[0], self.sequences).by_record()

    @cached_property
    def folds(self) -> dict[str, int]:
        """Number of each record's fold: whole clusters, with equal shares of both labels' chunks."""
        records = self.chunks["record_id"].to_numpy()
        splitter = StratifiedGroupKFold(self.fold_count, shuffle=True, random_state=SEED)
        found = splitter.split(records, *self.labels_and_clusters(records))
        return {record: fold for fold, (_, own) in enumerate(found) for record in np.unique(records[own]).tolist()}

    def labels_and_clusters(self, names: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
        """Whether viral (bool), and cluster, of each sequence."""
        records = [record_of(name) for name in names]
        viral = np.array([self.sources[record].label == "viral" for record in records])
        return viral, np.array([self.clusters[record] for record in records])


def record_of(name: str) -> str:
    """The record that a sequence is of: itself, or, of a fragment, what its name record/start says."""
    return name.partition("/")[0]


def as_fasta(sequences: Mapping[str, str]) -> str:
    """A file of them."""
    return "".join(f">{name}\n{bases}\n" for name, bases in sequences.items())


def chunked(sequences: Mapping[str, str]) -> pa.Table:
    """Chunks table of sequences."""
    with tempfile.NamedTemporaryFile("w", suffix=".fna") as file:
        file.write(as_fasta(sequences))
        file.flush()
        plan = plan_source(Path(file.name), "all", CHUNK_NT, SequenceSettings().shard_chunks)
        return pa.concat_tables(table for _, table in chunk_tables(plan))


def framed(chunks: pa.Table, rule: str) -> tuple[int, np.ndarray]:
    """Frames of all chunks by a rule, and which chunks have some, (n,) bool."""
    ids = open_frames(chunks, None, RULES[rule])[0]["chunk_id"]
    return len(ids), np.asarray(pc.is_in(chunks["chunk_id"], value_set=ids.combine_chunks()))


def features(chunks: pa.Table) -> pa.Table:
    """Of the k-mer variant: a row for each chunk with a frame by `longest_orf`."""
    return composition_features(chunks, open_frames(chunks, None, RULES["longest_orf"])[0], MIN_ORF_AA)


class Fold(NamedTuple):
    """A model of the other folds' records, their rule, and this fold's chunks: chunk_id, record_id, probability."""

    model: LinearModel
    rule: RecordRule | None
    chunks: pd.DataFrame


def probability(folds: Sequence[Fold], names: Iterable[str], chunk_ids: Sequence[str] | None = None) -> np.ndarray:
    """Of virus of the sequences, in their order, by these of their chunks or all; 0.5 where none is scored."""
    found = []
    for fold in folds:
        chunks = fold.chunks if chunk_ids is None else fold.chunks[fold.chunks["chunk_id"].isin(chunk_ids)]
        number, known = chunks["record_id"].factorize()
        by_chunk, unrelated = chunks["probability"].to_numpy(), np.zeros(len(known), bool)
        found.append(pd.Series(record_probability(fold.rule, by_chunk, number, unrelated), known))
    return np.asarray(pd.concat(found).reindex(list(names)).fillna(0.5))


def out_of_fold(genomes: Genomes, samples: Mapping[str, pa.Table]) -> dict[str, list[Fold]]:
    """Scored chunks of each sample, a chunks table of records or of fragments named as of `record_of`."""
    chunks, rows = genomes.chunks, features(genomes.chunks)
    clean = chunks["chunk_id"].filter(pc.invert(pc.match_substring_regex(chunks["sequence"], "[^ACGT]")))
    rows = rows.filter(pc.is_in(rows["chunk_id"], value_set=clean.combine_chunks()))  # those fit for training
    tables, found = {name: features(sample) for name, sample in samples.items()}, defaultdict[str, list[Fold]](list)
    for number in range(genomes.fold_count):
        model, rule = _fitted(genomes, rows.filter(pc.invert(_are_of(genomes, rows, number))))
        for name, table in tables.items():
            own = table.filter(_are_of(genomes, table, number))
            scored = own.select(["chunk_id", "record_id"]).to_pandas()
            scored["probability"] = score(model, vectors_of(own))[:, 1].astype(np.float64)
            found[name].append(Fold(model, rule, scored))
    return dict(found)


def _are_of(genomes: Genomes, rows: pa.Table, fold: int) -> pa.Array:
    return pa.array([genomes.folds[record_of(name)] == fold for name in rows["record_id"].to_pylist()])


def _fitted(genomes: Genomes, rows: pa.Table) -> tuple[LinearModel, RecordRule | None]:
    """As the product fits its k-mer classifier."""
    records = rows["record_id"].to_pylist()
    viral, clusters = genomes.labels_and_clusters(records)
    labels = np.where(viral, "viral", "host")
    facts = pd.DataFrame({"record_id": records, "cluster": clusters, "label": labels})
    fit = fit_linear(vectors_of(rows), facts, SEED)
    return fit.model, fit_record_rule(fit.out_of_fold(facts, 1.0), SEED)


def intervals(figures: Mapping[str, Callable[[np.ndarray], float]], clusters: np.ndarray, viral: np.ndarray) -> Figures:
    """Figures, each a function of the rows' weights, with bootstrap intervals of 95 % over clusters of each label.

    Figures of one call share their draws, so that one may be the difference of others.
    """
    generator, weights = np.random.default_rng(SEED), np.empty((ROUNDS, len(viral)))
    for label in (False, True):
        _, cluster = np.unique(clusters[viral == label], return_inverse=True)
        weights[:, viral == label] = cluster_weights(generator, ROUNDS, cluster.max() + 1)[:, cluster]
    found: Figures = {}
    for name, figure in figures.items():
        low, high = np.nanquantile([figure(one) for one in weights], [0.025, 0.975])
        found |= {name: figure(np.ones(len(viral))), f"{name}_low": float(low), f"{name}_high": float(high)}
    return found


def auroc(viral: np.ndarray, probability: np.ndarray) -> Callable[[np.ndarray], float]:
    """As a function of the rows' weights."""
    return lambda weights: float(roc_auc_score(viral, probability, sample_weight=weights))
