"""Short runs of a cheap model and their logs, for the tests of the logger and of its file."""

import numpy as np
from ase import Atoms, units
from ase.md.verlet import VelocityVerlet

from ase_uq.calculators.calculator import UQCalculator
from ase_uq.log.logger import UncertaintyLogger
from ase_uq.uncertainty.prediction import Prediction

SERIES = ("step", "time_fs", "energy", "kinetic_energy", "temperature_K", "volume", "energy_var", "force_std_max")
SERIES += ("force_std_mean", "energy_members_minus_energy")
UNITS = {
    "step": "1",
    "time_fs": "fs",
    "energy": "eV",
    "energy_var": "eV^2",
    "energy_members_minus_energy": "eV",
    "kinetic_energy": "eV",
    "temperature_K": "K",
    "volume": "Å^3",
    "force_std_max": "eV/Å",
    "force_std_mean": "eV/Å",
}


class Harmonic:
    """Three cheap members around fixed sites, for the tests of the file."""

    model_hash = "harmonic"
    implemented_properties = ("energy", "free_energy", "forces", "energy_var", "forces_var", "energy_members")

    def __init__(self, sites, alpha=1.0, hash_=None):
        self.sites, self.alpha, self.k = sites, alpha, np.array([0.9, 1.0, 1.15])
        self.model_hash = hash_ or self.model_hash

    def predict(self, atoms, properties):
        d = atoms.positions - self.sites
        return Prediction.from_members(
            energies=0.5 * self.k * (d**2).sum(), forces=-self.k[:, None, None] * d, alpha=self.alpha
        )


def oscillator(seed=0, **options):
    """A light molecule on springs and its dynamics."""
    rng = np.random.default_rng(seed)
    sites = np.array([[0, 0, 0], [0, 0, 1.5]])
    atoms = Atoms("H2", positions=sites + 0.1 * rng.normal(size=(2, 3)))
    atoms.set_momenta(0.3 * rng.normal(size=(2, 3)))
    atoms.calc = UQCalculator(Harmonic(sites, **options))
    return atoms, VelocityVerlet(atoms, timestep=0.5 * units.fs)


def distance(atoms):
    return atoms.get_distance(0, 1)


def record(path, atoms, dyn, steps, **options):
    log = UncertaintyLogger(path, atoms, dyn=dyn, **{"temperature_K": 300.0, **options})
    with log:
        dyn.attach(log)
        dyn.run(steps)
    return log


def assert_same(one, other):
    """The same run, perhaps of another process: no frame lost, repeated or altered.

    The last digits of a dot product may depend on the processor, and on where the arrays lie in memory. Frames
    that are neighbours differ by far more.
    """
    np.testing.assert_array_equal(one.step, other.step)
    assert one.observables.keys() == other.observables.keys()
    pairs = {name: (getattr(one, name), getattr(other, name)) for name in SERIES}
    pairs |= {name: (values, other.observables[name]) for name, values in one.observables.items()}
    for name, (here, there) in pairs.items():
        scale = np.abs(there).max(initial=0.0)  # differences between members go through zero
        np.testing.assert_allclose(here, there, rtol=1e-10, atol=1e-12 * scale, err_msg=name)


def fresh(atoms):
    return VelocityVerlet(atoms, timestep=0.5 * units.fs)
