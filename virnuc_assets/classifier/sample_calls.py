"""The calls of a sample: one row per record and one value per chunk, from which everything that its user reads is made.

Holds a few bytes per chunk, however many frames a sample has. Reads tables, needs no model.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from virnuc_assets.classifier.calls import (
    VIRUS,
    are_viral,
    calibrated,
    calibrated_scores,
    chunk_calls,
    chunk_numbers,
    chunk_probability,
)
from virnuc_assets.classifier.novelty import Sketch
from virnuc_assets.classifier.record_rule import RecordRule, record_probability
from virnuc_assets.errors import VirnucError
from virnuc_assets.sequences.planning import starts_of
from virnuc_assets.sequences.translation import CODON_NT, FRAME_NAMES, STRANDS
from virnuc_assets.storage.digests import one_array
from virnuc_assets.storage.schemas import predictions_schema
from virnuc_assets.storage.tables import read_table

OTHER, UNCERTAIN, NOT_SCORED = "other", "uncertain", "not scored"
CALLS = (VIRUS, OTHER, UNCERTAIN, NOT_SCORED)
SPAN = ("start_nt", "end_nt")
# Of a chunk that VirNucPro's rule calls virus the probability is at least this, also after it was rounded.
EVEN = np.float32(0.5)
_HIGHEST_OTHER = np.nextafter(EVEN, np.float32(0.0))


def records_schema() -> pa.Schema:
    """One row per record of a sample's inputs, in their order; `call` is one of the four, `reason` of one not scored.

    probability: of virus, by the classifier's record rule, or without one the mean of the record's scored chunks; null
    where none is scored. novelty: share of its protein k-mers that no record of the training has; null where that is
    not known, or the record has none.
    """
    known = [("source", pa.string()), ("record_id", pa.string()), ("length_nt", pa.int64()), ("call", pa.string())]
    shares = [(name, pa.float64()) for name in ("probability", "novelty", "viral_fraction")]
    counted = ("chunks", "chunks_scored", "chunks_viral", "chunks_uncertain", "longest_viral_nt")
    return pa.schema([*known, *shares, *((name, pa.int64()) for name in counted), ("reason", pa.string())])


@dataclass(frozen=True)
class SampleCalls:
    """Calls of all records and chunks."""

    records: pa.Table  # a row per record, as of `records_schema`
    offsets: np.ndarray  # (records + 1,) int64: chunks of record i are `offsets[i]` to `offsets[i + 1]` (half-open)
    probability: np.ndarray  # (chunks,) float32: calibrated, of virus of each chunk; NaN where it is not scored
    frames: np.ndarray  # (chunks,) uint8: bit i is set where frame i (of F1 F2 F3 R1 R2 R3) is open and scored
    chunk_length: int  # nt
    min_confidence: float  # a chunk whose confidence in either call is below it is uncertain
    max_error: float  # a record whose call is wrong with a higher probability is uncertain

    def chunks_of(self, record: int) -> slice:
        """Where the chunks of a record (its row) are in `probability` and `frames`."""
        return slice(int(self.offsets[record]), int(self.offsets[record + 1]))

    def chunk_calls(self, chunks: slice) -> np.ndarray:
        """The call of each of some chunks, as its number in `CALLS`; (n,) int8."""
        return called(self.probability[chunks], self.probability[chunks] >= EVEN, self.min_confidence)


def called(probability: np.ndarray, viral: np.ndarray, min_confidence: float) -> np.ndarray:
    """The number in `CALLS` of each chunk or record: virus or other if that call is sure enough; (n,) int8.

    Args:
        probability: (n,) of virus; NaN where nothing was scored.
        viral: (n,) bool, what it is called if sure.
        min_confidence: in that call.
    """
    probability = probability.astype(np.float64)
    sure = np.where(viral, probability, 1.0 - probability) >= min_confidence  # never of NaN
    numbers = np.select([np.isnan(probability), ~sure, viral], [3, 2, 0], 1)
    return numbers.astype(np.int8)


def runs(which: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First and last chunk of each run of chunks that are so, (chunks,) bool, within a record, and the record's row."""
    begins = np.zeros(len(which) + 1, bool)  # whether a record does, and so whether the one before it ends
    begins[offsets] = True
    first = np.flatnonzero(which & (begins[:-1] | ~np.roll(which, 1)))
    last = np.flatnonzero(which & (begins[1:] | ~np.roll(which, -1)))
    return first, last, np.searchsorted(offsets, first, side="right") - 1


