"""The std in the log of one-direction estimates is that of all members, whatever the members' forces look like."""

import numpy as np
import pytest

from ase_uq.calculators.calculator import UQCalculator
from ase_uq.uncertainty.force_variance import Exact, Stochastic
from ase_uq.uncertainty.prediction import Prediction
from ase_uq.uncertainty.running_std import RunningStd


def deviations(kind, n_steps=1500, n_members=6, n_atoms=7):
    """Member forces about their mean along a run, (T, M, N, 3): of all directions alike, of one, or vibrating."""
    rng = np.random.default_rng(2)
    shape = rng.normal(size=(n_members, n_atoms, 3))
    if kind == "one direction":
        shape = rng.normal(size=(n_members, 1, 1)) * rng.normal(size=(1, n_atoms, 3))
    amplitude = np.ones((n_steps, n_atoms))
    if kind == "vibrating":
        phase = rng.uniform(0, 2 * np.pi, size=n_atoms)
        amplitude = 1 + 0.6 * np.sin(2 * np.pi * np.arange(n_steps)[:, None] / 31.0 + phase)
    forces = shape * amplitude[:, None, :, None]
    return forces - forces.mean(axis=1, keepdims=True)


@pytest.mark.parametrize("kind", ["all directions", "one direction", "vibrating"])
def test_mean_and_largest_std_of_a_run(kind):
    found, exact, raw = [], [], []
    for seed in range(8):
        estimator, members = Stochastic(seed=seed), deviations(kind)
        for d in members:
            (direction,) = estimator.directions(members.shape[1])
            variance = estimator.variance(np.tensordot(direction, d, axes=1)[None])
            estimator.running.observe(variance)
            std, root = estimator.running.std, np.sqrt(variance.sum(axis=1))
            found.append((std.mean(), std.max()))
            raw.append(root.mean())
            norm = np.sqrt(Exact().variance(d).sum(axis=1))
            exact.append((norm.mean(), norm.max()))
    mean, largest = np.mean(found, axis=0) / np.mean(exact, axis=0)
    assert np.mean(raw) / np.mean(exact, axis=0)[0] < 0.93
    assert mean == pytest.approx(1.0, abs=0.03)
    assert largest == pytest.approx(1.0, abs=0.12 if kind == "all directions" else 0.06)


def test_no_factor_beyond_what_normal_forces_can_have():
    """Estimates of steps that have nothing to do with each other: at most the eight per cent between the extremes."""
    running, rng = RunningStd(), np.random.default_rng(0)
    ratios = []
    for _ in range(3000):
        scale = rng.choice([0.01, 1.0])
        g = scale * rng.normal(size=(5, 3))
        running.observe(g**2)
        ratios.append((running.std.mean(), scale * np.sqrt(3)))
    found, exact = np.mean(ratios, axis=0)
    assert 0.98 < found / exact < 1.17


def test_zero_forces_and_other_numbers_of_atoms():
    running = RunningStd()
    assert running.std is None
    for n_atoms in (3, 3, 5):
        running.observe(np.zeros((n_atoms, 3)))
        np.testing.assert_array_equal(running.std, np.zeros(n_atoms))


def test_a_model_that_gives_all_its_members_is_not_corrected():
    class Members:
        def predict(self, atoms, properties):
            forces = np.random.default_rng(1).normal(size=(4, len(atoms), 3))
            return Prediction.from_members(energies=np.arange(4.0), forces=forces)

    from ase.build import molecule

    atoms = molecule("H2O")
    atoms.calc = calc = UQCalculator(Members(), forces_var="stochastic")
    atoms.get_forces()
    np.testing.assert_array_equal(calc.force_std_norm, calc.prediction.force_std_norm)
