"""Curves of the report as inline SVG: equal numbers give equal bytes; the page's CSS gives the colours."""

from __future__ import annotations

import io
from collections.abc import Mapping

import matplotlib as mpl
import numpy as np
import pyarrow as pa
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve

STYLES = {"candidate": "-", "baseline": "--", "floor": ":"}
# Colours that matplotlib can draw, each replaced by a CSS variable, so that the page's theme decides.
_PLACEHOLDERS = {name: f"#01020{i}" for i, name in enumerate(("candidate", "baseline", "floor", "ink", "rule"))}


def roc_svg(predictions: Mapping[str, pa.Table]) -> str:
    """Draw the ROC curve of each role ("candidate", "baseline", "floor"), legend left to the page.

    Args:
        predictions: role → usable test rows, sorted by frame_id.

    Returns:
        An `<svg>` element without metadata, date or outside references; it holds no text from the tables.
    """
    ink, rule = _PLACEHOLDERS["ink"], _PLACEHOLDERS["rule"]
    with mpl.rc_context({"svg.hashsalt": "virnuc", "svg.fonttype": "none", "font.size": 11}):
        figure = Figure(figsize=(5.2, 4.6), layout="constrained")
        axes = figure.add_subplot()
        axes.plot([0, 1], [0, 1], color=rule, linewidth=1)
        for role, table in predictions.items():
            viral = np.array(table["label"].to_pylist()) == "viral"
            false_rate, true_rate, _ = roc_curve(viral, table["score_virus"].to_numpy())
            axes.plot(false_rate, true_rate, STYLES[role], color=_PLACEHOLDERS[role], linewidth=2)
        axes.set_xlabel("host rows called virus", color=ink)
        axes.set_ylabel("viral rows called virus", color=ink)
        axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal", facecolor="none")
        axes.tick_params(colors=ink)
        axes.spines[:].set_color(rule)
        axes.spines[["top", "right"]].set_visible(False)
        out = io.StringIO()
        no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(out, format="svg", metadata=no_metadata)
    text = out.getvalue()
    svg = text[text.index("<svg") :]
    for name, colour in _PLACEHOLDERS.items():
        svg = svg.replace(colour, f"var(--{name})")
    # The page is the background; the figure's white sheet would stay white in the dark theme.
    return svg.replace("fill: #ffffff", "fill: none").strip()
