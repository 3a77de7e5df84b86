"""How the report's charts look: colours by the page's CSS variables, equal numbers in equal bytes."""

from __future__ import annotations

import io
import itertools
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import matplotlib as mpl
from matplotlib.figure import Figure

# Hues that colour-blind readers tell apart (after M. Okabe and K. Ito), each with a line style of its own besides.
_BESIDE_COLOURS = tuple(f"beside-{i}" for i in range(4))
_BESIDE_DASHES = ((6.0, 2.0, 1.2, 2.0), (9.0, 3.0), (3.0, 1.5), (6.0, 2.0, 1.2, 2.0, 1.2, 2.0), (1.0, 3.0))
_VARIABLES = (
    *("candidate", "baseline", "floor", *_BESIDE_COLOURS),
    *("ink", "soft", "rule", "page", "good", "bad", "gap"),
)
# Colours that matplotlib can draw, each replaced by a CSS variable, so that the page's theme decides.
COLOUR = {name: f"#0102{i:02x}" for i, name in enumerate(_VARIABLES)}
_SETTINGS = {
    "svg.fonttype": "none",  # letters stay letters
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


@dataclass(frozen=True)
class Style:
    """A variant's CSS variable, and its dashes in widths of the line; no dashes is a solid line."""

    variable: str
    dashes: tuple[float, ...] = ()

    @property
    def colour(self) -> str:
        """For matplotlib."""
        return COLOUR[self.variable]

    @property
    def line(self) -> tuple[float, tuple[float, ...] | None]:
        """Line style for matplotlib."""
        return (0, self.dashes or None)


_OF_ROLE = {
    "candidate": Style("candidate"),
    "baseline": Style("baseline", (5.0, 2.5)),
    "floor": Style("floor", (1.2, 1.8)),
}


def styles(roles: Iterable[str]) -> dict[str, Style]:
    """Role → style; variants that stand beside cycle through 20 pairs of colour and dashes."""
    names = list(roles)
    beside = zip((name for name in names if name not in _OF_ROLE), _beside_styles(), strict=False)
    found = _OF_ROLE | dict(beside)
    return {name: found[name] for name in names}


def _beside_styles() -> Iterator[Style]:
    for colour, dashes in zip(itertools.cycle(_BESIDE_COLOURS), itertools.cycle(_BESIDE_DASHES), strict=False):
        yield Style(colour, dashes)


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
        # The browser draws the letters, so what matplotlib's own font lacks is not missed.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from font")
        figure = Figure(figsize=size, layout="constrained")
        paint(figure)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    text = re.sub(r"<!--.*?-->", "", out.getvalue(), flags=re.DOTALL)
    # Inside of tags only: what stands between them is text, and may be anything.
    return re.sub(r"<[^>]*>", lambda tag: _themed(tag[0], name), text[text.index("<svg") :]).strip()


def _themed(tag: str, name: str) -> str:
    for variable, colour in COLOUR.items():
        tag = tag.replace(colour, f"var(--{variable})")
    for before in (' id="', "url(#", 'href="#'):
        tag = tag.replace(before, f"{before}{name}-")
    return tag
