"""Charts of the decision report."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from matplotlib.figure import Figure
from sklearn.metrics import precision_recall_curve, roc_curve

from virnuc_assets.classifier.metrics import ReliabilityBin
from virnuc_assets.migration.comparison import GroupDrop, GroupStatus
from virnuc_assets.migration.power import Power
from virnuc_assets.reports.pages import COLOUR, SHOWN_COLOURS, to_svg

SQUARE = (5.0, 4.5)
MARKS: dict[GroupStatus, tuple[str, str]] = {
    "no loss shown": ("good", "o"),
    "lost": ("bad", "X"),
    "worse": ("gap", "D"),
    "too few clusters": ("soft", "o"),
}
_LONGEST_LABEL = 34
# Hues that colour-blind readers tell apart (after M. Okabe and K. Ito), each with a line style of its own besides.
_SHOWN_DASHES = ((6.0, 2.0, 1.2, 2.0), (9.0, 3.0), (3.0, 1.5), (6.0, 2.0, 1.2, 2.0, 1.2, 2.0), (1.0, 3.0))


@dataclass(frozen=True)
class Style:
    """A variant's CSS variable, and its dashes in widths of the line; no dashes is a solid line."""

    variable: str
    dashes: tuple[float, ...] = ()


def styles(roles: Iterable[str]) -> dict[str, Style]:
    """Role → style; variants that are only shown cycle through 20 pairs of colour and dashes."""
    judged = {
        "candidate": Style("candidate"),
        "baseline": Style("baseline", (5.0, 2.5)),
        "kmer_baseline": Style("kmer_baseline", (1.2, 1.8)),
    }
    shown = map(Style, itertools.cycle(SHOWN_COLOURS), itertools.cycle(_SHOWN_DASHES))
    return {name: judged.get(name) or next(shown) for name in roles}


def roc_svg(predictions: Mapping[str, pa.Table], styles: Mapping[str, Style], legend: bool = False) -> str:
    """Draw ROC curves of frames by role, of usable test rows; without a legend the page names the roles."""

    def paint(figure: Figure) -> None:
        axes = _unit_square(figure, "host frames called virus (share)", "viral frames called virus (share)")
        axes.plot([0, 1], [0, 1], color=COLOUR["rule"], linewidth=1)
        for role, table in predictions.items():
            false_rate, true_rate, _ = roc_curve(*_truth_and_score(table))
            _line(axes, false_rate, true_rate, styles[role], label=role)
        _add_legend(axes, legend)

    return to_svg("roc", SQUARE, paint)


def precision_recall_svg(predictions: Mapping[str, pa.Table], styles: Mapping[str, Style], legend: bool = False) -> str:
    """Draw precision over recall of frames, arguments as `roc_svg`; a thin line shows the viral share."""

    def paint(figure: Figure) -> None:
        axes = _unit_square(figure, "viral frames called virus (recall)", "called frames that are viral (precision)")
        for role, table in predictions.items():
            viral, score = _truth_and_score(table)
            axes.axhline(viral.mean(), color=COLOUR["rule"], linewidth=1)
            precision, recall, _ = precision_recall_curve(viral, score, drop_intermediate=True)
            # Average precision is the area below these steps.
            _line(axes, recall, precision, styles[role], drawstyle="steps-post", label=role)
        _add_legend(axes, legend)

    return to_svg("precision-recall", SQUARE, paint)


