"""Models as the command line trains them, without a setting and before any calibration: errors and widths.

    python benchmarks/accuracy.py --out DIR [--quick] [--json FILE] [--only NAME] [--methods deep shallow blip]

A tenth of the training file is held out and chooses the best weights. Every command is printed before it runs, so that
it can be repeated by hand. A model that is already in DIR is not trained again; `methods.py` takes the same ones. The
data are read from the folder ASE_UQ_DATA, by default ../shared/data next to the repository.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ase.io import write

from ase_uq.structures.frames import read_frames, split_frames

DEFAULT_ROOT = Path(__file__).resolve().parents[1].parent / "shared" / "data"
QUICK = ("--epochs", "2", "--channels", "8")
METHODS = ("deep", "shallow", "blip")
PART_OF_A_MEMBER = 0.5  # of the minutes of the other methods; four members take twice as long as those


@dataclass(frozen=True, slots=True)
class Task:
    """Training file, test files and minutes of one data set; `held_out` splits off a part of the file as its test."""

    name: str
    train: str
    tests: tuple[str, ...]
    minutes: float
    held_out: float = 0.0


TASKS = (
    Task("3bpa", "3bpa/train_300K.xyz.gz", ("3bpa/test_300K.xyz.gz", "3bpa/test_600K.xyz.gz"), 10.0),
    Task("Cu", "mlearn/Cu_train.xyz.gz", ("mlearn/Cu_test.xyz.gz",), 10.0),
    Task("ammonia", "ammonia/all.xyz.gz", (), 3.0, held_out=0.2),
)


@dataclass(frozen=True, slots=True)
class Split:
    """What a model is fitted to, the tenth that chooses its weights (and calibrates it), and what it is judged by."""

    shown: Path
    held_out: Path
    tests: tuple[Path, ...]


def main() -> int:
    """Run the tasks."""
    parser = arguments(__doc__)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS, help="which")
    options = parser.parse_args()
    rows = [
        row
        for task, parts in tasks(options)
        for name, model in trained(task, parts, options.out, options.methods, quick=options.quick).items()
        for row in measure(task, parts, name, model)
    ]
    print(table(rows))
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    return 0


def arguments(doc: str | None) -> argparse.ArgumentParser:
    """Return the parser of what this benchmark and `methods.py` share."""
    parser = argparse.ArgumentParser(description=(doc or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for models and split files")
    parser.add_argument(
        "--quick", action="store_true", help="two epochs of a small model: checks the path, not the numbers"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows too, in eV/atom and eV/Å")
    parser.add_argument("--only", choices=[task.name for task in TASKS], help="one data set")
    return parser


def tasks(options: argparse.Namespace) -> list[tuple[Task, Split]]:
    """Return the data sets asked for, split."""
    options.out.mkdir(parents=True, exist_ok=True)
    root = Path(os.environ.get("ASE_UQ_DATA", DEFAULT_ROOT))
    return [(task, parts_of(task, root, options.out)) for task in TASKS if options.only in (None, task.name)]


def parts_of(task: Task, root: Path, out: Path) -> Split:
    """Split the files of a task."""
    train, tests = root / task.train, [root / test for test in task.tests]
    if task.held_out:
        train, test = split(train, task.held_out, out / task.name)
        tests = [test]
    shown, held_out = split(train, 0.1, out / f"{task.name}_fit")
    return Split(shown, held_out, tuple(tests))


def trained(task: Task, parts: Split, out: Path, methods: Collection[str], *, quick: bool) -> dict[str, Path]:
    """Train what is not there yet; method -> model file."""
    models = {}
    for method in methods:
        models[method] = out / f"{task.name}_{method}.pt"
        if not models[method].exists():
            minutes = task.minutes * (PART_OF_A_MEMBER if method == "deep" else 1.0)
            budget = QUICK if quick else ("--minutes", minutes)
            options = ("--valid", parts.held_out, "--method", method, *budget, "--out", models[method])
            ase_uq("train", parts.shown, *options, *(("--jobs", 1) if method == "deep" else ()))
    return models


def measure(task: Task, parts: Split, method: str, model: Path) -> list[dict[str, Any]]:
    """Return one row for each test file."""
    return [
        {
            "dataset": task.name,
            "method": method,
            "test": name_of(test),
            **json.loads(ase_uq("evaluate", model, test, "--json")),
        }
        for test in parts.tests
    ]


def name_of(path: Path) -> str:
    """Return what a file is called in a table."""
    return path.name.split(".")[0]


def split(path: Path, fraction: float, out: Path) -> tuple[Path, Path]:
    """Write a random split of a file, as `benchmarks/references.py` makes it."""
    parts = split_frames(read_frames(path), valid_fraction=fraction, seed=0)
    names = [out.with_name(f"{out.name}_{part}.xyz") for part in ("train", "test")]
    for name, frames in zip(names, parts, strict=True):
        write(name, [frame.atoms for frame in frames])
    return names[0], names[1]


def ase_uq(*arguments: object) -> str:
    """Run a command and return what it prints."""
    command = ["ase-uq", *map(str, arguments)]
    print("$", " ".join(command), flush=True)
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a Markdown table."""
    lines = [
        (
            "| test | method | energy MAE, RMSE, of it constant (meV/atom) | force MAE, RMSE (meV/Å) "
            "| within 1, 1.96 sigma: centred energies; forces | Spearman centred energies, forces |"
        ),
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        energy, forces, centred = row["energy"], row["forces"], row["energy_centred"]
        lines.append(
            f"| {row['dataset']} {row['test']} | {row['method']} | {1e3 * energy['mae']:.2f}, "
            f"{1e3 * energy['rmse']:.2f}, {1e3 * constant(row):.2f} "
            f"| {1e3 * forces['mae']:.1f}, {1e3 * forces['rmse']:.1f} | {within(centred)}; {within(forces)} "
            f"| {centred['spearman']:.2f}, {forces['spearman']:.2f} |"
        )
    return "\n".join(lines)


def constant(row: dict[str, Any]) -> float:
    """Return the part of the RMSE of energies that is constant within a composition, eV per atom."""
    return float(max(0.0, row["energy"]["rmse"] ** 2 - row["energy_centred"]["rmse"] ** 2) ** 0.5)


def within(scores: dict[str, Any]) -> str:
    """Return the shares of errors within one and 1.96 standard deviations, per cent."""
    return f"{100 * scores['within_1_sigma']:.0f}, {100 * scores['within_1.96_sigma']:.0f}"


if __name__ == "__main__":
    sys.exit(main())
