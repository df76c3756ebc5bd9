"""Deep and shallow ensembles, BLIP and LLPR side by side: trained, calibrated on held-out frames, evaluated, timed.

    python benchmarks/methods.py --out DIR [--quick] [--json FILE] [--only NAME]

The models are those of `accuracy.py`, as the command line trains them without a setting; LLPR is made of the first
member of the deep ensemble. The tenth of the training file that was held out and chose the best weights calibrates: one
factor for energies, one for forces. A model that is already in DIR is not trained again. Times of a step are those of
one thread: energies, their variance and the forces, then the variance of forces too.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accuracy import METHODS, Split, Task, arguments, ase_uq, measure, tasks, trained, within
from ase.io import read

from ase_uq import load
from ase_uq.models.members import MemberUncertainty
from ase_uq.uncertainty.force_variance import Exact, ForceVariance, Off

REPEATS = 20


def main() -> int:
    """Run the tasks."""
    options = arguments(__doc__).parse_args()
    rows = [
        row
        for task, parts in tasks(options)
        for row in judged(task, parts, options.out, trained(task, parts, options.out, METHODS, quick=options.quick))
    ]
    print(table(rows))
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    return 0


def judged(task: Task, parts: Split, out: Path, models: dict[str, Path]) -> list[dict[str, Any]]:
    """Calibrate the models, and return one row for each method and test file."""
    rows = []
    for name, raw in {**models, "llpr": models["deep"]}.items():
        path = out / f"{task.name}_{name}_calibrated.pt"
        source = ("--llpr", parts.shown) if name == "llpr" else ()
        ase_uq("calibrate", raw, parts.held_out, *source, "--out", path)
        model = load(path)
        cost = {"minutes": training_minutes(model), **step_times(model, parts.tests[0])}
        rows += [{**cost, **row} for row in measure(task, parts, name, path)]
    return rows


def training_minutes(model: MemberUncertainty) -> float:
    """Minutes of one thread that the training took; for LLPR, those of the one member it is made of."""
    parts = (model.training or {})["parts"]
    counted = parts[:1] if (model.training or {})["method"] == "llpr" else parts
    return float(sum(part["seconds"] for part in counted)) / 60.0


def step_times(model: MemberUncertainty, test: Path) -> dict[str, float]:
    """Return milliseconds of a step without and with the variance of forces."""
    atoms = read(test, index=0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    estimators: dict[str, ForceVariance] = {"ms_off": Off(), "ms_exact": Exact()}
    seconds: dict[str, list[float]] = {name: [] for name in estimators}
    for _ in range(REPEATS):
        for name, estimator in estimators.items():
            began = time.process_time()
            model.predict_combined(atoms, forces_var=estimator)
            seconds[name].append(time.process_time() - began)
    torch.set_num_threads(threads)
    return {name: 1e3 * float(np.median(values)) for name, values in seconds.items()}


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a Markdown table."""
    lines = [
        (
            "| test | method | alpha of energies, forces | training (min) | ms a step: energy variance, force variance "
            "| RMSE energy (meV/atom), forces (meV/Å) | NLL energy, forces | within 1, 1.96 sigma: centred energies; "
            "forces | coverage of 68, 95 %: the same | CRPS of forces: model, constant (meV/Å) | Spearman of forces |"
        ),
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        energy, forces, centred = row["energy"], row["forces"], row["energy_centred"]
        widths = row["widths"]["forces"]
        lines.append(
            f"| {row['dataset']} {row['test']} | {row['method']} | {row['alpha']:.2f}, {row['alpha_forces']:.2f} "
            f"| {row['minutes']:.0f} "
            f"| {row['ms_off']:.1f}, {row['ms_exact']:.1f} "
            f"| {1e3 * energy['rmse']:.2f}, {1e3 * forces['rmse']:.1f} | {energy['nll']:.2f}, {forces['nll']:.2f} "
            f"| {within(centred)}; {within(forces)} | {_coverage(centred)}; {_coverage(forces)} "
            f"| {1e3 * widths['model']['crps']:.1f}, {1e3 * widths['constant']['crps']:.1f} "
            f"| {forces['spearman']:.2f} |"
        )
    return "\n".join(lines)


def _coverage(scores: dict[str, Any]) -> str:
    return f"{100 * scores['coverage_68']:.0f}, {100 * scores['coverage_95']:.0f}"


if __name__ == "__main__":
    sys.exit(main())
