"""The figure of `ase-uq evaluate`: errors against what was predicted of them, and how often intervals hold.

References
----------
Binned errors against predicted spread: Levi et al., Sensors 22, 5540 (2022), arXiv:1905.11659.
Reliability curves: Kuleshov, Fenner and Ermon, arXiv:1807.00263.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from ase_uq.arrays import Array
from ase_uq.errors import InputError
from ase_uq.report.style import INK, MODEL, MUTED, SAMPLING, STYLE, plain_log_axis

_N_BINS = 10
_LARGEST_SCATTER = 3000


@dataclass(frozen=True, slots=True)
class BinnedErrors:
    """Root mean square predicted spread against root mean square error, in bins of equal population.

    Attributes
    ----------
    std, error
        (bins,), both in the unit of the input.
    """

    std: Array
    error: Array


def binned_errors(*, error: ArrayLike, std: ArrayLike, n_bins: int = _N_BINS) -> BinnedErrors:
    """Sort by predicted spread, cut into bins of equal population, take root mean squares in each.

    Parameters
    ----------
    error, std
        Errors (any sign) and predicted standard deviations, same shape, same unit.
    n_bins
        Number of bins; fewer points than bins give one bin a point.

    References
    ----------
    arXiv:1905.11659.

    Examples
    --------
    >>> bins = binned_errors(error=[3.0, -4.0, 1.0, -1.0], std=[5.0, 5.0, 1.0, 1.0], n_bins=2)
    >>> bins.std.tolist(), (bins.error**2).round(12).tolist()
    ([1.0, 5.0], [1.0, 12.5])
    """
    e, s = _pairs(error, std)
    order = np.argsort(s, kind="stable")
    chunks = np.array_split(order, min(n_bins, len(order)))
    return BinnedErrors(
        std=np.array([np.sqrt(np.mean(s[c] ** 2)) for c in chunks]),
        error=np.array([np.sqrt(np.mean(e[c] ** 2)) for c in chunks]),
    )


def validation_figure(
    *,
    energy_error: ArrayLike,
    energy_std: ArrayLike | None,
    force_error: ArrayLike,
    force_std: ArrayLike | None,
    coverage: Mapping[str, tuple[ArrayLike, ArrayLike]],
) -> Figure:
    """Everything `ase-uq evaluate` shows, side by side: energies, forces, reliability.

    Parameters
    ----------
    energy_error, energy_std
        (S,), meV per atom, without what is constant within a composition. `None` for a method without energy
        uncertainty leaves the panel out.
    force_error, force_std
        (n,), meV/Å: components of the force errors and their standard deviations, as the table has them.
    coverage
        Name (`"centred energy"`, `"forces"`) -> (expected, observed); empty leaves the panel out.

    Raises
    ------
    InputError
        If there is nothing to draw, or an error and its spread differ in shape.
    """
    scatters = [
        (error, std, quantity, unit)
        for error, std, quantity, unit in (
            (energy_error, energy_std, "energy, centred", "meV/atom"),
            (force_error, force_std, "force components", "meV/Å"),
        )
        if std is not None
    ]
    n_panels = len(scatters) + bool(coverage)
    if n_panels == 0:
        raise InputError(
            "`energy_std`, `force_std` and `coverage` must not all be missing, got none of the three; "
            "evaluate a model with an uncertainty."
        )
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(3.6 * n_panels, 3.5), layout="constrained")
        axes = np.atleast_1d(figure.subplots(1, n_panels))
        for ax, (error, std, quantity, unit) in zip(axes, scatters, strict=False):
            _draw_error_vs_std(ax, error=error, std=std, quantity=quantity, unit=unit)
        if coverage:
            _draw_reliability(axes[-1], coverage)
    return figure


def _draw_error_vs_std(ax: Axes, *, error: ArrayLike, std: ArrayLike, quantity: str, unit: str) -> None:
    e, s = _pairs(error, std)
    ax.set_title(f"Error of the {quantity}")
    ax.set_xlabel(f"predicted standard deviation ({unit})")
    ax.set_ylabel(f"absolute error ({unit})")
    shown = (np.abs(e) > 0) & (s > 0)
    if not shown.any():
        ax.text(0.5, 0.5, "no error and spread above zero", transform=ax.transAxes, ha="center", color=MUTED)
        return
    x, y = s[shown], np.abs(e[shown])
    bins = binned_errors(error=e, std=s)
    limits = _log_limits(x, y)
    _draw_cloud(ax, x, y, limits)
    ax.set_xlim(limits)
    ax.set_ylim(limits)
    ax.set_aspect("equal")
    # Last, because drawing the cloud replaces the scales together with their labels.
    plain_log_axis(ax, "x")
    plain_log_axis(ax, "y")
    ax.plot(limits, limits, color=INK, linewidth=0.9, linestyle=(0, (4, 3)), label="RMS error = std")
    drawn = (bins.std > 0) & (bins.error > 0)
    ax.plot(bins.std[drawn], bins.error[drawn], "o-", color=MODEL, markersize=4, label="tenths of the set, RMS")
    ax.legend(loc="upper left")


def _log_limits(x: Array, y: Array) -> tuple[float, float]:
    # The same for both axes, so that the diagonal goes from corner to corner. Errors reach down to zero by chance: a
    # tail of 2 % does not decide the scale. Above is room for the legend.
    low = min(float(np.quantile(x, 0.005)), float(np.quantile(y, 0.02)))
    return low / 1.5, 6.0 * max(float(x.max()), float(y.max()))


def _draw_cloud(ax: Axes, x: Array, y: Array, limits: tuple[float, float]) -> None:
    if len(x) <= _LARGEST_SCATTER:
        ax.plot(x, y, ".", color=SAMPLING, markersize=3, alpha=0.45, markeredgewidth=0, rasterized=True)
        return
    extent = (*np.log10(limits), *np.log10(limits))
    inside = (y >= limits[0]) & (x >= limits[0])
    colours = mpl.colors.LinearSegmentedColormap.from_list("counts", ["#dbe8f2", SAMPLING, "#06304f"])
    ax.hexbin(
        x[inside],
        y[inside],
        gridsize=45,
        extent=extent,
        xscale="log",
        yscale="log",
        bins="log",
        mincnt=1,
        cmap=colours,
        linewidths=0.1,
    )


def _draw_reliability(ax: Axes, coverage: Mapping[str, tuple[ArrayLike, ArrayLike]]) -> None:
    ax.set_title("Reliability")
    ax.plot([0, 1], [0, 1], color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
    for (name, (expected, observed)), colour, style in zip(
        coverage.items(), (SAMPLING, MODEL, MUTED, INK), ("-", (0, (6, 1.5)), "-", "-"), strict=False
    ):
        x, y = _pairs(expected, observed)
        ax.plot(x, y, color=colour, linestyle=style, linewidth=1.6, label=name)
    ax.text(0.04, 0.72, "too cautious", color=MUTED)
    ax.text(0.96, 0.26, "too confident", color=MUTED, ha="right")
    ax.set_xlim(0, 1)
    ax.set_ylim(0, 1)
    ax.set_xlabel("expected coverage of central intervals (fraction)")
    ax.set_ylabel("observed coverage (fraction)")
    ax.set_aspect("equal")
    if coverage:
        ax.legend(loc="upper left")


def _pairs(first: ArrayLike, second: ArrayLike) -> tuple[Array, Array]:
    a, b = np.asarray(first, dtype=np.float64).ravel(), np.asarray(second, dtype=np.float64).ravel()
    if a.shape != b.shape or len(a) == 0:
        raise InputError(
            f"the two arrays of a plot must have the same length and at least one element, got {len(a)} and {len(b)}; "
            "give one value of each per point."
        )
    return a, b
