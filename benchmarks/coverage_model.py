"""A trained committee and a molecule of ammonia: one run driven by its mean, and a run of each member alone.

Each member is the truth in turn, for the committee of the others. These trials share the run that was driven by all.
The committee should disagree enough to matter; one that does, trained in a minute on a third of the frames:

    ase convert -n ::3 ../shared/data/ammonia/all.xyz.gz few.xyz
    ase-uq train few.xyz --members 6 --subsample 0.5 --epochs 80 --cutoff 4.5 --channels 16 --out few.pt

Members count as they are in the file: after `ase-uq calibrate` with their deviations times alpha.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import Calculator, all_changes
from ase.io import read
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from coverage_trial import METHODS, Array, Comparison, Row, Run, Truth, attempt, compare
from systems import DEFAULT_ROOT

from ase_uq import Prediction, UQCalculator, load
from ase_uq.models.members import MemberUncertainty
from ase_uq.reweighting.statistics import sampling_error

TEMPERATURE_K, TIMESTEP_FS, FRICTION_PER_FS = 400.0, 0.5, 0.02
STRIDE = 8


@dataclass(frozen=True, slots=True)
class Model:
    """Rows, and the members compared one by one."""

    rows: list[Row]
    observables: Comparison


class OneMember(Calculator):
    """A single calibrated member as a calculator."""

    implemented_properties = ("energy", "forces")

    def __init__(self, model: MemberUncertainty, member: int) -> None:
        super().__init__()
        self.model, self.member = model, member
        self.prediction: Prediction | None = None

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Evaluate all members, and drive with one."""
        super().calculate(atoms, properties, system_changes)
        self.prediction = self.model.predict(self.atoms)
        members = (self.prediction.require(f"{name}_members", "OneMember") for name in ("energy", "forces"))
        self.results = {name: values[self.member] for name, values in zip(("energy", "forces"), members, strict=True)}


def coverage(path: Path, *, steps: int, equilibration: int, tell: Callable[[str], None]) -> Model:
    """Run the mean and each member of a model file, and compare."""
    model = load(path, compile="auto")
    driven, energies = simulate(UQCalculator(model), steps=steps, equilibration=equilibration, seed=0)
    tell("model: the mean has run")
    alone = []
    for member in range(model.n_members):
        calculator = OneMember(model, member)
        alone.append(simulate(calculator, steps=steps, equilibration=equilibration, seed=1 + member)[0])
        tell(f"model: member {member + 1} of {model.n_members} has run")
    runs = [
        Run(driven["energy"], np.delete(energies, member, axis=1), energies[:, member], TEMPERATURE_K)
        for member in range(model.n_members)
    ]
    rows = []
    for name, series in driven.items():
        truths = [Truth(float(member[name].mean()), sampling_error(member[name]).std) for member in alone]
        for method in METHODS:
            trials = [attempt(series, run, truth, method) for run, truth in zip(runs, truths, strict=True)]
            rows.append(Row.of("trained members in turn", name, method, trials))
    whole = Run(driven["energy"], energies, driven["energy"], TEMPERATURE_K)
    return Model(rows, compare(driven, whole, alone))


def simulate(
    calculator: UQCalculator | OneMember, *, steps: int, equilibration: int, seed: int
) -> tuple[dict[str, Array], Array]:
    """Run Langevin dynamics; return observables (T,) by name, and energies of the members (T, M)."""
    root = Path(os.environ.get("ASE_UQ_DATA", DEFAULT_ROOT))
    atoms = read(root / "ammonia" / "all.xyz.gz", index=0)
    atoms.calc = calculator
    random = np.random.default_rng(seed)
    MaxwellBoltzmannDistribution(atoms, temperature_K=TEMPERATURE_K, rng=random)
    dynamics = Langevin(
        atoms,
        TIMESTEP_FS * units.fs,
        temperature_K=TEMPERATURE_K,
        friction=FRICTION_PER_FS / units.fs,
        fixcm=False,
        rng=random,
    )
    dynamics.run(equilibration)
    frames, energies = [], []
    for _ in range(steps // STRIDE):
        dynamics.run(STRIDE)
        prediction = calculator.prediction
        frames.append({"energy": prediction.energy, **_geometry(atoms.positions)})
        energies.append(prediction.energy_members)
    return {name: np.array([frame[name] for frame in frames]) for name in frames[0]}, np.array(energies)


def _geometry(positions: Array) -> dict[str, float]:
    nitrogen, hydrogens = positions[0], positions[1:]
    bonds = hydrogens - nitrogen
    lengths = np.linalg.norm(bonds, axis=1)
    cosines = [bonds[i] @ bonds[j] / (lengths[i] * lengths[j]) for i, j in ((0, 1), (1, 2), (2, 0))]
    normal = np.cross(hydrogens[1] - hydrogens[0], hydrogens[2] - hydrogens[0])
    height = abs(normal @ bonds[0]) / np.linalg.norm(normal)
    return {"N-H (Å)": lengths.mean(), "H-N-H (°)": np.degrees(np.arccos(cosines)).mean(), "height (Å)": height}
