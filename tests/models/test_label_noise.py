"""A potential with noise of the labels: it is in every prediction, whichever way it was made."""

import numpy as np
import pytest

from ase_uq import UQCalculator
from ase_uq.models.members import MemberUncertainty
from ase_uq.testing import assert_uncertainty_model
from ase_uq.uncertainty.blend import Target
from ase_uq.uncertainty.force_variance import Exact, LowRank, Off, Stochastic
from tests.made.models import NoisyPotential
from tests.made.potentials import ensemble, shallow
from tests.made.structures import copper, water

BODIES = {"deep": ensemble, "shallow": shallow}
STD = 0.3


def models(kind):
    body = BODIES[kind]()
    factors = {"alpha": 1.5, "alpha_forces": 2.0}
    return MemberUncertainty(body, **factors), MemberUncertainty(NoisyPotential(body, STD), **factors)


def check(noisy, plain, atoms):
    np.testing.assert_allclose(noisy.energy_var_aleatoric, len(atoms) * STD**2)
    np.testing.assert_allclose(noisy.energy_members, plain.energy_members, rtol=1e-12)
    np.testing.assert_allclose(noisy.energy_var, plain.energy_var + len(atoms) * STD**2)
    np.testing.assert_allclose(noisy.forces_var, plain.forces_var + 4.0 * STD**2)
    assert (noisy.stress_var is None) == (plain.stress is None)
    if plain.stress is not None:
        np.testing.assert_allclose(noisy.stress_var, plain.stress_var + 1e-4 * STD**2)


@pytest.mark.parametrize("kind", BODIES)
def test_predictions_of_one_structure_and_of_many_have_the_noise(kind):
    plain, noisy = models(kind)
    structures = [copper(), water()]
    for atoms, many in zip(structures, noisy.predict_many(structures), strict=True):
        check(noisy.predict(atoms), plain.predict(atoms), atoms)
        check(many, plain.predict(atoms), atoms)
    assert_uncertainty_model(noisy, copper(), step=3e-5, tolerance=1e-5)


@pytest.mark.parametrize("estimator", [Exact(), LowRank(tolerance=1e-9), Stochastic()])
def test_predictions_in_few_passes_have_the_noise(estimator):
    plain, noisy = models("shallow")
    for _ in range(2):  # the first of low_rank is exact
        found = noisy.predict_combined(copper(), forces_var=estimator, combine=Target(sigma_baseline=0.5))
    np.testing.assert_allclose(found.energy_var, plain.predict(copper()).energy_var + 4 * STD**2)
    np.testing.assert_allclose(found.forces_var_aleatoric, np.full((4, 3), 4.0 * STD**2))
    np.testing.assert_allclose(found.stress_var_aleatoric, np.full(6, 1e-4 * STD**2))


def test_noise_of_forces_is_not_taken_for_all_of_their_variance():
    _, noisy = models("shallow")
    for found in (
        noisy.predict_combined(copper(), forces_var=Off()),
        noisy.predict_many([copper()], forces_var=False)[0],
    ):
        assert (found.forces_var, found.stress_var) == (None, None)
        np.testing.assert_allclose(found.energy_var_aleatoric, 4 * STD**2)


def test_calculators_publish_the_sum():
    plain, noisy = models("shallow")
    atoms = copper()
    atoms.calc = UQCalculator(noisy)
    atoms.get_potential_energy()
    check(atoms.calc.prediction, plain.predict(atoms), atoms)
    np.testing.assert_allclose(atoms.calc.results["forces_var"], atoms.calc.prediction.forces_var)
