"""Dynamics under a bias: exact derivatives, and averages with the bias taken away again."""

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.lj import LennardJones
from ase.md.langevin import Langevin

from ase_uq import reweight_log
from ase_uq.calculators.baseline import WeightedBaseline
from ase_uq.calculators.bias import BiasedCalculator, bias_energy
from ase_uq.calculators.calculator import UQCalculator
from ase_uq.calculators.committee import CommitteeUncertainty
from ase_uq.errors import InputError
from ase_uq.log.logger import UncertaintyLogger
from ase_uq.observables import MemberEnergies, MemberPressures, potential_energy, pressure


class Spring(Calculator):
    """k (r - r0)^2/2 between atoms 0 and 1."""

    implemented_properties = ("energy", "forces")

    def __init__(self, k, r0):
        super().__init__()
        self.k, self.r0 = k, r0

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        bond = self.atoms.positions[1] - self.atoms.positions[0]
        r = np.linalg.norm(bond)
        pull = self.k * (r - self.r0) * bond / r
        forces = np.zeros((len(self.atoms), 3))
        forces[0], forces[1] = pull, -pull
        self.results = {"energy": 0.5 * self.k * (r - self.r0) ** 2, "forces": forces}


def springs(*stiffness, r0=1.0):
    return CommitteeUncertainty([Spring(k, r0) for k in stiffness])


def pair(r=1.1):
    return Atoms("H2", positions=[[0, 0, 0], [0, 0, r]])


def test_the_bias_is_added_to_everything_but_the_spread():
    atoms, free = pair(), pair()
    free.calc = UQCalculator(springs(1.0, 2.0))
    atoms.calc = BiasedCalculator(UQCalculator(springs(1.0, 2.0)), Spring(3.0, 0.9))
    bias = 0.5 * 3.0 * 0.2**2
    assert atoms.get_potential_energy() == pytest.approx(free.get_potential_energy() + bias)
    assert bias_energy(atoms) == pytest.approx(bias)
    np.testing.assert_allclose(atoms.get_forces()[1] - free.get_forces()[1], [0, 0, -0.6], atol=1e-12)
    r = atoms.calc.results
    np.testing.assert_allclose(r["energy_members"] - free.calc.results["energy_members"], bias)
    assert r["energy_var"] == pytest.approx(free.calc.results["energy_var"])
    np.testing.assert_allclose(r["forces_var"], free.calc.results["forces_var"])
    # What is asked of the model has no bias in it.
    np.testing.assert_allclose(MemberEnergies()(atoms), free.calc.results["energy_members"])
    assert potential_energy(atoms) == pytest.approx(free.get_potential_energy())


def test_forces_and_stress_are_derivatives_of_the_biased_energy():
    atoms = bulk("Ar", cubic=True)
    atoms.rattle(0.1, seed=0)
    members = [LennardJones(sigma=s, epsilon=0.01, rc=5.0, smooth=True) for s in (3.3, 3.4)]
    base = WeightedBaseline(
        UQCalculator(CommitteeUncertainty(members)),
        LennardJones(sigma=3.5, rc=5.0, smooth=True),
        sigma_baseline=0.1,
        offsets={"Ar": 0.0},
    )
    atoms.calc = BiasedCalculator(base, LennardJones(sigma=3.0, epsilon=0.02, rc=5.0, smooth=True))
    analytic = atoms.get_forces()
    assert {"weight", "bias"} <= set(atoms.calc.results)
    for index, axis in ((0, 0), (2, 1)):
        ends = []
        for step in (1e-4, -1e-4):
            moved = atoms.copy()
            moved.positions[index, axis] += step
            moved.calc = atoms.calc
            ends.append(moved.get_potential_energy())
        assert -(ends[0] - ends[1]) / 2e-4 == pytest.approx(analytic[index, axis], abs=1e-6)
    stress = atoms.get_stress()
    ends = []
    for strain in (1e-5, -1e-5):
        moved = atoms.copy()
        moved.set_cell(atoms.cell @ np.diag([1 + strain, 1, 1]), scale_atoms=True)
        moved.calc = atoms.calc
        ends.append(moved.get_potential_energy())
    assert (ends[0] - ends[1]) / 2e-5 / atoms.get_volume() == pytest.approx(stress[0], rel=1e-4)
    free = atoms.copy()
    free.calc = base
    free.get_stress()
    assert pressure(atoms) == pytest.approx(pressure(free), rel=1e-9)
    np.testing.assert_allclose(MemberPressures()(atoms), MemberPressures()(free), rtol=1e-9)


def test_a_biased_run_gives_the_averages_of_the_free_one(tmp_path):
    """A bond in one dimension: every member would give <(r - 1)^2> = kT/k_i; the bias halves the stiffness."""
    kelvin, kT = 300.0, 300.0 * units.kB
    atoms = pair(1.0)
    atoms.calc = BiasedCalculator(UQCalculator(springs(9.0, 9.5, 10.5, 11.0)), Spring(-3.0, 1.0))
    rng = np.random.default_rng(0)
    dyn = Langevin(atoms, 1.0 * units.fs, temperature_K=kelvin, friction=0.05 / units.fs, fixcm=False, rng=rng)
    observables = {
        # The Jacobian r^2 of the bond length is taken out as well.
        "x2": lambda a: (a.get_distance(0, 1) - 1) ** 2,
        "bias": (lambda a: bias_energy(a) - 2 * kT * np.log(a.get_distance(0, 1)), "eV"),
    }
    with UncertaintyLogger(tmp_path / "run.h5", atoms, dyn=dyn, temperature_K=kelvin, observables=observables) as log:
        dyn.attach(log)
        dyn.run(3500)
    result = reweight_log(tmp_path / "run.h5", ["x2"], bias="bias", method="direct", skip_fs=200.0)["x2"]
    np.testing.assert_allclose(result.member_means, kT / np.array([9.0, 9.5, 10.5, 11.0]), rtol=0.2)
    biased = reweight_log(tmp_path / "run.h5", ["x2"], bias=False, skip_fs=200.0)["x2"]
    assert biased.mean > 1.2 * result.mean


def test_bad_input():
    with pytest.raises(InputError, match="`calculator` must be one of ase_uq, got Spring"):
        BiasedCalculator(Spring(1.0, 1.0), Spring(1.0, 1.0))
    with pytest.raises(InputError, match="`bias` must implement energy and forces, Calculator lacks"):
        BiasedCalculator(UQCalculator(springs(1.0, 2.0)), Calculator())
    with pytest.raises(InputError, match="BiasedCalculator that has evaluated"):
        bias_energy(pair())
    atoms = bulk("Ar", cubic=True)
    members = CommitteeUncertainty([LennardJones(sigma=s, rc=5.0) for s in (3.3, 3.4)])
    atoms.calc = BiasedCalculator(UQCalculator(members), Spring(1.0, 1.0))
    with pytest.raises(InputError, match="`bias` must give a stress in a periodic cell"):
        atoms.get_potential_energy()
