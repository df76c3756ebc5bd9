"""Whether error bars hold the truth as often as they say.

    python benchmarks/coverage.py [--quick] [--only CASE] [--model FILE] [--json FILE] [--from FILE ...] [--figure FILE]

Averages. A run is driven by the mean of M member potentials. `ase_uq.reweight` gives the average under every member,
from that run alone, and an interval for the average under the true potential, seen as one more draw from the members'
family. Here the truth is drawn from that family, too, and known: exactly (gaussian; biased, whose logs are of runs
under a bias), or by a run of its own (liquid, model), whose sampling error is then added to the interval. The model
needs a file, and `coverage_model.py` says how to train one.

Sampling errors by themselves, where they are hard to know: bars are compared with the scatter of independent runs
(vibrating, mbar).

Calibration. alpha is fitted to one half of labelled frames whose errors have a known width, intervals and alpha are
judged on the other half: members pinned to their mean (pinned), energies with constants (constants), sets of two kinds
that want different factors (kinds).

Of rows whose intervals are right, about one in eleven is outside of two binomial errors at one of the levels. Rows of
one case share their runs, and are outside together.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import coverage_biased
import coverage_constants
import coverage_figure
import coverage_gaussian
import coverage_kinds
import coverage_liquid
import coverage_mbar
import coverage_model
import coverage_pinned
import coverage_vibrating
import numpy as np
import torch
from coverage_trial import Bar, Comparison, Fit, Row

from ase_uq.dynamics.allocator import keep_freed_memory
from ase_uq.report.style import write_figure

FULL: dict[str, dict[str, int]] = {
    "gaussian": {"repeats": 1000},
    "liquid": {"repeats": 200, "steps": 8000, "replicas": 4},
    "biased": {"repeats": 200, "frames": 2000},
    "model": {"steps": 16000, "equilibration": 2000},
    "vibrating": {"repeats": 200, "frames": 20000},
    "mbar": {"repeats": 200},
    "pinned": {"repeats": 200, "frames": 200},
    "constants": {"repeats": 200, "frames": 200},
    "kinds": {"repeats": 200, "frames": 200},
}
QUICK: dict[str, dict[str, int]] = {
    "gaussian": {"repeats": 30},
    "liquid": {"repeats": 12, "steps": 2000, "replicas": 1},
    "biased": {"repeats": 2, "frames": 100},
    "model": {"steps": 400, "equilibration": 100},
    "vibrating": {"repeats": 4, "frames": 400},
    "mbar": {"repeats": 2},
    "pinned": {"repeats": 2, "frames": 60},
    "constants": {"repeats": 2, "frames": 60},
    "kinds": {"repeats": 2, "frames": 60},
}


@dataclass
class Found:
    """What cases came to: rows of the three kinds, and members compared one by one."""

    rows: list[Row] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)
    fits: list[Fit] = field(default_factory=list)
    comparisons: dict[str, Comparison] = field(default_factory=dict)

    def read(self, path: Path) -> None:
        """Add what an earlier call has written with `--json`."""
        content = json.loads(path.read_text(encoding="utf-8"))
        for name, kind in (("rows", Row), ("bars", Bar), ("fits", Fit)):
            known = kind.__dataclass_fields__
            getattr(self, name).extend(
                kind(**{key: value for key, value in each.items() if key in known}) for each in content.pop(name, [])
            )
        for name, each in content.items():
            arrays = {key: np.array(value) for key, value in each.items() if key != "observables"}
            self.comparisons[name] = Comparison(observables=tuple(each["observables"]), **arrays)

    def to_dict(self) -> dict[str, Any]:
        """Return numbers and lists for JSON."""

        def lists(found: Comparison) -> dict[str, Any]:
            return {name: np.asarray(value).tolist() for name, value in asdict(found).items()}

        return {
            "rows": [
                {**asdict(row), "binomial_errors": row.binomial_errors, "passes": row.passes} for row in self.rows
            ],
            "bars": [asdict(bar) for bar in self.bars],
            "fits": [asdict(fit) for fit in self.fits],
            **{name: lists(each) for name, each in self.comparisons.items()},
        }

    def run(self, case: str, amounts: dict[str, int], model_file: Path | None) -> None:
        """Add a case."""
        if case == "liquid":
            liquid = coverage_liquid.coverage(**amounts, tell=_tell)
            self.rows += liquid.rows
            self.comparisons |= {"liquid": liquid.observables, "liquid_rdf": liquid.rdf}
        elif case == "model":
            if model_file is not None:
                model = coverage_model.coverage(model_file, **amounts, tell=_tell)
                self.rows += model.rows
                self.comparisons["model"] = model.observables
        elif case in ("gaussian", "biased"):
            self.rows += {"gaussian": coverage_gaussian, "biased": coverage_biased}[case].coverage(**amounts)
        elif case in ("vibrating", "mbar"):
            self.bars += {"vibrating": coverage_vibrating, "mbar": coverage_mbar}[case].coverage(**amounts)
        else:
            cases = {"pinned": coverage_pinned, "constants": coverage_constants, "kinds": coverage_kinds}
            self.fits += cases[case].coverage(**amounts)

    def tables(self) -> str:
        """Return all as Markdown."""
        parts = [
            *([table(self.rows)] if self.rows else []),
            *([bar_table(self.bars)] if self.bars else []),
            *([fit_table(self.fits)] if self.fits else []),
        ]
        titles = {"liquid": "liquid", "model": "trained"}
        parts += [member_table(title, self.comparisons[n]) for n, title in titles.items() if n in self.comparisons]
        return "\n\n".join(parts)


def main() -> int:
    """Run the cases, print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--quick", action="store_true", help="few and short runs: checks the path, not the numbers")
    parser.add_argument("--only", choices=[*FULL, "none"], help="one case; none: what --from reads, and no other")
    parser.add_argument("--model", type=Path, metavar="FILE", help="trained committee of the case model")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers too")
    parser.add_argument("--from", dest="earlier", type=Path, nargs="+", default=[], metavar="FILE", help="add these")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="write a PNG too")
    options = parser.parse_args()
    if options.only == "model" and options.model is None:
        parser.error("--only model needs --model FILE")
    torch.set_num_threads(1)
    keep_freed_memory()
    found = Found()
    for path in options.earlier:
        found.read(path)
    for case, amounts in (QUICK if options.quick else FULL).items():
        if options.only in (None, case):
            found.run(case, amounts, options.model)
    if options.quick:
        print("Quick: runs are too short and too few for their numbers to mean anything.\n")
    print(found.tables())
    if options.json is not None:
        options.json.write_text(json.dumps(found.to_dict(), indent=2) + "\n", encoding="utf-8")
    if options.figure is not None:
        write_figure(coverage_figure.figure(found.rows, found.bars, found.fits, found.comparisons), options.figure)
    return 0


def table(rows: Sequence[Row]) -> str:
    """Return coverage as a Markdown table; errors are those of so many trials of a nominal interval.

    The other columns: root mean square of `Trial.z` (biased: of the error over `std_total`); medians of
    `std_model`/`std_sampling` and of the largest sd(h) in kT; share of trials whose result comes with a warning.
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


def fit_table(fits: Sequence[Fit]) -> str:
    """Return calibrations as a Markdown table; errors are those of the mean over the repeats."""
    lines = [
        "| case | of | repeats | 68 % | 95 % | alpha/true | within two errors | warned |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for fit in fits:
        held = " | ".join(
            f"{100 * c:.1f} ± {100 * e:.1f}" for c, e in zip(fit.coverage, fit.coverage_error, strict=True)
        )
        alpha = "- | -" if fit.alpha is None or fit.near is None else f"{fit.alpha:.2f} | {100 * fit.near:.0f} %"
        lines.append(f"| {fit.case} | {fit.quantity} | {fit.repeats} | {held} | {alpha} | {100 * fit.warned:.0f} % |")
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


def _tell(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
