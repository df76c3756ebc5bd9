"""The time step of a run, from the dynamics or as it was given."""

from __future__ import annotations

from typing import Any

import numpy as np
from ase import units

from ase_uq.errors import InputError


def timestep_of(dyn: Any, given: float | None) -> float:
    """Return the time step in fs.

    Raises
    ------
    InputError
        For dynamics that count no steps, or a time step that is unknown or not positive.
    """
    if dyn is not None and not hasattr(dyn, "nsteps"):
        raise InputError(f"`dyn` must be ASE dynamics that count steps, got {type(dyn).__name__}; leave it out.")
    timestep = given if given is not None else getattr(dyn, "dt", None)
    if timestep is None:
        raise InputError("`timestep_fs` is needed where `dyn` has no time step, got None; pass it in fs.")
    value = float(timestep) if given is not None else float(timestep) / units.fs
    if not (np.isfinite(value) and value > 0):
        raise InputError(f"`timestep_fs` must be a positive number of fs, got {value}; pass the time step.")
    return value
