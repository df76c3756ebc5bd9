"""What a run is: all that two dynamics can differ in, as one dictionary that goes into the log and the restart state.

What is one number or text for every run (temperature, model, members) has a root attribute of the log by its own name;
see `SETTINGS` in `ase_uq.log.columns`. This is the rest.

================  ============================================================================================
key               holds
================  ============================================================================================
`dynamics`        class, target temperature and what its thermostat and barostat have been given
`interval`        steps between frames, where the dynamics says it
`atoms`           masses, periodic directions, constraints, initial charges and magnetic moments
`forces_var`      estimator of the variances of forces, with its options
`baseline`        class, `fingerprint`, width and zeros of energy
`observables`     name to what the function consists of: its code, and the numbers in it
`schedule`        steps of the equilibration and temperatures that change, where a driver says them
================  ============================================================================================

A seed is not part of it: a run goes on with the generators where they stood.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from ase import Atoms, units

from ase_uq.calculators.calculator import PredictionCalculator
from ase_uq.calculators.contents import contents_of
from ase_uq.calculators.driven import driving_calculator
from ase_uq.calculators.fingerprint import fingerprint
from ase_uq.log.ensembles import ensemble_of
from ase_uq.observables.observable import Observable

# Name here, names of the attribute in the classes of ASE, and what makes it of ASE's units.
_OPTIONS: tuple[tuple[str, tuple[str, ...], float], ...] = (
    ("temperature_K", ("temp",), 1.0 / units.kB),
    ("temperature_K", ("temperature", "temperature_K", "_temperature_K"), 1.0),
    ("friction_per_ps", ("fr",), 1000.0 * units.fs),
    ("thermostat_fs", ("taut", "T_tau", "ttime", "_tdamp"), 1.0 / units.fs),
    ("barostat_fs", ("taup", "P_tau", "_pdamp"), 1.0 / units.fs),
    ("collisions", ("andersen_prob",), 1.0),
    ("compressibility_per_GPa", ("compressibility",), units.GPa),
    ("pressure_GPa", ("pressure", "_pressure_au"), 1.0 / units.GPa),
    ("stress_GPa", ("externalstress",), 1.0 / units.GPa),
    ("pfactor", ("pfactor_given",), 1.0),
    ("chain", ("_tchain",), 1.0),
    ("barostat_chain", ("_pchain",), 1.0),
    ("mask", ("mask", "_mask"), 1.0),
    ("fixcm", ("fix_com",), 1.0),
)
# Relative; what is fitted anew at every start, as zeros of energy, differs in its last digits between processors.
_TOLERANCE = 1e-9
_SHOWN, _LENGTH = 3, 60


def definition_of(
    atoms: Atoms,
    dyn: Any,
    observables: Mapping[str, Observable],
    *,
    interval: int | None = None,
    schedule: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return what a run is, as JSON has it.

    Parameters
    ----------
    atoms
        With their calculator; they need not have been evaluated.
    dyn
        The dynamics of ASE, or `None`.
    observables
        By name.
    interval
        Steps between frames; `None` where it is not known.
    schedule
        Stages of the run; `None` where they are not known.
    """
    calc = driving_calculator(atoms)
    found: dict[str, Any] = {
        "dynamics": _of_dynamics(dyn),
        "interval": interval,
        "atoms": _of_atoms(atoms),
        "forces_var": calc.parameters.get("forces_var"),
        "baseline": next((_of_baseline(each, atoms) for each in _chain(calc) if hasattr(each, "baseline")), None),
        "observables": {name: _of_observable(each) for name, each in observables.items()},
        "schedule": schedule,
    }
    # As it comes back from a file.
    return json.loads(json.dumps(contents_of({key: each for key, each in found.items() if each is not None})))  # type: ignore[no-any-return]


def interval_of(dyn: Any, observer: Any) -> int | None:
    """Return the steps between two calls of an observer of dynamics; `None` where it is not attached itself."""
    observers = getattr(dyn, "observers", ())
    return next((int(each[1]) for each in observers if each[0] is observer and each[1] > 0), None)


def temperature_of(dyn: Any) -> float:
    """Return the target temperature that dynamics have at present, K, the highest where there are several; else NaN."""
    return float(np.max((_of_dynamics(dyn) or {}).get("temperature_K", np.nan)))


def model_hash_of(atoms: Atoms) -> str:
    """Return the hash of the model behind the calculator of the atoms; never the same for two that are not known."""
    calc = driving_calculator(atoms)
    *_, last = _chain(calc)
    if hasattr(last, "model"):
        return hash_of_model(last.model, atoms)
    return str(calc.parameters.get("model_hash") or "")


