"""How many independent values the errors of correlated structures amount to, and how well that is known.

Members are functions: where they differ in a few directions only, errors of many structures are few. Squares of normal
variables have a covariance of 2 rho^2, so that the scale of errors is that of n = (sum w)^2 / sum w_s w_t rho_st^2
independent ones. The correlations are those of the members and of the error, which is one more draw of the same kind,
without what so few draws show by chance.

===========================  ============================================================================
symbol                       variable
===========================  ============================================================================
M, S                         members, structures
p                            `p`, draws behind the correlations: M - 1 deviations, and the error
r_st                         correlation that p draws show: E r^2 = 1/p + (1 - 1/p) rho^2 p/(p + 2) for small rho
theta = 1/n                  `shares`
x                            `seen`, what the draws show of theta p/(p + 2)
F                            directions: theta = sum w^2/(sum w)^2 + 1/F
===========================  ============================================================================

Few draws know theta badly: x scatters like a chi-squared variable of p(p+1)/2 - 2 degrees of freedom, of which four
members leave 8. A single number would then be too small by half in one set of ten, and the error bar with it: theta has
a distribution, by that likelihood and with the logarithm of F flat before anything is seen. What is lost by p/(p + 2)
is what t variables gain where few directions move errors and spread alike: (nu + 1)/(2 nu) instead of the
(nu + 3)/(2 nu) of independent ones, for nu = p - 1.

References
----------
John, Biometrika 59, 169 (1972): the statistic of sphericity that x is, and its distribution.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ase_uq.arrays import Array

_MOST_DIRECTIONS = 1000.0  # or ten for each structure: errors are then as good as independent
_GRID = 60
_NEGLIGIBLE = 1e-4


class Distribution(NamedTuple):
    """Values (n_values,) that a number may have, and their probabilities (n_values,)."""

    values: Array
    probabilities: Array


def independent_shares(deviations: Array, error: Array | None, *, weights: Array, exact: bool) -> Distribution:
    """Return the distribution of 1/n.

    Parameters
    ----------
    deviations
        (M, S), of the members from their mean.
    error
        (S,), of the mean, divided by its scale; `None` where it is not another draw, as beside noise.
    weights
        (S,), how often each structure counts.
    exact
        Whether the covariance of the members is that of infinitely many; theta is then known.
    """
    rows = deviations if exact or error is None else np.vstack([deviations, error])
    p = len(rows) - 1.0
    size = np.sqrt((rows**2).sum(axis=0) / p)
    x = np.divide(rows, size, out=np.zeros_like(rows), where=size > 0)
    gram = (x * weights) @ x.T
    total, own = float(weights.sum()), float((weights**2).sum())
    pairs, least = float((gram**2).sum()) / p**2, own / total**2
    if exact or p < 2.0:
        return Distribution(np.array([max(pairs, own) / total**2]), np.ones(1))
    by_chance = (total**2 - own) / p
    seen = least + max((pairs - own - by_chance) / (1.0 - 1.0 / p) / total**2, -least)
    directions = np.geomspace(1.0, max(_MOST_DIRECTIONS, 10.0 / least), _GRID)
    shares = least + (1.0 - least) / directions
    dof = 0.5 * p * (p + 1.0) - 2.0
    likelihood = -0.5 * dof * (np.log(shares) + seen / shares)
    probabilities = np.exp(likelihood - likelihood.max())
    kept = probabilities > _NEGLIGIBLE * probabilities.max()
    return Distribution(shares[kept], probabilities[kept] / probabilities[kept].sum())
