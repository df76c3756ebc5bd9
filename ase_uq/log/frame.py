"""What is logged: of a frame, and once of the run it belongs to.

It is read from what the atoms and their calculator have in hand; nothing is computed.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import ase
import numpy as np
from ase import Atoms
from ase.calculators.calculator import all_changes

from ase_uq.calculators.calculator import PredictionCalculator
from ase_uq.calculators.driven import added_energy, driving_calculator, temperature
from ase_uq.errors import InputError, NotFiniteError
from ase_uq.log.columns import KINDS, OBSERVABLES, Column
from ase_uq.log.definition import model_hash_of
from ase_uq.log.estimator import estimator_attributes
from ase_uq.log.observables import attributes_of as attributes_of_observable
from ase_uq.observables.observable import Observable
from ase_uq.observables.observing import Observing
from ase_uq.reweighting.spread import attributes_of
from ase_uq.reweighting.thermostat import thermostat_time_fs
from ase_uq.uncertainty.prediction import Prediction


def frame_of(
    atoms: Atoms, step: int, time_fs: float, *, observing: Observing, store: Collection[str]
) -> dict[str, Any]:
    """Return the values of a frame by the names of their datasets; what this run does not have is absent.

    Raises
    ------
    InputError
        For atoms that moved since they were evaluated, an energy that is not finite, or an observable that is refused,
        see `ase_uq.observables.observing`.
    """
    calc = driving_calculator(atoms)
    # An entry of `info` that an observer has written since is no other structure.
    changed = [name for name in calc.check_state(atoms) if name in all_changes]
    if changed:
        raise InputError(
            f"`atoms` must be as the calculator evaluated them, {', '.join(changed)} changed since; attach the log "
            "before observers that move atoms."
        )
    prediction, added = calc.prediction, added_energy(atoms)
    energy = calc.results["energy"] + (0.0 if added is None else added.of_constraints)
    kinetic = atoms.get_kinetic_energy()
    if not (np.isfinite(energy) and np.isfinite(kinetic)):
        raise NotFiniteError(
            f"`energy` must be finite, step {step} has a potential energy of {energy} eV and a kinetic energy of "
            f"{kinetic} eV; restart from an earlier frame with a shorter time step."
        )
    frame = {
        "step": step,
        "time_fs": time_fs,
        "energy": energy,
        "bias_energy": None if added is None else added.total,
        "kinetic_energy": kinetic,
        "temperature_K": temperature(atoms, kinetic),
        "volume": atoms.get_volume() if atoms.cell.rank == 3 else np.nan,
        **_predicted(prediction, calc),
        **_stored(atoms, prediction, calc, store),
        **{OBSERVABLES + name: value for name, value in observing.values(atoms, f"step {step}").items()},
    }
    return {name: value for name, value in frame.items() if value is not None}


def columns_of(frame: Mapping[str, Any], observables: Mapping[str, Observable]) -> list[Column]:
    """Return the datasets of a log whose frames are like this one."""
    shapes = {name: np.shape(value) for name, value in frame.items()}
    own = [KINDS[name].column(shape) for name, shape in shapes.items() if name in KINDS]
    return own + [
        Column(key, each.unit, shape=shapes[key], attributes=attributes_of_observable(each))
        for key, each in ((OBSERVABLES + name, each) for name, each in observables.items())
    ]


def attributes_of_run(atoms: Atoms, dyn: Any) -> dict[str, Any]:
    """Return what the calculator, the atoms and the dynamics say of the run, for the root of the log."""
    calc = driving_calculator(atoms)
    attributes = {
        "ase_uq_version": _own_version(),
        "ase_version": ase.__version__,
        "driver": getattr(calc, "driver", "model"),
        "n_members": calc.prediction.n_members or 0,
        "ddof": 1,
        **attributes_of(calc.prediction),
        "model": calc.parameters.get("model") or "",
        "model_hash": model_hash_of(atoms),
        **estimator_attributes(calc.parameters.get("forces_var")),
        "numbers": atoms.numbers.astype(np.uint8),
        "cell": atoms.cell.array,
        "pbc": atoms.pbc,
        "dynamics": "" if dyn is None else type(dyn).__name__,
        "thermostat_time_fs": thermostat_time_fs(dyn),
        "constraints": ", ".join(type(constraint).__name__ for constraint in atoms.constraints),
    }
    if calc.parameters.get("bias"):
        attributes["bias"] = calc.parameters["bias"]
    if "sigma_baseline" in calc.results:
        attributes["sigma_baseline"] = calc.results["sigma_baseline"]
        attributes["energy_offsets"] = json.dumps(calc.parameters["offsets"] or {})
    return attributes


def _predicted(prediction: Prediction, calc: PredictionCalculator) -> dict[str, Any]:
    results = calc.results
    norm, members = calc.force_std_norm, prediction.energy_members
    missing = np.nan if calc.intermittent else None
    return {
        "energy_var": prediction.energy_var,
        # What a constraint adds is common to the members and the driving energy.
        "energy_members_minus_energy": None if members is None else members - results["energy"],
        "force_std_max": missing if norm is None else norm.max(),
        "force_std_mean": missing if norm is None else norm.mean(),
        "weight": results.get("weight"),
        "energy_baseline": results.get("energy_baseline"),
    }


def _stored(atoms: Atoms, prediction: Prediction, calc: PredictionCalculator, store: Collection[str]) -> dict[str, Any]:
    missing = np.full((len(atoms), 3), np.nan) if calc.intermittent else None
    values = {
        "positions": atoms.positions,
        "forces": calc.results["forces"],
        "forces_var": missing if prediction.forces_var is None else prediction.forces_var,
        "cell": atoms.cell.array,
    }
    return {name: values[name] for name in store}


def _own_version() -> str:
    try:
        return version("ase-uq")
    except PackageNotFoundError:
        return "unknown"
