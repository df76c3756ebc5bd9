"""MBAR weights: springs sampled under umbrellas and at two temperatures, whose averages are known."""

import numpy as np
import pytest
from ase.units import kB

from ase_uq.errors import InputError
from ase_uq.multistate import interleaved, mbar_log_weights
from ase_uq.reweighting import reweight

KT = kB * 300.0


def umbrellas(rng, n=4000):
    """A unit spring (kT units) under biases (x - c)^2/10; samples are Gaussian of variance 1/1.2 about c/6."""
    centres = np.array([-6.0, 0.0, 6.0])
    x = np.concatenate([c / 6 + rng.normal(size=n) / np.sqrt(1.2) for c in centres])
    return x, 0.5 * x**2 + 0.1 * (x - centres[:, None]) ** 2, np.full(3, n)


def average_under_members(x, logs, order):
    k = np.array([0.8, 0.9, 1.1, 1.2])
    x, logs = x[order], logs[order]
    members = KT * 0.5 * k * x[:, None] ** 2
    options = {"energy_members": members, "energy_reference": KT * 0.5 * x**2, "temperature_K": 300.0}
    return reweight(x**2, log_weights=logs, method="direct", **options), 1 / k


def test_umbrellas_give_the_unbiased_average_under_every_member():
    x, u, n = umbrellas(np.random.default_rng(0))
    result, exact = average_under_members(x, mbar_log_weights(u, n, 0.5 * x**2), interleaved(n))
    np.testing.assert_allclose(result.member_means, exact, rtol=0.05)
    assert not result.warnings


def test_the_sampling_error_is_the_spread_of_repeated_runs():
    found, errors = [], []
    for seed in range(60):
        x, u, n = umbrellas(np.random.default_rng(seed), 300)
        result, _ = average_under_members(x, mbar_log_weights(u, n, 0.5 * x**2), interleaved(n))
        found.append(result.mean)
        errors.append(result.std_sampling)
    assert np.mean(errors) == pytest.approx(np.std(found, ddof=1), rel=0.25)


def test_the_weights_are_those_of_pymbar():
    from pymbar import MBAR

    x, u, n = umbrellas(np.random.default_rng(1), 500)
    logs = mbar_log_weights(u, n, 0.5 * x**2)
    solved = MBAR(u, n, solver_protocol=({"method": "adaptive"},))
    theirs = solved.compute_expectations(x**2, u_kn=0.5 * x**2, state_dependent=False)["mu"]
    assert np.average(x**2, weights=np.exp(logs)) == pytest.approx(float(np.ravel(theirs)[0]), rel=1e-6)


def test_every_stretch_holds_all_states():
    labels = np.repeat([0, 1, 2], [100, 300, 600])[interleaved([100, 300, 600])]
    for stretch in np.split(labels, 20):
        np.testing.assert_allclose(np.bincount(stretch, minlength=3), [5, 15, 30], atol=1)


def test_two_temperatures():
    rng = np.random.default_rng(2)
    kelvin, n = np.array([300.0, 450.0]), np.array([5000, 5000])
    x = np.concatenate([rng.normal(size=5000) * np.sqrt(t / 300.0) for t in kelvin])
    u = 0.5 * x**2 * (300.0 / kelvin)[:, None]
    logs = mbar_log_weights(u, n, 0.5 * x**2 * 300.0 / 350.0)
    assert np.average(x**2, weights=np.exp(logs)) == pytest.approx(350 / 300, rel=0.05)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"n_frames": [10, 10, 11]}, r"\(3,\) with sum 31"),
        ({"target": np.zeros(29)}, r"\(29,\)"),
        ({"target": np.full(30, np.nan)}, "`target` must be finite"),
    ],
)
def test_bad_input(change, words):
    good = {"reduced_energies": np.zeros((3, 30)), "n_frames": [10, 10, 10], "target": np.zeros(30)}
    with pytest.raises(InputError, match=words):
        mbar_log_weights(**(good | change))
