"""How figures look here.

Two colours carry the meaning throughout: blue is the trajectory and its sampling error, orange is the model and its
error. They stay apart for colour-blind readers and in grey print. Figures are plain `matplotlib.figure.Figure` objects;
no window, no back end and no state of `pyplot` is involved.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from ase_uq.errors import InputError
from ase_uq.files import check_folder, replacing

FORMATS = ("png", "svg", "pdf")

INK = "#1c2126"
MUTED = "#66707b"
GRID = "#e4e8ec"
SAMPLING = "#0a64a4"
MODEL = "#c75b12"

# Newer matplotlib types its keys one by one, older does not.
STYLE: Any = {
    "font.family": ["DejaVu Sans"],
    "font.size": 8.5,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlelocation": "left",
    "axes.titlesize": 8.5,
    "axes.titlepad": 7.0,
    "axes.labelsize": 8.5,
    "axes.formatter.useoffset": False,
    "axes.xmargin": 0.0,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.size": 0.0,
    "ytick.minor.size": 0.0,
    "lines.linewidth": 1.1,
    "lines.solid_capstyle": "round",
    "hatch.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "legend.handlelength": 1.4,
    "legend.columnspacing": 1.4,
    "legend.borderaxespad": 0.2,
    "legend.borderpad": 0.0,
    # Figures sit on the colour of the page.
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "path.simplify": True,
}


def figure_format(path: str | Path) -> str:
    """Return the format of a figure by the ending of its file; ask before anything is computed.

    Raises
    ------
    InputError
        For another ending than .png, .svg or .pdf, or a folder that does not exist.
    """
    ending = Path(path).suffix.lstrip(".").lower()
    if ending not in FORMATS:
        raise InputError(f"`path` must end in .png, .svg or .pdf, got {str(path)!r}; change its ending.")
    check_folder(path)
    return ending


def write_figure(figure: Figure, path: str | Path, *, dpi: int = 180) -> None:
    """Write a figure on white, in the format of the ending: .png, .svg or .pdf; whole or not at all."""
    ending = figure_format(path)
    with replacing(path) as aside, mpl.rc_context(STYLE):
        figure.savefig(aside, format=ending, dpi=dpi, facecolor="white")


def plain_log_axis(ax: Axes, which: str) -> None:
    """Make an axis (`"x"` or `"y"`) logarithmic, labelled with plain numbers."""
    axis = ax.xaxis if which == "x" else ax.yaxis
    (ax.set_xscale if which == "x" else ax.set_yscale)("log")
    low, high = sorted(axis.get_view_interval())
    decades = np.log10(high / low) if low > 0 else 3.0
    # A short axis would show a single power of ten, from which no scale can be read; a long one has room for no more.
    subs = (1.0,) if decades > 2.5 else (1.0, 3.0) if decades > 1.5 else (1.0, 2.0, 5.0)
    axis.set_major_locator(LogLocator(base=10.0, subs=subs, numticks=8))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
