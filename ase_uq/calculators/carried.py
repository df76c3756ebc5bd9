"""`copy_uncertainty`: uncertainties on the atoms themselves, where ASE's writers find them."""

from __future__ import annotations

from typing import Any

import numpy as np
from ase import Atoms

from ase_uq.calculators.calculator import PredictionCalculator
from ase_uq.errors import InputError


def copy_uncertainty(atoms: Atoms, *, prefix: str = "uq_") -> None:
    """Copy the uncertainties of the attached calculator into `atoms.info` and `atoms.arrays`.

    ASE's writers drop result names they do not know. What this puts on the atoms survives extended XYZ (all of it) and
    `.traj` (the scalars in `info`). Nothing is computed.

    Parameters
    ----------
    atoms
        A structure whose calculator has evaluated it.
    prefix
        Put before every name, so that no name of ASE's is shadowed: `info["uq_energy_var"]` (eV^2),
        `info["uq_energy_members"]` (M,), `arrays["uq_forces_var"]` (N, 3), `arrays["uq_force_std_norm"]` (N,).

    Raises
    ------
    InputError
        If the calculator has no prediction for these atoms.
    """
    calc = atoms.calc
    if not isinstance(calc, PredictionCalculator) or calc.check_state(atoms):
        raise InputError(
            "`atoms` must carry a calculator of ase_uq that has evaluated these positions; "
            "call atoms.get_potential_energy() first."
        )
    prediction = calc.prediction
    names = ("energy_var", "energy_members", "stress_var", "weight", "energy_baseline", "forces_var", "force_std_norm")
    calc.carried |= {prefix + name for name in names}
    for name in ("energy_var", "energy_members", "stress_var"):
        _put(atoms.info, prefix + name, getattr(prediction, name))
    for name in ("weight", "energy_baseline"):
        _put(atoms.info, prefix + name, calc.results.get(name))
    for name in ("forces_var", "force_std_norm"):
        _put(atoms.arrays, prefix + name, getattr(prediction, name))


def _put(target: dict[str, Any], key: str, value: Any) -> None:
    if value is None:
        target.pop(key, None)  # an older frame's number must not survive on this one
    else:
        target[key] = np.array(value) if isinstance(value, np.ndarray) else value
