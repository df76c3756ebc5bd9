"""The shape of the tail of importance weights: when it is too heavy, a few frames decide the average.

A generalised Pareto distribution is fitted to the largest weights. Its shape k says which moments of the weights exist:
above 1/2 the variance is infinite, above 0.7 averages are not reliable at any number of frames that one can afford.

=====================  ===========================================================================
symbol                 variable
=====================  ===========================================================================
x                      `x`, weights beyond the threshold, minus the threshold, ascending
theta                  `theta`, grid of the profile likelihood; the scale is -k/theta
k                      `k`, mean log(1 - theta x)
T                      `n_frames`
=====================  ===========================================================================

References
----------
Zhang and Stephens, Technometrics 51, 316 (2009): the estimator.
Vehtari, Simpson, Gelman, Yao and Gabry, J. Mach. Learn. Res. 25, 72 (2024), arXiv:1507.02646: tail length, limits.
"""

from __future__ import annotations

import numpy as np

from ase_uq.arrays import Array

LARGEST_SHAPE = 0.7
_KEPT = 4096  # 3 sqrt(T) up to 1.8 million frames
_FEWEST = 5  # values a fit needs
_PRIOR_WEIGHT, _PRIOR_SHAPE = 10.0, 0.5  # keeps the estimate from few values near 1/2


class LargestValues:
    """The largest values of each of M series that arrive some at a time.

    Parameters
    ----------
    n_series
        Number of series, M.
    """

    def __init__(self, n_series: int) -> None:
        self._kept = np.empty((0, n_series))
        self._waiting: list[Array] = []
        self._n_waiting = 0
        self.n_frames = 0

    def add(self, values: Array) -> None:
        """Take the values of some frames, (t, M)."""
        self._waiting.append(values.copy())
        self._n_waiting += len(values)
        self.n_frames += len(values)
        if self._n_waiting >= 2 * _KEPT:
            self._settle()

    def largest(self, n: int) -> Array:
        """Return the n largest of each series, ascending, (n, M)."""
        self._settle()
        return np.sort(self._kept, axis=0)[-n:]

    def _settle(self) -> None:
        everything = np.concatenate([self._kept, *self._waiting])
        surplus = len(everything) - _KEPT
        self._kept = np.partition(everything, surplus, axis=0)[surplus:] if surplus > 0 else everything
        self._waiting, self._n_waiting = [], 0


def tail_shapes(log_weights: LargestValues) -> Array:
    """Pareto k of each series of weights, (M,); NaN where there are too few weights for a fit.

    References
    ----------
    arXiv:1507.02646, section 3.
    """
    n_frames = log_weights.n_frames
    n_tail = int(min(0.2 * n_frames, 3.0 * np.sqrt(n_frames), _KEPT - 1))
    largest = log_weights.largest(n_tail + 1)
    weights = np.exp(largest - largest[-1])
    return np.array([pareto_shape(column[1:] - column[0]) for column in weights.T])


def limit(n_frames: int) -> float:
    """Largest shape at which averages over so many frames are reliable, min(1 - 1/log10 T, 0.7)."""
    return float(min(1.0 - 1.0 / np.log10(max(n_frames, 11)), LARGEST_SHAPE))


def pareto_shape(x: Array) -> float:
    """Shape k of a generalised Pareto distribution from positive values in ascending order; NaN where there is none.

    Examples
    --------
    >>> u = (np.arange(2000) + 0.5) / 2000
    >>> round(pareto_shape(((1 - u) ** -0.6 - 1) / 0.6), 1)
    0.6
    """
    x = x[x > 0]
    n = len(x)
    if n < _FEWEST or x[-1] == x[0]:
        return float("nan")
    m = 30 + int(np.sqrt(n))
    quartile = x[int(n / 4 + 0.5) - 1]
    theta = 1.0 / x[-1] + (1.0 - np.sqrt(m / (np.arange(1, m + 1) - 0.5))) / (3.0 * quartile)
    k = np.log1p(-theta[:, None] * x).mean(axis=1)
    log_likelihood = n * (np.log(-theta / k) - k - 1.0)
    likelihood = np.exp(log_likelihood - log_likelihood.max())
    best = (theta * likelihood).sum() / likelihood.sum()
    shape = float(np.log1p(-best * x).mean())
    return (n * shape + _PRIOR_WEIGHT * _PRIOR_SHAPE) / (n + _PRIOR_WEIGHT)
