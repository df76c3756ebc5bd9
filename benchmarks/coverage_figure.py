"""The figure of `coverage.py`: coverage of every family, and members of the liquid and of a trained committee."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from coverage_trial import LEVELS, Bar, Comparison, Fit, Row
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ase_uq.report.style import INK, MODEL, MUTED, SAMPLING, STYLE

COLOURS = SAMPLING, MODEL
KINDS = "two kinds, "
Line = tuple[str, Sequence[tuple[Sequence[float], Sequence[float]]]]
"""A label, and for each point on its line the coverage at both levels and its standard errors."""


def figure(
    rows: Sequence[Row], bars: Sequence[Bar], fits: Sequence[Fit], comparisons: Mapping[str, Comparison]
) -> Figure:
    """Coverage of all that was run; below it, where there are, members one by one."""
    panels = {
        "Truths inside intervals of averages (cea)": [
            _line(r.case, r.observable, r) for r in rows if r.method == "cea"
        ],
        "Truths inside bars of sampling errors": [_line(bar.case, "", bar) for bar in bars],
        "Errors inside calibrated intervals": _calibrated(fits),
    }
    panels = {title: lines for title, lines in panels.items() if lines}
    of_kinds = [fit for fit in fits if fit.case.startswith(KINDS)]
    n_columns = max(len(panels) + bool(of_kinds and "Errors inside calibrated intervals" not in panels), 1)
    tallest = max([len(lines) for lines in panels.values()], default=20)
    below = bool(comparisons)
    heights = [0.24 * max(tallest, 36 if of_kinds else 0) + 1.0, *([3.6] if below else [])]
    with mpl.rc_context(STYLE):
        drawn = Figure(figsize=(7.0 * n_columns, sum(heights)), layout="constrained")
        parts = drawn.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
        grid = parts[0].add_gridspec(1, n_columns)
        for k, (title, lines) in enumerate(panels.items()):
            cell = grid[0, k]
            if title.startswith("Errors") and of_kinds:
                halves = cell.subgridspec(2, 1, height_ratios=(1.5, 1.0))
                cell = halves[0]
                _draw_kinds(parts[0].add_subplot(halves[1]), of_kinds)
            _draw_lines(parts[0].add_subplot(cell), title, lines)
        if of_kinds and "Errors inside calibrated intervals" not in panels:
            _draw_kinds(parts[0].add_subplot(grid[0, -1]), of_kinds)
        if below:
            _draw_comparisons(parts[1], comparisons)
    return drawn


def _line(case: str, name: str, found: Any) -> Line:
    errors = [float(np.sqrt(level * (1.0 - level) / found.repeats)) for level in LEVELS]
    return f"{case}: {name}" if name else case, [(found.coverage, errors)]


def _calibrated(fits: Sequence[Fit]) -> list[Line]:
    """One line for each pinned family, and one for each kind of constants, with a point for every size of them."""
    lines: dict[str, list[tuple[Sequence[float], Sequence[float]]]] = {}
    for fit in fits:
        if fit.case.startswith(KINDS):
            continue
        label = f"{fit.case}: {fit.quantity}"
        if fit.case.startswith("constants"):
            label = "constants 0 to 20 x," + fit.case.partition(" x,")[2]
        lines.setdefault(label, []).append((fit.coverage, fit.coverage_error))
    return list(lines.items())


def _draw_lines(ax: Axes, title: str, lines: Sequence[Line]) -> None:
    ax.set_title(title, pad=18.0)
    for k, (level, colour) in enumerate(zip(LEVELS, COLOURS, strict=True)):
        ax.axvline(100 * level, color=colour, linewidth=0.9, linestyle=(0, (4, 3)))
        ax.text(100 * level, -0.9, f"{100 * level:.0f} %", color=colour, ha="center")
        for height, (_, points) in enumerate(lines):
            offsets = 0.16 * (np.arange(len(points)) - 0.5 * (len(points) - 1))
            ax.errorbar(
                [100 * coverage[k] for coverage, _ in points],
                height + offsets,
                xerr=[200 * errors[k] for _, errors in points],
                fmt="o",
                color=colour,
                markersize=3 if len(points) > 1 else 4,
                elinewidth=1.0,
            )
    ax.set_yticks(range(len(lines)), [label for label, _ in lines], fontsize=7)
    lowest = min(100 * coverage[0] for _, points in lines for coverage, _ in points)
    ax.set_xlim(min(50.0, 5.0 * np.floor(lowest / 5.0) - 5.0), 102)
    ax.set_ylim(len(lines) - 0.4, -0.6)
    ax.set_xlabel("coverage (%) ± 2 standard errors")


def _draw_kinds(ax: Axes, fits: Sequence[Fit]) -> None:
    """Coverage at 68 % of either kind, and how often the calibration says so, against the ratio of their factors."""
    ax.set_title("Two kinds, calibrated together")
    sets: dict[str, dict[float, list[Fit]]] = {}
    for fit in fits:
        if "each alone" not in fit.case:
            name, ratio, members = fit.case.removeprefix(KINDS).split(", ")
            sets.setdefault(f"{name}, {members}", {}).setdefault(float(ratio.rpartition(" ")[2]), []).append(fit)
    for marker, (label, by_ratio) in zip("osv^Dx", sets.items(), strict=False):
        ratios = sorted(by_ratio)
        style = {"marker": marker, "markersize": 3.5, "linewidth": 0.8}
        for k in range(2):
            ax.plot(ratios, [100 * by_ratio[x][k].coverage[0] for x in ratios], color=SAMPLING, **style)
        ax.plot(ratios, [100 * by_ratio[x][0].warned for x in ratios], color=MODEL, linestyle=(0, (4, 3)), **style)
        ax.plot([], [], color=MUTED, label=label, **style)
    ax.axhline(100 * LEVELS[0], color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
    ax.plot([], [], color=SAMPLING, label="coverage of each kind")
    ax.plot([], [], color=MODEL, linestyle=(0, (4, 3)), label="said in words")
    ax.set_xticks(sorted({ratio for by_ratio in sets.values() for ratio in by_ratio}))
    ax.set_xlabel("ratio of their factors")
    ax.set_ylabel("share (%)")
    ax.set_ylim(0, 102)
    ax.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.3, -0.16), ncols=2)


def _draw_comparisons(part: Any, comparisons: Mapping[str, Comparison]) -> None:
    titles = {"liquid": "liquid", "model": "trained committee"}
    shown = [(title, comparisons[name]) for name, title in titles.items() if name in comparisons]
    rdf = comparisons.get("liquid_rdf")
    axes = part.subplots(1, len(shown) + (0 if rdf is None else 2), squeeze=False)[0]
    if rdf is not None:
        _draw_rdf(axes[0], axes[1], rdf)
    for ax, (title, found) in zip(axes[-len(shown) :], shown, strict=True):
        _draw_members(ax, title, found)


def _draw_rdf(top: Axes, bottom: Axes, rdf: Comparison) -> None:
    # Of eight members the two that differ most stand out; the others would cover each other.
    distances = np.array([float(name) for name in rdf.observables])
    shifts, own = rdf.reweighed - rdf.run_mean, rdf.own - rdf.run_mean
    top.set_title("g(r) of the liquid")
    bottom.set_title("Where members differ")
    top.fill_between(
        distances,
        rdf.reweighed.min(axis=0),
        rdf.reweighed.max(axis=0),
        color=MODEL,
        linewidth=0,
        label="members, reweighed",
    )
    top.plot(distances, rdf.run_mean, color=SAMPLING, label="run driven by the mean")
    top.set_ylabel("g(r)")
    bottom.fill_between(
        distances, shifts.min(axis=0), shifts.max(axis=0), color=MODEL, alpha=0.25, linewidth=0, label="all, reweighed"
    )
    rise = rdf.run_mean.argmax() - 1
    far = sorted((int(shifts[:, rise].argmin()), int(shifts[:, rise].argmax())))
    bottom.plot([], [], color=MODEL, label=f"{far[0] + 1} and {far[1] + 1}, reweighed")
    for member, marker in zip(far, "os", strict=True):
        bottom.plot(distances, shifts[member], color=MODEL)
        bottom.errorbar(
            distances,
            own[member],
            yerr=rdf.own_error[member],
            fmt=marker,
            color=INK,
            markersize=2.5,
            elinewidth=0.8,
            label=f"{member + 1}, a run of its own",
        )
    for ax in (top, bottom):
        ax.set_xlabel("r (σ)")
        ax.set_xlim(distances[0], distances[-1])
    bottom.set_ylabel("g(r) minus that of the run")
    top.legend(loc="upper right")
    bottom.legend(loc="lower right", title="members", alignment="left")


def _draw_members(ax: Axes, title: str, found: Comparison) -> None:
    # Observables of different units on one pair of axes: in units of the spread between members' own runs.
    unit = found.own.std(axis=0, ddof=1)
    x, y = (found.own - found.run_mean) / unit, (found.reweighed - found.run_mean) / unit
    ax.set_title(f"Averages of members, {title}")
    ax.errorbar(
        x.ravel(),
        y.ravel(),
        xerr=(found.own_error / unit).ravel(),
        yerr=(found.reweighed_error / unit).ravel(),
        fmt="o",
        color=MODEL,
        ecolor=MUTED,
        markersize=3,
        elinewidth=0.6,
    )
    limits = np.array([min(x.min(), y.min()) - 0.5, max(x.max(), y.max()) + 0.5])
    ax.plot(limits, limits, color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
    ax.set_xlim(limits)
    ax.set_ylim(limits)
    ax.set_xlabel("shift in a run of its own (spreads)")
    ax.set_ylabel("reweighed shift (spreads)")
