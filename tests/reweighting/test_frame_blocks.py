"""Sums over frames: whatever the portions in which frames come, and however long the run is."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ase_uq.reweighting.frame_blocks import FEWEST_BLOCKS, MOST_BLOCKS, FrameBlocks, Sums


def frames(seed, n, k=2, m=3):
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(n, k)) + 5
    h = rng.normal(size=(n, m)) + 0.3 * a[:, :1] + np.array([0, 1e4, -1e4])
    return a, h, 0.5 * rng.normal(size=n)


def exact(a, h, logs, origin_a, origin_h):
    a, h = a - origin_a, h - origin_h
    b = np.exp(logs - logs.max())[:, None]
    w = np.exp(logs[:, None] - h - (logs[:, None] - h).max(axis=0))
    grid = a[:, :, None]
    return Sums(
        n=np.float64(len(a)),
        b=b.sum(),
        a=(b * a).sum(axis=0),
        h=(b * h).sum(axis=0),
        hh=(b * h**2).sum(axis=0),
        ah=(b[:, :, None] * grid * h[:, None]).sum(axis=0),
        ahh=(b[:, :, None] * grid * h[:, None] ** 2).sum(axis=0),
        w=w.sum(axis=0),
        wa=(grid * w[:, None]).sum(axis=0),
    )


@settings(max_examples=25)
@given(
    seed=st.integers(0, 2**32 - 1),
    portions=st.lists(st.integers(1, 400), min_size=1, max_size=12),
    known=st.booleans(),
    biased=st.booleans(),
)
def test_any_portions_give_the_same_sums(seed, portions, known, biased):
    n = sum(portions)
    a, h, logs = frames(seed, n)
    blocks = FrameBlocks(2, 3, n_frames=n if known else None)
    start = 0
    for portion in portions:
        part = slice(start, start + portion)
        blocks.add(a[part], h[part], logs[part] if biased else None)
        start += portion
    found = blocks.result()
    wanted = exact(a, h, logs if biased else np.zeros(n), found.origin_a, found.origin_h)
    for name, ours, theirs in zip(Sums._fields, found.blocks.total(), wanted, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-8, atol=1e-8, err_msg=name)
    assert found.n_frames == n
    np.testing.assert_array_equal(found.moments.lowest, a.min(axis=0))


def test_blocks_are_stretches_of_the_run_and_their_number_is_bounded():
    n = 5 * MOST_BLOCKS + 77
    a, h, _ = frames(0, n)
    blocks = FrameBlocks(2, 3)
    for start in range(0, n, 64):
        blocks.add(a[start : start + 64], h[start : start + 64])
    found = blocks.result()
    assert MOST_BLOCKS // 2 <= len(found.blocks.n) <= MOST_BLOCKS
    assert set(found.blocks.n[:-1]) == {found.length}
    ends = found.blocks.n.cumsum().astype(int)
    for block, (start, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
        np.testing.assert_allclose(found.blocks.a[block], (a[start:end] - found.origin_a).sum(axis=0), atol=1e-9)


def test_many_columns_take_fewer_blocks():
    assert FrameBlocks(1, 8).capacity == MOST_BLOCKS
    assert FEWEST_BLOCKS <= FrameBlocks(300, 64).capacity < MOST_BLOCKS


def test_no_block_holds_frames_of_two_runs():
    a, h, _ = frames(1, 3000)
    blocks = FrameBlocks(2, 3, n_frames=3000, n_runs=3)
    for start, end in ((0, 700), (700, 705), (705, 3000)):
        blocks.add(a[start:end], h[start:end])
        blocks.end_run()
    found = blocks.result()
    np.testing.assert_array_equal(np.add.reduceat(found.blocks.n, found.run_starts), [700, 5, 2295])


def test_leaving_out_and_merging():
    a, h, _ = frames(2, 500)
    blocks = FrameBlocks(2, 3)
    blocks.add(a, h)
    sums = blocks.result().blocks
    left = sums.left_out()
    for row, out, total in zip(sums, left, sums.total(), strict=True):
        np.testing.assert_allclose(row + out, np.broadcast_to(total, out.shape), rtol=1e-9, atol=1e-9)
    merged = sums.merged(7)
    assert len(merged.n) == 7
    for ours, theirs in zip(merged.total(), sums.total(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9)
    assert sums.columns(slice(1, 2)).ah.shape == (500, 1, 3)


@pytest.mark.parametrize("weighted", [True, False])
def test_sums_without_blocks(weighted):
    a, h, logs = frames(3, 900)
    blocks = FrameBlocks(2, 3, weighted=weighted)
    blocks.add(a, h, logs)
    found = blocks.result()
    a, h, b = a - found.origin_a, h - found.origin_h, np.exp(logs - logs.max())[:, None]
    w = np.exp(logs[:, None] - h - (logs[:, None] - h).max(axis=0))
    m = found.moments
    np.testing.assert_allclose(m.hhh, (b * h**3).sum(axis=0), rtol=1e-9)
    np.testing.assert_allclose(m.hhhh, (b * h**4).sum(axis=0), rtol=1e-9)
    np.testing.assert_allclose(m.ww, (w**2).sum(axis=0), rtol=1e-9)
    mean = h.mean(axis=1)
    for p in range(3):
        for q in range(3):
            np.testing.assert_allclose(m.second[:, p, q], (b**2 * a**p * mean[:, None] ** q).sum(axis=0), rtol=1e-8)
    if weighted:
        np.testing.assert_allclose(m.wwa, np.einsum("tk,tm->km", a, w**2), rtol=1e-8)
        np.testing.assert_allclose(m.wwaa, np.einsum("tk,tm->km", a**2, w**2), rtol=1e-8)
        assert found.tails.n_frames == 900
    else:
        assert found.tails is None
