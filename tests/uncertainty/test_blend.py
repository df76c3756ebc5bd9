"""A target is fields, and its blend the derivative of the energy that follows from them."""

import numpy as np
import pytest

from ase_uq.uncertainty.blend import Target

MEMBERS = np.array([1.0, 1.3, 0.8, 2.1])
STD = float(MEMBERS.std(ddof=1))
SHIFT = np.array([0.2, -0.5, 0.4, -0.1])
TARGETS = {
    "mean": Target(),
    "baseline": Target(energy_baseline=0.4, sigma_baseline=0.3),
    "baseline, members shifted": Target(energy_baseline=0.4, sigma_baseline=0.3, shift=SHIFT),
    "below the threshold": Target(energy_baseline=0.4, threshold=1.1 * STD),
    "above the threshold": Target(energy_baseline=0.4, threshold=0.9 * STD),
    "both": Target(energy_baseline=0.4, sigma_baseline=0.3, threshold=1.1 * STD),
}


@pytest.mark.parametrize("name", TARGETS)
def test_coefficients_are_the_derivative_of_the_energy(name):
    target, blend = TARGETS[name], TARGETS[name].blend(MEMBERS)

    def energy(members):
        shifted = members if target.shift is None else members - target.shift
        weight = target.blend(members).weight
        return target.energy_baseline + weight * (shifted.mean() - target.energy_baseline)

    numerical = [(energy(MEMBERS + 1e-6 * e) - energy(MEMBERS - 1e-6 * e)) / 2e-6 for e in np.eye(4)]
    np.testing.assert_allclose(blend.coefficients, numerical, atol=1e-8)
    assert blend.coefficients.sum() == pytest.approx(blend.weight)
    assert blend.gradient_coefficients.sum() == pytest.approx(0.0, abs=1e-12)


def test_weights():
    weights = {name: target.blend(MEMBERS).weight for name, target in TARGETS.items()}
    assert (weights["mean"], weights["below the threshold"], weights["above the threshold"]) == (1.0, 1.0, 0.0)
    assert weights["baseline"] == weights["both"] == pytest.approx(0.09 / (0.09 + STD**2))
