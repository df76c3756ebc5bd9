"""Argon as a committee of Lennard-Jones potentials, and its volume at constant pressure by Monte Carlo.

    python -m tests.made.argon --steps 40000 --sweeps 30000

makes the references of `tests/dynamics/test_constant_pressure.py`: volumes by Metropolis moves of atoms and of ln V,
with energies alone, beside those of both barostats of `run_md`, which know forces and stress alone; and the mean
pressure of the runs beside the one that was asked for. Of 32 atoms, with standard errors (the last entry is of four
runs, 1910, 1940, 1913 and 1948 Å^3, with the error of their scatter: one run is 11 to 26 correlation lengths long,
which `reweight` says):

==============  =================  ======================================  =====================================
state           Monte Carlo, Å^3   mtk: volume, Å^3; pressure, GPa         langevin: the same
==============  =================  ======================================  =====================================
40 K, 0.1 GPa   1270.04 +- 0.34    1269.58 +- 0.26; 0.1000 +- 0.0001       1269.50 +- 0.50; 0.1000 +- 0.0001
140 K, 0.1 GPa  1940.52 +- 4.75    1930.51 +- 7.01; 0.1001 +- 0.0001       1927.7 +- 9.6; 0.0999 +- 0.0001
==============  =================  ======================================  =====================================

References
----------
Wood, J. Chem. Phys. 48, 415 (1968): Monte Carlo at constant pressure; ln V as in Frenkel and Smit, section 5.4.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.build import bulk
from numpy.typing import NDArray

from ase_uq import UQCalculator, read_log, reweight_log
from ase_uq.dynamics.driver import run_md
from ase_uq.dynamics.settings import BAROSTATS, MDSettings
from ase_uq.reweighting.statistics import sampling_error
from ase_uq.uncertainty.prediction import Prediction

Array = NDArray[np.float64]
EPSILON = 0.0104 * np.array([0.97, 1.0, 1.03])  # eV, of the members
SIGMA = np.array([3.41, 3.40, 3.39])  # Å
CUTOFF = 4.9  # Å, energies are shifted to end there; below half of the cell
# K, GPa: a crystal and a liquid.
STATES = ((40.0, 0.1), (140.0, 0.1))


class PairMembers:
    """The members, by the nearest image in a cubic cell."""

    implemented_properties = ("energy", "free_energy", "forces", "stress", "energy_var", "forces_var", "stress_var")
    implemented_properties += ("energy_members", "forces_members")
    description = "argon"
    model_hash = "argon"
    looks_at_structure_alone = True

    def predict(self, atoms: Atoms, properties: Collection[str]) -> Prediction:
        i, j = np.triu_indices(len(atoms), 1)
        length = atoms.cell.lengths()
        d = atoms.positions[i] - atoms.positions[j]
        d -= length * np.round(d / length)
        r2 = (d**2).sum(axis=1)
        near = r2 < CUTOFF**2
        i, j, d, r2 = i[near], j[near], d[near], r2[near]
        s6 = (SIGMA[:, None] ** 2 / r2) ** 3
        end = (SIGMA / CUTOFF) ** 6
        energies = 4.0 * EPSILON * ((s6**2 - s6).sum(axis=1) - len(r2) * (end**2 - end))
        slopes = 4.0 * EPSILON[:, None] * (-12.0 * s6**2 + 6.0 * s6) / r2  # u'/r
        pulls = slopes[:, :, None] * d
        forces = np.zeros((len(SIGMA), len(atoms), 3))
        for axis in range(3):
            for sign, ends in ((-1.0, i), (1.0, j)):
                for member, pull in enumerate(pulls[:, :, axis]):
                    forces[member, :, axis] += sign * np.bincount(ends, pull, len(atoms))
        voigt = np.stack([d[:, a] * d[:, b] for a, b in ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))], axis=1)
        return Prediction.from_members(energies=energies, forces=forces, stresses=slopes @ voigt / atoms.get_volume())


def crystal(repeat: int = 2, a: float = 5.4) -> Atoms:
    """Four times `repeat` cubed atoms."""
    return bulk("Ar", cubic=True, a=a) * repeat


def run(path: Path, steps: int, temperature_K: float, pressure_GPa: float, **options: Any) -> Any:
    """Run at constant pressure; return the log."""
    settings = {
        "temperature_K": temperature_K,
        "pressure_GPa": pressure_GPa,
        "steps": steps,
        "timestep_fs": 4.0,
        "ensemble": "npt",
        "barostat_fs": 500.0,
        "interval": 5,
        "equilibration_steps": steps // 10,
        **options,
    }
    run_md(crystal(), UQCalculator(PairMembers()), MDSettings(**settings), log=path, observables={})
    return read_log(path)


def volumes(n_sweeps: int, temperature_K: float, pressure_GPa: float, seed: int = 0) -> Array:
    """Volumes after every sweep of a Metropolis walk under the mean of the members, (n_sweeps,), Å^3."""
    walk = _Walk(temperature_K, pressure_GPa, np.random.default_rng(seed))
    for _ in range(n_sweeps // 10):
        walk.sweep(adapt=True)
    return np.array([walk.sweep() for _ in range(n_sweeps)])


class _Walk:
    """Atoms in coordinates of the cell, and its edge; moves are adapted while nobody looks."""

    def __init__(self, temperature_K: float, pressure_GPa: float, rng: np.random.Generator) -> None:
        self.kT, self.pressure, self.rng = units.kB * temperature_K, pressure_GPa * units.GPa, rng
        atoms = crystal()
        self.s, self.edge = atoms.get_scaled_positions(), float(atoms.cell.lengths()[0])
        # A r^-12 - B r^-6 + C is linear in the members.
        self.a, self.b = (4 * EPSILON * SIGMA**12).mean(), (4 * EPSILON * SIGMA**6).mean()
        self.c = -self.a / CUTOFF**12 + self.b / CUTOFF**6
        self.step, self.swell = 0.02, 0.02
        self.pairs = np.triu_indices(len(atoms), 1)

    def sweep(self, *, adapt: bool = False) -> float:
        n = len(self.s)
        accepted = sum(self._move(i) for i in range(n)) / n
        swollen = self._breathe()
        if adapt:
            self.step *= 1.02 if accepted > 0.4 else 0.98
            self.swell *= 1.02 if swollen else 0.985
        return self.edge**3

    def _move(self, i: int) -> bool:
        new = self.s[i] + self.step * (self.rng.random(3) - 0.5)
        others = np.delete(self.s, i, axis=0)
        gain = self._energy(others - new, self.edge) - self._energy(others - self.s[i], self.edge)
        if self.rng.random() >= np.exp(min(0.0, -gain / self.kT)):
            return False
        self.s[i] = new
        return True

    def _breathe(self) -> bool:
        new = self.edge * np.exp(self.swell * (self.rng.random() - 0.5) / 3.0)
        d = self.s[self.pairs[0]] - self.s[self.pairs[1]]
        gain = self._energy(d, new) - self._energy(d, self.edge) + self.pressure * (new**3 - self.edge**3)
        logarithm = -gain / self.kT + (len(self.s) + 1) * 3.0 * np.log(new / self.edge)
        if self.rng.random() >= np.exp(min(0.0, logarithm)):
            return False
        self.edge = float(new)
        return True

    def _energy(self, d: Array, edge: float) -> float:
        r2 = ((d - np.round(d)) ** 2).sum(axis=1) * edge**2
        s6 = r2[r2 < CUTOFF**2] ** -3.0
        return float((self.a * s6**2 - self.b * s6 + self.c).sum())


def main() -> None:
    """Print volumes and pressures with their standard errors."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=40_000)
    parser.add_argument("--sweeps", type=int, default=30_000)
    options = parser.parse_args()
    for state in STATES:
        found = volumes(options.sweeps, *state)
        print(f"{state[0]:g} K, {state[1]:g} GPa: Monte Carlo {found.mean():.2f} ± {sampling_error(found).std:.2f} Å^3")
        for barostat in BAROSTATS:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "run.h5"
                run(path, options.steps, *state, barostat=barostat, interval=10)
                averages = reweight_log(path, ["volume", "pressure_GPa", "temperature_K"])
            shown = "; ".join(f"{name} {each.mean:.4f} ± {each.std_sampling:.4f}" for name, each in averages.items())
            print(f"  {barostat}: {shown}", flush=True)


if __name__ == "__main__":
    main()
