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
