"""`RunningStd`: standard deviations from estimates of a variance that are right only on average.

An estimate of a variance along one random direction is unbiased, and its root is not: it lies below the standard
deviation by a factor that depends on how many directions the forces of the members really span, from 0.80 for one to
0.92. Two estimates of neighbouring steps are independent estimates of almost the same variance, so that the factor can
be read off a run while it goes on, whatever the variance does meanwhile.

=======================  ================================================================
symbol                   variable
=======================  ================================================================
v_t, r_t                 estimate of an atom's variance at step t, summed over its components, and its root, `root`
kappa^2                  `_factor_squared` = <r_t r_(t+1)> / <v>, mean root over root of the mean, squared
s_t                      `std` = running mean of r over some steps / kappa
=======================  ================================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ase_uq.arrays import Array

_LENGTH = 5.0  # estimates in the running mean: short against a vibration, so that a maximum over atoms stays one
# kappa^2 of normal forces along one direction and in all three alike; between them a guess for the first estimates.
_LOWEST, _HIGHEST = 2.0 / np.pi, 8.0 / (3.0 * np.pi)
_PRIOR, _PRIOR_WEIGHT = 0.72, 20.0


class RunningStd:
    """Norms of the force standard deviations of atoms, from one-direction estimates along a run."""

    def __init__(self) -> None:
        self._std: Array | None = None
        self._root: Array | None = None
        self._products = self._variances = 0.0
        self._n_pairs = 0

    def observe(self, variance: Array) -> None:
        """Take the estimate of a step, (N, 3), (eV/Å)^2; another number of atoms begins anew."""
        root = np.sqrt(variance.sum(axis=1))
        if self._root is None or self._std is None or self._root.shape != root.shape:
            self._std, self._root = root, root
            self._products = self._variances = 0.0
            self._n_pairs = 0
            return
        self._products += float(self._root @ root)
        self._variances += 0.5 * float(self._root @ self._root + root @ root)
        self._n_pairs += 1
        # Weights of a plain mean at first, exponential ones later.
        share = max(1.0 / (self._n_pairs + 1.0), 1.0 / _LENGTH)
        self._std, self._root = self._std + share * (root - self._std), root

    @property
    def std(self) -> Array | None:
        """Standard deviation of the force on every atom, (N,), eV/Å; `None` before the first estimate."""
        return None if self._std is None else self._std / np.sqrt(self._factor_squared())

    def state(self) -> dict[str, Any]:
        """Return what the next values depend on; arrays are not changed later."""
        return {
            "std": self._std,
            "root": self._root,
            "products": self._products,
            "variances": self._variances,
            "n_pairs": self._n_pairs,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self._std, self._root = (
            None if state[name] is None else np.array(state[name], dtype=np.float64) for name in ("std", "root")
        )
        self._products, self._variances = float(state["products"]), float(state["variances"])
        self._n_pairs = int(state["n_pairs"])

    def _factor_squared(self) -> float:
        found = self._products / self._variances if self._variances > 0 else _PRIOR
        # Steps so far apart that the variance changes between them would take it further.
        found = min(max(found, _LOWEST), _HIGHEST)
        return (self._n_pairs * found + _PRIOR_WEIGHT * _PRIOR) / (self._n_pairs + _PRIOR_WEIGHT)
