import numpy as np
import pytest
from scipy.signal import lfilter

from ase_uq.errors import InputError
from ase_uq.reweighting.jackknife import (
    block_jackknife,
    block_means,
    jackknife_blocks,
    jackknife_covariance,
)


def ar1(rng, phi, n_frames, n_series):
    noise = rng.normal(size=(n_series, n_frames)) * np.sqrt(1 - phi**2)
    noise[:, 0] /= np.sqrt(1 - phi**2)
    return lfilter([1], [1, -phi], noise, axis=1)


def identity(means):
    return means


def test_single_frames_give_the_covariance_of_means():
    x = np.random.default_rng(0).normal(size=(60, 3)) @ [[1, 0.5, 0], [0, 1, 0.3], [0, 0, 2]]
    np.testing.assert_allclose(block_jackknife(identity, x, n_blocks=60), np.cov(x.T) / 60, rtol=1e-10)


def test_equal_blocks_give_the_textbook_formula_for_a_nonlinear_estimator():
    x = np.random.default_rng(1).normal(size=(120, 2)) + 3

    def ratio(means):
        return means[..., :1] / means[..., 1:]

    left_out = np.array([ratio(np.delete(x, range(10 * j, 10 * j + 10), axis=0).mean(axis=0)) for j in range(12)])
    textbook = 11 / 12 * ((left_out - left_out.mean()) ** 2).sum()
    assert block_jackknife(ratio, x, block_length=10)[0, 0] == pytest.approx(textbook, rel=1e-9)


def test_blocks_of_unequal_size_are_unbiased():
    rng = np.random.default_rng(2)
    sizes = np.array([30, 5, 20, 40, 10, 25, 35, 15, 20])
    edges = np.concatenate([[0], sizes.cumsum()])
    variances = [
        jackknife_covariance(identity, block_means(rng.normal(size=(200, 1)), edges), sizes)[0, 0] for _ in range(400)
    ]
    error = np.std(variances) / np.sqrt(400)
    assert abs(np.mean(variances) - 1 / 200) < 4 * error


def test_ar1_standard_error_with_automatic_blocks():
    phi, n_frames = 0.9, 20_000
    g = (1 + phi) / (1 - phi)
    series = ar1(np.random.default_rng(3), phi, n_frames, 40)
    errors = np.array([np.sqrt(block_jackknife(identity, x)[0, 0]) for x in series])
    exact = np.sqrt(g / n_frames)
    # Blocks of about 10 g miss 5 % of the variance.
    assert abs(errors.mean() - exact) < 4 * errors.std() / np.sqrt(40) + 0.03 * exact


def test_what_members_share_stays_in_the_covariance():
    rng = np.random.default_rng(4)
    common = rng.normal(size=(1000, 1))
    x = common + 0.1 * rng.normal(size=(1000, 3))
    covariance = block_jackknife(identity, x, n_blocks=50)
    correlation = covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1])
    assert correlation > 0.95


def test_number_of_blocks_follows_the_correlation():
    assert jackknife_blocks(100_000, 10.0) == 100
    assert jackknife_blocks(2000, 10.0) == 40
    assert jackknife_blocks(1000, 99.0) == 8
    assert jackknife_blocks(5, 1.0) == 5


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"n_blocks": 4, "block_length": 5}, "exclude each other"),
        ({"n_blocks": 1}, "between 2 and the number of frames 30, got 1"),
        ({"n_blocks": 31}, "got 31"),
        ({"block_length": 20}, "got 1"),
    ],
)
def test_bad_blocks(options, words):
    with pytest.raises(InputError, match=words):
        block_jackknife(identity, np.arange(30.0), **options)
