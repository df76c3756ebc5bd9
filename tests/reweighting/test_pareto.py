import numpy as np
import pytest
from scipy import stats

from ase_uq.reweighting.pareto import LargestValues, limit, pareto_shape, tail_shapes


@pytest.mark.parametrize("shape", [-0.2, 0.1, 0.5, 1.0])
def test_shape_of_a_pareto_sample(shape):
    rng = np.random.default_rng(0)
    found = [pareto_shape(np.sort(stats.genpareto(shape).rvs(1000, random_state=rng))) for _ in range(20)]
    assert np.mean(found) == pytest.approx(shape, abs=0.04)
    # The scale of the values does not matter.
    x = np.sort(stats.genpareto(shape).rvs(1000, random_state=rng))
    assert pareto_shape(1e-30 * x) == pytest.approx(pareto_shape(x), abs=1e-6)


def test_few_values_stay_near_the_prior_and_none_are_nan():
    assert np.isnan(pareto_shape(np.array([1.0, 2.0])))
    assert np.isnan(pareto_shape(np.ones(50)))


@pytest.mark.parametrize("portion", [1, 700, 20_000])
def test_the_largest_are_kept_whatever_the_portions(portion):
    x = np.random.default_rng(1).normal(size=(20_000, 2))
    kept = LargestValues(2)
    for start in range(0, len(x), portion):
        kept.add(x[start : start + portion])
    np.testing.assert_array_equal(kept.largest(100), np.sort(x, axis=0)[-100:])


@pytest.mark.parametrize(("width", "heavy"), [(0.5, False), (3.0, True)])
def test_wide_gaussian_energies_have_heavy_weights(width, heavy):
    kept = LargestValues(3)
    kept.add(width * np.random.default_rng(2).normal(size=(10_000, 3)))
    assert (tail_shapes(kept) > limit(10_000)).all() == heavy


def test_limits_of_the_literature():
    assert limit(100) == pytest.approx(0.5)
    assert limit(1000) == pytest.approx(2 / 3)
    assert limit(10**6) == 0.7
