"""The report's charts as inline SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from matplotlib.figure import Figure
from sklearn.metrics import precision_recall_curve, roc_curve

from virnuc_assets.classifier.metrics import ReliabilityBin
from virnuc_assets.migration.chart_style import COLOUR, Style, to_svg

SQUARE = (5.0, 4.5)
MARKS = {"met": ("good", "o"), "failed": ("bad", "X"), "inconclusive": ("gap", "D"), "not judged": ("soft", "o")}
_LONGEST_LABEL = 34


@dataclass(frozen=True)
class Mark:
    """One line of the chart of drops; a hollow mark where it is not judged, no bar where there is no interval."""

    label: str
    value: float
    low: float | None
    high: float | None
    outcome: Literal["met", "failed", "inconclusive", "not judged"]


def roc_svg(predictions: Mapping[str, pa.Table], styles: Mapping[str, Style]) -> str:
    """Draw ROC curves of frames, legend left to the page.

    Args:
        predictions: role → usable test rows, sorted by frame_id.
        styles: role → style.
    """

    def paint(figure: Figure) -> None:
        axes = _unit_square(figure, "host frames called virus (share)", "viral frames called virus (share)")
        axes.plot([0, 1], [0, 1], color=COLOUR["rule"], linewidth=1)
        for role, table in predictions.items():
            false_rate, true_rate, _ = roc_curve(*_truth_and_score(table))
            _line(axes, false_rate, true_rate, styles[role])

    return to_svg("roc", SQUARE, paint)


def precision_recall_svg(predictions: Mapping[str, pa.Table], styles: Mapping[str, Style]) -> str:
    """Draw precision over recall of frames, arguments as `roc_svg`; a thin line tells the viral share."""

    def paint(figure: Figure) -> None:
        axes = _unit_square(figure, "viral frames called virus (recall)", "called frames that are viral (precision)")
        for role, table in predictions.items():
            viral, score = _truth_and_score(table)
            axes.axhline(viral.mean(), color=COLOUR["rule"], linewidth=1)
            precision, recall, _ = precision_recall_curve(viral, score, drop_intermediate=True)
            # Average precision is the area below these steps.
            _line(axes, recall, precision, styles[role], drawstyle="steps-post")

    return to_svg("precision-recall", SQUARE, paint)


def reliability_svg(bins: Mapping[str, Sequence[ReliabilityBin]], styles: Mapping[str, Style]) -> str:
    """Draw what was said against what was so, and below it how many frames each bin holds.

    Args:
        bins: role → bins of the calibrated probabilities.
        styles: role → style.
    """

    def paint(figure: Figure) -> None:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
        upper.plot([0, 1], [0, 1], color=COLOUR["rule"], linewidth=1)
        for place, (role, found) in enumerate(bins.items()):
            said, so = [one.mean_probability for one in found], [one.viral_fraction for one in found]
            _line(upper, said, so, styles[role], marker="o", markersize=4.5)
            total, width = sum(one.rows for one in found), 0.08 / len(bins)
            left = [one.low + 0.01 + place * width for one in found]
            heights = [one.rows / total for one in found]
            lower.bar(left, heights, width, align="edge", color=styles[role].colour)
        upper.set(ylabel="of these, viral (share)", xlim=(-0.01, 1.01), ylim=(-0.02, 1.02))
        lower.set(ylabel="frames\n(share)", xlabel="said probability of virus, calibrated", ylim=(0, None))

    return to_svg("reliability", SQUARE, paint)


def drops_svg(marks: Sequence[Mark], margin: float) -> str:
    """Draw drops with their intervals, first mark on top, beside the margin that they are held against."""

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.axvline(0, color=COLOUR["rule"], linewidth=1)
        axes.axvline(margin, color=COLOUR["bad"], linewidth=1.2, linestyle=(0, (4, 3)))
        for height, mark in enumerate(marks):
            variable, shape = MARKS[mark.outcome]
            colour = COLOUR[variable]
            if mark.low is not None and mark.high is not None:
                axes.plot([mark.low, mark.high], [height, height], color=colour, linewidth=1.8)
            inside = COLOUR["page"] if mark.outcome == "not judged" else colour
            axes.plot([mark.value], [height], shape, color=colour, markerfacecolor=inside, markersize=6.5)
        axes.set_yticks(range(len(marks)), [_label(mark.label) for mark in marks])
        axes.set(ylim=(len(marks) - 0.4, -0.6), xlabel="drop in accuracy: baseline − candidate")
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)

    return to_svg("drops", (5.6, 0.8 + 0.27 * len(marks)), paint)


def _unit_square(figure: Figure, x_label: str, y_label: str) -> Any:  # noqa: ANN401  (matplotlib's Axes)
    axes = figure.add_subplot()
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal", xlabel=x_label, ylabel=y_label)
    return axes


def _line(axes: Any, x: object, y: object, style: Style, **more: object) -> None:  # noqa: ANN401
    axes.plot(x, y, color=style.colour, linestyle=style.line, linewidth=2, **more)


def _truth_and_score(table: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    return np.array(table["label"].to_pylist()) == "viral", table["score_virus"].to_numpy()


def _label(name: str) -> str:
    """One line of printable signs, not too long for the page."""
    line = "".join(sign if sign.isprintable() else " " for sign in name)
    return line if len(line) <= _LONGEST_LABEL else f"{line[: _LONGEST_LABEL - 1]}…"
