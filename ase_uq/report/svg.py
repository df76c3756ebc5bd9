"""A matplotlib figure as SVG that lives inside an HTML page.

The drawing stays text: it is small, sharp in print, and takes the fonts and colours of the page. Colours of the
palette become CSS variables (`--ink`, `--sampling`, ...), so that a dark page needs no second set of figures.
"""

from __future__ import annotations

import html
import io
import re

import matplotlib as mpl
from matplotlib.figure import Figure

from ase_uq.report.style import GRID, INK, MODEL, MUTED, SAMPLING, STYLE

_VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--grid", SAMPLING: "--sampling", MODEL: "--model"}


def inline_svg(figure: Figure, *, name: str, description: str) -> str:
    """Draw a figure as one `<svg>` element without any reference to the outside.

    Parameters
    ----------
    name
        Prefix of every identifier inside, unique on the page: figures that share identifiers would share clip paths.
    description
        What the figure shows, for readers who do not see it.
    """
    buffer = io.StringIO()
    metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with mpl.rc_context({**STYLE, "svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata=metadata)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = _prefix_identifiers(text, name)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    # A hundredth of a point is far below what a screen or a printer shows. Only tags are shortened: between them stand
    # the labels, whose digits are data.
    text = re.sub(r"<[^>]*>", lambda tag: re.sub(r"(\d\.\d\d)\d+", r"\1", tag.group()), text)
    width, height = _view_box(text)
    head = (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-labelledby="{name}-title">'
        f'<title id="{name}-title">{html.escape(description)}</title>'
    )
    return re.sub(r"\n\s*", "\n", re.sub(r"<svg[^>]*>", lambda _: head, text, count=1))


def _prefix_identifiers(text: str, name: str) -> str:
    text = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r'\bxlink:href="#([^"]+)"', rf'href="#{name}-\1"', text)
    return re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", text)


def _view_box(text: str) -> tuple[str, str]:
    found = re.search(r'viewBox="0 0 (\S+) (\S+)"', text)
    if found is None:
        raise RuntimeError("the SVG writer of matplotlib gave no viewBox")
    return found.group(1), found.group(2)
