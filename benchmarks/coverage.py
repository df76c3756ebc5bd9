"""Whether the intervals of averages from one run hold the truth as often as they say.

    python benchmarks/coverage.py [--quick] [--only CASE] [--model FILE] [--json FILE] [--figure FILE]

A run is driven by the mean of M member potentials. `ase_uq.reweight` gives the average under every member, from that
run alone, and an interval for the average under the true potential, seen as one more draw from the members' family.
Here the truth is drawn from that family, too, and known: exactly (gaussian), or by a run of its own (liquid, model),
whose sampling error is then added to the interval. `coverage_gaussian.py`, `coverage_liquid.py` and `coverage_model.py`
have the three; the last needs a model file, and says how to train one.

`coverage_vibrating.py` and `coverage_mbar.py` look at the sampling error by itself, where it is hard to know: bars are
compared with the scatter of independent runs.

Of rows whose intervals are right, about one in eleven is outside of two binomial errors at one of the levels. Rows of
one case share their runs, and are outside together.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import coverage_gaussian
import coverage_liquid
import coverage_mbar
import coverage_model
import coverage_vibrating
import matplotlib as mpl
import numpy as np
import torch
from coverage_trial import LEVELS, Bar, Comparison, Row
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ase_uq.dynamics.allocator import keep_freed_memory
from ase_uq.report.style import INK, MODEL, MUTED, SAMPLING, STYLE, write_png

FULL: dict[str, dict[str, int]] = {
    "gaussian": {"repeats": 1000},
    "liquid": {"repeats": 200, "steps": 8000, "replicas": 4},
    "vibrating": {"repeats": 200, "frames": 20000},
    "mbar": {"repeats": 200},
    "model": {"steps": 16000, "equilibration": 2000},
}
QUICK: dict[str, dict[str, int]] = {
    "gaussian": {"repeats": 30},
    "liquid": {"repeats": 12, "steps": 2000, "replicas": 1},
    "vibrating": {"repeats": 4, "frames": 400},
    "mbar": {"repeats": 2},
    "model": {"steps": 400, "equilibration": 100},
}


def main() -> int:
    """Run the cases, print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--quick", action="store_true", help="few and short runs: checks the path, not the numbers")
    parser.add_argument("--only", choices=list(FULL), help="one case")
    parser.add_argument("--model", type=Path, metavar="FILE", help="trained committee of the third case")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers too")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="write a PNG too")
    options = parser.parse_args()
    if options.only == "model" and options.model is None:
        parser.error("--only model needs --model FILE")
    torch.set_num_threads(1)
    keep_freed_memory()
    amounts = QUICK if options.quick else FULL
    wanted = [case for case in FULL if options.only in (None, case)]
    rows: list[Row] = []
    bars = _bars(wanted, amounts)
    liquid = model = None
    if "gaussian" in wanted:
        rows += coverage_gaussian.coverage(**amounts["gaussian"])
    if "liquid" in wanted:
        rows += (liquid := coverage_liquid.coverage(**amounts["liquid"], tell=_tell)).rows
    if "model" in wanted and options.model is not None:
        rows += (model := coverage_model.coverage(options.model, **amounts["model"], tell=_tell)).rows
    if options.quick:
        print("Quick: runs are too short and too few for their numbers to mean anything.\n")
    print("\n\n".join([*([table(rows)] if rows else []), *([bar_table(bars)] if bars else [])]))
    for title, found in (("liquid", liquid), ("trained", model)):
        if found is not None:
            print(f"\n{member_table(title, found.observables)}")
    if options.json is not None:
        options.json.write_text(json.dumps(_numbers(rows, bars, liquid, model), indent=2) + "\n", encoding="utf-8")
    if options.figure is not None:
        write_png(figure(rows, liquid, model), options.figure)
    return 0


def _bars(wanted: Sequence[str], amounts: dict[str, dict[str, int]]) -> list[Bar]:
    cases = {"vibrating": coverage_vibrating.coverage, "mbar": coverage_mbar.coverage}
    return [bar for name, coverage in cases.items() if name in wanted for bar in coverage(**amounts[name])]


def table(rows: Sequence[Row]) -> str:
    """Return coverage as a Markdown table; errors are those of so many trials of a nominal interval.

    The other columns: root mean square of `Trial.z`; medians of `std_model`/`std_sampling` and of the largest sd(h) in
    kT; share of trials whose result comes with a warning.
    """
    lines = [
        "| case | observable | method | repeats | 68 % | 95 % | nominal | rms z | model/sampling | sd(h) | warned |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        cells = " | ".join(
            f"{100 * found:.1f} ± {100 * error:.1f}"
            for found, error in zip(row.coverage, row.binomial_errors, strict=True)
        )
        lines.append(
            f"| {row.case} | {row.observable} | {row.method} | {row.repeats} | {cells} "
            f"| {'PASS' if row.passes else 'outside'} | {row.rms_z:.2f} | {row.model_to_sampling:.1f} "
            f"| {row.std_h:.2f} | {100 * row.warned:.0f} % |"
        )
    return "\n".join(lines)


