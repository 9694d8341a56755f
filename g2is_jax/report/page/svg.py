"""Drawings as SVG that stands inside a page: no address in it, colours of light and dark pages."""

import hashlib
import io
import re
from collections.abc import Callable, Sequence
from typing import Any

from markupsafe import Markup, escape

from g2is_jax.report.page.blocks import Picture

WIDTH, HEIGHT = 4.4, 3.0  # inches: a phone shows it at nearly its own size
INK = "#010203"  # of axes and text; the page's own ink in its place
INKS = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
STYLE: Any = {
    **dict.fromkeys(INKS, INK),
    "svg.fonttype": "none",  # text stays text: it can be read aloud, searched and selected
    "svg.hashsalt": "page",  # the same drawing gives the same bytes
    "text.parse_math": False,  # a name with two dollars is no formula
    "font.size": 9,
    "axes.titlesize": 9,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
}
# Mid tones, to be seen on white and on black.
COLOURS = (
    *("#d1495b", "#3d7dca", "#3a9d5d", "#e08a1e", "#8a63c9"),
    *("#16a3a8", "#b5618f", "#8c6d46", "#e59fc0", "#a3a12b"),
)
ACCENT, FIRST, SECOND = COLOURS[0], COLOURS[1], COLOURS[3]
GREY = "#8a8f98"
NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))


def draw(paint: Callable, caption: str, height: float = HEIGHT) -> Picture:
    """Draws what `paint` puts on an axis of matplotlib; the caption says the same in words."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    buffer = io.StringIO()
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height), layout="constrained", facecolor="none")
        axis = figure.subplots()
        axis.patch.set_visible(False)
        paint(axis)
        figure.savefig(buffer, format="svg", metadata=NO_METADATA)
    return Picture(inline(buffer.getvalue(), caption), caption)


def inline(text: str, caption: str) -> Markup:
    """Makes an element of a page of an SVG file, with a title and names that no other has."""
    body = text[text.index("<svg") :]
    body = re.sub(r"<(metadata|style)\b.*?</\1>|<!--.*?-->", "", body, flags=re.DOTALL)
    body = re.sub(r' (xmlns(:xlink)?|version)="[^"]*"', "", body).replace("xlink:href", "href")
    used = set(re.findall(r'(?:href="|url\()#([^")]+)', body))
    mark = hashlib.sha256(body.encode()).hexdigest()[:8]

    def renamed(found: re.Match) -> str:
        return f' id="{mark}-{found[1]}"' if found[1] in used else ""

    body = re.sub(r' id="([^"]*)"', renamed, body)
    body = re.sub(r'((?:href="|url\()#)', rf"\g<1>{mark}-", body).replace(INK, "currentColor")
    opening, _, rest = body.partition(">")
    return Markup(f'{opening} role="img"><title>{escape(caption)}</title>{rest.strip()}')


def colours(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Returns a colour and a kind of line for each name, no two alike among the first twenty."""
    styles = ("solid", "dashed", "dotted")
    return {
        name: (COLOURS[i % len(COLOURS)], styles[i // len(COLOURS) % len(styles)])
        for i, name in enumerate(names)
    }


def legend_below(axis, columns: int = 3) -> None:
    """Puts the names under the drawing, where they cover nothing."""
    axis.figure.legend(loc="outside lower center", ncols=columns)
