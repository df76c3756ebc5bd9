import numpy as np
import pytest

from ase_uq.reweighting.jackknife import jackknife_blocks, jackknife_deviations


def identity(means):
    return means


def covariance_of(estimator, x, sizes):
    """Of functions of the averages of `x` (T, n_series) from blocks of these sizes, (O, O)."""
    blocks = np.split(x, np.cumsum(sizes)[:-1])
    left_out = np.array([(x.sum(axis=0) - block.sum(axis=0)) / (len(x) - len(block)) for block in blocks])
    deviations = jackknife_deviations(estimator(x.mean(axis=0)), estimator(left_out), sizes)
    return deviations.T @ deviations


def test_single_frames_give_the_covariance_of_means():
    x = np.random.default_rng(0).normal(size=(60, 3)) @ [[1, 0.5, 0], [0, 1, 0.3], [0, 0, 2]]
    np.testing.assert_allclose(covariance_of(identity, x, [1] * 60), np.cov(x.T) / 60, rtol=1e-10)


def test_equal_blocks_give_the_textbook_formula_for_a_nonlinear_estimator():
    x = np.random.default_rng(1).normal(size=(120, 2)) + 3

    def ratio(means):
        return means[..., :1] / means[..., 1:]

    left_out = np.array([ratio(np.delete(x, range(10 * j, 10 * j + 10), axis=0).mean(axis=0)) for j in range(12)])
    textbook = 11 / 12 * ((left_out - left_out.mean()) ** 2).sum()
    assert covariance_of(ratio, x, [10] * 12)[0, 0] == pytest.approx(textbook, rel=1e-9)


def test_blocks_of_unequal_size_are_unbiased():
    rng = np.random.default_rng(2)
    sizes = np.array([30, 5, 20, 40, 10, 25, 35, 15, 20])
    variances = [covariance_of(identity, rng.normal(size=(200, 1)), sizes)[0, 0] for _ in range(400)]
    error = np.std(variances) / np.sqrt(400)
    assert abs(np.mean(variances) - 1 / 200) < 4 * error


def test_what_members_share_stays_in_the_covariance():
    rng = np.random.default_rng(4)
    common = rng.normal(size=(1000, 1))
    x = common + 0.1 * rng.normal(size=(1000, 3))
    covariance = covariance_of(identity, x, [20] * 50)
    correlation = covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1])
    assert correlation > 0.95


def test_number_of_blocks_follows_the_correlation():
    assert jackknife_blocks(100_000, 10.0) == 100
    assert jackknife_blocks(2000, 10.0) == 40
    assert jackknife_blocks(1000, 99.0) == 8
    assert jackknife_blocks(5, 1.0) == 5
