import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ase_uq.reweighting import estimators
from ase_uq.reweighting.frame_blocks import FrameBlocks


def sums(a, h, *, centred=True):
    blocks = FrameBlocks(a.shape[1], h.shape[1], centred=centred)
    blocks.add(a, h)
    result = blocks.result()
    return result.blocks.total(), result.origin_a[:, None]


def draw(seed, n=200):
    rng = np.random.default_rng(seed)
    a = rng.gamma(1.0, size=(n, 2))
    return a, 0.5 * a[:, :1] + rng.normal(size=(n, 3)) + [0, 50.0, -3.0]


@given(seed=st.integers(0, 2**32 - 1))
def test_written_another_way(seed):
    a, h = draw(seed)
    s, origin = sums(a, h)
    for k in range(2):
        for i in range(3):
            d, e = a[:, k] - a[:, k].mean(), h[:, i] - h[:, i].mean()
            assert (estimators.cea(s) + origin)[k, i] == pytest.approx(a[:, k].mean() - (d * e).mean(), rel=1e-9)
            weights = np.exp(h[:, i].min() - h[:, i])
            assert (estimators.direct(s) + origin)[k, i] == pytest.approx(
                np.average(a[:, k], weights=weights), rel=1e-9
            )
            assert estimators.second_order(s)[k, i] == pytest.approx(0.5 * (d * e * e).mean(), rel=1e-8, abs=1e-10)


@given(seed=st.integers(0, 2**32 - 1))
def test_gap_written_another_way(seed):
    rng = np.random.default_rng(seed)
    state = rng.integers(0, 4, size=300)
    h = rng.normal(size=(300, 3)) + 0.7 * state[:, None]
    columns = np.eye(4)[state]
    p = np.array([(state == s).mean() * np.exp(-h[state == s].mean(axis=0)) for s in range(4)])
    s, _ = sums(columns, h, centred=False)
    np.testing.assert_allclose(estimators.gap(s), p / p.sum(axis=0), rtol=1e-9)
    variance = np.array([h[state == s].var(axis=0) for s in range(4)])
    q = p * np.exp(0.5 * variance)
    np.testing.assert_allclose(estimators.gap(s, second=True), q / q.sum(axis=0), rtol=1e-9)


def test_an_empty_bin_has_no_probability():
    columns = np.array([[1.0, 0, 0], [0, 0, 1]] * 10)
    s, _ = sums(columns, np.random.default_rng(0).normal(size=(20, 2)), centred=False)
    assert (estimators.gap(s)[1] == 0).all()
    assert np.isfinite(estimators.gap(s, second=True)).all()


def test_leading_axes_are_carried():
    a, h = draw(1)
    blocks = FrameBlocks(2, 3)
    blocks.add(a, h)
    left = blocks.result().blocks.merged(10).left_out()
    for function in (estimators.plain, estimators.cea, estimators.direct, estimators.second_order):
        whole = function(left)
        for j in range(10):
            np.testing.assert_array_equal(whole[j], function(left.map(lambda row, j=j: row[j])))
