"""Sequences of the bundled genomes, each scored by a model that saw no relative of it.

Whole clusters of related records are left out, a fold of them in turn. All that is chosen or fitted (penalty, epoch,
record rule and its calibration) is so on the records that remain; a fold's own are scored once, and decide nothing.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold

from benchmarks.common import GENOMES, Figures, parsed
from virnuc_assets.classifier.calls import calibrated_scores, chunk_calls, chunk_probability
from virnuc_assets.classifier.checkpoint import Model, score
from virnuc_assets.classifier.datasets import LabelledRows, balanced_rows
from virnuc_assets.classifier.linear import fit_linear
from virnuc_assets.classifier.record_rule import Curve, RecordRule, fit_record_rule, record_probability
from virnuc_assets.classifier.training import train
from virnuc_assets.encoders.embedding import embed
from virnuc_assets.encoders.loading import load_encoder
from virnuc_assets.encoders.miniature import write_miniature
from virnuc_assets.encoders.registry import VARIANTS, miniature_of, registered
from virnuc_assets.migration.comparison import cluster_weights
from virnuc_assets.sequences.catalogue import Label, Source, read_catalogue
from virnuc_assets.sequences.cds import Treatment, cds_of
from virnuc_assets.sequences.composition import composition_features
from virnuc_assets.sequences.frame_rule import FrameRule
from virnuc_assets.sequences.frame_table import Truth, open_frames
from virnuc_assets.sequences.planning import chunk_count, starts_of
from virnuc_assets.settings import EncodingSettings, SequenceSettings, SplitSettings, TrainingSettings
from virnuc_assets.split.relatives import Clusters, find_relatives
from virnuc_assets.storage.merging import features_table, vectors_of
from virnuc_assets.storage.schemas import chunks_schema

FOLDS, SEED, ROUNDS = 8, 0, 1000
CHUNK_NT, MIN_ORF_AA = SequenceSettings().chunk_length, SequenceSettings().min_orf_aa
RULES = {"stop_free": FrameRule(), "longest_orf": FrameRule("longest_orf", MIN_ORF_AA)}
LABELS: tuple[Label, Label] = ("host", "viral")
_VALIDATION_FOLDS = 5  # one of them stops the training of an MLP
_PLAIN = Curve(slope=1.0, slope_per_doubling=0.0, intercept=0.0)
# Of models for which none is learnt: what speaks for a sequence is its chunks' mean log-odds, as it comes.
MEAN_LOG_ODDS = RecordRule(kind="mean_log_odds", novel=_PLAIN, most_chunks=1, auroc={}, records=1, clusters=1)


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
    def viral(self) -> dict[str, bool]:
        """Of each record."""
        return {record: source.label == "viral" for record, source in self.sources.items()}

    @cached_property
    def clusters(self) -> dict[str, str]:
        """Cluster of relatives of each record, by sequence and by the catalogue's names."""
        named = defaultdict[str, set[str]](set)
        for record, source in self.sources.items():
            for name in (f"organism {source.organism}", f"relatives {source.relatives}"):
                if not name.endswith(" "):
                    named[name].add(record)
        bases = ((record, sequence.encode()) for record, sequence in self.sequences.items())
        return Clusters(find_relatives(bases, named, SplitSettings(), {})[0], self.sequences).by_record()

    @cached_property
    def folds(self) -> dict[str, int]:
        """Number of each record's fold: whole clusters, with equal shares of both labels' chunks."""
        records = np.repeat(
            list(self.sequences), [chunk_count(len(each), CHUNK_NT) for each in self.sequences.values()]
        )
        clusters = np.array([self.clusters[record] for record in records])
        splitter = StratifiedGroupKFold(self.fold_count, shuffle=True, random_state=SEED)
        found = splitter.split(records, [self.viral[record] for record in records], clusters)
        return {record: fold for fold, (_, own) in enumerate(found) for record in np.unique(records[own]).tolist()}

    @cached_property
    def proteins(self) -> dict[str, tuple[str, ...]]:
        """CDS translations of the records that have some."""
        found = {}
        for path in {source.name: source.genbank for source in self.sources.values()}.values():
            for record in parsed(path, "genbank") if path else []:
                cds = [cds_of(feature) for feature in record.features if feature.type == "CDS"]
                used = tuple(str(each["translation"]) for each in cds if each["treatment"] == Treatment.USED)
                if used and record.id in self.sequences:
                    found[record.id] = used
        return found

    def labels_and_clusters(self, records: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
        """Whether viral (bool), and cluster, of each record."""
        names = list(records)
        return np.array([self.viral[name] for name in names]), np.array([self.clusters[name] for name in names])

    def frame_ids(self, rule: FrameRule, proteins: Mapping[str, tuple[str, ...]]) -> pa.Array:
        """Ids of the frames that are fit for training."""
        parts = []
        for label in LABELS:
            own = {record: bases for record, bases in self.sequences.items() if self.sources[record].label == label}
            groups = {record: str(self.sources[record].group) for record in own}
            known = {record: proteins[record] for record in own if record in proteins}
            parts += open_frames(chunked(own), Truth(label, groups, known), rule)[0]["frame_id"].chunks
        return pa.chunked_array(parts, pa.string()).combine_chunks()


def chunked(sequences: Mapping[str, str]) -> pa.Table:
    """Chunks table of sequences."""
    rows = [
        (f"{name}_chunk_{number}", name, start, min(start + CHUNK_NT, len(bases)), bases[start : start + CHUNK_NT])
        for name, bases in sequences.items()
        for number, start in enumerate(
            starts_of(np.arange(chunk_count(len(bases), CHUNK_NT)), len(bases), CHUNK_NT).tolist(), start=1
        )
    ]
    return pa.table([list(column) for column in zip(*rows, strict=True)], schema=chunks_schema())


def framed(chunks: pa.Table, rule: str) -> tuple[int, np.ndarray]:
    """Frames of all chunks by a rule, and which chunks have some, (n,) bool."""
    ids = open_frames(chunks, None, RULES[rule])[0]["chunk_id"]
    return len(ids), np.asarray(pc.is_in(chunks["chunk_id"], value_set=ids.combine_chunks()))


@dataclass(frozen=True)
class Fitted:
    """A model of some records, and their rule."""

    model: Model
    temperature: float | None
    rule: RecordRule | None

    def chunks(self, features: pa.Table) -> pd.DataFrame:
        """Probability of each chunk: chunk_id, record_id, probability; in their order."""
        scores = score(self.model, vectors_of(features))
        known = {name: features[name] for name in ("chunk_id", "record_id")}
        frames = pa.table({**known, "score_other": scores[:, 0], "score_virus": scores[:, 1]})
        calls = chunk_calls(calibrated_scores(frames, self.temperature))
        found = calls.select(["chunk_id", "record_id"]).to_pandas()
        return found.assign(probability=chunk_probability(calls))

    def probability(self, chunks: pd.DataFrame) -> pd.Series:
        """Of virus of each sequence that some scored chunks are of, by its id."""
        record, names = chunks["record_id"].factorize()
        unknown = np.zeros(len(names), bool)
        return pd.Series(record_probability(self.rule, chunks["probability"].to_numpy(), record, unknown), names)


class Kmer:
    """The k-mer variant; its rows of training are those of the product, its penalty and record rule chosen likewise."""

    def features(self, chunks: pa.Table) -> pa.Table:
        """Features of chunks that may be any record's."""
        return composition_features(chunks, open_frames(chunks, None, RULES["longest_orf"])[0], MIN_ORF_AA)

    def training_ids(self, genomes: Genomes) -> pa.Array:
        """Ids of the features that are trained on, if their records are."""
        return genomes.frame_ids(RULES["longest_orf"], {})

    def fit(self, features: pa.Table, genomes: Genomes) -> Fitted:
        """A model of these features."""
        records = features["record_id"].to_pylist()
        viral, clusters = genomes.labels_and_clusters(records)
        labels = np.where(viral, "viral", "host")
        facts = pd.DataFrame({"record_id": records, "cluster": clusters, "label": labels})
        fit = fit_linear(vectors_of(features), facts, SEED)
        return Fitted(fit.model, None, fit_record_rule(fit.out_of_fold(facts, 1.0), SEED))


class Miniature:
    """VirNucPro's MLP on vectors of the candidate's miniatures, which have random weights, by a frame rule."""

    def __init__(self, rule: FrameRule) -> None:
        self.rule, pair = rule, VARIANTS["fastesm2"]
        with tempfile.TemporaryDirectory() as scratch:
            specs = [miniature_of(registered(name)) for name in (pair.dna, pair.protein)]
            for spec in specs:
                write_miniature(spec, Path(scratch))
            self._encoders = [load_encoder(spec, Path(scratch), EncodingSettings(device="cpu")) for spec in specs]

    def features(self, chunks: pa.Table) -> pa.Table:
        """As of `Kmer`, and so the others."""
        frames, _ = open_frames(chunks, None, self.rule)
        vectors = [embed(each, frames[each.spec.column].to_pylist()) for each in self._encoders]
        return features_table(frames, np.concatenate(vectors, axis=1))

    def training_ids(self, genomes: Genomes) -> pa.Array:
        """With evidence by CDS, where there is some."""
        return genomes.frame_ids(self.rule, genomes.proteins)

    def fit(self, features: pa.Table, genomes: Genomes) -> Fitted:
        """Stopped on the rows of some clusters, by which it is calibrated, too."""
        records = features["record_id"].to_pylist()
        viral, cluster = genomes.labels_and_clusters(records)
        group = np.array([genomes.sources[record].group for record in records])
        splitter = StratifiedGroupKFold(_VALIDATION_FOLDS, shuffle=True, random_state=SEED)
        vectors, sides = vectors_of(features), list[LabelledRows]()
        for side in next(splitter.split(records, viral, cluster)):
            names = np.where(viral[side], "viral", "host")
            rows = side[balanced_rows(names, group[side], SEED)]
            sides.append(LabelledRows(vectors[rows], viral[rows].astype(np.int64)))
        trained = train(sides[0], sides[1], TrainingSettings())
        return Fitted(trained.model, trained.temperature, MEAN_LOG_ODDS)


@dataclass(frozen=True)
class OutOfFold:
    """Scored chunks of some sequences (record_id, chunk_id, probability), and by fold what scored them."""

    chunks: list[pd.DataFrame]
    fitted: list[Fitted]

    def probability(self, sequences: Mapping[str, str], rule: str = "longest_orf") -> np.ndarray:
        """Of virus of the sequences, in their order; 0.5 where none of its chunks is scored and has a frame."""
        chunks = chunked(sequences)
        with_frame = chunks["chunk_id"].to_numpy()[framed(chunks, rule)[1]]
        each = zip(self.fitted, self.chunks, strict=True)
        parts = [fitted.probability(chunks[chunks["chunk_id"].isin(with_frame)]) for fitted, chunks in each]
        return np.asarray(pd.concat(parts).reindex(list(sequences)).fillna(0.5))


def out_of_fold(
    variant: Kmer | Miniature,
    genomes: Genomes,
    samples: Mapping[str, Mapping[str, str]],
    record_of: Callable[[str], str],
) -> dict[str, OutOfFold]:
    """Scores of some sets of sequences, id to bases, and of the records themselves as `records`."""
    features = {"records": variant.features(chunked(genomes.sequences))}
    features |= {name: variant.features(chunked(sequences)) for name, sequences in samples.items()}
    fold_of = {
        name: np.array(
            [genomes.folds[one if name == "records" else record_of(one)] for one in table["record_id"].to_pylist()]
        )
        for name, table in features.items()
    }
    fit_for_training = pc.is_in(features["records"]["frame_id"], variant.training_ids(genomes))
    chunks, models = defaultdict[str, list[pd.DataFrame]](list), list[Fitted]()
    for fold in range(genomes.fold_count):
        rows = pc.and_(fit_for_training, pa.array(fold_of["records"] != fold))
        models.append(variant.fit(features["records"].filter(rows), genomes))
        for name, table in features.items():
            chunks[name].append(models[-1].chunks(table.filter(pa.array(fold_of[name] == fold))))
    return {name: OutOfFold(found, models) for name, found in chunks.items()}


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
