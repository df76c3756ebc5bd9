"""Intervals, functions of results, and results of several runs together."""

import numpy as np
import pytest
from ase.units import kB
from scipy import stats

from ase_uq.errors import InputError
from ase_uq.reweighting import combine, difference, reweight

TEMPERATURE = 300.0
KT = kB * TEMPERATURE


def run(a, h, **options):
    return reweight(a, energy_members=KT * h, energy_reference=np.zeros(len(a)), temperature_K=TEMPERATURE, **options)


def family(rng, *, n_members=8, n=400, spread=0.3):
    """A run of x, members that shift it by c_i, and the shift under one more member of the family."""
    x = rng.normal(size=n)
    c = spread * rng.normal(size=n_members + 1)
    mean = c[:-1].mean()
    h = -(c[:-1] - mean) * x[:, None]  # the run is driven by the members' mean, which shifts x by `mean`
    return x + mean, h, c[-1]


@pytest.mark.parametrize("level", [0.68, 0.95])
@pytest.mark.parametrize("spread", [0.05, 0.3])
def test_intervals_cover_one_more_member_of_the_family(level, spread):
    rng = np.random.default_rng(0)
    inside = []
    for _ in range(600):
        a, h, truth = family(rng, spread=spread)
        low, high = run(a, h).interval(level)
        inside.append(low < truth < high)
    error = np.sqrt(level * (1 - level) / 600)
    assert abs(np.mean(inside) - level) < 3 * error + 0.01


def test_an_interval_without_model_error_is_that_of_the_mean():
    rng = np.random.default_rng(1)
    result = run(rng.normal(size=20_000), np.zeros((20_000, 4)))
    low, high = result.interval(0.95)
    assert 0.5 * (high - low) == pytest.approx(stats.t.ppf(0.975, result.n_blocks - 1) * result.std_sampling, rel=1e-9)
    assert 0.5 * (high + low) == pytest.approx(result.mean)


def test_calibration_narrows_the_share_of_the_members_mean():
    rng = np.random.default_rng(2)
    a, h, _ = family(rng)
    widths = [np.ptp(run(a, h, alpha=alpha).interval(0.9)) for alpha in (0.5, 1.0, 4.0)]
    assert widths[0] > widths[1] > widths[2]


def test_levels():
    rng = np.random.default_rng(3)
    a, h, _ = family(rng)
    result = run(np.stack([a, a], axis=1), h)
    assert result.interval()[0].shape == (2,)
    with pytest.raises(InputError, match="`level` must be between 0 and 1, got 95"):
        result.interval(95)


def test_a_logarithm_has_an_asymmetric_interval():
    rng = np.random.default_rng(4)
    p = rng.random(4000) < 0.1
    h = 0.4 * (p - 0.1)[:, None] * [[-1.0, -0.5, 0.5, 1.0]]
    result = run(p.astype(float), h)
    free = result.mapped(lambda q: -KT * np.log(q))
    low, high = free.interval(0.68)
    assert high - free.mean > 1.1 * (free.mean - low) > 0
    assert low == pytest.approx(-KT * np.log(result.interval(0.68)[1]))
    np.testing.assert_allclose(free.member_means, -KT * np.log(result.member_means))
    assert free.std_model == pytest.approx(KT * result.std_model / result.mean, rel=0.2)
    assert np.isnan(run(p.astype(float), 6 * h).mapped(np.log).interval(0.95)[0])
    with pytest.raises(InputError, match="must be called once"):
        free.mapped(np.exp)
    with pytest.raises(InputError, match="must be finite at the average"):
        result.mapped(lambda q: np.log(-q))


def two_runs(seed):
    """Two systems on which the members err alike: their difference is known far better than either."""
    rng = np.random.default_rng(seed)
    c = np.linspace(-1, 1, 6)
    results = []
    for extra in (0.0, 0.05):
        a = rng.normal(size=20_000)
        results.append(run(a + extra, -(0.5 + extra) * c * a[:, None]))
    return results


def test_differences_are_taken_member_by_member():
    first, second = two_runs(0)
    result = difference(first, second)
    np.testing.assert_allclose(result.member_means, second.member_means - first.member_means)
    assert result.mean == pytest.approx(second.mean - first.mean)
    assert result.std_sampling == pytest.approx(np.hypot(first.std_sampling, second.std_sampling), rel=1e-6)
    assert result.noise == pytest.approx(first.noise + second.noise, rel=1e-6)
    assert result.std_model < 0.2 * first.std_model
    assert result.std_model == pytest.approx(0.05 * np.linspace(-1, 1, 6).std(ddof=1), abs=0.02)
    assert result.n_frames == 40_000


def test_a_function_of_two_runs():
    first, second = two_runs(1)
    shifted = combine(lambda a, b: (a + 5) * (b + 2), first, second)
    np.testing.assert_allclose(shifted.member_means, (first.member_means + 5) * (second.member_means + 2))
    expected = np.hypot((second.mean + 2) * first.std_sampling, (first.mean + 5) * second.std_sampling)
    assert shifted.std_sampling == pytest.approx(expected, rel=1e-3)


def test_results_of_other_members_do_not_combine():
    first, _ = two_runs(2)
    rng = np.random.default_rng(3)
    other = run(rng.normal(size=100), rng.normal(size=(100, 3)))
    with pytest.raises(InputError, match=r"same members and shape, got \(3,\), \(6,\)"):
        difference(first, other)
    with pytest.raises(InputError, match="two or more"):
        combine(np.square, first)
