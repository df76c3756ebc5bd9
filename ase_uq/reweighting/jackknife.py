"""Sampling covariance of estimators that share one trajectory, by leaving out one block of frames at a time.

===================  ====================================================================
symbol               variable
===================  ====================================================================
m_j, T               `sizes[j]`, `sizes.sum()`
h_j = T / m_j        `inverse[j]`
theta                `full`, the estimates (P,) from all frames
theta_(j)            `left_out[j]`, the estimates without block j
theta~_j             `pseudo[j]` = h_j theta - (h_j - 1) theta_(j)
===================  ====================================================================

References
----------
Busing, Meijer and van der Leeden, Stat. Comput. 9, 3 (1999): the jackknife with blocks of unequal size.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ase_uq.errors import InputError
from ase_uq.reweighting.statistics import as_series, statistical_inefficiency

Array = NDArray[np.float64]
Integers = NDArray[np.int64]

MIN_BLOCKS, MAX_BLOCKS = 8, 100
BLOCK_LENGTH = 5.0  # in units of g; shorter blocks miss part of the correlation


def block_jackknife(
    estimator: Callable[[Array], Array],
    series: ArrayLike,
    *,
    n_blocks: int | None = None,
    block_length: int | None = None,
) -> Array:
    """Sampling covariance of a vector of estimators that are functions of averages over one trajectory.

    All estimators see the same blocks left out, so that what they share through the trajectory stays in the covariance.

    Parameters
    ----------
    estimator
        Takes averages of the columns, (..., K), and gives the estimates, (..., P); leading axes must be carried along.
    series
        (T,) or (T, K), the columns whose averages the estimator needs, products of observables included.
    n_blocks, block_length
        One of the two, or neither: then as many as are independent for every column, between 8 and 100.

    Returns
    -------
    (P, P).

    Raises
    ------
    InputError
        If both are given, or fewer than 2 blocks result.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.array([1.0, 3.0, 2.0, 5.0])
    >>> error = np.sqrt(block_jackknife(lambda mean: mean, x, n_blocks=4)[0, 0])
    >>> bool(np.isclose(error, x.std(ddof=1) / 2))
    True

    References
    ----------
    Busing, Meijer and van der Leeden (1999).
    """
    values = as_series(series, columns=True)
    columns = values[:, None] if values.ndim == 1 else values
    if n_blocks is not None and block_length is not None:
        raise InputError(
            f"`n_blocks` ({n_blocks}) and `block_length` ({block_length}) exclude each other; give only one."
        )
    if block_length is not None:
        n_blocks = len(columns) // max(block_length, 1)
    if n_blocks is None:
        n_blocks = min(len(columns), int(np.min(statistical_inefficiency(columns).n_blocks)))
    if not 2 <= n_blocks <= len(columns):
        raise InputError(
            f"`n_blocks` must be between 2 and the number of frames {len(columns)}, got {n_blocks}; change the length."
        )
    edges = block_edges(len(columns), n_blocks)
    return jackknife_covariance(estimator, block_means(columns, edges), np.diff(edges))


def jackknife_covariance(estimator: Callable[[Array], Array], means: Array, sizes: ArrayLike) -> Array:
    """Delete-one-block covariance from block averages (B, ...) and block sizes (B,), which may differ.

    `estimator` is as in `block_jackknife`, its argument having the trailing shape of `means`.
    """
    n = np.asarray(sizes, dtype=np.float64)
    share = (n / n.sum()).reshape(-1, *(1,) * (means.ndim - 1))
    total = (share * means).sum(axis=0)
    deviations = jackknife_deviations(estimator(total), estimator((total - share * means) / (1.0 - share)), n)
    return np.asarray(deviations.T @ deviations)


def jackknife_deviations(full: Array, left_out: Array, sizes: ArrayLike) -> Array:
    """Deviations (B, ...) whose products, summed over blocks, are the covariance of the estimates.

    Parameters
    ----------
    full
        (...), the estimates from all frames.
    left_out
        (B, ...), the estimates without each block.
    sizes
        (B,), frames in each block.
    """
    n = np.asarray(sizes, dtype=np.float64).reshape(-1, *(1,) * np.ndim(full))
    inverse = n.sum() / n
    pseudo = inverse * full - (inverse - 1.0) * left_out
    centre = len(n) * full - ((1.0 - 1.0 / inverse) * left_out).sum(axis=0)
    return np.asarray((pseudo - centre) / np.sqrt((inverse - 1.0) * len(n)))


def jackknife_blocks(n_frames: int, g: float) -> int:
    """Number of blocks for the jackknife: blocks of 5 g where that leaves between 8 and 100 of them."""
    # Rounding in g must not change the number.
    return int(np.clip(n_frames / (BLOCK_LENGTH * g) + 1e-6, min(MIN_BLOCKS, n_frames), MAX_BLOCKS))


def block_edges(n_frames: int, n_blocks: int) -> Integers:
    """Edges (B + 1,) of blocks whose sizes differ by one frame at most."""
    return np.linspace(0, n_frames, n_blocks + 1).round().astype(np.int64)


def block_means(x: Array, edges: Integers) -> Array:
    """Averages of `x` (T, ...) over blocks, (B, ...)."""
    sizes = np.diff(edges).reshape(-1, *(1,) * (x.ndim - 1))
    return np.asarray(np.add.reduceat(x, edges[:-1], axis=0) / sizes)
