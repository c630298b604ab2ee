"""Convert a matplotlib figure to an inline SVG that uses the colours and the font of the page.

Figures are drawn in placeholder colours; each one becomes a CSS variable, so the same SVG works in light mode, in dark
mode and in print. Text remains text.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

WIDTH = 360
"""Native width of a chart in CSS pixels: a phone shows it unscaled."""

INK, MUTED, RULE, PAPER, ACCENT, ALERT = (f"#0000{index:02x}" for index in range(1, 7))
PALETTE = tuple(f"#0001{index:02x}" for index in range(6))
_VARIABLES = {
    INK: "currentColor",
    MUTED: "var(--muted)",
    RULE: "var(--rule)",
    PAPER: "var(--paper)",
    ACCENT: "var(--accent)",
    ALERT: "var(--alert)",
} | {colour: f"var(--series-{index})" for index, colour in enumerate(PALETTE, 1)}

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "fedhealth",
    "text.parse_math": False,  # a site may be called "A$B"
    "text.color": INK,
    "font.size": 11,
    "axes.edgecolor": RULE,
    "axes.facecolor": "none",
    "axes.labelcolor": MUTED,
    "axes.labelsize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": RULE,
    "xtick.labelcolor": MUTED,
    "ytick.color": RULE,
    "ytick.labelcolor": MUTED,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "legend.fontsize": 10.5,
    "lines.solid_capstyle": "round",
}


@contextmanager
def use_house_style() -> Iterator[None]:
    """Set matplotlib's style to the placeholder colours; create and convert figures inside this block."""
    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        # The browser has the glyphs that are missing in the font with which matplotlib measures text.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def new_figure(height: float) -> Figure:
    """Return an empty figure of native width and `height` CSS pixels."""
    figure = Figure(figsize=(WIDTH / 72, height / 72), dpi=72, layout="constrained")
    FigureCanvasSVG(figure)  # measures text as it will be drawn
    return figure


def figure_to_svg(figure: Figure, key: str, title: str, description: str) -> str:
    """Return `figure` as an `<svg>` element for an HTML page.

    Args:
        figure: drawn in this module's colours.
        key: prefix of the element's ids, unique on the page.
        title: accessible name.
        description: text alternative.

    """
    content = io.StringIO()
    if layout := figure.get_layout_engine():
        layout.execute(figure)
        figure.set_layout_engine(None)  # else `savefig` draws everything once more, for the layout
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(content, format="svg", transparent=True, metadata=nothing)
    drawn = re.sub(r"<!--.*?-->", "", content.getvalue(), flags=re.DOTALL)
    match = re.search(r'<svg[^>]*viewBox="([^"]+)"[^>]*>(.*)</svg>', drawn, re.DOTALL)
    if match is None:
        raise AssertionError("matplotlib wrote no <svg>")
    box, body = match.groups()
    names = f'<title id="{key}-t">{escape(title)}</title><desc id="{key}-d">{escape(description)}</desc>'
    return f'<svg viewBox="{box}" role="img" aria-labelledby="{key}-t {key}-d">{names}{_adapt_to_page(body, key)}</svg>'


def _adapt_to_page(body: str, key: str) -> str:
    """Replace colours by the page's variables, drop the font, and prefix the ids."""
    for colour, variable in _VARIABLES.items():
        body = body.replace(colour, variable)
    body = re.sub(r"font-family: [^;\"]*;?", "", body)
    body = re.sub(r'\bid="', f'id="{key}-', body)
    return body.replace('xlink:href="#', f'href="#{key}-').replace("url(#", f"url(#{key}-")
