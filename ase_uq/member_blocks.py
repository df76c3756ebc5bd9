"""Consecutive blocks of a run that never ends: all that reweighting needs of the past, in constant memory.

When all are full, neighbours are merged and the length doubles, so that block averages for the jackknife are always at
hand. Everything inside a block is kept as deviations from the block's own means (Welford), and blocks are joined by
Chan's rule, so that large energies cost no digits.

=================================  ==================================================================
symbol                             variable
=================================  ==================================================================
n_b                                `_sizes[b]`
mean of a, h_i in block b          `_mean_a[b]`, `_mean_h[b]`
sum (a - mean)(h_i - mean)         `_products[b]`, co-moment
sum (h_i - mean)^2                 `_squares[b]`
sum w_i, w_i = exp(-h_i - top_i)   `_weights[b]`, with `_top` the running maximum of -h_i
<w_i a> / <w_i> in block b         `_weighted_a[b]`
=================================  ==================================================================

References
----------
Chan, Golub and LeVeque, Am. Stat. 37, 242 (1983): merging of means and co-moments.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

CAPACITY = 256  # blocks; between 128 and 256 are in use in a long run


class MemberBlocks:
    """Means and co-moments of O observables and M energy differences in a bounded number of blocks.

    Parameters
    ----------
    n_observables, n_members
        O and M.
    """

    def __init__(self, n_observables: int, n_members: int) -> None:
        o, m = n_observables, n_members
        self._sizes = np.zeros(CAPACITY, dtype=np.int64)
        self._current, self._length = 0, 1
        self._mean_a, self._mean_h = np.zeros((CAPACITY, o)), np.zeros((CAPACITY, m))
        self._products, self._squares = np.zeros((CAPACITY, o, m)), np.zeros((CAPACITY, m))
        self._top, self._squared_weight = np.full(m, -np.inf), np.zeros(m)
        self._weights, self._weighted_a = np.zeros((CAPACITY, m)), np.zeros((CAPACITY, o, m))

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Frames in each block in use."""
        return self._sizes[self._sizes > 0]

    @property
    def n_members(self) -> int:
        """M."""
        return self._mean_h.shape[1]

    @property
    def kish(self) -> Array:
        """Kish's effective number of frames of each member's weights, (M,)."""
        return np.asarray(self._weights.sum(axis=0) ** 2 / self._squared_weight)

    def add(self, a: Array, h: Array) -> None:
        """Take one frame: observables (O,) and energy differences in kT (M,)."""
        if self._sizes[self._current] == self._length:
            self._current += 1
            if self._current == CAPACITY:
                self._merge_pairs()
        b = self._current
        self._sizes[b] += 1
        before = a - self._mean_a[b]
        before_h = h - self._mean_h[b]
        self._mean_a[b] += before / self._sizes[b]
        self._mean_h[b] += before_h / self._sizes[b]
        self._products[b] += np.outer(before, h - self._mean_h[b])
        self._squares[b] += before_h * (h - self._mean_h[b])
        self._add_weighted(b, a, -h)

    def moments(self, k: int) -> tuple[float, Array, Array]:
        """Average of observable k, standard deviations of h (M,), block averages (B, 5, M) about the global means."""
        n = self.sizes[:, None]
        used = slice(0, len(n))
        average = float((n[:, 0] * self._mean_a[used, k]).sum() / n.sum())
        a = (self._mean_a[used, k] - average)[:, None] * np.ones(self.n_members)
        h = self._mean_h[used] - (n * self._mean_h[used]).sum(axis=0) / n.sum()
        std_h = np.sqrt((self._squares[used] + n * h**2).sum(axis=0) / n.sum())
        w = self._weights[used] * n.sum() / self._weights[used].sum(axis=0) / n
        rows = (a, h, self._products[used, k] / n + a * h, w, w * (self._weighted_a[used, k] - average))
        return average, std_h, np.stack(rows, axis=1)

    def _add_weighted(self, b: int, a: Array, log_weight: Array) -> None:
        top = np.maximum(self._top, log_weight)
        if (top > self._top).any():
            rescale = np.exp(self._top - top)
            self._weights *= rescale
            self._squared_weight *= rescale**2
            self._top = top
        w = np.exp(log_weight - self._top)
        self._weights[b] += w
        self._squared_weight += w**2
        # A weight that underflows next to the largest one leaves the block's average as it is.
        gain = np.divide(w, self._weights[b], out=np.zeros_like(w), where=self._weights[b] > 0)
        self._weighted_a[b] += gain * (a[:, None] - self._weighted_a[b])

    def _merge_pairs(self) -> None:
        # Only called when all blocks are full, so that the two of a pair have the same number of frames.
        first, second, half = slice(0, None, 2), slice(1, None, 2), CAPACITY // 2
        step_a = self._mean_a[second] - self._mean_a[first]
        step_h = self._mean_h[second] - self._mean_h[first]
        n = self._length / 2.0
        weights = self._weights[first] + self._weights[second]
        share = np.divide(self._weights[second], weights, out=np.zeros_like(weights), where=weights > 0)[:, None, :]
        step_weighted = self._weighted_a[second] - self._weighted_a[first]
        for array, merged in (
            (self._products, _sum_pairs(self._products) + n * step_a[:, :, None] * step_h[:, None, :]),
            (self._squares, _sum_pairs(self._squares) + n * step_h**2),
            (self._mean_a, self._mean_a[first] + step_a / 2.0),
            (self._mean_h, self._mean_h[first] + step_h / 2.0),
            (self._weighted_a, self._weighted_a[first] + share * step_weighted),
            (self._weights, weights),
            (self._sizes, _sum_pairs(self._sizes)),
        ):
            array[:half], array[half:] = merged, 0
        self._current, self._length = half, 2 * self._length


def _sum_pairs(x: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(x[0::2] + x[1::2])