def sample_frames_schema() -> pa.Schema:
    """One row per scored frame: where it is in its record (0-based, half-open, of the given strand), scores and call.

    Scores are as in `predictions_schema`; probability: of virus, calibrated.
    """
    known = [predictions_schema().field(name) for name in ("frame_id", "chunk_id", "record_id")]
    where = [("strand", pa.string()), ("frame", pa.int8()), ("start_nt", pa.int64()), ("end_nt", pa.int64())]
    scores = [predictions_schema().field(name) for name in ("score_other", "score_virus")]
    return pa.schema(
        [("source", pa.string()), *known, *where, *scores, ("probability", pa.float32()), ("call", pa.string())]
    )


def located(predictions: pa.Table, frames: pa.Table) -> pa.Table:
    """Predictions with the places of their frames, which are among others of the frames table, where that has them."""
    if SPAN[0] not in frames.column_names:
        return predictions
    rows = pc.index_in(predictions["frame_id"], value_set=one_array(frames["frame_id"]))
    for name in SPAN:
        predictions = predictions.append_column(name, frames[name].take(rows))
    return predictions


@dataclass
class CallCollector:
    """Fills `SampleCalls` while the predictions of one shard after the other pass; no frame is kept."""

    ledger: pa.Table  # of all records: source, and the columns of `ledger_schema`
    chunk_length: int
    min_confidence: float
    max_error: float
    temperature: float | None  # of the classifier, and so the others
    rule: RecordRule | None = None
    sketch: Sketch | None = None

    def __post_init__(self) -> None:
        """Nothing is scored yet."""
        self._lengths, self._chunks = (self.ledger[name].to_numpy() for name in ("length_nt", "chunks"))
        self._offsets = np.concatenate([[0], np.cumsum(self._chunks)]).astype(np.int64)
        self._probability = np.full(self._offsets[-1], np.nan, np.float32)
        self._frames = np.zeros(self._offsets[-1], np.uint8)
        self._kmers, self._shared = np.zeros((2, self.ledger.num_rows if self.sketch else 0), np.int64)

    def add(self, rows: np.ndarray, predictions: pa.Table) -> pa.Table:
        """Note the chunks of a shard; returns its frames (`sample_frames_schema`).

        Args:
            rows: of the ledger, (n,) int64: the records that the shard holds chunks of.
            predictions: of the shard's frames, whole chunks, in order; `located` where frames are stretches.
        """
        record, chunk = self._records_of(predictions, rows), chunk_numbers(predictions["chunk_id"]) - 1  # (frames,)
        frame = pc.index_in(pc.utf8_slice_codeunits(predictions["frame_id"], -2), value_set=pa.array(FRAME_NAMES))
        frame = frame.to_numpy().astype(np.int64)
        at = self._offsets[record] + chunk
        np.bitwise_or.at(self._frames, at, np.left_shift(1, frame).astype(np.uint8))
        self._probability[at[np.append(True, at[1:] != at[:-1])[: len(at)]]] = self._probabilities(predictions)
        return self._located(predictions, record, chunk, frame)

    def compare(self, rows: np.ndarray, frames: Path) -> None:
        """Count what the proteins of a shard's frames share with those of the training; `rows` as of `add`."""
        if self.sketch is None:
            return
        table = read_table(frames, columns=["record_id", "protein"])
        record, counts = self._records_of(table, rows), self.sketch.shared(table["protein"])
        for total, found in zip((self._kmers, self._shared), counts, strict=True):
            np.add.at(total, record, found)

    def _records_of(self, table: pa.Table, rows: np.ndarray) -> np.ndarray:
        """The row of the ledger that each row of a shard's table belongs to, (n,) int64."""
        rows = rows[self._chunks[rows] > 0]  # a record that is not planned may have the id of one that is
        found = pc.index_in(table["record_id"], value_set=self.ledger["record_id"].take(pa.array(rows)))
        if found.null_count:
            stray = table["record_id"].filter(pc.is_null(found))[0]
            raise VirnucError(f"predictions of record {stray}, which is not in their shard; make them again")
        return np.asarray(rows[found.to_numpy()])

    def _probabilities(self, predictions: pa.Table) -> np.ndarray:
        """Of each chunk, as `SampleCalls` has them."""
        viral = np.asarray(pc.equal(chunk_calls(predictions)["call"], VIRUS))
        exact = chunk_probability(chunk_calls(calibrated_scores(predictions, self.temperature))).astype(np.float32)
        return np.where(viral, np.maximum(exact, EVEN), np.minimum(exact, _HIGHEST_OTHER))

    def _located(self, predictions: pa.Table, record: np.ndarray, chunk: np.ndarray, frame: np.ndarray) -> pa.Table:
        starts = starts_of(chunk, self._lengths[record], self.chunk_length)
        ends = np.minimum(starts + self.chunk_length, self._lengths[record])
        offset = frame % CODON_NT
        codons_nt = (ends - starts - offset) // CODON_NT * CODON_NT
        begins = np.where(frame < CODON_NT, starts + offset, ends - offset - codons_nt)
        other, virus = (predictions[name].to_numpy() for name in ("score_other", "score_virus"))
        columns = {
            "source": self.ledger["source"].take(pa.array(record)),
            "strand": pa.array(STRANDS).take(pa.array(frame // CODON_NT)),
            "frame": pa.array((offset + 1).astype(np.int8)),
            "start_nt": pa.array(begins),
            "end_nt": pa.array(begins + codons_nt),
            "probability": pa.array(calibrated(other, virus, self.temperature).astype(np.float32)),
            **{name: predictions[name] for name in predictions.column_names},
        }
        schema = sample_frames_schema()
        return pa.table({name: columns[name] for name in schema.names}, schema=schema)

    def calls(self) -> SampleCalls:
        """What follows from all that was added.

        Raises:
            VirnucError: chunks that the ledger counts as scored have no predictions.
        """
        return SampleCalls(
            self._records(),
            self._offsets,
            self._probability,
            self._frames,
            self.chunk_length,
            min_confidence=self.min_confidence,
            max_error=self.max_error,
        )

    def _records(self) -> pa.Table:
        kept, is_scored = self.ledger["chunks_kept"].to_numpy(), ~np.isnan(self._probability)
        record = np.repeat(np.arange(len(self._chunks)), self._chunks)  # (chunks,)

        def count(of_chunks: np.ndarray) -> np.ndarray:
            return np.bincount(record[of_chunks], minlength=len(self._chunks))

        scored, viral = count(is_scored), self._probability >= EVEN
        if len(wrong := np.flatnonzero(scored != kept)):
            raise VirnucError(
                f"{len(wrong)} records have other predictions than the ledger counts, e.g. "
                f"{self.ledger['record_id'][int(wrong[0])]}: expected {kept[wrong[0]]} scored chunks, found "
                f"{scored[wrong[0]]}; make the predictions again"
            )
        known = self.sketch.known(self._kmers, self._shared) if self.sketch else np.zeros(len(scored), bool)
        of_scored = self._probability[is_scored].astype(np.float64)
        probability = record_probability(self.rule, of_scored, record[is_scored], known)
        with np.errstate(invalid="ignore"):  # 0 / 0 where no chunk is scored, or where there are no k-mers
            fraction = count(viral) / scored
            novelty = 1.0 - self._shared / self._kmers if self.sketch else np.full(len(scored), np.nan)
        are_virus = probability >= EVEN if self.rule else are_viral(fraction)
        uncertain = called(self._probability, viral, self.min_confidence) == CALLS.index(UNCERTAIN)
        columns = {
            "call": pa.array(CALLS).take(pa.array(called(probability, are_virus, 1.0 - self.max_error))),
            "probability": pa.array(probability, from_pandas=True),
            "novelty": pa.array(novelty, from_pandas=True),
            "viral_fraction": pa.array(fraction, from_pandas=True),
            "chunks_scored": pa.array(scored),
            "chunks_viral": pa.array(count(viral)),
            "chunks_uncertain": pa.array(count(uncertain)),
            "longest_viral_nt": pa.array(self._longest(viral)),
        }
        schema = records_schema()
        known_columns = {name: self.ledger[name] for name in self.ledger.column_names}
        return pa.table({name: {**known_columns, **columns}[name] for name in schema.names}, schema=schema)

    def _longest(self, viral: np.ndarray) -> np.ndarray:
        """Longest stretch of neighbouring viral chunks of each record, in nt; (records,) int64."""
        longest, (first, last, record) = np.zeros(len(self._chunks), np.int64), runs(viral, self._offsets)
        lengths, numbers = self._lengths[record], (chunks - self._offsets[record] for chunks in (first, last))
        start, stop = (starts_of(number, lengths, self.chunk_length) for number in numbers)
        np.maximum.at(longest, record, np.minimum(stop + self.chunk_length, lengths) - start)
        return longest
