"""`Target`, which combination of members drives a run, and `Blend`, what follows from it for the members at hand.

======================  ==================================================================
symbol                  variable
======================  ==================================================================
V_i, Vbar               calibrated members and their mean
sigma^2                 their variance, divisor M-1
V_b, sigma_b            `energy_baseline`, `sigma_baseline`
w                       `weight` = sigma_b^2 / (sigma_b^2 + sigma^2), and 0 where sigma exceeds `threshold`
g_i                     `gradient_coefficients[i]` = dw/dV_i
c_i                     `coefficients[i]` = w/M + (Vbar - V_b) g_i
======================  ==================================================================

References
----------
Imbalzano et al., J. Chem. Phys. 154, 074102 (2021), arXiv:2011.08828, Eqs. 8-12.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ase_uq.arrays import Array


@dataclass(frozen=True, slots=True)
class Blend:
    """The weight of the model, and how the blended energy depends on every member.

    Attributes
    ----------
    weight
        w in [0, 1]; 1 is the model, 0 the baseline.
    coefficients
        (M,): c_i = dU/dV_i for calibrated members; they sum to `weight` and may be negative.
    gradient_coefficients
        (M,): g_i = dw/dV_i in 1/eV; they sum to 0.

    References
    ----------
    arXiv:2011.08828, Eq. 12.
    """

    weight: float
    coefficients: Array
    gradient_coefficients: Array

    @classmethod
    def of(cls, energy_members: Array, *, energy_baseline: float, sigma_baseline: float) -> Blend:
        """Blend calibrated members (M,), eV, with a baseline of standard error `sigma_baseline`, eV."""
        mean = float(energy_members.mean())
        total = sigma_baseline**2 + float(energy_members.var(ddof=1))
        weight = sigma_baseline**2 / total
        gradient = -2.0 * weight / total * (energy_members - mean) / (len(energy_members) - 1)
        return cls(weight, weight / len(energy_members) + (mean - energy_baseline) * gradient, gradient)


@dataclass(frozen=True, slots=True)
class Target:
    """Which combination of the members drives, as plain fields: any way to evaluate a model can follow them.

    Without arguments it is the mean of the members.

    Attributes
    ----------
    energy_baseline, sigma_baseline
        eV: the baseline that the members are blended with, and its standard error; an infinite one leaves the members
        alone.
    threshold
        eV: where the standard deviation of the members exceeds it, the baseline drives alone. The weight jumps there
        and has no gradient.
    shift
        (M,), eV, with zero sum: constants by which the members differ, taken out before the rule is applied.
    """

    energy_baseline: float = 0.0
    sigma_baseline: float = np.inf
    threshold: float = np.inf
    shift: Array | None = None

    def blend(self, energy_members: Array) -> Blend:
        """Return the blend for calibrated members (M,), eV."""
        members = energy_members if self.shift is None else energy_members - self.shift
        n_members = len(members)
        if np.isfinite(self.threshold) and float(members.std(ddof=1)) > self.threshold:
            return Blend(0.0, np.zeros(n_members), np.zeros(n_members))
        if np.isinf(self.sigma_baseline):
            return Blend(1.0, np.full(n_members, 1.0 / n_members), np.zeros(n_members))
        return Blend.of(members, energy_baseline=self.energy_baseline, sigma_baseline=self.sigma_baseline)