def hash_of_model(model: Any, atoms: Atoms) -> str:
    """Return the hash of a model, by what it computes for the elements of `atoms` where it does not say its own."""
    if hasattr(model, "hash_for"):
        return str(model.hash_for(atoms))
    return str(getattr(model, "model_hash", None) or fingerprint(model, atoms))


def differences(before: Any, now: Any, place: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield where two definitions differ: the place, and both values; what only one of them knows is passed over."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        if not _same_code(before, now):
            yield place, _function(before), _function(now)
            return
        for key in before:
            # What a function is called says nothing of what it gives.
            if key in now and key not in ("code", "function" if isinstance(before[key], str) else ""):
                yield from differences(before[key], now[key], f"{place}.{key}".lstrip("."))
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now) and not _numbers(before, now):
        for index, pair in enumerate(zip(before, now, strict=True)):
            yield from differences(*pair, f"{place}.{index}")
    elif not _same(before, now):
        yield place, before, now


def told(found: Iterable[tuple[str, Any, Any]]) -> str:
    """Return the first differences in words; "" without any."""
    shown = [f"{place} ({_short(before)} there, {_short(now)} here)" for place, before, now in found]
    more = f" and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else ""
    return ", ".join(shown[:_SHOWN]) + more


def _of_dynamics(dyn: Any) -> dict[str, Any] | None:
    if dyn is None:
        return None
    parts = [dyn, *(part for name in ("_thermostat", "_barostat") if (part := getattr(dyn, name, None)) is not None)]
    found: dict[str, Any] = {"class": type(dyn).__name__}
    for part in parts:
        for name, attributes, unit in _OPTIONS:
            for attribute in attributes:
                value = getattr(part, attribute, None)
                if isinstance(value, int | float | np.ndarray | np.number | list | tuple):
                    found[name] = np.asarray(value, dtype=np.float64) * unit
    if (pressure := ensemble_of(dyn).pressure_GPa) is not None:
        # Of a single stress that is held it says the same, in the words of who asked for it.
        found["pressure_GPa"] = pressure
        if np.ndim(found.get("stress_GPa", [])) == 0:
            del found["stress_GPa"]
    return found


def _of_atoms(atoms: Atoms) -> dict[str, Any]:
    return {
        "masses": atoms.get_masses(),
        "pbc": atoms.pbc,
        "constraints": [_of_constraint(each) for each in atoms.constraints],
        "initial_charges": atoms.get_initial_charges(),
        "initial_magmoms": atoms.get_initial_magnetic_moments(),
    }


def _of_constraint(constraint: Any) -> Any:
    try:
        return constraint.todict()
    except (AttributeError, NotImplementedError):
        return constraint


def _of_baseline(calc: Any, atoms: Atoms) -> dict[str, Any]:
    names = ("sigma_baseline", "sigma_baseline_per_atom", "offsets", "member_offsets")
    return {
        "class": type(calc.baseline).__name__,
        "fingerprint": fingerprint(calc.baseline, atoms),
        **{name: calc.parameters[name] for name in names if calc.parameters.get(name) is not None},
    }


def _of_observable(observable: Observable) -> Any:
    # A pair with a unit is an observable around another.
    while type(observable) is Observable and isinstance(observable.function, Observable):
        observable = observable.function
    # Unit and axis stand with the values, and a unit may be told later.
    contents = contents_of(observable)
    return {key: each for key, each in contents.items() if key not in ("unit", "axis")}


def _chain(calc: PredictionCalculator) -> Iterator[Any]:
    """Yield a calculator and those that it is built around, down to that of the model."""
    inner: Any = calc
    while inner is not None:
        yield inner
        inner = getattr(inner, "calculator", None) or getattr(inner, "uq", None)


def _numbers(*values: Any) -> bool:
    return all(np.asarray(each, dtype=object).size and _all_numbers(each) for each in values)


def _all_numbers(value: Any) -> bool:
    return all(map(_all_numbers, value)) if isinstance(value, list) else isinstance(value, int | float)


def _same(before: Any, now: Any) -> bool:
    if _all_numbers(before) and _all_numbers(now) and np.shape(before) == np.shape(now):
        return bool(np.allclose(before, now, rtol=_TOLERANCE, atol=0.0, equal_nan=True))
    return bool(before == now)


def _same_code(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    one, other = str(before.get("code", "")).partition(":"), str(now.get("code", "")).partition(":")
    # That of another interpreter cannot be compared.
    return one[0] != other[0] or one == other


def _function(contents: Mapping[str, Any]) -> str:
    return f"{contents.get('function')} {str(contents.get('code')).partition(':')[2]}"


def _short(value: Any) -> str:
    text = repr(value.tolist() if isinstance(value, np.ndarray) else value)
    return text if len(text) <= _LENGTH else f"{text[:_LENGTH]}..."
