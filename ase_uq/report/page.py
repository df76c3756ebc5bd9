"""The few pieces of HTML the report is built from; everything that goes through them is escaped."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable

from matplotlib.figure import Figure

from ase_uq.report.svg import inline_svg


def text(value: str) -> str:
    """Escape a string for use between tags and inside quoted attributes."""
    return html.escape(value, quote=True)


def prose(sentence: str) -> str:
    """Escape a sentence, begin it with a capital, and set what stands in backticks as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", text(sentence[:1].upper() + sentence[1:]))


def section(heading: str, *parts: str) -> str:
    """Return a section with its heading."""
    return "\n".join([f"<section><h2>{text(heading)}</h2>", *filter(None, parts), "</section>"])


def note(content: str) -> str:
    """Return a paragraph in small print; `content` is HTML."""
    return f'<p class="note">{content}</p>'


def warning_box(heading: str, warnings: Iterable[str]) -> str:
    """Return a box of sentences, or nothing when there are none."""
    items = "".join(f"<li>{prose(sentence)}</li>" for sentence in warnings)
    return f'<div class="warnings" role="note"><strong>{text(heading)}</strong><ul>{items}</ul></div>' if items else ""


def facts_table(facts: Iterable[tuple[str, str]]) -> str:
    """Return a table of two columns, name and value; facts without a value are left out."""
    rows = "\n".join(f'<tr><th scope="row">{text(k)}</th><td>{text(v)}</td></tr>' for k, v in facts if v)
    return f'<div class="scroll"><table class="facts"><tbody>\n{rows}\n</tbody></table></div>'


def figure(drawing: Figure, *, name: str, description: str, caption: str = "") -> str:
    """Return a figure as inline SVG with its caption; `name` is unique on the page."""
    below = f"<figcaption>{text(caption)}</figcaption>" if caption else ""
    return f"<figure>{inline_svg(drawing, name=name, description=description)}{below}</figure>"


def grouped(n: int) -> str:
    """Write an integer with a thin space between groups of three digits."""
    return f"{n:,}".replace(",", "\u202f")


def count(n: int, noun: str, plural: str = "") -> str:
    """Write so many of something, with its plural.

    Examples
    --------
    >>> count(1, "frame"), count(20, "frame"), count(2, "entry", "entries")
    ('1 frame', '20 frames', '2 entries')
    """
    return f"{grouped(n)} {noun if n == 1 else plural or f'{noun}s'}"
