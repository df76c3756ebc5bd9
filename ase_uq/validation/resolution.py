"""Zeros that symmetry forces: there a model says nothing of its uncertainty, and no error can test it."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

# Of the root mean square of the labels: what a model in single precision resolves.
RESOLUTION = 1e-4


def zero_by_symmetry(
    *, mean: ArrayLike, std: ArrayLike, resolution: float | None = None, reference: ArrayLike | None = None
) -> NDArray[np.bool_]:
    """Whether each value is a zero that symmetry forces: mean and spread both at most `resolution`, in their unit.

    Without one it is 1e-4 of the root mean square of `reference` over those that are not such zeros.
    """
    size = np.maximum(np.abs(np.asarray(mean, dtype=np.float64)), np.asarray(std, dtype=np.float64))
    if resolution is not None:
        return np.asarray(size <= resolution)
    y = np.asarray(reference, dtype=np.float64)
    zero = np.zeros(y.shape, dtype=bool)
    while not zero.all():
        found = size <= RESOLUTION * float(np.sqrt((y[~zero] ** 2).mean()))
        if (found <= zero).all():
            break
        zero |= found
    return zero
