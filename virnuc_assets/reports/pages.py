"""What the pages share: the environment of their templates, how numbers are written, and figures as inline SVG.

Figures have their colours by the page's CSS variables, and equal numbers give equal bytes.
"""

from __future__ import annotations

import base64
import io
import math
import re
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import jinja2
import matplotlib as mpl
from matplotlib.figure import Figure

NOTHING = "–"
MINUS = "−"
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


def environment() -> jinja2.Environment:
    """Templates with the formats of numbers; all text is escaped."""
    found = jinja2.Environment(
        loader=jinja2.PackageLoader("virnuc_assets.reports", "page"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters.update(score=score, signed=signed, count=count, amount=amount, percent=percent)
    return found


def _number(form: str) -> Callable[[float | None], str]:
    """A format of numbers with a true minus; a dash where there is none."""

    def text(value: float | None) -> str:
        is_number = value is not None and math.isfinite(value)
        return form.format(value).replace("-", MINUS) if is_number else NOTHING

    return text


score, signed = _number("{:.4f}"), _number("{:+.4f}")
count, amount = _number("{:,.0f}"), _number("{:,.1f}")
times = _number("{:.3g}×")


def percent(value: float | None) -> str:
    """A share in percent, one decimal."""
    return NOTHING if value is None else f"{100 * value:.1f} %"


def flat(facts: Mapping[str, Any], before: str = "") -> dict[str, str]:
    """Facts by their dotted names."""
    found: dict[str, str] = {}
    for name, value in facts.items():
        found |= flat(value, f"{before}{name}.") if isinstance(value, Mapping) else {f"{before}{name}": str(value)}
    return found


def to_svg(name: str, size: tuple[float, float], paint: Callable[[Figure], None]) -> str:
    """An `<svg>` element of a size in inches, without metadata, date, comments or outside references.

    Every id in it begins with the name, so that charts of one page do not share ids.
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
    page = environment().get_template("style.css.jinja").render()
    colours = dict(re.findall(r"--([\w-]+): (#\w+)", page[: page.index("}")]))
    opened = svg.replace("<svg ", f'<svg style="background:{colours["page"]}" ', 1)
    return re.sub(r"var\(--([\w-]+)\)", lambda name: colours[name[1]], opened)
