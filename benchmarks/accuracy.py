"""Train, evaluate and calibrate committees on real data from the command line; print the table of the README.

    python benchmarks/accuracy.py --out DIR [--quick] [--json FILE] [--only NAME]

Every command is printed before it runs, so that it can be repeated by hand. A model that is already in DIR is not
trained again. The data are read from the folder ASE_UQ_DATA, by default ../shared/data next to the repository.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ase.io import write

from ase_uq.structures.frames import read_frames, split_frames

DEFAULT_ROOT = Path(__file__).resolve().parents[1].parent / "shared" / "data"
QUICK = ("--epochs", "2", "--channels", "8")


@dataclass(frozen=True, slots=True)
class Task:
    """Training file, test files and options of one data set; `held_out` splits off a part of the file as its test."""

    name: str
    train: str
    tests: tuple[str, ...]
    options: tuple[str, ...]
    held_out: float = 0.0


TASKS = (
    Task(
        "3bpa",
        "3bpa/train_300K.xyz.gz",
        ("3bpa/test_300K.xyz.gz", "3bpa/test_600K.xyz.gz"),
        ("--minutes", "10", "--cutoff", "4.5", "--channels", "32", "--hidden-l-max", "1"),
    ),
    Task(
        "Cu",
        "mlearn/Cu_train.xyz.gz",
        ("mlearn/Cu_test.xyz.gz",),
        ("--minutes", "15", "--cutoff", "4.5", "--channels", "32", "--batch-size", "2", "--learning-rate", "0.005"),
    ),
    Task("ammonia", "ammonia/all.xyz.gz", (), ("--minutes", "3", "--cutoff", "4.5", "--channels", "32"), 0.2),
)


def main() -> int:
    """Run the tasks."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for models and split files")
    parser.add_argument(
        "--quick", action="store_true", help="two epochs of a small model: checks the path, not the numbers"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows too, in eV/atom and eV/Å")
    parser.add_argument("--only", choices=[task.name for task in TASKS], help="one data set")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    root = Path(os.environ.get("ASE_UQ_DATA", DEFAULT_ROOT))
    rows = [
        row
        for task in TASKS
        if options.only in (None, task.name)
        for row in measure(task, root, options.out, quick=options.quick)
    ]
    print(table(rows))
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    return 0


def measure(task: Task, root: Path, out: Path, *, quick: bool) -> list[dict[str, Any]]:
    """Return one row for each test file."""
    train, tests = root / task.train, [root / test for test in task.tests]
    if task.held_out:
        train, test = split(train, task.held_out, out / task.name)
        tests = [test]
    model = out / f"{task.name}.pt"
    if not model.exists():
        ase_uq("train", train, "--members", "4", *task.options, *(QUICK if quick else ()), "--out", model)
    rows = []
    for test in tests:
        scores = json.loads(ase_uq("evaluate", model, test, "--json", "--plot", out / f"{test.name.split('.')[0]}.png"))
        rows.append({"dataset": task.name, "test": test.name.split(".")[0], **scores})
    return rows


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
            "| test | energy MAE, RMSE (meV/atom) | force MAE, RMSE (meV/Å) | force NLL "
            "| coverage 68 %, 95 % | Spearman energy, forces |"
        ),
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        energy, forces = row["energy"], row["forces"]
        lines.append(
            f"| {row['dataset']} {row['test']} | {1e3 * energy['mae']:.2f}, {1e3 * energy['rmse']:.2f} "
            f"| {1e3 * forces['mae']:.1f}, {1e3 * forces['rmse']:.1f} | {forces['nll']:.2f} "
            f"| {100 * forces['coverage_68']:.0f}, {100 * forces['coverage_95']:.0f} "
            f"| {energy['spearman']:.2f}, {forces['spearman']:.2f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
