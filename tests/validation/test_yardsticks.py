"""Widths to hold a model's against: the best factor of each, and a sentence where the model's is the worse one."""

import numpy as np
import pytest

from ase_uq.validation.yardsticks import sentence, yardsticks


def errors(n=20_000, seed=0):
    rng = np.random.default_rng(seed)
    sigma = rng.lognormal(0.0, 0.8, size=n)
    return sigma * rng.normal(size=n), sigma


def test_the_true_width_wins_with_a_factor_of_one():
    error, sigma = errors()
    model, constant = yardsticks(error, sigma)
    assert model.factor == pytest.approx(1.0, abs=0.03)
    assert (model.coverage_68, model.coverage_95) == pytest.approx((0.683, 0.95), abs=0.015)
    assert model.crps < 0.97 * constant.crps
    assert list(sentence((model, constant), "forces")) == []
    # Closed form of a normal distribution: 0.5642 sigma on average, less the half that cancels.
    assert model.crps == pytest.approx(sigma.mean() / np.sqrt(np.pi), rel=0.03)


def test_a_factor_of_the_spread_changes_nothing():
    error, sigma = errors(2000)
    one, other = yardsticks(error, sigma), yardsticks(error, 37.0 * sigma)
    assert other[0].crps == pytest.approx(one[0].crps, rel=1e-6)
    assert other[0].factor == pytest.approx(one[0].factor / 37.0, rel=1e-3)


def test_a_spread_that_knows_less_than_a_constant_is_named():
    error, _ = errors()
    noise = np.random.default_rng(9).lognormal(0.0, 1.0, size=len(error))
    found = yardsticks(error, noise)
    (text,) = sentence(found, "forces")
    assert "worse scale for the errors of forces than a constant" in text


def test_a_width_that_grows_with_the_force_is_found():
    rng = np.random.default_rng(1)
    force = np.abs(rng.normal(size=20_000)) * 3.0
    error = (0.01 + 0.02 * force) * rng.normal(size=20_000)
    constant, grown = yardsticks(error, None, force=force)
    assert grown.name == "a + b |F|"
    assert grown.crps < 0.99 * constant.crps


def test_a_constant_may_grow_with_the_size():
    rng = np.random.default_rng(2)
    n_atoms = rng.integers(2, 200, size=5000)
    error = 0.01 * np.sqrt(n_atoms) * rng.normal(size=5000)
    (width,) = yardsticks(error, None, size=np.sqrt(n_atoms))
    assert width.factor == pytest.approx(0.01, rel=0.05)
    assert width.coverage_95 == pytest.approx(0.95, abs=0.01)


def test_perfect_predictions_have_no_width():
    (width,) = yardsticks(np.zeros(10), None)
    assert (width.factor, width.crps) == (0.0, 0.0)
