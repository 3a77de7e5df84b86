"""Pictures of a sample's calls as SVG: how probabilities and lengths are distributed, and tracks along a record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from virnuc_assets.classifier.calls import VIRUS
from virnuc_assets.classifier.sample_calls import CALLS, EVEN, NOT_SCORED, OTHER, UNCERTAIN, SampleCalls, called, runs
from virnuc_assets.reports.pages import COLOUR, to_svg
from virnuc_assets.sequences.planning import starts_of
from virnuc_assets.sequences.translation import CODON_NT, FRAME_NAMES

SHOWN = (VIRUS, UNCERTAIN, OTHER, NOT_SCORED)  # in this order
VARIABLES = {VIRUS: "baseline", UNCERTAIN: "kmer_baseline", OTHER: "candidate", NOT_SCORED: "rule"}  # of CSS
FEWEST = 10  # values of a distribution that is drawn
TRACKS = {VIRUS: 50, UNCERTAIN: 10, OTHER: 10}  # where each has that many; what one lacks, the others get
COLUMNS = 300  # of a track
_WIDTH = 1000  # of a track, in its own coordinates; its height is 100 a lane
_BINS = 20


def by_call(probability: np.ndarray, min_confidence: float) -> dict[str, np.ndarray]:
    """Call → which chunks have it, (chunks,) bool."""
    numbers = called(probability, probability >= EVEN, min_confidence)
    return {call: numbers == CALLS.index(call) for call in SHOWN}


def probability_svg(calls: SampleCalls) -> str | None:
    """Draw the distribution of the scored chunks' and records' probabilities by call; None where there are too few."""
    codes = call_codes(calls.records)
    of_records = calls.records["probability"].to_numpy()
    panels = {
        "records": {call: of_records[codes == code] for code, call in enumerate(SHOWN[:3])},
        "chunks": {
            call: calls.probability[which]
            for call, which in by_call(calls.probability, calls.min_confidence).items()
            if call != NOT_SCORED
        },
    }
    panels = {name: parts for name, parts in panels.items() if sum(map(len, parts.values())) >= FEWEST}
    if not panels:
        return None

    def paint(figure: Figure) -> None:
        all_axes = figure.subplots(len(panels), sharex=True, squeeze=False)[:, 0]
        for axes, (name, parts) in zip(all_axes, panels.items(), strict=True):
            confidence = 1 - calls.max_error if name == "records" else calls.min_confidence
            axes.axvspan(1 - confidence, confidence, color=COLOUR["rule"], alpha=0.35, linewidth=0)
            _stacked(axes, parts, np.linspace(0, 1, _BINS + 1))
            axes.set(ylabel=name, xlim=(0, 1))
        all_axes[-1].set(xlabel="probability of virus")

    return to_svg("probability", (5.6, 0.9 + 1.5 * len(panels)), paint)


def lengths_svg(records: pa.Table) -> str | None:
    """Draw the distribution of lengths by call; None where there are too few, or all have one length."""
    codes, lengths = call_codes(records), records["length_nt"].to_numpy()
    some = lengths > 0
    if some.sum() < FEWEST or lengths[some].min() == lengths[some].max():
        return None
    low, high = lengths[some].min(), lengths[some].max()
    logarithmic = high > 10 * low
    bins = np.geomspace(low, high, _BINS + 1) if logarithmic else np.linspace(low, high, _BINS + 1)
    bins[[0, -1]] = low, high  # which the powers may miss by a rounding

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        _stacked(axes, {call: lengths[some & (codes == code)] for code, call in enumerate(SHOWN)}, bins)
        axes.set(ylabel="records", xlabel="length (nt)", xscale="log" if logarithmic else "linear", xlim=(low, high))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        if not logarithmic:
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))

    return to_svg("lengths", (5.6, 3.9), paint)


def _stacked(axes: Any, parts: Mapping[str, np.ndarray], bins: np.ndarray) -> None:  # noqa: ANN401 (matplotlib's)
    """A stack of bars per bin, a segment per call."""
    below = np.zeros(len(bins) - 1)
    for call, values in parts.items():
        counts, _ = np.histogram(values, bins)
        some = counts > 0
        place = {"bottom": below[some], "width": np.diff(bins)[some], "align": "edge"}
        axes.bar(bins[:-1][some], counts[some], color=COLOUR[VARIABLES[call]], **place)
        below += counts
    axes.set(ylim=(0, 1.05 * below.max()))
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


@dataclass(frozen=True)
class Track:
    """A record along its sequence; paths are in coordinates 1,000 wide and, for each lane, 100 high."""

    row: int  # of the record
    record: Mapping[str, Any]
    chunks_per_column: int  # 1 unless it has too many chunks to draw each
    bars: Mapping[str, str]  # call → path of the columns' mean probabilities, from 0.5 upward or downward
    ranges: str  # path from the lowest to the highest probability of each column, where it has several chunks
    peaks: str  # path of those of several chunks whose highest probability is that of a virus
    unscored: list[tuple[str, str]]  # where no chunk is scored, left and width in percent
    # Name → path of the share of a column's chunks in which this frame is open, and that are not scored. Frames are
    # counted from the record's ends, so that one that is open in several chunks is in one lane.
    lanes: Mapping[str, str]
    ticks: list[tuple[str, str]]  # of the axis, at which share of its width in percent, and text
    viral: list[tuple[int, int, float]]  # stretches of neighbouring viral chunks, with their mean probability
    weak: int  # how many of these chunks are too unsure to be called virus
    not_scored: list[tuple[int, int]]  # stretches that no scored chunk covers, 0-based, half-open, nt


def drawn_rows(records: pa.Table) -> list[int]:
    """Rows of the longest virus and uncertain records, and of those of other with the longest viral stretch."""
    codes = call_codes(records)
    lengths, viral = records["length_nt"].to_numpy(), records["longest_viral_nt"].to_numpy()
    found = {}
    for call in TRACKS:
        rows = np.flatnonzero(codes == SHOWN.index(call))
        sizes = (-lengths[rows], -viral[rows]) if call == OTHER else (-lengths[rows],)
        found[call] = rows[np.lexsort(sizes)]
    left = sum(TRACKS.values()) - sum(min(len(found[call]), most) for call, most in TRACKS.items())
    chosen: list[int] = []
    for call, most in TRACKS.items():
        more = min(left, max(0, len(found[call]) - most))
        chosen += found[call][: most + more].tolist()
        left -= more
    return chosen


def track(calls: SampleCalls, row: int) -> Track:
    """What is drawn of a record that has chunks."""
    record = calls.records.slice(row, 1).to_pylist()[0]
    length_nt, where = record["length_nt"], calls.chunks_of(row)
    probability, frames = calls.probability[where].astype(np.float64), calls.frames[where]
    starts = starts_of(np.arange(len(probability)), length_nt, calls.chunk_length)
    ends = np.minimum(starts + calls.chunk_length, length_nt)
    per_column = -(-len(probability) // COLUMNS)
    first = np.arange(0, len(probability), per_column)
    size = np.diff(np.append(first, len(probability)))
    scored = ~np.isnan(probability)
    mean = np.full(len(first), np.nan)
    counts = np.add.reduceat(scored, first, dtype=np.int64)
    np.divide(np.add.reduceat(np.where(scored, probability, 0.0), first), counts, out=mean, where=counts > 0)
    left, right = (place * (_WIDTH / length_nt) for place in (starts[first], ends[first + size - 1]))
    some = counts > 0
    lowest = np.minimum.reduceat(np.where(scored, probability, np.inf), first)
    highest = np.maximum.reduceat(np.where(scored, probability, -np.inf), first)
    peak = highest >= calls.min_confidence
    gaps = np.array(_uncovered(some, left, right, _WIDTH)).reshape(-1, 2)
    lanes = {
        name: _lane(left, right, np.add.reduceat(is_open, first, dtype=np.int64) / size)
        for name, is_open in _open_in_record(frames, starts, length_nt - ends).items()
    }
    # Where each chunk is drawn: not what a scored neighbour covers.
    lanes["no score"] = (
        _lane(gaps[:, 0], gaps[:, 1], np.ones(len(gaps))) if per_column == 1 else _lane(left, right, 1 - counts / size)
    )
    return Track(
        row=row,
        record=record,
        chunks_per_column=per_column,
        bars={
            call: _boxes(left[which], right[which], mean[which], np.full(which.sum(), 0.5))
            for call, which in by_call(mean, calls.min_confidence).items()
            if call != NOT_SCORED and which.any()
        },
        ranges=_boxes(left[some], right[some], highest[some], lowest[some]) if per_column > 1 else "",
        peaks=_boxes(left[peak], right[peak], highest[peak], np.full(peak.sum(), 0.5)) if per_column > 1 else "",
        unscored=[(f"{begin:.5g}", f"{end - begin:.5g}") for begin, end in gaps * (100 / _WIDTH)],
        lanes=lanes,
        ticks=_ticks(length_nt),
        viral=[
            (int(starts[a]), int(ends[b]), float(probability[a : b + 1].mean())) for a, b in _runs(probability >= EVEN)
        ],
        weak=int(((probability >= EVEN) & (probability < calls.min_confidence)).sum()),
        not_scored=[(int(begin), int(end)) for begin, end in _uncovered(scored, starts, ends, length_nt)],
    )


def call_codes(records: pa.Table) -> np.ndarray:
    """(records,) index into SHOWN."""
    return np.asarray(pc.index_in(records["call"], value_set=pa.array(SHOWN)))


def _open_in_record(frames: np.ndarray, before: np.ndarray, after: np.ndarray) -> dict[str, np.ndarray]:
    """Which chunks have each frame of their record open, each (chunks,) bool, by the chunks' own (as in `SampleCalls`).

    Before each chunk are so many nt, and after it, which come first on the other strand.
    """
    found = {}
    for i, name in enumerate(FRAME_NAMES):
        strand, frame = divmod(i, CODON_NT)
        found[name] = frames >> (CODON_NT * strand + (frame - (after if strand else before)) % CODON_NT) & 1 > 0
    return found


def _lane(left: np.ndarray, right: np.ndarray, share: np.ndarray) -> str:
    """A path of boxes from the bottom."""
    some = share > 0
    return _boxes(left[some], right[some], share[some], np.zeros(some.sum()))


def _boxes(left: np.ndarray, right: np.ndarray, top: np.ndarray, bottom: np.ndarray) -> str:
    """A path of boxes; heights are shares, 0 below."""
    corners = zip(left, right - left, 100 * (1 - top), 100 * (top - bottom), strict=True)
    return "".join(f"M{x:.5g} {y:.3g}h{width:.4g}v{height:.3g}h-{width:.4g}z" for x, width, y, height in corners)


def _runs(which: np.ndarray) -> list[tuple[int, int]]:
    """First and last index of each run of True."""
    first, last, _ = runs(which, np.array([0, len(which)]))
    return list(zip(first.tolist(), last.tolist(), strict=True))


def _uncovered(scored: np.ndarray, left: np.ndarray, right: np.ndarray, length: float) -> list[tuple[float, float]]:
    """Stretches between scored chunks, or columns, which overlap their neighbours."""
    between = [(right[a - 1] if a else 0, left[b + 1] if b + 1 < len(left) else length) for a, b in _runs(~scored)]
    return [(begin, end) for begin, end in between if end > begin]


def _ticks(length_nt: int) -> list[tuple[str, str]]:
    """The first position, round numbers that leave space, and the last position."""
    step = next(
        step for step in (base * 10**power for power in range(12) for base in (1, 2, 5)) if length_nt / step <= 4.5
    )
    between = [place for place in range(step, length_nt, step) if 1 < place <= 0.75 * length_nt]
    places = dict.fromkeys([1, *between, length_nt])
    return [(f"{100 * (place - 1) / max(1, length_nt - 1):.4g}", f"{place:,}") for place in places]
