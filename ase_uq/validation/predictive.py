"""The distribution of an error that a prediction stands for: what intervals, their likelihood and their CRPS are of.

=========================================  ==========================================================
symbol                                     variable
=========================================  ==========================================================
e                                          `error`, prediction minus reference
alpha^2 s^2, v                             `var_epistemic`, `var_aleatoric`, as in `Prediction`
m                                          `mean_share`: 1/M, or 0 where the mean is pinned
t^2 = (alpha^2 + m) s^2 + v                `scale` squared: the mean of M members carries m of s^2 more
nu                                         `dof`: M - 1, or infinite
p                                          `confidence`: e lies at the edge of the central interval of level p
=========================================  ==========================================================

e / t is taken to be a Student's t variable with nu degrees of freedom, because s is itself estimated from M members; a
normal one where nothing is estimated. With label noise the sum is treated as one t variable of scale t: exact without
noise, too wide in the tails where noise dominates.

References
----------
arXiv:2011.08828: alpha; the 1/M term is the sampling error of the mean in its appendix A.
Gneiting and Raftery, J. Am. Stat. Assoc. 102, 359 (2007): scoring rules, the CRPS of a normal distribution.
Jordan, Krueger and Lerch, J. Stat. Softw. 90, 12 (2019), arXiv:1709.04743: the CRPS of Student's t.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import betaln, ndtr
from scipy.stats import norm, t

from ase_uq.arrays import Array


@dataclass(frozen=True, slots=True)
class Predictive:
    """Location-scale family of errors about zero.

    Attributes
    ----------
    scale
        t, in the unit of the errors and of their shape.
    dof
        nu, infinite for normal errors.
    """

    scale: Array
    dof: float = np.inf

    @classmethod
    def of(
        cls,
        *,
        var_epistemic: ArrayLike,
        var_aleatoric: ArrayLike | None = None,
        alpha: float = 1.0,
        mean_share: float = 0.0,
        dof: float = np.inf,
    ) -> Predictive:
        """From the two variances of a prediction, squared unit, and what the spread of its members means."""
        inflation = 1.0 + mean_share / alpha**2
        noise = 0.0 if var_aleatoric is None else np.asarray(var_aleatoric, dtype=np.float64)
        squared = inflation * np.asarray(var_epistemic, dtype=np.float64) + noise
        return cls(np.asarray(np.sqrt(squared), dtype=np.float64), dof)

    def confidence(self, error: ArrayLike) -> Array:
        """Level p of the smallest central interval that contains each error, in [0, 1], flattened.

        For a calibrated model the values are uniform. A point without scale has level 0 if it is exact and 1 if not.
        """
        e, s = np.abs(np.asarray(error, dtype=np.float64)).ravel(), self.scale.ravel()
        z = np.divide(e, s, out=np.where(e > 0.0, np.inf, 0.0), where=s > 0.0)
        upper = norm.sf(z) if np.isinf(self.dof) else t.sf(z, df=self.dof)
        return np.asarray(1.0 - 2.0 * upper, dtype=np.float64)

    def nll(self, error: ArrayLike) -> float | None:
        """Mean negative log-likelihood; `None` where a point has no scale, or there are none."""
        e, s = np.asarray(error, dtype=np.float64).ravel(), self.scale.ravel()
        if len(e) == 0 or (s == 0.0).any():
            return None  # an error without spread is infinitely surprising, which is no number
        law = norm if np.isinf(self.dof) else t(df=self.dof)
        value = float(np.mean(np.log(s) - law.logpdf(e / s)))
        return value if np.isfinite(value) else None

    def crps(self, error: ArrayLike, *, unit: ArrayLike = 1.0) -> float | None:
        """Mean continuous ranked probability score; `None` with one degree of freedom, where it does not exist.

        Parameters
        ----------
        error
            Of the shape of the scale.
        unit
            What each score is divided by, such as the number of atoms.
        """
        if self.dof <= 1.0 or self.scale.size == 0:
            return None
        e = np.asarray(error, dtype=np.float64)
        return float((crps(e, self.scale, dof=self.dof) / np.asarray(unit, dtype=np.float64)).mean())


def crps(error: Array, scale: Array, *, dof: float = np.inf) -> Array:
    """Continuous ranked probability score of every error, in its unit; |e| where there is no scale.

    Normal: s [z (2 Phi(z) - 1) + 2 phi(z) - 1/sqrt(pi)], z = e/s. Student's t, nu > 1:
    s [z (2 F(z) - 1) + 2 f(z) (nu + z^2)/(nu - 1) - 2 sqrt(nu)/(nu - 1) B(1/2, nu - 1/2)/B(1/2, nu/2)^2].

    References
    ----------
    Gneiting and Raftery (2007); arXiv:1709.04743.
    """
    z = np.divide(error, scale, out=np.zeros_like(error), where=scale > 0.0)
    if np.isinf(dof):
        centre, density, spread = 2.0 * ndtr(z) - 1.0, np.exp(-0.5 * z**2) / np.sqrt(2.0 * np.pi), np.pi**-0.5
    else:
        centre, density = 2.0 * t.cdf(z, df=dof) - 1.0, t.pdf(z, df=dof) * (dof + z**2) / (dof - 1.0)
        ratio = np.exp(betaln(0.5, dof - 0.5) - 2.0 * betaln(0.5, 0.5 * dof))
        spread = 2.0 * np.sqrt(dof) / (dof - 1.0) * ratio
    return np.asarray(np.where(scale > 0.0, scale * (z * centre + 2.0 * density - spread), np.abs(error)))
