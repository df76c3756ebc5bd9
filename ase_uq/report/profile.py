"""The figure of a vector against its axis: the average with a band for each error, and the errors by themselves.

Radial distributions, angle distributions and free-energy profiles are all drawn alike. On the scale of the average the
bands are often too narrow to see, so that a second panel shows them about zero, with what every member adds. Where the
members spread by no more than sampling noise makes them, the band of the model is its upper bound, hatched: a model
error that is not resolved is not zero. Bins without an error bar are hollow, and bins never visited leave a gap.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ase_uq.arrays import Array
from ase_uq.averages.text import model_error
from ase_uq.report.bands import Bands, draw_bands, edges_of, legend_of, mark_unknown, stretches
from ase_uq.report.style import INK, MUTED, STYLE, write_figure
from ase_uq.report.ticks import short_ticks, with_unit
from ase_uq.reweighting import ReweightResult
from ase_uq.reweighting.axis import Axis

_MOST_MEMBERS = 64  # lines that still make a picture
_LONGEST_LABEL = 24  # of a vertical axis; longer names are in the heading alone


def profile_figure(result: ReweightResult, axis: Axis, *, name: str, unit: str, symbol: str = "") -> Figure:
    """Average (n_bins,) of a vector with its errors, one standard deviation each; `axis` holds their centres.

    Parameters
    ----------
    name, unit
        Heading of the figure, and the unit of the average.
    symbol
        What the vertical axis shows, such as "F". By default g(r) for a radial distribution, else `name`.
    """
    x, mean = axis.centres, np.asarray(result.mean)
    bands = bands_of(result)
    quantity = symbol or _symbol(name, unit, axis)
    error = "error" if quantity == name else f"error of {quantity}"
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8.0, 5.2))
        top = figure.add_axes((0.095, 0.44, 0.885, 0.45))
        bottom = figure.add_axes((0.095, 0.1, 0.885, 0.26), sharex=top)
        draw_bands(top, x, mean, bands)
        _draw_average(top, x, mean, bands)
        _heading(top, name, bands)
        top.tick_params(labelbottom=False)
        for member in result.member_means[:_MOST_MEMBERS]:
            for stretch in stretches(x, np.isfinite(member)):
                bottom.plot(x[stretch], (member - mean)[stretch], color=MUTED, linewidth=0.6, alpha=0.7)
        draw_bands(bottom, x, np.zeros_like(mean), bands)
        bottom.axhline(0.0, color=INK, linewidth=0.7)
        thin_lines = "; thin lines: each member minus the average" if len(result.member_means) else ""
        bottom.set_title(f"The errors alone{thin_lines}")
        bottom.set_xlabel(with_unit(axis.name, axis.unit), labelpad=3)
        _limits(top, bottom, x)
        label = quantity if len(quantity) <= _LONGEST_LABEL else "average"
        top.set_ylabel(with_unit(label, unit, short_ticks(top)))
        bottom.set_ylabel(with_unit(error, unit, short_ticks(bottom)))
        figure.align_ylabels([top, bottom])
    return figure


def bands_of(result: ReweightResult) -> Bands:
    """Both errors of a vector (n_bins,); where the model error is not resolved, the spread that bounds it."""
    model, bound = model_error(result)
    return Bands.of(np.asarray(result.std_sampling), np.asarray(model), np.asarray(bound))


def save_profile(
    path: str | Path, result: ReweightResult, axis: Axis, *, name: str, unit: str, symbol: str = ""
) -> None:
    """Draw a vector into a file whose ending says the format: .png, .svg or .pdf; the rest as `profile_figure`."""
    write_figure(profile_figure(result, axis, name=name, unit=unit, symbol=symbol), path)


def _draw_average(ax: Axes, x: Array, mean: Array, bands: Bands) -> None:
    # Thin through bins without an error bar, which is all that is known of them.
    for stretch in stretches(x, np.isfinite(mean)):
        ax.plot(x[stretch], mean[stretch], color=INK, linewidth=0.6)
    for stretch in stretches(x, bands.known):
        alone = stretch.stop - stretch.start == 1
        ax.plot(x[stretch], mean[stretch], color=INK, linewidth=1.3, marker="_" if alone else None)
    mark_unknown(ax, x, mean, bands)


def _heading(ax: Axes, name: str, bands: Bands) -> None:
    ax.set_title(with_unit(name, ""), pad=20.0, fontweight="bold")
    entries = legend_of(bands)
    ax.legend(handles=entries, loc="lower left", bbox_to_anchor=(0.0, 1.005), ncols=len(entries), handlelength=1.8)


def _limits(top: Axes, bottom: Axes, x: Array) -> None:
    if len(x) > 1:
        edges = edges_of(x, slice(0, len(x)), beyond=True)
        top.set_xlim(edges[0], edges[-1])
    for ax in (top, bottom):
        ax.margins(y=0.08)


def _symbol(name: str, unit: str, axis: Axis) -> str:
    # A number without unit against a distance called r is what `RadialDistribution` gives, whatever name it was given.
    return "g(r)" if (unit, axis.name, axis.unit) == ("1", "r", "Å") else name
