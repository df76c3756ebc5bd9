"""The switch follows one side or the other, exactly, and says which."""

import numpy as np
import pytest
from ase import units
from ase.build import bulk
from ase.calculators.lj import LennardJones
from ase.md.verlet import VelocityVerlet

from ase_uq.averages.run_checks import run_gates
from ase_uq.calculators.baseline import WeightedBaseline
from ase_uq.calculators.calculator import UQCalculator
from ase_uq.calculators.committee import CommitteeUncertainty
from ase_uq.calculators.threshold import ThresholdSwitch
from ase_uq.errors import InputError
from ase_uq.log.logger import UncertaintyLogger
from ase_uq.log.reader import read_log

BASELINE = {"sigma": 3.45, "epsilon": 0.012, "rc": 5.0, "smooth": True}


def argon(rattle=0.1):
    atoms = bulk("Ar", cubic=True)
    atoms.rattle(rattle, seed=0)
    return atoms


def model():
    members = [LennardJones(sigma=s, epsilon=0.0104, rc=5.0, smooth=True) for s in (3.36, 3.40, 3.44)]
    return UQCalculator(CommitteeUncertainty(members))


def switch(**options):
    return ThresholdSwitch(model(), LennardJones(**BASELINE), **options)


@pytest.mark.parametrize(("threshold", "weight"), [(1e3, 1.0), (1e-6, 0.0)])
def test_each_side_is_that_calculator_exactly(threshold, weight):
    atoms, alone = argon(), argon()
    atoms.calc = switch(threshold=threshold, members=True)
    alone.calc = model() if weight else LennardJones(**BASELINE)
    assert atoms.get_potential_energy() == pytest.approx(alone.get_potential_energy(), abs=1e-12)
    np.testing.assert_allclose(atoms.get_forces(), alone.get_forces(), atol=1e-12)
    np.testing.assert_allclose(atoms.get_stress(), alone.get_stress(), atol=1e-12)
    r = atoms.calc.results
    assert (r["weight"], r["sigma_baseline"]) == (weight, threshold)
    assert r["energy_members"].mean() == pytest.approx(r["energy"])
    np.testing.assert_allclose(r["forces_members"].mean(axis=0), r["forces"], atol=1e-12)
    assert np.ptp(r["energy_members"]) == pytest.approx(weight * np.ptp(model_members(atoms)), abs=1e-12)


def model_members(atoms):
    free = atoms.copy()
    free.calc = model()
    free.get_potential_energy()
    return free.calc.results["energy_members"]


def test_the_threshold_is_a_standard_deviation_of_the_energy():
    atoms = argon()
    std = float(model_members(atoms).std(ddof=1))
    for factor, weight in ((1.01, 1.0), (0.99, 0.0)):
        for options in ({"threshold": factor * std}, {"threshold_per_atom": factor * std / len(atoms)}):
            atoms.calc = switch(**options)
            atoms.get_potential_energy()
            assert atoms.calc.results["weight"] == weight


def test_zeros_are_aligned_and_the_offset_is_in_the_baseline():
    frames = [argon(0.05 * k) for k in range(1, 4)]
    calc = ThresholdSwitch.aligned(model(), LennardJones(**BASELINE), frames, threshold=1e-6)
    assert "ThresholdSwitch" in repr(calc)
    weighted = WeightedBaseline.aligned(model(), LennardJones(**BASELINE), frames, sigma_baseline=0.1)
    assert calc.offsets == weighted.offsets


def test_a_run_that_switched_says_that_it_sampled_nothing_known(tmp_path):
    atoms = argon(0.25)
    std = float(model_members(atoms).std(ddof=1))
    atoms.calc = switch(threshold=0.9 * std)
    dyn = VelocityVerlet(atoms, 5 * units.fs)
    with UncertaintyLogger(tmp_path / "run.h5", atoms, dyn=dyn, temperature_K=80.0) as log:
        dyn.attach(log)
        dyn.run(60)
    run = read_log(tmp_path / "run.h5")
    assert set(run.weight) == {0.0, 1.0}
    assert run.attributes["driver"] == "threshold_switch"
    assert any(gate.failed and "energy jumps" in gate.sentence for gate in run_gates(run))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "exactly one of `threshold`"),
        ({"threshold": 0.1, "threshold_per_atom": 0.1}, "got 0.1 and 0.1"),
        ({"threshold": -1.0}, "`threshold` must be a positive number of eV, got -1.0"),
        ({"threshold_per_atom": np.nan}, "`threshold_per_atom` must be a positive number"),
    ],
)
def test_bad_input(options, words):
    with pytest.raises(InputError, match=words):
        switch(**options)
