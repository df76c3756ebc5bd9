"""Checks of what models return, and of their factors."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ase_uq.errors import InputError

Array = NDArray[np.float64]


def checked_factor(name: str, value: float) -> float:
    """Return a calibration factor; refuse one that is not a positive number."""
    if not (np.isfinite(value) and value > 0):
        raise InputError(f"`{name}` must be a positive number, got {value}; use 1.0 when uncalibrated.")
    return float(value)


def checked_values(name: str, value: ArrayLike, shape: tuple[int, ...]) -> Array:
    """Return finite values of this shape."""
    array = np.array(value, dtype=np.float64)
    if array.shape != shape:
        raise InputError(f"`{name}` must have the shape {shape}, got {array.shape}; correct the model.")
    if not np.isfinite(array).all():
        bad = array[~np.isfinite(array)][0]
        raise InputError(f"`{name}` must be finite, got {bad}; look for overlapping atoms, or a broken model.")
    return array


def checked_variance(name: str, value: ArrayLike | None, shape: tuple[int, ...] | None) -> Array | None:
    """Return a variance of this shape, or `None`; a shape of `None` says that there is nothing it could be of."""
    if value is None:
        return None
    if shape is None:
        raise InputError(f"`{name}` needs a `stress`, got none; leave both out, or give both.")
    array = checked_values(name, value, shape)
    if (array < 0.0).any():
        raise InputError(f"`{name}` must not be negative, got {array.min()}; return variances, squared widths.")
    return array
