import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pymbar import timeseries
from scipy.signal import lfilter

from ase_uq.errors import InputError
from ase_uq.reweighting.statistics import (
    blocking,
    sampling_error,
    sampling_errors_of_blocks,
    statistical_inefficiency,
)

values = st.floats(-100.0, 100.0, width=32)


def ar1(rng, phi, n_frames, n_series):
    """Stationary, unit variance, C(t) = phi^t, hence g = (1 + phi) / (1 - phi)."""
    noise = rng.normal(size=(n_series, n_frames)) * np.sqrt(1 - phi**2)
    noise[:, 0] /= np.sqrt(1 - phi**2)
    return lfilter([1], [1, -phi], noise, axis=1)


def standard_errors(columns):
    return np.array([sampling_error(x).std for x in columns.T])


def exact_standard_error(phi, n_frames):
    lags = np.arange(1, n_frames)
    return np.sqrt((1 + 2 * ((1 - lags / n_frames) * phi**lags).sum()) / n_frames)


def assert_mean(samples, exact, bias=0.0):
    """The mean over repeats agrees with the exact value within four of its own standard errors, and a known bias."""
    samples = np.asarray(samples)
    error = samples.std(ddof=1) / np.sqrt(len(samples))
    assert abs(samples.mean() - exact) < 4 * error + bias


@pytest.mark.parametrize(("phi", "n_frames"), [(0.0, 2000), (0.5, 2000), (0.9, 10_000), (0.98, 40_000)])
def test_ar1_inefficiency_and_errors(phi, n_frames):
    series = ar1(np.random.default_rng(1), phi, n_frames, 50)
    result = statistical_inefficiency(series.T)
    g = (1 + phi) / (1 - phi)
    assert_mean(result.g, g, bias=0.05 * g)  # only a gain that is clear is claimed
    assert np.mean(result.reliable) > 0.9
    exact = exact_standard_error(phi, n_frames)
    assert_mean(standard_errors(series.T), exact, bias=0.03 * exact)
    # Blocks of finite length miss a little of the correlation.
    assert_mean([blocking(x).std for x in series], exact, bias=0.03 * exact)
    assert all(blocking(x).plateau for x in series)


def test_the_error_of_a_short_run_is_hardly_too_small():
    errors = standard_errors(ar1(np.random.default_rng(13), 0.9, 400, 600).T)
    assert np.mean(errors) == pytest.approx(exact_standard_error(0.9, 400), rel=0.08)


@pytest.mark.parametrize("phi", [0.5, 0.9])
def test_inefficiency_agrees_with_pymbar(phi):
    x = ar1(np.random.default_rng(2), phi, 50_000, 1)[0]
    # Sixty-four ordinates know a spectrum to an eighth.
    assert statistical_inefficiency(x).g == pytest.approx(timeseries.statistical_inefficiency(x), rel=0.3)


def test_columns_are_independent_of_each_other():
    x = ar1(np.random.default_rng(3), 0.8, 3000, 3).T * [1.0, 10.0, 0.1]
    together = statistical_inefficiency(x)
    alone = [statistical_inefficiency(column) for column in x.T]
    np.testing.assert_allclose(together.g, [r.g for r in alone], rtol=1e-12)
    np.testing.assert_allclose(together.lengths, [r.lengths for r in alone], rtol=1e-12)
    assert together.n_blocks.tolist() == [r.n_blocks for r in alone]
    assert together.reliable.tolist() == [True, True, True]


def test_a_short_series_is_flagged():
    x = ar1(np.random.default_rng(4), 0.98, 1000, 1)[0]  # ten correlation lengths
    assert not statistical_inefficiency(x).reliable
    assert not sampling_error(x).reliable
    assert not statistical_inefficiency(np.arange(1000.0)).reliable


def test_a_gain_from_anticorrelation_is_claimed_where_it_is_clear():
    x = ar1(np.random.default_rng(5), -0.9, 2000, 100)
    exact = exact_standard_error(-0.9, 2000)
    assert np.median(standard_errors(x.T)) == pytest.approx(exact, rel=0.15)
    # Of white noise nothing is claimed that chance explains.
    white = np.random.default_rng(6).normal(size=(2000, 200))
    assert np.mean(statistical_inefficiency(white).g < 1.0) < 0.1


@pytest.mark.parametrize("constant", [0.0, 0.1, -1e5])
def test_a_constant_series_has_no_error(constant):
    x = np.full(50, constant)
    assert statistical_inefficiency(x).g == 1.0
    assert blocking(x).plateau
    assert sampling_error(x).std == pytest.approx(0.0, abs=1e-15)


@given(x=arrays(float, st.integers(8, 200), elements=values), scale=st.sampled_from([-4.0, 0.5]), shift=values)
def test_inefficiency_ignores_scale_and_shift(x, scale, shift):
    x = x + np.random.default_rng(0).normal(size=len(x))  # away from the exactly constant series
    assert statistical_inefficiency(scale * x + shift).g == pytest.approx(statistical_inefficiency(x).g, rel=1e-6)


