"""Deep ensemble, shallow ensemble and LLPR side by side: trained, calibrated on held-out frames, evaluated, timed.

    python benchmarks/methods.py --out DIR [--quick] [--json FILE] [--only NAME]

A tenth of the training file is held out; it chooses the best weights, and calibrates, once alpha fitted to the energies
and once to the forces (there is one alpha, and only one of the two can be right). LLPR is made of the first member
of the deep ensemble. A model that is already in DIR is not trained again. Times of a step are those of one thread:
energies, their variance and the forces, then the variance of forces too.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accuracy import DEFAULT_ROOT, QUICK, TASKS, Task, ase_uq, split
from ase.io import read

from ase_uq import load
from ase_uq.models.members import MemberUncertainty
from ase_uq.uncertainty.force_variance import Exact, ForceVariance, Off

# Minutes of the shallow ensemble: less than the members of the deep one together, all on one thread.
SHALLOW_MINUTES = {"3bpa": 15.0, "ammonia": 5.0}
REPEATS = 20


def main() -> int:
    """Run the tasks."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for models and split files")
    parser.add_argument("--quick", action="store_true", help="two epochs of a small model")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows too")
    parser.add_argument("--only", choices=list(SHALLOW_MINUTES), help="one data set")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    root = Path(os.environ.get("ASE_UQ_DATA", DEFAULT_ROOT))
    tasks = [task for task in TASKS if task.name in SHALLOW_MINUTES and options.only in (None, task.name)]
    rows = [row for task in tasks for row in measure(task, root, options.out, quick=options.quick)]
    print(table(rows))
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    return 0


def measure(task: Task, root: Path, out: Path, *, quick: bool) -> list[dict[str, Any]]:
    """Return one row for each method and test file."""
    train, tests = root / task.train, [root / test for test in task.tests]
    if task.held_out:
        train, test = split(train, task.held_out, out / task.name)
        tests = [test]
    shown, held_out = split(train, 0.1, out / f"{task.name}_fit")
    size = task.options[task.options.index("--cutoff") :]
    small = QUICK if quick else ()
    raw = {name: out / f"{task.name}_{name}.pt" for name in ("deep", "shallow")}
    if not raw["deep"].exists():
        ase_uq("train", shown, "--valid", held_out, "--members", "4", *task.options, *small, "--out", raw["deep"])
    if not raw["shallow"].exists():
        minutes = ("--minutes", SHALLOW_MINUTES[task.name])
        method = ("--method", "shallow", "--members", "8")
        ase_uq("train", shown, "--valid", held_out, *method, *minutes, *size, *small, "--out", raw["shallow"])
    models = {}
    for name in ("deep", "shallow", "llpr"):
        models[name] = out / f"{task.name}_{name}_calibrated.pt"
        source = ("--llpr", shown) if name == "llpr" else ()
        ase_uq("calibrate", raw.get(name, raw["deep"]), held_out, *source, "--out", models[name])
    return [
        {
            "dataset": task.name,
            "method": name,
            "test": test.name.split(".")[0],
            "minutes": training_minutes(load(path)),
            **step_times(load(path), test),
            **json.loads(ase_uq("evaluate", path, test, "--json")),
        }
        for test in tests
        for name, path in models.items()
    ]


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
            f"| {_within(centred)}; {_within(forces)} | {_coverage(centred)}; {_coverage(forces)} "
            f"| {1e3 * widths['model']['crps']:.1f}, {1e3 * widths['constant']['crps']:.1f} "
            f"| {forces['spearman']:.2f} |"
        )
    return "\n".join(lines)


def _within(scores: dict[str, Any]) -> str:
    return f"{100 * scores['within_1_sigma']:.0f}, {100 * scores['within_1.96_sigma']:.0f}"


def _coverage(scores: dict[str, Any]) -> str:
    return f"{100 * scores['coverage_68']:.0f}, {100 * scores['coverage_95']:.0f}"


if __name__ == "__main__":
    sys.exit(main())
