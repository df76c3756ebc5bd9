"""The figure of a vector against its axis: the average with a band for each error, and the errors by themselves.

Radial distributions, angle distributions and free-energy profiles are all drawn alike. On the scale of the average the
bands are often too narrow to see, so that a second panel shows them about zero, with what every member adds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ase_uq.errors import InputError
from ase_uq.files import replacing
from ase_uq.plots import INK, MODEL, MUTED, SAMPLING, STYLE
from ase_uq.reweighting import ReweightResult

Array = NDArray[np.float64]

_FORMATS = ("png", "svg", "pdf")
_MOST_MEMBERS = 64  # lines that still make a picture


class HasAxis(Protocol):
    """An axis: of a log, or an observable with bins."""

    @property
    def centres(self) -> Array: ...  # noqa: D102
    @property
    def axis_name(self) -> str: ...  # noqa: D102
    @property
    def axis_unit(self) -> str: ...  # noqa: D102


def profile_figure(result: ReweightResult, axis: HasAxis, *, name: str, unit: str) -> Figure:
    """Average (K,) of a vector with its errors; `axis` holds the K centres. Bands are one standard deviation."""
    x, mean = axis.centres, np.asarray(result.mean)
    sampling, model = np.asarray(result.std_sampling), np.asarray(result.std_model)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8.0, 4.9))
        top = figure.add_axes((0.075, 0.46, 0.915, 0.47))
        bottom = figure.add_axes((0.075, 0.1, 0.915, 0.27), sharex=top)
        _band(top, x, mean, model, colour=MODEL, label="± model error")
        _band(top, x, mean, sampling, colour=SAMPLING, label="± sampling error")
        top.plot(x, mean, color=INK, linewidth=1.3, label="average")
        top.set_title(_escape(f"{name} ({unit})" if unit not in ("", "1") else name))
        top.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=3)
        top.tick_params(labelbottom=False)
        for member in result.member_means[:_MOST_MEMBERS]:
            bottom.plot(x, member - mean, color=MUTED, linewidth=0.6, alpha=0.7)
        _band(bottom, x, np.zeros_like(mean), model, colour=MODEL)
        _band(bottom, x, np.zeros_like(mean), sampling, colour=SAMPLING)
        bottom.axhline(0.0, color=INK, linewidth=0.7)
        bottom.set_title("The errors alone; thin lines: what each member adds")
        bottom.set_xlabel(
            _escape(f"{axis.axis_name} ({axis.axis_unit})" if axis.axis_unit else axis.axis_name), labelpad=3
        )
        top.set_xlim(x[0], x[-1])
    return figure


def save_profile(path: str | Path, result: ReweightResult, axis: HasAxis, *, name: str, unit: str) -> None:
    """Draw a vector into a file whose ending says the format: .png, .svg or .pdf."""
    ending = Path(path).suffix.lstrip(".").lower()
    if ending not in _FORMATS:
        raise InputError(
            f"`path` of a figure must end in .{', .'.join(_FORMATS)}, got {str(path)!r}; change its ending."
        )
    drawing = profile_figure(result, axis, name=name, unit=unit)
    with replacing(path) as aside, mpl.rc_context(STYLE):
        drawing.savefig(aside, dpi=180, format=ending, facecolor="white")


def _band(ax: Axes, x: Array, centre: Array, std: Array, *, colour: str, label: str | None = None) -> None:
    ax.fill_between(x, centre - std, centre + std, color=colour, alpha=0.22, linewidth=0)
    for sign in (1.0, -1.0):
        ax.plot(x, centre + sign * std, color=colour, linewidth=0.8, label=label if sign > 0 else None)


def _escape(text: str) -> str:
    # A pair of dollar signs in a name would start mathematics.
    return text.replace("$", r"\$")