def test_blocking_curve_is_that_of_explicit_blocks():
    x = ar1(np.random.default_rng(6), 0.7, 1000, 1)[0]
    curve = blocking(x).std_by_level
    for k in range(9):
        n = 1000 // 2**k
        blocks = x[: n * 2**k].reshape(n, 2**k).mean(axis=1)
        assert curve[k] == pytest.approx(blocks.std(ddof=1) / np.sqrt(n), rel=1e-12)


def test_blocking_obeys_its_own_criterion():
    x = ar1(np.random.default_rng(7), 0.9, 20_000, 1)[0]
    result = blocking(x)
    ratio = result.std_by_level / result.std_by_level[0]
    fulfilled = [8**k >= 2 * len(x) * ratio[k] ** 4 for k in range(len(ratio))]
    assert result.block_length == 2 ** fulfilled.index(True)
    assert result.n_blocks == len(x) // result.block_length
    assert result.std_error == pytest.approx(result.std / np.sqrt(2 * (result.n_blocks - 1)))


def test_blocking_says_when_there_is_no_plateau():
    walk = np.random.default_rng(8).normal(size=4096).cumsum()
    result = blocking(walk)
    assert not result.plateau
    assert result.n_blocks == 16  # the last level with a useful number of blocks
    assert result.std > 5 * result.std_by_level[0]


def test_sampling_error_is_that_of_its_inefficiency():
    for x in ar1(np.random.default_rng(9), 0.9, 2000, 5):
        result = sampling_error(x)
        assert result.std == pytest.approx(np.sqrt(result.g * x.var(ddof=1) / 2000), rel=1e-12)
        assert result.blocking.std == blocking(x).std


@pytest.mark.parametrize(("phi", "length"), [(0.0, 1), (0.9, 1), (0.9, 50), (0.5, 7)])
def test_blocks_give_the_sampling_error_of_the_series(phi, length):
    n, ratios = 21_000 if length > 1 else 1000, []
    for x in ar1(np.random.default_rng(10), phi, n, 10):
        means = x[: n // length * length].reshape(-1, length).mean(axis=1)
        options = {"length": length, "n_frames": n, "variance": x.var(ddof=1)}
        ours = sampling_errors_of_blocks(means[:, None], **options)[0]
        batch = sampling_error(x)
        if length == 1:
            assert ours.std == pytest.approx(batch.std, rel=1e-9)
            assert ours.blocking.block_length == batch.blocking.block_length
        ratios.append(ours.std / batch.std)
        assert ours.std == pytest.approx(np.sqrt(ours.g * x.var(ddof=1) / n), rel=1e-9)
        assert ours.blocking.plateau == batch.blocking.plateau
    assert np.mean(ratios) == pytest.approx(1.0, abs=0.05)


def test_blocks_shorter_than_the_correlation_are_not_taken_as_independent():
    x = ar1(np.random.default_rng(11), 0.99, 20_000, 1)[0]
    means = x.reshape(-1, 20, 1).mean(axis=1)
    ours = sampling_errors_of_blocks(means, length=20, n_frames=20_000, variance=x.var(ddof=1))[0]
    assert ours.std == pytest.approx(np.sqrt(199 / 20_000), rel=0.35)
    assert ours.n_blocks < 100


def test_blocks_of_a_constant_have_no_error():
    ours = sampling_errors_of_blocks(np.full((30, 1), 0.1), length=3, n_frames=91, variance=0.0)[0]
    assert (ours.std, ours.g, ours.blocking.plateau) == (0.0, 1.0, True)


def test_rounding_of_a_constant_is_no_rare_event():
    means = np.full((400, 1), 0.1)
    means[7] = np.nextafter(0.1, 1.0)
    assert sampling_errors_of_blocks(means, length=3, n_frames=1200, variance=0.0)[0].skewness == 0.0


@pytest.mark.parametrize("function", [statistical_inefficiency, blocking, sampling_error])
@pytest.mark.parametrize(
    ("x", "words"),
    [([1.0], "at least 2"), ([1.0, 2.0, np.nan], "in frame 2"), (np.zeros((3, 2, 2)), r"\(3, 2, 2\)")],
)
def test_bad_series(function, x, words):
    with pytest.raises(InputError, match=words):
        function(x)


@pytest.mark.parametrize(("time", "n_frames"), [(50, 8000), (30, 12_000), (15, 1500)])
def test_a_series_of_rare_events_is_warned_of(time, n_frames):
    """A lognormal series misses what has not happened yet; the square of a Gaussian one has seen enough."""
    x = ar1(np.random.default_rng(time), np.exp(-1 / time), n_frames, 150).T
    rare = np.exp(1.5 * x)
    lags = np.arange(n_frames)
    exact = np.exp(1.125) * np.sqrt(
        np.sum((2 - 2 * lags / n_frames - (lags == 0)) * np.expm1(2.25 * np.exp(-lags / time)))
    )
    found = statistical_inefficiency(rare)
    assert np.median(np.sqrt(found.g * rare.var(axis=0, ddof=1))) < 0.9 * exact
    assert np.mean(found.reliable) < 0.1


def test_what_is_skewed_and_seen_often_is_not_warned_of():
    x = ar1(np.random.default_rng(14), 0.9, 5000, 200).T
    assert np.mean(statistical_inefficiency(x**2).reliable) > 0.9
    assert np.mean(statistical_inefficiency(np.random.default_rng(15).exponential(size=(1000, 200))).reliable) > 0.9
