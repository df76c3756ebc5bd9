"""Moments are taken once, with divisor M-1, around the mean."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ase_uq.errors import InputError
from ase_uq.uncertainty.prediction import Prediction


@given(
    energies=arrays(float, st.integers(2, 9), elements=st.floats(-1e3, 1e3)),
    alpha=st.floats(0.1, 10),
    offset=st.floats(-1e6, 1e6),
)
def test_members_carry_the_calibrated_moments(energies, alpha, offset):
    raw = energies + offset
    p = Prediction.from_members(energies=raw, forces=np.zeros((len(raw), 1, 3)), alpha=alpha)
    digits = 1e-12 * max(1.0, np.abs(raw).max())
    assert p.energy == pytest.approx(raw.mean(), abs=digits)
    assert p.energy_members.mean() == pytest.approx(p.energy, abs=digits * 10 * alpha)
    assert p.energy_var == pytest.approx(alpha**2 * raw.var(ddof=1), rel=1e-9, abs=1e-18)
    assert p.energy_members == pytest.approx(raw.mean() + alpha * (raw - raw.mean()), abs=digits * 10 * alpha)


def test_closed_form_of_two_members():
    forces = np.array([[[1.0, 0.0, 0.0]], [[3.0, 0.0, 4.0]]])
    p = Prediction.from_members(
        energies=[1.0, 2.0], forces=forces, stresses=np.array([[0.0] * 6, [2.0] * 6]), alpha=3.0
    )
    assert p.energy_var == pytest.approx(9 * 0.5)
    assert p.forces_var == pytest.approx(9 * np.array([[2.0, 0.0, 8.0]]))
    assert p.stress_var == pytest.approx(9 * np.full(6, 2.0))
    assert p.force_std_norm == pytest.approx([3 * np.sqrt(10.0)])
    assert p.forces_std == pytest.approx(np.sqrt(p.forces_var))
    assert p.energy_std == pytest.approx(np.sqrt(4.5))


def test_an_offset_costs_no_digits_of_the_variance():
    deviations = np.array([-1e-4, 0.0, 1e-4])
    p = Prediction.from_members(energies=-2.3e5 + deviations, forces=np.zeros((3, 1, 3)))
    assert p.energy_var == pytest.approx(1e-8, rel=1e-6)


def test_total_variance_adds_the_noise():
    p = Prediction(energy=0.0, forces=np.zeros((1, 3)), energy_var_epistemic=1.0, energy_var_aleatoric=3.0)
    assert p.energy_var == 4.0
    assert p.energy_std == 2.0
    assert p.forces_var is None
    assert p.force_std_norm is None
    assert Prediction(energy=0.0, forces=np.zeros((1, 3)), energy_var_aleatoric=3.0).energy_var == 3.0


def test_bad_members_are_named():
    with pytest.raises(InputError, match="at least 2 members"):
        Prediction.from_members(energies=[1.0], forces=np.zeros((1, 1, 3)))
    with pytest.raises(InputError, match="member 1 returned an energy or force that is not finite"):
        Prediction.from_members(energies=[1.0, np.nan], forces=np.zeros((2, 1, 3)))
    forces = np.zeros((2, 2, 3))
    forces[0, 1, 2] = np.inf
    with pytest.raises(InputError, match="member 0"):
        Prediction.from_members(energies=[1.0, 2.0], forces=forces)


def test_a_missing_field_is_named():
    p = Prediction(energy=0.0, forces=np.zeros((1, 3)))
    with pytest.raises(InputError, match="WeightedBaseline needs `energy_members`"):
        p.require("energy_members", "WeightedBaseline")


def test_it_is_frozen():
    p = Prediction(energy=0.0, forces=np.zeros((1, 3)))
    with pytest.raises(AttributeError):
        p.energy = 1.0


NOISE = {"energy_var_aleatoric": 3.0, "forces_var_aleatoric": np.full((1, 3), 0.5), "stress_var_aleatoric": [2.0] * 6}


def made(kind, **noise):
    """The same two members (energies 1 and 3), or their variance, under factors 2, 3 and 4."""
    rng = np.random.default_rng(0)
    forces, stresses = rng.normal(size=(2, 1, 3)), rng.normal(size=(2, 6))
    factors = {"alpha": 2.0, "alpha_forces": 3.0, "alpha_stress": 4.0}
    if kind == "members":
        return Prediction.from_members(energies=[1.0, 3.0], forces=forces, stresses=stresses, **factors, **noise)
    means = {"forces": forces.mean(axis=0), "stress": stresses.mean(axis=0)}
    widths = {"forces_var": forces.var(axis=0, ddof=1), "stress_var": stresses.var(axis=0, ddof=1)}
    if kind == "energies":
        return Prediction.from_energies(energies=[1.0, 3.0], **means, **widths, **factors, **noise)
    return Prediction.from_variances(energy=2.0, energy_var=2.0, **means, **widths, **factors, **noise)


@pytest.mark.parametrize("kind", ["members", "energies", "variances"])
def test_every_constructor_takes_the_noise_and_no_factor_touches_it(kind):
    without, noisy = made(kind), made(kind, **NOISE)
    for name, value in (("energy", 3.0), ("forces", 0.5), ("stress", 2.0)):
        epistemic = getattr(noisy, f"{name}_var_epistemic")
        assert getattr(without, f"{name}_var_aleatoric") is None
        np.testing.assert_allclose(epistemic, getattr(made("members"), f"{name}_var_epistemic"), rtol=1e-12)
        np.testing.assert_allclose(getattr(noisy, f"{name}_var"), epistemic + value, rtol=1e-12)
        np.testing.assert_allclose(getattr(noisy, name), getattr(without, name), rtol=0)
    assert (noisy.alpha, noisy.alpha_forces, noisy.alpha_stress) == (2.0, 3.0, 4.0)
    known = (2, 0.5, 1.0) if kind != "variances" else (None, None, None)
    assert (noisy.n_members, noisy.mean_share, noisy.dof) == known


@pytest.mark.parametrize("kind", ["members", "energies", "variances"])
@pytest.mark.parametrize(
    ("noise", "words"),
    [
        ({"energy_var_aleatoric": -1.0}, "`energy_var_aleatoric` must not be negative, got -1.0"),
        ({"energy_var_aleatoric": np.nan}, "`energy_var_aleatoric` must be finite, got nan"),
        ({"forces_var_aleatoric": np.ones(3)}, r"`forces_var_aleatoric` must have the shape \(1, 3\), got \(3,\)"),
        ({"stress_var_aleatoric": np.ones((3, 3))}, r"`stress_var_aleatoric` must have the shape \(6,\), got \(3, 3\)"),
    ],
)
def test_noise_that_is_none_is_named(kind, noise, words):
    with pytest.raises(InputError, match=words):
        made(kind, **noise)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"energy": np.inf}, "`energy` must be finite, got inf"),
        ({"energy": [1.0, 2.0]}, r"`energy` must have the shape \(\), got \(2,\)"),
        ({"forces": np.zeros(3)}, r"`forces` must have the shape \(0, 3\)"),
        ({"forces": [[0.0, np.nan, 0.0]]}, "`forces` must be finite, got nan"),
        ({"stress": np.zeros((3, 3))}, r"`stress` must have the shape \(6,\)"),
        ({"energy_var": -0.1}, "`energy_var` must not be negative, got -0.1"),
        ({"forces_var": np.ones((2, 3))}, r"`forces_var` must have the shape \(1, 3\), got \(2, 3\)"),
        ({"stress_var": np.ones(6)}, "`stress_var` needs a `stress`, got none"),
        ({"alpha": 0.0}, "`alpha` must be a positive number, got 0.0"),
        ({"alpha_forces": np.nan}, "`alpha_forces` must be a positive number, got nan"),
    ],
)
def test_widths_that_are_none_are_named(given, words):
    with pytest.raises(InputError, match=words):
        Prediction.from_variances(**{"energy": 1.0, "forces": np.zeros((1, 3)), **given})


def test_a_width_per_atom_alone_leaves_the_rest_unknown():
    p = Prediction.from_variances(energy=1, forces=np.zeros((2, 3)), forces_var=np.ones((2, 3)), alpha_forces=2.0)
    assert (p.energy_var, p.stress_var, p.energy_members, p.energy_std) == (None, None, None, None)
    np.testing.assert_allclose(p.force_std_norm, np.sqrt(12.0))
    with pytest.raises(InputError, match="The log needs `energy_var`, which this model does not provide"):
        p.require("energy_var", "The log")
