"""Averages of runs whose model has no members: the mean, its sampling error, and nothing else."""

from dataclasses import replace

import numpy as np
import pytest

from ase_uq.averages.plain import SAMPLING_GATES, has_members, plain_average
from ase_uq.errors import InputError
from ase_uq.reweighting.statistics import sampling_error
from tests.made.synthetic_runs import synthetic_run

UNKNOWN = ("std_model", "std_total", "std_model_naive", "noise", "std_potential", "std_observable", "max_std_h")


def memberless(n_frames=2000, **changes):
    run = synthetic_run(n_frames, baseline=False)
    return replace(run, energy_members=None, energy_members_minus_energy=None, **changes)


def test_it_is_the_mean_with_its_sampling_error():
    run = memberless()
    found, values = plain_average(run, "bond_length"), run.observables["bond_length"]
    assert found.mean == pytest.approx(values.mean(), rel=1e-12)
    assert found.std_sampling == pytest.approx(sampling_error(values).std, rel=0.05)
    assert (found.method, found.n_members, found.unit) == ("plain", 0, "Å")
    assert all(np.isnan(getattr(found, name)) for name in UNKNOWN)
    assert found.member_means.shape == (0,)
    assert not has_members(run)


def test_checks_are_those_of_sampling():
    run = memberless(bias_energy=0.01 * np.random.default_rng(1).normal(size=2000))
    assert {gate.name for gate in plain_average(run, "bond_length").gates} == set(SAMPLING_GATES)


def test_the_bias_of_a_run_is_taken_away():
    run = memberless(bias_energy=0.02 * np.random.default_rng(1).normal(size=2000))
    weights = np.exp(run.log_weights)
    values = run.observables["bond_length"]
    assert plain_average(run, "bond_length").mean == pytest.approx(weights @ values / weights.sum(), rel=1e-10)


def test_a_vector_has_an_axis():
    vectors = np.random.default_rng(0).normal(size=(300, 4))
    found = plain_average(memberless(300, observables={"v": vectors}), "v")
    np.testing.assert_allclose(found.mean, vectors.mean(axis=0), rtol=1e-10)
    assert (found.axis.centres.shape, found.member_means.shape) == ((4,), (0, 4))


def test_a_run_that_does_not_say_its_temperature_is_refused():
    with pytest.raises(InputError, match="`temperature_K` must be in the log"):
        plain_average(memberless(attributes={}), "bond_length")
