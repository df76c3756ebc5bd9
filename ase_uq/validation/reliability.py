"""How often central intervals hold what they say.

References
----------
Kuleshov, Fenner and Ermon, arXiv:1807.00263: expected against observed coverage.
Tran et al., Mach. Learn.: Sci. Technol. 1, 025006 (2020), arXiv:1912.10066: miscalibration area.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from ase_uq.arrays import Array

N_CURVE = 101


def reliability_curve(confidence: ArrayLike, *, n_points: int = N_CURVE) -> tuple[Array, Array]:
    """Expected and observed coverage of central intervals.

    Parameters
    ----------
    confidence
        (n,), from `Predictive.confidence`.
    n_points
        Length of the two arrays returned, from 0 to 1 inclusive.

    References
    ----------
    arXiv:1807.00263.
    """
    u = np.sort(np.asarray(confidence, dtype=np.float64).ravel())
    expected = np.linspace(0.0, 1.0, n_points)
    return expected, np.searchsorted(u, expected, side="right") / len(u)


def miscalibration_area(confidence: ArrayLike) -> float:
    """Area between the reliability curve and the diagonal, integrated exactly over the steps of the curve.

    Parameters
    ----------
    confidence
        (n,), from `Predictive.confidence`.

    Examples
    --------
    >>> miscalibration_area([0.0, 0.0]), miscalibration_area([0.25, 0.75])
    (0.5, 0.125)
    """
    u = np.sort(np.asarray(confidence, dtype=np.float64).ravel())
    edges = np.concatenate([[0.0], u, [1.0]])
    observed = np.arange(len(u) + 1) / len(u)

    # The integral of |observed - p| over a step has the antiderivative (p - observed) |p - observed| / 2.
    def antiderivative(p: Array) -> Array:
        return 0.5 * (p - observed) * np.abs(p - observed)

    return float((antiderivative(edges[1:]) - antiderivative(edges[:-1])).sum())
