"""The weighted baseline conserves energy: a sweep of the weight, and a control that fails."""

import numpy as np
import pytest
from ase import Atoms, units
from ase.calculators.calculator import Calculator, all_changes

from ase_uq.calculators.baseline import WeightedBaseline
from ase_uq.calculators.calculator import UQCalculator
from ase_uq.uncertainty.prediction import Prediction


class MorseMembers:
    """M Morse potentials of all pairs, in one NumPy pass; they agree at `r0` and disagree where bonds are stretched."""

    implemented_properties = ("energy", "free_energy", "forces", "energy_var", "energy_members", "forces_members")

    def __init__(self, depths, widths, *, r0, alpha):
        self.depths, self.widths = np.array(depths)[:, None], np.array(widths)[:, None]
        self.r0, self.alpha = r0, alpha
        self.pairs = None

    def predict(self, atoms, properties):
        if self.pairs is None:
            i, j = np.triu_indices(len(atoms), k=1)
            incidence = np.zeros((len(i), len(atoms)))
            incidence[np.arange(len(i)), i], incidence[np.arange(len(i)), j] = 1, -1
            self.pairs = incidence
        vectors = self.pairs @ atoms.positions
        r = np.sqrt((vectors**2).sum(axis=1))
        decay = np.exp(-self.widths * (r - self.r0))
        slope = 2 * self.depths * self.widths * decay * (1 - decay)  # dE/dr per pair
        energies = (self.depths * ((1 - decay) ** 2 - 1)).sum(axis=1)
        forces = -np.einsum("pa,mp,pk->mak", self.pairs, slope / r, vectors, optimize=False)
        return Prediction.from_members(energies=energies, forces=forces, alpha=self.alpha)


class MorseBaseline(Calculator):
    """One Morse potential, and a count."""

    implemented_properties = ("energy", "forces")

    def __init__(self, **options):
        super().__init__()
        self.pair = MorseMembers([options["depth"]] * 2, [options["width"]] * 2, r0=options["r0"], alpha=1.0)

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        p = self.pair.predict(self.atoms, properties)
        self.results = {"energy": p.energy, "forces": p.forces}


class FrozenWeight(WeightedBaseline):
    """The control: the same energy without the gradient of the weight in the forces."""

    def _predict(self, atoms, properties):
        prediction, extra = super()._predict(atoms, properties)
        model, w = self.uq.model.predict(atoms, properties), extra["weight"]
        own = self.baseline.results["forces"]
        object.__setattr__(prediction, "forces", (1 - w) * own + w * model.forces)
        return prediction, extra


def hot_cluster(calculator):
    """Four atoms near the minimum, where the members agree, with enough energy to stretch all bonds."""
    side = 1.55
    atoms = Atoms("N4", positions=side * np.array([[0, 0, 0], [1, 1, 0], [1, 0, 1], [0, 1, 1]]) / np.sqrt(2))
    model = MorseMembers([1.5, 1.5, 1.51, 1.5], [1.7, 1.9, 2.1, 1.8], r0=side, alpha=1.6)
    atoms.calc = calculator(
        UQCalculator(model), MorseBaseline(depth=1.4, width=1.6, r0=1.02 * side), sigma_baseline=0.17
    )
    rng = np.random.default_rng(3)
    momenta = rng.normal(size=(4, 3)) * np.sqrt(atoms.get_masses() * units.kB * 2000.0)[:, None]
    atoms.set_momenta(momenta - momenta.mean(axis=0))
    return atoms


def energies_along(atoms, *, steps, timestep_fs):
    """Total energy per atom and weight along an NVE run, without the bookkeeping of a dynamics object."""
    dt, calc, masses = timestep_fs * units.fs, atoms.calc, atoms.get_masses()[:, None]
    momenta = atoms.get_momenta()
    calc.calculate(atoms, ["forces"], all_changes)
    values = np.empty((steps, 2))
    for i in range(steps):
        momenta += 0.5 * dt * calc.results["forces"]
        atoms.positions += dt * momenta / masses
        calc.calculate(atoms, ["forces"], all_changes)
        momenta += 0.5 * dt * calc.results["forces"]
        kinetic = (momenta**2 / (2 * masses)).sum()
        values[i] = (calc.results["energy"] + kinetic) / len(atoms), calc.results["weight"]
    return values.T


def drift(energy):
    """Difference of the means of the last and the first tenth: what remains when the oscillation is averaged out."""
    tenth = len(energy) // 10
    return abs(energy[-tenth:].mean() - energy[:tenth].mean())


@pytest.mark.slow
def test_energy_is_conserved_while_the_weight_sweeps():
    energy, weight = energies_along(hot_cluster(WeightedBaseline), steps=40_000, timestep_fs=0.25)
    assert weight.min() < 0.1
    assert weight.max() > 0.9
    assert np.diff(np.sign(weight - 0.5)).nonzero()[0].size > 100  # again and again, not once
    assert drift(energy) < 1e-5


def test_dropping_the_gradient_of_the_weight_makes_the_energy_drift():
    exact, weight = energies_along(hot_cluster(WeightedBaseline), steps=2000, timestep_fs=0.25)
    frozen, _ = energies_along(hot_cluster(FrozenWeight), steps=2000, timestep_fs=0.25)
    assert np.ptp(weight) > 0.8
    assert np.ptp(exact) < 1e-3
    assert np.ptp(frozen) > 30 * np.ptp(exact)


def test_the_error_of_the_integrator_is_second_order():
    spans = []
    for timestep in (0.5, 0.25):
        energy, _ = energies_along(hot_cluster(WeightedBaseline), steps=int(400 / timestep), timestep_fs=timestep)
        spans.append(np.ptp(energy))
    assert spans[0] / spans[1] == pytest.approx(4, rel=0.3)
