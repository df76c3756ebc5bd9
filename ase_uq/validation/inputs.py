"""What a calibration is given, checked, in one form: the mean, the spread and, where there are, the members."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ase_uq.arrays import Array
from ase_uq.errors import InputError


def calibration_inputs(
    reference: ArrayLike,
    mean: ArrayLike | None,
    std: ArrayLike | None,
    members: ArrayLike | None,
    n_members: float | None,
) -> tuple[Array, Array, Array, Array | None, float]:
    """Return reference, mean, spread (S,), deviations of the members (M, S) or `None`, and M as given.

    Raises
    ------
    InputError
        If neither members nor mean, spread and M are given, or one has a wrong shape or value.
    """
    if members is None:
        if mean is None or std is None or n_members is None:
            raise InputError("`mean`, `std` and `n_members` must be given where `members` are not; pass either.")
        y, centre, s = checked_values(reference=reference, mean=mean, std=std)
        return y, centre, s, None, n_members
    e = np.asarray(members, dtype=np.float64)
    if e.ndim != 2 or len(e) < 2:
        raise InputError(f"`members` must have the shape (M, S) with M at least 2, got {e.shape}; members come first.")
    centre = e.sum(axis=0) / len(e) if mean is None else np.asarray(mean, dtype=np.float64)
    deviations = e - e.sum(axis=0) / len(e)
    spread = np.sqrt((deviations**2).sum(axis=0) / (len(e) - 1))
    y, centre, s = checked_values(reference=reference, mean=centre, std=spread)
    return y, centre, s, deviations, len(e)


def checked_values(**given: ArrayLike) -> tuple[Array, ...]:
    """Finite float64 arrays (S,) of equal length; one named `std` must not be negative.

    Raises
    ------
    InputError
        That names the argument.
    """
    arrays = {name: np.asarray(value, dtype=np.float64) for name, value in given.items()}
    for name, values in arrays.items():
        if values.ndim != 1 or values.shape != arrays["std"].shape:
            raise InputError(
                f"`{name}` must have one value per structure, got shape {values.shape} beside {arrays['std'].shape}; "
                "give one-dimensional arrays of equal length."
            )
        if len(bad := np.flatnonzero(~np.isfinite(values))):
            raise InputError(
                f"`{name}` must be finite, got {values[bad[0]]} at index {bad[0]}; remove that structure or its label."
            )
    if len(bad := np.flatnonzero(arrays["std"] < 0.0)):
        raise InputError(
            f"`std` must not be negative, got {arrays['std'][bad[0]]} at index {bad[0]}; give standard deviations."
        )
    return tuple(arrays.values())


def noise_variances(noise: ArrayLike | None, values: Array) -> Array:
    """Return noise variances (S,); zero where there are none.

    Raises
    ------
    InputError
        For another shape, or a value that is not finite or negative.
    """
    if noise is None:
        return np.zeros_like(values)
    v = np.asarray(noise, dtype=np.float64)
    if v.shape != values.shape:
        raise InputError(f"`noise` must have one variance per structure, {values.shape}, got {v.shape}; give each.")
    if not (np.isfinite(v) & (v >= 0.0)).all():
        bad = v[~(np.isfinite(v) & (v >= 0.0))][0]
        raise InputError(f"`noise` must be finite and not negative, got {bad}; give variances.")
    return v


def group_indices(groups: Sequence[Any] | None, n: int) -> NDArray[np.intp]:
    """Return labels as numbers (n,); each its own where there are none."""
    if groups is None:
        return np.arange(n)
    if len(groups) != n:
        raise InputError(
            f"`groups` must have one label per structure, got {len(groups)} for {n}; add the missing ones."
        )
    return np.unique(np.array([str(label) for label in groups]), return_inverse=True)[1]