def reliability_svg(
    bins: Mapping[str, Sequence[ReliabilityBin]], styles: Mapping[str, Style], legend: bool = False
) -> str:
    """Draw viral shares over calibrated probabilities, and below how many frames each bin holds."""

    def paint(figure: Figure) -> None:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
        upper.plot([0, 1], [0, 1], color=COLOUR["rule"], linewidth=1)
        for place, (role, found) in enumerate(bins.items()):
            x, y = [one.mean_probability for one in found], [one.viral_fraction for one in found]
            _line(upper, x, y, styles[role], marker="o", markersize=4.5, label=role)
            total, width = sum(one.rows for one in found), 0.08 / len(bins)
            left = [one.low + 0.01 + place * width for one in found]
            heights = [one.rows / total for one in found]
            lower.bar(left, heights, width, align="edge", color=COLOUR[styles[role].variable])
        _add_legend(upper, legend)
        upper.set(ylabel="of these, viral (share)", xlim=(-0.01, 1.01), ylim=(-0.02, 1.02))
        lower.set(ylabel="frames\n(share)", xlabel="calibrated probability of virus", ylim=(0, None))

    return to_svg("reliability", SQUARE, paint)


def drops_svg(groups: Sequence[GroupDrop], margin: float) -> str:
    """Draw drops with their intervals and the margin, the first group on top; one that is not tested is hollow."""

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.axvline(0, color=COLOUR["rule"], linewidth=1)
        axes.axvline(margin, color=COLOUR["bad"], linewidth=1.2, linestyle=(0, (4, 3)))
        for height, group in enumerate(groups):
            drop, (variable, shape) = group.drop, MARKS[group.status]
            colour = COLOUR[variable]
            if drop.low is not None and drop.high is not None:
                axes.plot([drop.low, drop.high], [height, height], color=colour, linewidth=1.8)
            inside = COLOUR["page"] if group.status == "too few clusters" else colour
            axes.plot([drop.value], [height], shape, color=colour, markerfacecolor=inside, markersize=6.5)
        _name_rows(axes, [_label(f"{group.group} · {group.label}") for group in groups])
        axes.set(xlabel="drop in accuracy: baseline − candidate")

    return to_svg("drops", (5.6, 0.8 + 0.27 * len(groups)), paint)


def power_svg(power: Power) -> str:
    """Draw for each chance the share of studies that end in GO, NO DECISION and NO-GO, the first on top."""

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        for height, one in enumerate(power.chances):
            left = 0.0
            for share, variable in ((one.go, "good"), (1.0 - one.go - one.no_go, "gap"), (one.no_go, "bad")):
                axes.barh([height], [share], 0.7, left=left, color=COLOUR[variable], edgecolor=COLOUR["page"])
                left += share
        names = [
            "equal models"
            if not one.margins
            else f"{_label(one.lost_in)}: −{one.margins} margin{'s' * (one.margins > 1)}"
            for one in power.chances
        ]
        _name_rows(axes, names)
        axes.set(xlim=(0, 1), xlabel="share of simulated studies")

    return to_svg("power", (5.6, 0.8 + 0.3 * len(power.chances)), paint)


def _name_rows(axes: Any, names: Sequence[str]) -> None:  # noqa: ANN401  (matplotlib's Axes)
    """Names instead of a scale, the first on top."""
    axes.set_yticks(range(len(names)), names)
    axes.set(ylim=(len(names) - 0.4, -0.6))
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def _unit_square(figure: Figure, x_label: str, y_label: str) -> Any:  # noqa: ANN401  (matplotlib's Axes)
    axes = figure.add_subplot()
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal", xlabel=x_label, ylabel=y_label)
    return axes


def _line(axes: Any, x: object, y: object, style: Style, **more: object) -> None:  # noqa: ANN401
    axes.plot(x, y, color=COLOUR[style.variable], linestyle=(0, style.dashes or None), linewidth=2, **more)


def _add_legend(axes: Any, legend: bool) -> None:  # noqa: ANN401
    if legend:
        axes.legend(frameon=False, labelcolor=COLOUR["ink"], handlelength=3)


def _truth_and_score(table: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    return np.array(table["label"].to_pylist()) == "viral", table["score_virus"].to_numpy()


def _label(name: str) -> str:
    """One line of printable characters, not too long for the page."""
    line = "".join(character if character.isprintable() else " " for character in name)
    return line if len(line) <= _LONGEST_LABEL else f"{line[: _LONGEST_LABEL - 1]}…"