def bar_table(bars: Sequence[Bar]) -> str:
    """Return sampling errors against the scatter of runs as a Markdown table."""
    lines = ["| case | repeats | reported/scatter | 68 % | 95 % | warned |", "| --- | --- | --- | --- | --- | --- |"]
    for bar in bars:
        held = " | ".join(f"{100 * share:.0f}" for share in bar.coverage)
        lines.append(f"| {bar.case} | {bar.repeats} | {bar.ratio:.2f} | {held} | {100 * bar.warned:.0f} % |")
    return "\n".join(lines)


def member_table(title: str, found: Comparison) -> str:
    """Return shifts of every member against the driving run: reweighed, and by a run of its own."""
    heads = " | ".join(found.observables)
    lines = [f"| {title}: member | {heads} |", "| --- |" + " --- |" * len(found.observables)]
    lines.append("| mean run | " + " | ".join(f"{mean:.5g}" for mean in found.run_mean) + " |")
    for i in range(len(found.own)):
        cells = []
        for k, mean in enumerate(found.run_mean):
            digits = max(0, 1 - int(np.floor(np.log10(found.own_error[i, k]))))
            pairs = ((found.reweighed, found.reweighed_error), (found.own, found.own_error))
            cells.append(" / ".join(f"{v[i, k] - mean:+.{digits}f} ± {e[i, k]:.{digits}f}" for v, e in pairs))
        lines.append(f"| {i + 1}: reweighed / own run | " + " | ".join(cells) + " |")
    lines.append("| rms z | " + " | ".join(f"{z:.2f}" for z in np.sqrt((found.z**2).mean(axis=0))) + " |")
    return "\n".join(lines)


def figure(rows: Sequence[Row], liquid: coverage_liquid.Liquid | None, model: coverage_model.Model | None) -> Figure:
    """Coverage of the expansion in every row; beside it, where there is a liquid, its members one by one."""
    with mpl.rc_context(STYLE):
        drawn = Figure(figsize=(12.0 if liquid else 5.0, 6.2), layout="constrained")
        if liquid is None:
            _draw_coverage(drawn.add_subplot(), rows)
            return drawn
        grid = drawn.add_gridspec(2, 3, width_ratios=(1.0, 1.2, 1.0))
        top = drawn.add_subplot(grid[0, 1])
        _draw_rdf(top, drawn.add_subplot(grid[1, 1], sharex=top), liquid.rdf)
        _draw_coverage(drawn.add_subplot(grid[:, 0]), rows)
        found = {"liquid": liquid.observables}
        if model is not None:
            found["trained committee"] = model.observables
        for k, (title, comparison) in enumerate(found.items()):
            _draw_members(drawn.add_subplot(grid[k, 2]), title, comparison)
    return drawn


def _draw_coverage(ax: Axes, rows: Sequence[Row]) -> None:
    shown = [row for row in rows if row.method == "cea"]
    ax.set_title("Truths inside intervals (cea)", pad=18.0)
    for k, (level, colour) in enumerate(zip(LEVELS, (SAMPLING, MODEL), strict=True)):
        ax.axvline(100 * level, color=colour, linewidth=0.9, linestyle=(0, (4, 3)))
        ax.text(100 * level, -0.8, f"{100 * level:.0f} %", color=colour, ha="center")
        ax.errorbar(
            [100 * row.coverage[k] for row in shown],
            range(len(shown)),
            xerr=[200 * row.binomial_errors[k] for row in shown],
            fmt="o",
            color=colour,
            markersize=4,
            elinewidth=1.0,
        )
    ax.set_yticks(range(len(shown)), [f"{row.case}: {row.observable}" for row in shown])
    ax.set_xlim(40, 102)
    ax.set_ylim(len(shown) - 0.4, -0.6)
    ax.set_xlabel("coverage (%) ± 2 binomial errors")


def _draw_rdf(top: Axes, bottom: Axes, rdf: Comparison) -> None:
    # Of eight members the two that differ most stand out; the others would cover each other.
    distances = np.array([float(name) for name in rdf.observables])
    shifts, own = rdf.reweighed - rdf.run_mean, rdf.own - rdf.run_mean
    top.set_title("g(r) of the liquid, and where members differ")
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
    bottom.set_xlabel("r (σ)")
    bottom.set_ylabel("g(r) minus that of the run")
    bottom.set_xlim(distances[0], distances[-1])
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


def _numbers(
    rows: Sequence[Row], bars: Sequence[Bar], liquid: coverage_liquid.Liquid | None, model: coverage_model.Model | None
) -> dict[str, Any]:
    def lists(found: Comparison) -> dict[str, Any]:
        return {name: np.asarray(value).tolist() for name, value in asdict(found).items()}

    found: dict[str, Any] = {
        "rows": [{**asdict(row), "binomial_errors": row.binomial_errors, "passes": row.passes} for row in rows]
    }
    found["bars"] = [asdict(bar) for bar in bars]
    if liquid is not None:
        found |= {"liquid": lists(liquid.observables), "liquid_rdf": lists(liquid.rdf)}
    if model is not None:
        found["model"] = lists(model.observables)
    return found


def _tell(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
