"""The calls of a sample: one row per record and one value per chunk, from which everything that its user reads is made.

Holds a few bytes per chunk, however many frames a sample has. Reads tables, needs no model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from virnuc_assets.classifier.calibration import calibrated
from virnuc_assets.classifier.calls import VIRUS, are_viral, calibrated_scores, chunk_calls, chunk_probability
from virnuc_assets.errors import VirnucError
from virnuc_assets.sequences.planning import chunk_starts, starts_of
from virnuc_assets.sequences.translation import CODON_NT, FRAME_NAMES, STRANDS
from virnuc_assets.storage.digests import one_array
from virnuc_assets.storage.schemas import predictions_schema

OTHER, UNCERTAIN, NOT_SCORED = "other", "uncertain", "not scored"
CALLS = (VIRUS, OTHER, UNCERTAIN, NOT_SCORED)
SPAN = ("start_nt", "end_nt")
# Of a chunk that VirNucPro's rule calls virus the probability is at least this, also after it was rounded.
EVEN = np.float32(0.5)
_HIGHEST_OTHER = np.nextafter(EVEN, np.float32(0.0))


def records_schema() -> pa.Schema:
    """One row per record of a sample's inputs, in their order; `call` is one of the four, `reason` of one not scored.

    probability: calibrated, of virus: the mean of the record's scored chunks; null where none is scored.
    """
    return pa.schema(
        {
            "source": pa.string(),
            "record_id": pa.string(),
            "length_nt": pa.int64(),
            "call": pa.string(),
            "probability": pa.float64(),
            "viral_fraction": pa.float64(),
            "chunks": pa.int64(),
            "chunks_scored": pa.int64(),
            "chunks_viral": pa.int64(),
            "chunks_uncertain": pa.int64(),
            "longest_viral_nt": pa.int64(),
            "reason": pa.string(),
        }
    )


@dataclass(frozen=True)
class SampleCalls:
    """Calls of all records and chunks.

    Attributes:
        records: a row per record, as of `records_schema`.
        offsets: (records + 1,) int64: chunks of record i are `offsets[i]` to `offsets[i + 1]` (half-open).
        probability: (chunks,) float32: calibrated probability of virus of each chunk; NaN where it is not scored.
        frames: (chunks,) uint8: bit i is set where frame i (in the order F1 F2 F3 R1 R2 R3) is open and scored.
        chunk_length: nt.
        min_confidence: a chunk or record whose confidence in either call is below it is uncertain.
    """

    records: pa.Table
    offsets: np.ndarray
    probability: np.ndarray
    frames: np.ndarray
    chunk_length: int
    min_confidence: float

    def chunks_of(self, record: int) -> slice:
        """Where the chunks of a record (its row) are in `probability` and `frames`."""
        return slice(int(self.offsets[record]), int(self.offsets[record + 1]))

    def spans(self, record: int) -> Iterator[tuple[int, int]]:
        """Start and end of each chunk of a record, 0-based and half-open, in nt."""
        length_nt = self.records["length_nt"][record].as_py()
        begins = chunk_starts(0, int(self.offsets[record + 1] - self.offsets[record]), length_nt, self.chunk_length)
        for begin in begins.tolist():
            yield begin, min(begin + self.chunk_length, length_nt)

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


class CallCollector:
    """Fills `SampleCalls` while the predictions of one shard after the other pass; no frame is kept."""

    def __init__(self, ledger: pa.Table, chunk_length: int, temperature: float | None, min_confidence: float) -> None:
        """Nothing is scored yet.

        Args:
            ledger: of all records: source, and the columns of `ledger_schema`.
            chunk_length: nt.
            temperature: of the classifier's calibration, if it has one.
            min_confidence: as of `SampleCalls`.
        """
        self._ledger, self._chunk_length = ledger, chunk_length
        self._temperature, self._min_confidence = temperature, min_confidence
        self._lengths, self._chunks = (ledger[name].to_numpy() for name in ("length_nt", "chunks"))
        self._offsets = np.concatenate([[0], np.cumsum(self._chunks)]).astype(np.int64)
        self._probability = np.full(self._offsets[-1], np.nan, np.float32)
        self._frames = np.zeros(self._offsets[-1], np.uint8)

    def add(self, rows: np.ndarray, predictions: pa.Table) -> pa.Table:
        """Note the chunks of a shard; returns its frames (`sample_frames_schema`).

        Args:
            rows: of the ledger, (n,) int64: the records that the shard holds chunks of.
            predictions: of the shard's frames, whole chunks, in order; `located` where frames are stretches.
        """
        rows = rows[self._chunks[rows] > 0]  # a record that is not planned may have the id of one that is
        found = pc.index_in(predictions["record_id"], value_set=self._ledger["record_id"].take(pa.array(rows)))
        if found.null_count:
            stray = predictions["record_id"].filter(pc.is_null(found))[0]
            raise VirnucError(f"predictions of record {stray}, which is not in their shard; make them again")
        record = rows[found.to_numpy()]  # (frames,)
        number = pc.list_element(pc.split_pattern(predictions["chunk_id"], "_", max_splits=1, reverse=True), 1)
        chunk = number.cast(pa.int64()).to_numpy() - 1
        frame = pc.index_in(pc.utf8_slice_codeunits(predictions["frame_id"], -2), value_set=pa.array(FRAME_NAMES))
        frame = frame.to_numpy().astype(np.int64)
        at = self._offsets[record] + chunk
        np.bitwise_or.at(self._frames, at, np.left_shift(1, frame).astype(np.uint8))
        self._probability[at[np.append(True, at[1:] != at[:-1])[: len(at)]]] = self._probabilities(predictions)
        return self._located(predictions, record, chunk, frame)

    def _probabilities(self, predictions: pa.Table) -> np.ndarray:
        """Of each chunk, as `SampleCalls` has them."""
        viral = np.asarray(pc.equal(chunk_calls(predictions)["call"], VIRUS))
        exact = chunk_probability(chunk_calls(calibrated_scores(predictions, self._temperature))).astype(np.float32)
        return np.where(viral, np.maximum(exact, EVEN), np.minimum(exact, _HIGHEST_OTHER))

    def _located(self, predictions: pa.Table, record: np.ndarray, chunk: np.ndarray, frame: np.ndarray) -> pa.Table:
        starts = starts_of(chunk, self._lengths[record], self._chunk_length)
        ends = np.minimum(starts + self._chunk_length, self._lengths[record])
        offset = frame % CODON_NT
        codons_nt = (ends - starts - offset) // CODON_NT * CODON_NT
        begins = np.where(frame < CODON_NT, starts + offset, ends - offset - codons_nt)
        other, virus = (predictions[name].to_numpy() for name in ("score_other", "score_virus"))
        columns = {
            "source": self._ledger["source"].take(pa.array(record)),
            "strand": pa.array(STRANDS).take(pa.array(frame // CODON_NT)),
            "frame": pa.array((offset + 1).astype(np.int8)),
            "start_nt": pa.array(begins),
            "end_nt": pa.array(begins + codons_nt),
            "probability": pa.array(calibrated(other, virus, self._temperature or 1.0).astype(np.float32)),
            **{name: predictions[name] for name in predictions.column_names},
        }
        schema = sample_frames_schema()
        return pa.table({name: columns[name] for name in schema.names}, schema=schema)

    def calls(self) -> SampleCalls:
        """What follows from all that was added.

        Raises:
            VirnucError: chunks that the ledger counts as scored have no predictions.
        """
        found = (self._offsets, self._probability, self._frames, self._chunk_length, self._min_confidence)
        return SampleCalls(self._records(), *found)

    def _records(self) -> pa.Table:
        scored = self._sums(~np.isnan(self._probability))
        if len(wrong := np.flatnonzero(scored != self._ledger["chunks_kept"].to_numpy())):
            record, count = self._ledger["record_id"][int(wrong[0])], self._ledger["chunks_kept"][int(wrong[0])]
            raise VirnucError(
                f"{len(wrong)} records have other predictions than the ledger counts, e.g. {record}: expected "
                f"{count} scored chunks, found {scored[wrong[0]]}; make the predictions again"
            )
        viral, total = (self._probability >= EVEN), np.nan_to_num(self._probability.astype(np.float64))
        with np.errstate(invalid="ignore"):  # 0 / 0 where no chunk is scored
            fraction, probability = self._sums(viral) / scored, self._sums(total) / scored
        numbers = called(probability, are_viral(fraction), self._min_confidence)
        uncertain = called(self._probability, viral, self._min_confidence) == CALLS.index(UNCERTAIN)
        columns = {
            "call": pa.array(CALLS).take(pa.array(numbers)),
            "probability": pa.array(probability, from_pandas=True),
            "viral_fraction": pa.array(fraction, from_pandas=True),
            "chunks_scored": pa.array(scored),
            "chunks_viral": pa.array(self._sums(viral)),
            "chunks_uncertain": pa.array(self._sums(uncertain)),
            "longest_viral_nt": pa.array(self._longest(viral)),
        }
        schema = records_schema()
        known = {name: self._ledger[name] for name in self._ledger.column_names}
        return pa.table({name: {**known, **columns}[name] for name in schema.names}, schema=schema)

    def _sums(self, of_chunks: np.ndarray) -> np.ndarray:
        """Sum over the chunks of each record; each by itself, so that no other record changes it by rounding."""
        some = np.flatnonzero(self._chunks)
        kind = np.float64 if of_chunks.dtype == np.float64 else np.int64
        sums = np.zeros(len(self._chunks), kind)
        sums[some] = np.add.reduceat(of_chunks, self._offsets[some], dtype=kind) if len(some) else 0
        return sums

    def _longest(self, viral: np.ndarray) -> np.ndarray:
        """Longest stretch of neighbouring viral chunks of each record, in nt; (records,) int64."""
        longest, some = np.zeros(len(self._chunks), np.int64), self._offsets[:-1][self._chunks > 0]
        begins, ends = np.zeros(len(viral), bool), np.zeros(len(viral), bool)  # of a record
        begins[some], ends[some - 1] = True, True  # the end before the first record is that of the last one
        first = np.flatnonzero(viral & (begins | ~np.roll(viral, 1)))
        last = np.flatnonzero(viral & (ends | ~np.roll(viral, -1)))
        record = np.searchsorted(self._offsets, first, side="right") - 1
        lengths, numbers = self._lengths[record], (chunks - self._offsets[record] for chunks in (first, last))
        start, stop = (starts_of(number, lengths, self._chunk_length) for number in numbers)
        np.maximum.at(longest, record, np.minimum(stop + self._chunk_length, lengths) - start)
        return longest
