"""Weights of single frames, as MACE writes them: `config_weight`, and one each for energy, forces and stress."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ase_uq.errors import InputError
from ase_uq.structures.numbers import as_numbers

# Of all labels of a frame, and by label; stresses and virials are one.
ALL = "config_weight"
BY_LABEL = (("config_energy_weight",), ("config_forces_weight",), ("config_stress_weight", "config_virials_weight"))


def frame_weights(info: Mapping[str, Any], where: str) -> tuple[float, float, float]:
    """Return the weights of energy, forces and stress in the loss; 1 where a frame says nothing.

    Parameters
    ----------
    info
        That of the structure.
    where
        The frame, for messages.

    Raises
    ------
    InputError
        For a weight that is negative, not finite or no number.
    """
    of_all = _weight(info, ALL, where)
    energy, forces, stress = (
        of_all * next((_weight(info, name, where) for name in names if name in info), 1.0) for names in BY_LABEL
    )
    return energy, forces, stress


def _weight(info: Mapping[str, Any], name: str, where: str) -> float:
    if name not in info:
        return 1.0
    value = as_numbers(info[name], name, where)
    if value.size != 1 or not np.isfinite(value).all() or value.min() < 0.0:
        raise InputError(f"{where}: `{name}` must be one number of at least 0, got {value.tolist()!s:.40}; correct it.")
    return float(value.ravel()[0])
