"""Errors of two models that know almost nothing, to read those of a trained model against.

`constant` gives every structure the energy of its elements by least squares and zero forces: its force errors are the
size of the forces. `pair` adds a pair potential fitted to the same training frames. A model that has learned the
chemistry stands well below both.

    python benchmarks/references.py [--quick] [--json FILE]

The data are read from the folder that the environment variable ASE_UQ_DATA names, by default ../shared/data next to the
repository. Energy errors are per atom, force errors per component.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from ase import Atoms
from pair_potential import fit_pair_potential

from ase_uq.errors import InputError
from ase_uq.structures.frames import Frame, read_frames, split_frames
from ase_uq.structures.offsets import fit_offsets, offset_energy
from ase_uq.uncertainty.prediction import Prediction, UncertaintyModel
from ase_uq.validation.residuals import residuals

DEFAULT_ROOT = Path(__file__).resolve().parents[1].parent / "shared" / "data"
QUICK_TRAIN, QUICK_TEST = 40, 10


@dataclass(frozen=True, slots=True)
class DataSet:
    """Where frames lie and how far pairs reach.

    Attributes
    ----------
    name
        As the table shows it.
    train
        Training file below the data root.
    tests
        Test files below the data root; none: a random fifth of the training file.
    cutoff
        Å.
    """

    name: str
    train: str
    tests: tuple[str, ...]
    cutoff: float


DATA_SETS = (
    DataSet("3bpa", "3bpa/train_300K.xyz.gz", ("3bpa/test_300K.xyz.gz", "3bpa/test_600K.xyz.gz"), 6.0),
    DataSet("mlearn Cu", "mlearn/Cu_train.xyz.gz", ("mlearn/Cu_test.xyz.gz",), 6.0),
    DataSet("ammonia", "ammonia/all.xyz.gz", (), 5.0),
)


@dataclass(frozen=True, slots=True)
class ConstantModel:
    """Constant energies per element, zero forces.

    Attributes
    ----------
    shifts
        Energy per atom of each element, eV, by symbol.
    """

    shifts: dict[str, float]

    @classmethod
    def fit(cls, frames: Sequence[Frame]) -> ConstantModel:
        """Fit the energies per atom by least squares."""
        energies = [frame.energy for frame in frames]
        zeros = np.zeros(len(frames))
        return cls(fit_offsets([frame.atoms for frame in frames], model_energies=energies, baseline_energies=zeros))

    def predict(self, atoms: Atoms, properties: Collection[str] = ()) -> Prediction:  # noqa: ARG002
        """Return energy and forces, without an uncertainty; `properties` is a hint that it can do without."""
        return Prediction(offset_energy(atoms, self.shifts), np.zeros((len(atoms), 3)))


def errors(model: UncertaintyModel, frames: Sequence[Frame]) -> dict[str, dict[str, float]]:
    """Return `mae` and `rmse` of energies (eV per atom) and force components (eV/Å), as `ase-uq evaluate` has them."""
    result = residuals(model, frames)
    scores = {"energy": result.energy_scores(), "forces": result.force_scores()}
    return {kind: {"mae": score.mae, "rmse": score.rmse} for kind, score in scores.items()}


def measure(data_set: DataSet, root: Path, *, quick: bool) -> list[dict[str, Any]]:
    """Return one row for each test file and model.

    Raises
    ------
    InputError
        For a data file that is missing or cannot be read.
    """
    train = read_frames(root / data_set.train)
    tests = {Path(name).name.split(".")[0]: read_frames(root / name) for name in data_set.tests}
    if not tests:
        train, held_out = split_frames(train, valid_fraction=0.2, seed=0)
        tests = {"20 % split": held_out}
    if quick:
        train = _spread(train, QUICK_TRAIN)
        tests = {name: _spread(frames, QUICK_TEST) for name, frames in tests.items()}
    pair = fit_pair_potential(train, cutoff=data_set.cutoff)
    models: dict[str, UncertaintyModel] = {"constant": ConstantModel.fit(train), "pair": pair}
    return [
        {
            "dataset": data_set.name,
            "test": test,
            "model": name,
            "n_train": len(train),
            "n_test": len(frames),
            **errors(model, frames),
        }
        for test, frames in tests.items()
        for name, model in models.items()
    ]


def format_table(rows: Sequence[dict[str, Any]]) -> str:
    """Return rows of `measure` as text; energies in meV/atom, forces in meV/Å."""
    lines = [
        f"{'':34}{'energy, meV/atom':>20}{'forces, meV/Å':>20}",
        f"{'dataset':11}{'test':13}{'model':10}{'MAE':>10}{'RMSE':>10}{'MAE':>10}{'RMSE':>10}",
    ]
    for row in rows:
        scores = [row[kind][score] for kind in ("energy", "forces") for score in ("mae", "rmse")]
        numbers = "".join(f"{1e3 * score:10.2f}" for score in scores)
        lines.append(f"{row['dataset']:11}{row['test']:13}{row['model']:10}{numbers}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_TRAIN} training, {QUICK_TEST} test frames")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows too, in eV/atom and eV/Å")
    options = parser.parse_args(arguments)
    root = Path(os.environ.get("ASE_UQ_DATA", DEFAULT_ROOT))
    rows: list[dict[str, Any]] = []
    try:
        for data_set in DATA_SETS:
            started = perf_counter()
            rows += measure(data_set, root, quick=options.quick)
            print(f"{data_set.name}: {perf_counter() - started:.1f} s", file=sys.stderr)
    except InputError as e:
        print(f"{e} The data root is named by ASE_UQ_DATA.", file=sys.stderr)
        return 2
    print(format_table(rows))
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    return 0


def _spread(frames: Sequence[Frame], n: int) -> list[Frame]:
    """Return at most n frames, evenly spread over the list, so that every part of a file is met."""
    chosen = np.unique(np.linspace(0, len(frames) - 1, min(n, len(frames))).round().astype(int))
    return [frames[i] for i in chosen]


if __name__ == "__main__":
    sys.exit(main())
