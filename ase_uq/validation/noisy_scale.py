"""The scale of errors that have two parts: a spread of members, stretched by c, and a known noise of the labels.

=====================  ==============================================================
symbol                 variable
=====================  ==============================================================
e, s, v                `error`, `spread` (raw), `noise` (variance)
c^2                    `c_squared`: alpha^2 and the share of the mean
w                      how often each error counts, over c^2 <s^2> + v
q                      `share`, sum w c^2 s^2 / sum w (c^2 s^2 + v)
=====================  ==============================================================

E e^2 = c^2 E s^2 + v whatever the number of members, so c^2 = sum w (e^2 - v) / sum w s^2 has no bias, as long as the
weights know nothing of s. The likelihood of the single errors would count those more whose members happen to scatter
much: with four members and as much noise as spread that makes alpha a tenth too small.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ase_uq.arrays import Array

# Of c without the noise: where noise explains all errors c is not known from zero, and a spread of nothing is no use.
FLOOR = 0.3
_ROUNDS = 20


@dataclass(frozen=True, slots=True)
class NoisyScale:
    """c^2 of errors with noise.

    Attributes
    ----------
    c_squared
        Never below `FLOOR` squared times what it would be without noise.
    share
        q, what the spread has of the squared errors: with little of it c is known badly.
    at_floor
        Whether noise explains the errors.
    scaled
        (n,), e c / sqrt(c^2 s^2 + v): as errors over spreads are without noise.
    """

    c_squared: float
    share: float
    at_floor: bool
    scaled: Array
    _scores: Array

    @classmethod
    def fit(cls, error: Array, spread: Array, noise: Array, *, weights: Array) -> NoisyScale:
        """Fit to errors (n,) with spreads above zero, noise variances, and how often each error counts."""
        without = float(weights @ error**2 / (weights @ spread**2))
        least, found = FLOOR**2 * without, without
        typical = float(np.average(spread**2, weights=weights))
        if without == 0.0:
            return cls(0.0, 1.0, False, np.zeros_like(error), np.zeros_like(error))
        for _ in range(_ROUNDS):
            w = weights / (max(found, least) * typical + noise)
            found = float(w @ (error**2 - noise) / (w @ spread**2))
        c_squared = max(found, least)
        squared = c_squared * spread**2 + noise
        return cls(
            c_squared=c_squared,
            share=float(c_squared * (w @ spread**2) / (w @ squared)),
            at_floor=found < least,
            scaled=error * np.sqrt(c_squared / squared),
            _scores=w * (error**2 - squared) / (c_squared * float(w @ spread**2)),
        )

    def variance(self, labels: NDArray[np.intp]) -> float | None:
        """Variance of log c from what groups contribute; `None` with fewer than two groups."""
        groups, member_of = np.unique(labels, return_inverse=True)
        if len(groups) < 2:
            return None
        scores = np.bincount(member_of, weights=self._scores)
        return float(0.25 * (scores**2).sum() * len(groups) / (len(groups) - 1))
