"""`Blend`: how the energy of a weighted baseline depends on each member.

======================  ==================================================================
symbol                  variable
======================  ==================================================================
V_i, Vbar               calibrated members and their mean
sigma^2                 their variance, divisor M-1
V_b, sigma_b            `energy_baseline`, `sigma_baseline`
w                       `weight` = sigma_b^2 / (sigma_b^2 + sigma^2)
g_i                     `gradient_coefficients[i]` = dw/dV_i
c_i                     `coefficients[i]` = w/M + (Vbar - V_b) g_i
======================  ==================================================================

References
----------
Imbalzano et al., J. Chem. Phys. 154, 074102 (2021), arXiv:2011.08828, Eqs. 8-12.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


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


class Target(Protocol):
    """How the energy follows from the members: their blend, and as a function its coefficients."""

    def __call__(self, energy_members: Array) -> Array:
        """Return the coefficients (M,) of the blend for calibrated members (M,), eV."""
        ...

    def blend(self, energy_members: Array) -> Blend:
        """Return the blend for calibrated members (M,), eV."""
        ...


@dataclass(frozen=True, slots=True)
class ShiftedTarget:
    """A target that sees members without the constants they differ by: `shift`, (M,) with zero sum, eV."""

    target: Target
    shift: Array

    def __call__(self, energy_members: Array) -> Array:
        """Return the coefficients (M,) for calibrated members (M,), eV."""
        return self.target(energy_members - self.shift)

    def blend(self, energy_members: Array) -> Blend:
        """Return the blend for calibrated members (M,), eV."""
        return self.target.blend(energy_members - self.shift)


@dataclass(frozen=True, slots=True)
class SwitchTarget:
    """The model where its standard deviation stays within a threshold, eV, and the baseline elsewhere."""

    threshold: float

    def __call__(self, energy_members: Array) -> Array:
        """Return 1/M for every member, or zeros, (M,)."""
        return self.blend(energy_members).coefficients

    def blend(self, energy_members: Array) -> Blend:
        """Return the weight, 1 or 0, which has no gradient wherever it has a derivative at all."""
        weight = float(energy_members.std(ddof=1) <= self.threshold)
        n_members = len(energy_members)
        return Blend(weight, np.full(n_members, weight / n_members), np.zeros(n_members))


@dataclass(frozen=True, slots=True)
class BlendTarget:
    """The baseline a model is blended with: its energy and standard error, eV.

    As a function of calibrated members (M,) it gives the coefficients of the blend.
    """

    energy_baseline: float
    sigma_baseline: float

    def __call__(self, energy_members: Array) -> Array:
        """Return the coefficients (M,) of the blend for calibrated members (M,), eV."""
        return self.blend(energy_members).coefficients

    def blend(self, energy_members: Array) -> Blend:
        """Return the blend for calibrated members (M,), eV."""
        return Blend.of(energy_members, energy_baseline=self.energy_baseline, sigma_baseline=self.sigma_baseline)
