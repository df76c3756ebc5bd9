"""Taking out of energies what is constant within a composition: it cancels in every force, average and difference.

=========  ==========================================================================
symbol     variable
=========  ==========================================================================
S          structures
n_sz       `counts[s, z]`, atoms of element z in structure s; N_s = sum_z n_sz
x_s        any value with one entry a structure: an error, a member's energy
P          the projection `Centring.of(x)`: x minus its mean over the composition
1 - P_ss   `leverage[s]`, the share of x_s that went into the constants
=========  ==========================================================================

P is linear, the same for errors and for members, so the ratio of the two keeps its law (Student's t) exactly.
Where hardly any two structures have the same composition, a constant an element is taken out instead, by least squares
per atom.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ase_uq.arrays import Array
from ase_uq.errors import InputError

Kind = Literal["composition", "element", "none"]

# With less than this share of the degrees of freedom that constants of elements leave, compositions are too many.
_ENOUGH = 0.5
_RANK_TOLERANCE = 1e-10


@dataclass(frozen=True, slots=True)
class Centring:
    """What is taken out of values of S structures.

    Attributes
    ----------
    kind
        "composition": the mean over all structures of the same composition; "element": constants of the elements, by
        least squares; "none".
    labels
        (S,), the number of the composition of each structure.
    leverage
        (S,), between 0 and 1; 1 where nothing is left of a value.
    """

    kind: Kind
    labels: NDArray[np.intp]
    leverage: Array
    _counts: Array

    @classmethod
    def none(cls, n_structures: int) -> Centring:
        """Leave values as they are."""
        return cls("none", np.zeros(n_structures, dtype=np.intp), np.zeros(n_structures), np.zeros((n_structures, 0)))

    @classmethod
    def within(cls, compositions: Sequence[Any] | ArrayLike, *, fewest: int = 10) -> Centring:
        """Choose what can be taken out.

        Parameters
        ----------
        compositions
            (S,), labels such as chemical formulas, or (S, Z), atoms of each element.
        fewest
            Degrees of freedom that must be left; with fewer nothing is taken out.

        Raises
        ------
        InputError
            If `compositions` has another shape.

        Examples
        --------
        >>> centring = Centring.within(["H2O"] * 12 + ["H2"] * 12)
        >>> centring.kind, centring.of([1.0] * 12 + [5.0] * 12).tolist() == [0.0] * 24
        ('composition', True)
        """
        given = np.asarray(compositions)
        if given.ndim == 0 or given.ndim > 2 or len(given) == 0:
            raise InputError(
                f"`compositions` must be labels (S,) or counts (S, Z), got shape {given.shape}; give one a structure."
            )
        counts = given.astype(np.float64) if given.ndim == 2 else np.zeros((len(given), 0))
        rows = given if given.ndim == 2 else np.array([str(label) for label in given])
        labels = np.unique(rows, axis=0, return_inverse=True)[1].ravel()
        by_composition = cls("composition", labels, 1.0 / np.bincount(labels)[labels], counts)
        by_element = cls("element", labels, _hat_diagonal(counts), counts)
        left = (by_composition.degrees_of_freedom, by_element.degrees_of_freedom if counts.shape[1] else 0.0)
        if left[0] >= max(fewest, _ENOUGH * left[1]):
            return by_composition
        return by_element if left[1] >= fewest else cls.none(len(given))

    @property
    def degrees_of_freedom(self) -> float:
        """S minus the constants taken out."""
        return float(len(self.labels) - self.leverage.sum())

    @property
    def left(self) -> NDArray[np.bool_]:
        """Where something is left of a value, (S,)."""
        return np.asarray(self.leverage < 1.0 - _RANK_TOLERANCE)

    def of(self, values: ArrayLike) -> Array:
        """Values without their constants; the structures are the last axis, (..., S)."""
        x = np.asarray(values, dtype=np.float64)
        if self.kind == "none":
            return x.copy()
        if self.kind == "element":
            weights = 1.0 / self._counts.sum(axis=1)
            solution = np.linalg.lstsq(
                self._counts * weights[:, None],
                np.moveaxis(x * weights, -1, 0).reshape(len(weights), -1),
                rcond=_RANK_TOLERANCE,
            )[0]
            return np.asarray(x - np.moveaxis((self._counts @ solution).reshape(len(weights), *x.shape[:-1]), 0, -1))
        # About the first value of each composition, so that large energies cost no digits.
        first = np.unique(self.labels, return_index=True)[1][self.labels]
        y = x - x[..., first]
        rows = y.reshape(-1, y.shape[-1])
        sizes = np.bincount(self.labels)
        means = np.stack([np.bincount(self.labels, row) / sizes for row in rows]) if len(rows) else rows[:, :0]
        return np.asarray((rows - means[:, self.labels]).reshape(y.shape))

    def variance_of(self, variances: ArrayLike) -> Array:
        """Variances (S,) that independent values with these variances have without their constants.

        For constants of elements it is exact if they are all alike.
        """
        v = np.asarray(variances, dtype=np.float64)
        if self.kind != "composition":
            return np.asarray(v * (1.0 - self.leverage))
        means = np.bincount(self.labels, v)[self.labels] * self.leverage
        return np.asarray(v * (1.0 - 2.0 * self.leverage) + means * self.leverage)


def _hat_diagonal(counts: Array) -> Array:
    if counts.shape[1] == 0:
        return np.ones(len(counts))
    scaled = counts / counts.sum(axis=1, keepdims=True)
    left, values, _ = np.linalg.svd(scaled, full_matrices=False)
    return np.asarray((left[:, values > _RANK_TOLERANCE * values[0]] ** 2).sum(axis=1))
