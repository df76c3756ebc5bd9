"""Sampling covariance of estimators that share one trajectory, by leaving out one block of frames at a time.

===================  ====================================================================
symbol               variable
===================  ====================================================================
m_j, T               `sizes[j]`, `sizes.sum()`
h_j = T / m_j        `inverse[j]`
theta                `full`, the estimates (O,) from all frames
theta_(j)            `left_out[j]`, the estimates without block j
theta~_j             `pseudo[j]` = h_j theta - (h_j - 1) theta_(j)
===================  ====================================================================

References
----------
Busing, Meijer and van der Leeden, Stat. Comput. 9, 3 (1999): the jackknife with blocks of unequal size.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from ase_uq.arrays import Array

MIN_BLOCKS, MAX_BLOCKS = 8, 100
BLOCK_LENGTH = 5.0  # in units of g; shorter blocks miss part of the correlation


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
