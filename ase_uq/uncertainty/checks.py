"""Checks of what models return, and of their factors."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ase_uq.arrays import Array
from ase_uq.errors import InputError, NotFiniteError


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
        raise NotFiniteError(f"`{name}` must be finite, got {bad}; look for overlapping atoms, or a broken model.")
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


def checked_members(energies: ArrayLike, forces: ArrayLike, stresses: ArrayLike | None) -> tuple[Array, Array, Any]:
    """Return members (M,), (M, N, 3) and (M, 6) or `None`; refuse fewer than two, and one that is not finite."""
    e, f = checked_energies(energies), np.array(forces, dtype=np.float64)
    if not (np.isfinite(e).all() and np.isfinite(f).all()):
        bad = np.flatnonzero(~(np.isfinite(e) & np.isfinite(f).all(axis=(1, 2))))
        raise NotFiniteError(
            f"member {bad[0]} returned an energy or force that is not finite (energy {e[bad[0]]} eV); "
            "look for overlapping atoms or a broken member."
        )
    s = None if stresses is None else np.array(stresses, dtype=np.float64)
    if s is not None and not np.isfinite(s).all():
        bad = np.flatnonzero(~np.isfinite(s).all(axis=1))
        raise NotFiniteError(f"member {bad[0]} returned a stress that is not finite; look for a broken member.")
    return e, f, s


def checked_combination(energies: ArrayLike, forces: Array, stress: Array | None) -> Array:
    """Return member energies (M,); refuse them, or the forces and stress of a combination, if they are not finite."""
    e = checked_energies(energies)
    if not (np.isfinite(e).all() and np.isfinite(forces).all()):
        raise NotFiniteError(
            f"the model returned an energy or force that is not finite (energies {e}); look for overlapping atoms."
        )
    if stress is not None and not np.isfinite(stress).all():
        raise NotFiniteError(f"the model returned a stress that is not finite ({stress}); look for a broken member.")
    return e


def checked_energies(energies: ArrayLike) -> Array:
    """Return member energies (M,); refuse fewer than two."""
    e = np.array(energies, dtype=np.float64)
    if e.ndim != 1 or len(e) < 2:
        raise InputError(
            f"`energies` must hold at least 2 members to have a variance, got shape {e.shape}; add members."
        )
    return e
