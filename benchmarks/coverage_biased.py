"""Runs under a bias: whether averages for the unbiased truth, from the log alone, lie where they say.

=============  ========================================================================================
symbol         meaning
=============  ========================================================================================
r              distance of two atoms, with a density r^2 exp(-(V + B)/kT)
V_i            well + kT d_i(r): a Gaussian slope, stiffness and bump between the states; the truth deviates alpha
               times as much
B              the bias, an ASE calculator
U              what drives: the mean of the members, or a weighted baseline, plus B
=============  ========================================================================================

Frames are drawn from that density, correlated from one to the next by way of their ranks, or made by ASE's Langevin
dynamics. Each is evaluated by a `BiasedCalculator`, written by an `UncertaintyLogger`, and the log goes to
`reweight_log`. The truth is an integral over r: of V for a driven run and for target "model", of the blend V_b + w
(V - V_b) for target "driven" on a baseline.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import Calculator, all_changes
from ase.md.langevin import Langevin
from coverage_trial import LEVELS, Array, Row, Trial, correlated

from ase_uq import Prediction, UncertaintyLogger, UQCalculator, WeightedBaseline, reweight_log
from ase_uq.calculators.bias import BiasedCalculator
from ase_uq.reweighting import ReweightResult

TEMPERATURE_K, N_MEMBERS, MEMORY = 300.0, 8, 0.5
ALPHA = 1.5  # what the truth deviates by over what the members scatter by
KT = units.kB * TEMPERATURE_K
GRID = np.linspace(1.2, 4.8, 3601)
WIDTHS = np.array([0.4, 0.25, 0.4])  # kT, of slope, stiffness and bump
SIGMA_BASELINE = 0.5 * KT

Curve = Callable[[Array], Array]


def well(r: Array) -> Array:
    """One minimum at 2.6 Å."""
    return 12.0 * KT * (r - 2.6) ** 2


def two_wells(r: Array) -> Array:
    """Minima near 2.4 and 3.6 Å, 6 kT apart from each other by a barrier."""
    s = (r - 3.0) / 0.6
    return 6.0 * KT * (s * s - 1.0) ** 2 + 0.3 * KT * s


def deviation(coefficients: Array, r: Array) -> Array:
    """D of every row of coefficients (..., 3) at distances (T,), (..., T)."""
    s = (r - 3.0) / 0.6
    return np.asarray(coefficients @ np.stack([s, s * s, np.exp(-2.0 * s * s)]))


@dataclass(frozen=True, slots=True)
class Case:
    """A bias on a well; with `target` on a weighted baseline, with `dynamics` the frames are those of a run."""

    name: str
    well: Curve
    bias: Curve
    target: str | None = None
    dynamics: bool = False


def _harmonic(stiffness: float, centre: float) -> Curve:
    return lambda r: 0.5 * stiffness * KT * (r - centre) ** 2


CASES = (
    Case("restraint", well, _harmonic(12.0, 2.9)),
    Case("restraint, Langevin dynamics", well, _harmonic(12.0, 2.9), dynamics=True),
    Case("flattened barrier", two_wells, lambda r: -0.8 * two_wells(r)),
    Case("window beside the well (limit)", well, _harmonic(80.0, 3.1)),
    Case("restraint on a baseline", well, _harmonic(12.0, 2.9), target="driven"),
    Case("restraint on a baseline, to the model", well, _harmonic(12.0, 2.9), target="model"),
)


class OnDistance(Calculator):
    """An energy that depends on the distance of two atoms."""

    implemented_properties = ("energy", "forces")

    def __init__(self, curve: Curve) -> None:
        super().__init__()
        self.curve = curve

    def check_state(self, atoms: Atoms, tol: float = 0.0) -> list[str]:  # noqa: ARG002
        """Return what has changed; only positions do."""
        same = self.atoms is not None and np.array_equal(self.atoms.positions, atoms.positions)
        return [] if same else ["positions"]

    def calculate(
        self, atoms: Atoms | None = None, properties: Any = ("energy",), system_changes: Any = all_changes
    ) -> None:
        """Evaluate."""
        super().calculate(atoms, properties, system_changes)
        energy, forces = on_distance(self.curve, self.atoms)
        self.results = {"energy": float(energy), "forces": forces}


@dataclass(frozen=True, slots=True)
class Committee:
    """Members with the coefficients (M, 3) about a well."""

    well: Curve
    coefficients: Array

    def curve(self, r: Array) -> Array:
        """(M, T), eV."""
        return self.well(r) + KT * deviation(self.coefficients, r)

    def predict(self, atoms: Atoms, properties: Any) -> Prediction:  # noqa: ARG002
        """Evaluate."""
        energies, forces = on_distance(self.curve, atoms)
        return Prediction.from_members(energies=energies, forces=forces, alpha=ALPHA)


def on_distance(curve: Curve, atoms: Atoms) -> tuple[Array, Array]:
    """Energies (...) and forces (..., 2, 3) of curves of the distance, by a central difference."""
    vector = atoms.positions[1] - atoms.positions[0]
    r = float(np.sqrt(vector @ vector))
    below, here, above = np.moveaxis(curve(np.array([r - 1e-5, r, r + 1e-5])), -1, 0)
    pull = np.multiply.outer((above - below) / 2e-5, vector / r)
    return here, np.stack([pull, -pull], axis=-2)


def coverage(*, repeats: int, frames: int) -> list[Row]:
    """Return the rows of all cases."""
    rows = []
    for i, case in enumerate(CASES):
        found: dict[str, list[Trial]] = {}
        for seed in range(repeats):
            for name, trial in _trials(case, [i, seed], frames):
                found.setdefault(name, []).append(trial)
        rows += [Row.of(f"biased: {case.name}", name, "cea", trials) for name, trials in found.items()]
    return rows


def _trials(case: Case, seed: Sequence[int], frames: int) -> Iterator[tuple[str, Trial]]:
    rng = np.random.default_rng(seed)
    drawn = WIDTHS * rng.normal(size=(N_MEMBERS + 1, 3))
    model = Committee(case.well, drawn[1:] / ALPHA)
    members, truth = model.curve(GRID), Committee(case.well, drawn[:1]).curve(GRID)[0]
    calculator: Any = UQCalculator(model)
    driving = members.mean(axis=0)
    if case.target is not None:
        base = _baseline(case.well)
        calculator = WeightedBaseline(calculator, OnDistance(base), sigma_baseline=SIGMA_BASELINE)
        weight = SIGMA_BASELINE**2 / (SIGMA_BASELINE**2 + ALPHA**2 * members.var(axis=0, ddof=1))
        driving = base(GRID) + weight * (driving - base(GRID))
        if case.target == "driven":
            truth = base(GRID) + weight * (truth - base(GRID))
    observables = {"r": lambda r: r, "r > 2.8": lambda r: 1.0 * (r > 2.8)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.h5"
        atoms = Atoms("Ar2", positions=[[0.0, 0.0, 0.0], [2.6, 0.0, 0.0]])
        atoms.calc = BiasedCalculator(calculator, OnDistance(case.bias))
        of_atoms = {name: (lambda a, f=f: float(f(a.get_distance(0, 1)))) for name, f in observables.items()}
        _run(path, atoms, rng, driving + case.bias(GRID), of_atoms, frames, dynamics=case.dynamics)
        results = reweight_log(path, list(observables), target=case.target or "driven")
    density = GRID**2 * np.exp((truth.min() - truth) / KT)
    for name, function in observables.items():
        yield name, _trial(results[name], float(np.average(function(GRID), weights=density)))


def _baseline(curve: Curve) -> Curve:
    return lambda r: 0.9 * curve(r) + 0.3 * KT * (r - 2.6)


def _trial(result: ReweightResult, truth: float) -> Trial:
    inside = [low <= truth <= high for low, high in (result.interval(level) for level in LEVELS)]
    # A run that never leaves one side has no bar, and no error in units of it.
    std_total = float(result.std_total)
    away = (float(result.mean) - truth) / std_total if std_total > 0.0 else np.nan
    std_sampling, std_model = float(result.std_sampling), float(result.std_model)
    return Trial(tuple(bool(x) for x in inside), away, std_sampling, std_model, result.max_std_h, bool(result.warnings))


def _run(
    path: Path, atoms: Atoms, rng: np.random.Generator, energy: Array, observables: Any, frames: int, *, dynamics: bool
) -> None:
    options = {"temperature_K": TEMPERATURE_K, "observables": observables}
    if dynamics:
        step = 10.0 * units.fs
        langevin = Langevin(atoms, step, temperature_K=TEMPERATURE_K, friction=0.005 / units.fs, fixcm=False, rng=rng)
        _warm(atoms, rng)
        langevin.run(200)
        with UncertaintyLogger(path, atoms, dyn=langevin, **options) as log:
            langevin.attach(log, interval=3)
            langevin.run(3 * frames)
        return
    distances = correlated(rng, GRID, energy / KT - 2.0 * np.log(GRID), frames, MEMORY)
    with UncertaintyLogger(path, atoms, timestep_fs=1.0, **options) as log:
        for r in distances:
            direction = rng.normal(size=3)
            atoms.positions[1] = r * direction / np.linalg.norm(direction)
            _warm(atoms, rng)
            atoms.get_forces()
            log()


def _warm(atoms: Atoms, rng: np.random.Generator) -> None:
    atoms.set_momenta(rng.normal(size=(2, 3)) * np.sqrt(KT * atoms.get_masses()[:, None]))
