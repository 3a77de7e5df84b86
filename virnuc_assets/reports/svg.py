"""Figures as inline SVG: colours by the page's CSS variables, equal numbers in equal bytes."""

from __future__ import annotations

import base64
import io
import re
import warnings
from collections.abc import Callable

import matplotlib as mpl
from matplotlib.figure import Figure

from virnuc_assets.reports import pages

SHOWN_COLOURS = tuple(f"shown-{i}" for i in range(4))
_VARIABLES = (
    *("candidate", "baseline", "kmer_baseline", *SHOWN_COLOURS),
    *("ink", "soft", "rule", "page", "good", "bad", "gap"),
)
# Colours that matplotlib can draw, each replaced by a CSS variable, so that the page's theme decides.
COLOUR = {name: f"#0102{i:02x}" for i, name in enumerate(_VARIABLES)}
_SETTINGS = {
    "svg.fonttype": "none",  # text stays text
    "text.parse_math": False,  # a group's name may hold dollar signs
    "font.size": 10,
    "axes.edgecolor": COLOUR["rule"],
    "axes.facecolor": "none",
    "axes.labelcolor": COLOUR["ink"],
    "axes.spines.right": False,
    "axes.spines.top": False,
    "xtick.color": COLOUR["rule"],
    "ytick.color": COLOUR["rule"],
    "xtick.labelcolor": COLOUR["ink"],
    "ytick.labelcolor": COLOUR["ink"],
    "figure.facecolor": "none",
}


def to_svg(name: str, size: tuple[float, float], paint: Callable[[Figure], None]) -> str:
    """Draw a figure.

    Args:
        name: of the chart; begins every id in it, so that charts of one page do not share ids.
        size: width and height in inches.
        paint: draws into the figure.

    Returns:
        An `<svg>` element without metadata, date, comments or outside references.
    """
    with mpl.rc_context({**_SETTINGS, "svg.hashsalt": name}), warnings.catch_warnings():
        # The browser draws the text, so what matplotlib's own font lacks is not missed.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from font")
        figure = Figure(figsize=size, layout="constrained")
        paint(figure)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    text = re.sub(r"<!--.*?-->", "", out.getvalue(), flags=re.DOTALL)
    # Only inside tags: between them is text, which may be anything.
    return re.sub(r"<[^>]*>", lambda tag: _themed(tag[0], name), text[text.index("<svg") :]).strip()


def _themed(tag: str, name: str) -> str:
    for variable, colour in COLOUR.items():
        tag = tag.replace(colour, f"var(--{variable})")
    for before in (' id="', "url(#", 'href="#'):
        tag = tag.replace(before, f"{before}{name}-")
    return tag


def picture(svg: str) -> str:
    """A data URI of an SVG with the page's light colours, for what shows pictures but not our CSS."""
    return f"data:image/svg+xml;base64,{base64.b64encode(in_light_colours(svg).encode()).decode()}"


def in_light_colours(svg: str) -> str:
    """An SVG that can be a file of its own."""
    page = pages.environment().get_template("style.css.jinja").render()
    colours = dict(re.findall(r"--([\w-]+): (#\w+)", page[: page.index("}")]))
    opened = svg.replace("<svg ", f'<svg style="background:{colours["page"]}" ', 1)
    return re.sub(r"var\(--([\w-]+)\)", lambda name: colours[name[1]], opened)
