"""The figures of one run, for the report: series against time, running averages, members against the driving energy.

All have the same width and the same margins, so that time axes stand under each other on the page. Long series are
drawn as the mean of each of `N_BUCKETS` intervals inside the band of their extremes, so that no spike is lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ase_uq.arrays import Array
from ase_uq.averages.running import RunningAverage
from ase_uq.report.bands import Bands, draw_bands, legend_of
from ase_uq.report.style import INK, MODEL, MUTED, SAMPLING, STYLE, plain_log_axis
from ase_uq.report.ticks import short_ticks, with_unit

N_BUCKETS = 500
LONGEST_PLAIN_SERIES = 1200
STD_H_THRESHOLDS = (0.5, 1.0, 2.0)

# All lengths in inches.
_WIDTH = 8.0
_LEFT, _RIGHT, _TOP, _BOTTOM, _GAP = 0.78, 0.2, 0.32, 0.46, 0.42
_LEGEND = 0.2  # a line of its own above a panel
_LOG_RANGE = 30.0
_TIME_UNITS = ((2.0e6, 1.0e6, "ns"), (2.0e3, 1.0e3, "ps"))
_MOST_HISTOGRAM_BINS = 40


@dataclass(frozen=True, slots=True)
class Envelope:
    """A long series as its mean and extremes in intervals of equal numbers of frames; NaN where a whole interval is."""

    x: Array
    low: Array
    mean: Array
    high: Array


def envelope(x: Array, y: Array, *, n_buckets: int = N_BUCKETS) -> Envelope:
    """Reduce a series to mean and extremes of at most `n_buckets` intervals, ignoring NaN.

    Parameters
    ----------
    x, y
        (T,).

    Examples
    --------
    >>> e = envelope(np.arange(4.0), np.array([1.0, 3.0, -5.0, 5.0]), n_buckets=2)
    >>> e.low.tolist(), e.mean.tolist(), e.high.tolist()
    ([1.0, -5.0], [2.0, 0.0], [3.0, 5.0])
    """
    n = min(n_buckets, len(y))
    starts = np.arange(n) * len(y) // n
    sizes = np.diff(starts, append=len(y))
    finite = np.isfinite(y)
    known = np.where(finite, y, np.nan)
    counts = np.add.reduceat(finite.astype(np.float64), starts)
    sums = np.add.reduceat(np.where(finite, y, 0.0), starts)
    return Envelope(
        x=np.add.reduceat(x, starts) / sizes,
        low=np.fmin.reduceat(known, starts),
        mean=np.divide(sums, counts, out=np.full(n, np.nan), where=counts > 0),
        high=np.fmax.reduceat(known, starts),
    )


def time_unit(time_fs: Array) -> tuple[float, str]:
    """Femtoseconds per unit of the time axis, and its name: the largest unit that gives at least 2."""
    length = float(np.max(np.abs(time_fs), initial=0.0))
    return next(((scale, name) for limit, scale, name in _TIME_UNITS if length >= limit), (1.0, "fs"))


def energy_figure(
    *,
    time_fs: Array,
    energy: Array,
    kinetic_energy: Array,
    temperature_K: Array,
    target_K: float | None,  # noqa: N803
) -> Figure:
    """Potential and total energy since the first frame, and temperature, against time; all (T,)."""
    with mpl.rc_context(STYLE):
        figure, (top, bottom), t = _time_panels(time_fs, heights=(1.55, 1.55))
        potential, total = energy - energy[0], energy + kinetic_energy
        total = total - total[0]
        _series(top, t, total, colour=MUTED, label="potential + kinetic", band=False)
        _series(top, t, potential, colour=SAMPLING, label="potential")
        top.set_title(with_unit("Energy since the first frame", "eV", short_ticks(top)))
        _legend(top)
        _series(bottom, t, temperature_K, colour=SAMPLING)
        bottom.set_title("Temperature (K)")
        if target_K is not None:
            bottom.axhline(target_K, color=INK, linewidth=0.9, linestyle=(0, (4, 3)), label=f"target, {target_K:g} K")
            _legend(bottom)
    return figure


def uncertainty_figure(
    *, time_fs: Array, energy_std: Array | None, force_std_max: Array | None, force_std_mean: Array | None
) -> Figure:
    """Standard deviation of the energy (eV) and of the forces (eV/Å, largest and mean over atoms) against time.

    A quantity that is `None` has no panel.
    """
    with_forces = force_std_max is not None and force_std_mean is not None
    with mpl.rc_context(STYLE):
        figure, axes, t = _time_panels(time_fs, heights=(1.35,) * (energy_std is not None) + (1.55,) * with_forces)
        if energy_std is not None:
            _draw_std(axes[0], t, "Standard deviation of the energy", "eV", [(energy_std, MODEL, None)])
        if force_std_max is not None and force_std_mean is not None:
            lines = [(force_std_mean, MUTED, "mean over atoms"), (force_std_max, MODEL, "largest atom")]
            _draw_std(axes[-1], t, "Standard deviation of the force on an atom", "eV/Å", lines)
            _legend(axes[-1])
    return figure


def weight_figure(*, time_fs: Array, weight: Array) -> Figure:
    """Weight of the model, 1 = model only, 0 = baseline only, against time; (T,)."""
    with mpl.rc_context(STYLE):
        figure, (ax,), t = _time_panels(time_fs, heights=(1.35,))
        _series(ax, t, weight, colour=MODEL)
        ax.set_ylim(-0.03, 1.03)
        ax.set_yticks([0.0, 0.5, 1.0])
        ax.set_title("Weight (no unit; 1 is the model alone, 0 the baseline alone)")
    return figure


def average_figure(*, time_fs: Array, values: Array, running: RunningAverage, name: str, unit: str) -> Figure:
    """An observable, its running average with both bars, and the final value with its bars; `values` (T,)."""
    with mpl.rc_context(STYLE):
        figure, (top, bottom), t = _time_panels(time_fs, heights=(1.0, 1.9), right=1.72, gap=_GAP + _LEGEND)
        scale, _ = time_unit(time_fs)
        _series(top, t, values, colour=SAMPLING)
        top.set_title(with_unit(name, unit, short_ticks(top, n=4)))
        draw_bands(bottom, running.time_fs / scale, running.mean, _bands(running))
        bottom.plot(running.time_fs / scale, running.mean, color=INK, linewidth=1.5)
        bottom.set_ylim(*_average_limits(running))
        bottom.set_title(with_unit("Running average", unit, short_ticks(bottom)), pad=7.0 + 72 * _LEGEND)
        bottom.legend(handles=legend_of(_bands(running)), loc="lower left", bbox_to_anchor=(0.0, 1.01), ncols=5)
        _final_value(figure, bottom, running)
    return figure


def member_figure(deviations: Array, *, names: list[str]) -> Figure:
    """How far every member moves against the driving energy: shapes of h about its mean, and sd(h) by member.

    Parameters
    ----------
    deviations
        (T, M), h_i = beta (V_i - V) minus its mean over frames, in units of kT.
    names
        (M,), for the axis.
    """
    std = deviations.std(axis=0)
    worst = int(std.argmax())
    with mpl.rc_context(STYLE):
        figure, (left,) = _panels(heights=(2.6,), right=3.6)
        _draw_shapes(left, deviations, worst=worst, width=float(std[worst]), name=names[worst])
        right = figure.add_axes((1 - 2.75 / _WIDTH, left.get_position().y0, 2.6 / _WIDTH, left.get_position().height))
        _draw_widths(right, std, worst=worst, names=names)
    return figure


def _draw_shapes(ax: Axes, deviations: Array, *, worst: int, width: float, name: str) -> None:
    title = "Density of h = β(Vᵢ − V) about its mean"
    ax.set_title(with_unit(title, "per kT"))
    ax.set_xlabel("h (units of kT)", labelpad=3)
    if width == 0:
        ax.text(0.5, 0.5, "the members do not move against V", transform=ax.transAxes, ha="center", color=MUTED)
        return
    reach = max(4.0 * width, float(np.quantile(np.abs(deviations), 0.999)))
    n_bins = int(np.clip(np.sqrt(len(deviations)), 8, _MOST_HISTOGRAM_BINS))
    edges = np.linspace(-reach, reach, n_bins + 1)
    for i in [*(i for i in range(deviations.shape[1]) if i != worst), worst]:
        density = np.histogram(deviations[:, i], edges)[0] / (len(deviations) * np.diff(edges))
        colour, strength = (MODEL, 1.6) if i == worst else (MUTED, 0.7)
        ax.stairs(density, edges, color=colour, linewidth=strength, label=f"member {name}" if i == worst else None)
    x = np.linspace(-reach, reach, 201)
    gaussian = np.exp(-0.5 * (x / width) ** 2) / (width * np.sqrt(2 * np.pi))
    ax.plot(x, gaussian, color=INK, linewidth=0.9, linestyle=(0, (4, 3)), label="Gaussian of its width")
    ax.set_ylim(0, 1.3 * ax.get_ylim()[1])  # with room for the legend
    ax.set_title(with_unit(title, "per kT", short_ticks(ax)))
    ax.legend(loc="upper right", bbox_to_anchor=(1.0, 1.0), handlelength=1.6)


def _draw_widths(ax: Axes, std: Array, *, worst: int, names: list[str]) -> None:
    ax.set_title("Width of h by member; dashed: thresholds")
    rows = np.arange(len(std))
    ax.set_xlim(0, max(1.12 * float(std.max()), 0.62))
    for threshold in STD_H_THRESHOLDS:
        if threshold < ax.get_xlim()[1]:
            ax.axvline(threshold, color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
    ax.hlines(rows, 0, std, color=MUTED, linewidth=0.8)
    ax.plot(std, rows, "o", color=SAMPLING, markersize=4.5)
    ax.plot(std[worst], worst, "o", color=MODEL, markersize=5.5)
    ax.set_ylim(len(std) - 0.4, -0.6)
    every = -(-len(std) // 16)
    ax.set_yticks(rows[::every], names[::every])
    ax.grid(visible=False, axis="y")
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel("sd(h) (units of kT)", labelpad=3)


def _bands(running: RunningAverage) -> Bands:
    bound = np.zeros(len(running.mean), dtype=np.bool_) if running.bound is None else running.bound
    return Bands.of(running.std_sampling, running.std_model, bound)


def _final_value(figure: Figure, beside: Axes, running: RunningAverage) -> None:
    box = beside.get_position()
    ax = figure.add_axes((box.x1 + 0.26 / _WIDTH, box.y0, 1.34 / _WIDTH, box.height), sharey=beside)
    mean, is_bound = running.mean[-1], _bands(running).bound[-1]
    bars = [(running.std_sampling, SAMPLING), (running.std_model, MODEL), (running.std_total, INK)]
    if np.isnan(running.std_model).all():  # a model without members
        bars = bars[:1]
    for x, (bar, colour) in enumerate(bars):
        drawn = ax.errorbar(x, mean, yerr=bar[-1], color=colour, marker="o", markersize=4, capsize=3.5, linewidth=1.6)
        if is_bound and x > 0:
            drawn[2][0].set_linestyle((0, (1.0, 1.0)))
    ax.axhline(mean, color=INK, linewidth=0.6)
    ax.set_xlim(-0.55, 2.5)
    most = "\nat most" if is_bound else ""
    labels = ["sampling" + most[:1], "model" + most, "total" + most][: len(bars)]
    ax.set_xticks(range(len(bars)), labels, fontsize=7.0)
    ax.tick_params(axis="y", left=False, labelleft=False)
    ax.tick_params(axis="x", length=0)
    ax.spines["left"].set_visible(False)
    ax.grid(visible=False, axis="x")
    ax.set_title("Final", fontweight="bold")


def _average_limits(running: RunningAverage) -> tuple[float, float]:
    # The first bars are wide; they may leave the frame so that the rest can be read.
    late = running.time_fs >= 0.15 * running.time_fs[-1] if len(running.mean) > 3 else np.full(len(running.mean), True)
    bar = np.nan_to_num(np.fmax(np.fmax(running.std_sampling, running.std_model), running.std_total))
    low = min(np.nanmin((running.mean - bar)[late]), running.mean[-1] - 2 * bar[-1])
    high = max(np.nanmax((running.mean + bar)[late]), running.mean[-1] + 2 * bar[-1])
    margin = 0.06 * (high - low) or max(abs(high), 1.0) * 1e-3
    return float(low - margin), float(high + margin)


def _panels(*, heights: tuple[float, ...], right: float = _RIGHT, gap: float = _GAP) -> tuple[Figure, list[Axes]]:
    total = _TOP + sum(heights) + gap * (len(heights) - 1) + _BOTTOM
    figure = Figure(figsize=(_WIDTH, total))
    axes, top = [], total - _TOP
    for height in heights:
        box = (_LEFT / _WIDTH, (top - height) / total, 1 - (_LEFT + right) / _WIDTH, height / total)
        axes.append(figure.add_axes(box))
        top -= height + gap
    return figure, axes


def _time_panels(
    time_fs: Array, *, heights: tuple[float, ...], right: float = _RIGHT, gap: float = _GAP
) -> tuple[Figure, list[Axes], Array]:
    figure, axes = _panels(heights=heights, right=right, gap=gap)
    scale, unit = time_unit(time_fs)
    t = time_fs / scale
    for ax in axes:
        if t[-1] > t[0]:
            ax.set_xlim(t[0], t[-1])
        if ax is not axes[-1]:
            ax.tick_params(labelbottom=False)
        ax.margins(y=0.08)
    axes[-1].set_xlabel(f"Time ({unit})", labelpad=3)
    return figure, axes, t


def _series(ax: Axes, t: Array, y: Array, *, colour: str, label: str | None = None, band: bool = True) -> None:
    if len(y) <= LONGEST_PLAIN_SERIES:
        ax.plot(t, y, color=colour, linewidth=0.9, label=label, marker="." if len(y) < 3 else None)
        return
    reduced = envelope(t, y)
    if band:
        ax.fill_between(reduced.x, reduced.low, reduced.high, color=colour, alpha=0.25, linewidth=0)
    ax.plot(reduced.x, reduced.mean, color=colour, linewidth=1.0, label=label)


def _legend(ax: Axes) -> None:
    # Above the panel, on the line of its title: a legend inside would hide data.
    ax.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=3)


def _draw_std(ax: Axes, t: Array, title: str, unit: str, lines: Sequence[tuple[Array, str, str | None]]) -> None:
    values = np.concatenate([series for series, _, _ in lines])
    scale, prefix = _milli(values)
    for series, colour, label in lines:
        known = np.isfinite(series)  # an estimate every so many steps leaves gaps
        _series(ax, t[known], series[known] * scale, colour=colour, label=label)
    power = _positive_axis(ax, values)
    ax.set_title(with_unit(title, f"{prefix}{unit}", power))


def _positive_axis(ax: Axes, values: Array) -> str:
    """Logarithmic where a few values are far above the rest, else from zero; the power of ten in front of the unit."""
    known = values[np.isfinite(values) & (values > 0)]
    if len(known) and known.max() > _LOG_RANGE * np.median(known):
        plain_log_axis(ax, "y")
        return ""
    ax.set_ylim(bottom=0)
    return short_ticks(ax)


def _milli(values: Array) -> tuple[float, str]:
    known = values[np.isfinite(values)]
    return (1e3, "m") if len(known) and np.quantile(known, 0.99) < 0.1 else (1.0, "")
