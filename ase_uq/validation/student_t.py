"""The scale of Student's t variables, alpha from it, and how well either is known.

=========================  ==============================================================
symbol                     variable
=========================  ==============================================================
z                          error of the mean over the spread of the members
nu                         `dof`, degrees of freedom of the spread: M - 1, infinite where it is exact
m                          `mean_share`: 1/M for independent members, 0 where their mean is pinned
c                          `student_t_scale`, the scale of z
alpha^2 = c^2 - m          `scale_squared` - m
k                          `relative_error`, standard error of c over c
1/n                        `shares`: one over the number of independent values, see `independent_values`
=========================  ==============================================================

References
----------
Lange, Little and Taylor, J. Am. Stat. Assoc. 84, 881 (1989): the score equation of the t scale.
Imbalzano et al., J. Chem. Phys. 154, 074102 (2021), arXiv:2011.08828, Eq. 6 and appendix A.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import chi2

from ase_uq.arrays import Array
from ase_uq.reweighting.statistics import statistical_inefficiency

Method = Literal["student_t", "moment"]

_FEWEST_IN_ORDER = 20
_TWO_ERRORS = 0.9545  # probability inside two standard errors of a normal distribution
_LEAST_VARIANCE = 1e-12


def scale_squared(z_squared: Array, *, dof: float, method: Method = "student_t", weights: Array | None = None) -> float:
    """c^2 by either estimator; alpha^2 is what remains of it without the share of the mean, and may be negative.

    Parameters
    ----------
    z_squared
        (S,), squared error of the mean over squared raw spread.
    dof
        nu: M - 1, or infinite for an exact spread.
    method
        `"student_t"` or `"moment"`.
    weights
        (S,), how often each structure counts.

    References
    ----------
    arXiv:2011.08828, Eq. 6 for `"moment"`: c^2 = (M-3)/(M-1) mean(z^2).
    """
    if method == "student_t":
        return student_t_scale(z_squared, dof=dof, weights=weights) ** 2
    mean = float(np.average(z_squared, weights=weights))
    return mean if np.isinf(dof) else (dof - 2.0) / dof * mean


def student_t_scale(z_squared: Array, *, dof: float, weights: Array | None = None) -> float:
    """Maximum-likelihood scale c of Student's t variables z, whose squares are given; zero if most of them are zero.

    Parameters
    ----------
    z_squared
        (S,).
    dof
        Degrees of freedom; infinite for normal variables, where c is the root mean square.
    weights
        (S,), how often each value counts.

    References
    ----------
    Lange, Little and Taylor (1989): mean of (dof + 1) u^2 / (dof + u^2) = 1 with u = z / c.
    """
    w = np.ones_like(z_squared) if weights is None else weights
    if np.isinf(dof):
        return float(np.sqrt(np.average(z_squared, weights=w)))
    shares = w / w.sum()
    # An error fifteen digits below the largest is zero to rounding.
    positive = (z_squared > 1e-30 * z_squared.max()) & (w > 0.0)
    # As c -> 0 every value above zero contributes dof + 1: with a total below one the peak is at c = 0.
    if (dof + 1.0) * shares[positive].sum() <= 1.0 + 1e-9:
        return 0.0
    values, shares = z_squared[positive], shares[positive]

    def excess(log_c_squared: float) -> float:
        return float(shares @ ((dof + 1.0) * values / (dof * np.exp(log_c_squared) + values))) - 1.0

    # The sum falls strictly with c, and is below one at the largest value: widen downwards until the root is inside.
    low, high = np.log(values.min()), np.log(values.max()) + 1e-6
    while excess(low) < 0.0:
        low -= 5.0
    return float(np.exp(0.5 * brentq(excess, low, high, xtol=1e-12, rtol=1e-14)))


def clustered_variance(z: Array, labels: NDArray[np.intp], *, weights: Array, dof: float) -> float | None:
    """Variance of log c from what groups contribute to the score equation; `None` with fewer than two groups.

    With k = (nu + 1) u^2/(nu + u^2), u = z/c: sum over groups of (sum w (k - 1))^2, over (2 sum w k nu/(nu + u^2))^2.
    It is what a bootstrap over whole groups gives to first order.

    References
    ----------
    Liang and Zeger, Biometrika 73, 13 (1986): standard errors of correlated groups.
    """
    groups, member_of = np.unique(labels, return_inverse=True)
    if len(groups) < 2:
        return None
    c = student_t_scale(z**2, dof=dof, weights=weights)
    if c == 0.0:
        return scale_variance(float(weights.sum()), dof=dof)
    u = (z / c) ** 2
    k, slope = (u, u) if np.isinf(dof) else ((dof + 1.0) * u / (dof + u), (dof + 1.0) * u * dof / (dof + u) ** 2)
    scores = np.bincount(member_of, weights=weights * (k - 1.0))
    return float((scores**2).sum() * len(groups) / (len(groups) - 1) / (2.0 * (weights * slope).sum()) ** 2)


def scale_variance(n: float, *, dof: float) -> float:
    """Variance of log c from n independent values: (nu + 3)/(2 nu n), 1/(2 n) for normal ones."""
    return (1.0 if np.isinf(dof) else (dof + 3.0) / dof) / (2.0 * n)


def relative_error(variances: Array, probabilities: Array) -> float:
    """Return k for which c lies within (1 ± 2 k) times its estimate in 95 % of cases.

    c^2 is estimated like a variance from 1/(2 variance) degrees of freedom; for many of them k^2 is the variance.

    Parameters
    ----------
    variances, probabilities
        (n_values,), of log c: what its variance may be, and how probably.
    """
    nu = np.maximum(0.5 / np.maximum(variances, _LEAST_VARIANCE), 1.0)

    def outside(k: float) -> float:
        above = chi2.cdf(nu / (1.0 + 2.0 * k) ** 2, nu)
        below = chi2.sf(nu / (1.0 - 2.0 * k) ** 2, nu) if k < 0.5 else 0.0
        return float(probabilities @ (above + below)) - (1.0 - _TWO_ERRORS)

    typical = np.sqrt(0.5 / nu)
    return float(brentq(outside, 0.1 * typical.min(), 100.0 * typical.max()))


def inefficiency_in_order(z: Array, *, dof: float) -> float:
    """How many values in their order make an independent one: above 1 where the errors of neighbours are correlated.

    The series is that of the terms of the score equation, which no single value dominates. What so few values show by
    chance counts as nothing.
    """
    c = student_t_scale(z**2, dof=dof)
    if c == 0.0 or len(z) < _FEWEST_IN_ORDER:
        return 1.0
    u = (z / c) ** 2
    score = np.minimum(u, 9.0) if np.isinf(dof) else (dof + 1.0) * u / (dof + u)
    g = float(np.asarray(statistical_inefficiency(score).g))
    return g if g > 1.0 + 4.0 / np.sqrt(len(z)) else 1.0
