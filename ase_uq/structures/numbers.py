"""Numbers from what a file holds: text that is none is refused, and so is what is not finite."""

from __future__ import annotations

from typing import Any

import numpy as np

from ase_uq.arrays import Array
from ase_uq.errors import InputError


def as_numbers(value: Any, name: str, where: str) -> Array:
    """Return numbers as an array of floats.

    Parameters
    ----------
    value
        A number, a nested list of them, or an array; text that is a number is one.
    name, where
        Of the label and its frame, for messages.

    Raises
    ------
    InputError
        For text that is no number, True and False, complex numbers, and lists of several lengths.
    """
    try:
        array = np.asarray(value)
        if array.dtype.kind in "bc":
            raise ValueError
        return np.asarray(array, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(
            f"{where}: the {name} label must be made of numbers, got {_first_wrong(value)}; correct the file."
        ) from None


def check_finite(value: Array | float | None, name: str, where: str) -> None:
    """Refuse what is not finite.

    Raises
    ------
    InputError
        For nan or inf, with the place where there are several numbers.
    """
    if value is None or np.isfinite(value).all():
        return
    array = np.asarray(value, dtype=np.float64)
    place = f" at atom {int(np.argmin(np.isfinite(array).all(axis=1)))}" if array.ndim == 2 else ""
    bad = float(array[~np.isfinite(array)][0])
    raise InputError(f"{where}: the {name} label must be finite, got {bad}{place}; remove the frame.")


def _first_wrong(value: Any) -> str:
    try:
        flat = np.asarray(value).ravel().tolist()
    except ValueError:
        return "lists of several lengths"
    for each in flat:
        try:
            if isinstance(each, bool | complex):
                return repr(each)
            float(each)
        except (TypeError, ValueError):
            return f"{each!r:.40}"
    return f"{value!r:.40}"
