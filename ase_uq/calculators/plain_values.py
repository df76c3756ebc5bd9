"""Energy, forces and stress of any ASE calculator, in one evaluation: of a member, of a baseline, or of a bias.

Foreign calculators say the same thing in several ways. What is clear is brought into one form, what is not is refused
with the name of the calculator. The energy is the one whose gradient the forces are: a calculation with smeared
occupations minimises its free energy, and its `energy`, extrapolated to zero smearing, is not what it follows.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms
from ase.calculators.calculator import BaseCalculator, PropertyNotImplementedError, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from ase_uq.arrays import Array
from ase_uq.calculators.foreign import foreign, further_changes
from ase_uq.errors import InputError, NotFiniteError
from ase_uq.structures.checks import changes_between, is_periodic

# Rounding of a virial in single precision; more is another order of the components, or no stress.
_ASYMMETRY_RELATIVE, _ASYMMETRY = 1e-3, 1e-6  # and eV/Å^3


class PlainValues(NamedTuple):
    """Energy (eV), forces (N, 3) (eV/Å) and stress (6,) (eV/Å^3) of one calculator alone."""

    energy: float
    forces: Array
    stress: Array | None


def check_plain(calculator: BaseCalculator, argument: str) -> None:
    """Refuse what does not say that it has energy and forces."""
    missing = {"energy", "forces"} - set(getattr(calculator, "implemented_properties", ()))
    if missing:
        raise InputError(
            f"`{argument}` must implement energy and forces, {type(calculator).__name__} lacks "
            f"{' and '.join(sorted(missing))}; pass an ASE calculator."
        )


def has_stress(calculator: BaseCalculator) -> bool:
    """Whether a calculator says that it has a stress."""
    return "stress" in calculator.implemented_properties


def plain_values(calculator: BaseCalculator, atoms: Atoms, *, with_stress: bool, label: str) -> PlainValues:
    """Evaluate; the stress where it is asked for, the cell is periodic and the calculator has one for these atoms.

    Parameters
    ----------
    calculator
        Any ASE calculator with energy and forces. `free_energy` is the energy where it declares one, as for
        `atoms.get_potential_energy(force_consistent=True)`.
    atoms
        A copy of the structure that the calculator may keep.
    with_stress
        Whether a stress is wanted.
    label
        What the calculator is called in messages, as "`baseline`" or "member 2 (EMT)".

    Raises
    ------
    InputError
        For values that are missing, not finite, no numbers, or of a shape that has more than one meaning, and for a
        calculator that alters the structure.
    """
    names = ["energy", "forces"]
    if "free_energy" in calculator.implemented_properties:
        names.append("free_energy")
    wanted = [*names, "stress"] if with_stress and has_stress(calculator) and is_periodic(atoms) else names
    values = _evaluated(calculator, atoms, wanted, label)
    energy = values["energy"] if values.get("free_energy") is None else values["free_energy"]
    stress = values.get("stress")
    return PlainValues(
        _energy(energy, label),
        _forces(values["forces"], len(atoms), label),
        None if stress is None else _stress(stress, label),
    )


def _evaluated(calculator: BaseCalculator, atoms: Atoms, names: Sequence[str], label: str) -> dict[str, Any]:
    known = foreign(calculator)
    with known.turn:
        # Not every calculator looks, in its `check_state`, at all that it looks at when it computes.
        other = known.seen is None or bool(further_changes(known.seen, atoms))
        # All names in one call: some calculators compute only what they are asked for.
        if other or calculator.calculation_required(atoms, list(names)):
            known.seen = None
            before = atoms.copy()
            try:
                names = _calculated(calculator, atoms, names)
            except Exception as e:
                e.add_note(f"This came from {label}.")
                raise
            _check_unaltered(before, atoms, label)
            known.evaluated(calculator, atoms)
        return {name: copy.copy(_property(calculator, name, atoms)) for name in names}


def _check_unaltered(before: Atoms, after: Atoms, label: str) -> None:
    """Refuse a calculator that alters what it is given: its results may be of the one or the other structure."""
    altered = changes_between(before, after)
    if altered:
        raise InputError(
            f"{label} altered the {altered[0]} of the structure that it was to evaluate, and its results may be of "
            "either; it must leave `atoms` as they are: let its `calculate` work on atoms.copy()."
        )


def _calculated(calculator: BaseCalculator, atoms: Atoms, names: Sequence[str]) -> Sequence[str]:
    """Compute, and return the names of what there is for these atoms."""
    # As ASE does it: results of other atoms must not outlive a calculation that fails, and not every calculator
    # remembers by itself for which atoms they are.
    calculator.results = {}
    if getattr(calculator, "use_cache", False):
        calculator.atoms = atoms
    try:
        calculator.calculate(atoms, list(names), all_changes)
    except NotImplementedError:
        if "stress" not in names:
            raise
        # It declares a stress and has none for these atoms, a slab for instance; what it got so far is void.
        names = [name for name in names if name != "stress"]
        calculator.calculate(atoms, names, all_changes)
    return names


def _property(calculator: BaseCalculator, name: str, atoms: Atoms) -> Any:
    try:
        return calculator.get_property(name, atoms)
    except PropertyNotImplementedError:
        return None


def _energy(value: Any, label: str) -> float:
    array = _numbers(value, "energy", label)
    if array.size != 1:
        raise InputError(
            f"{label} returned energies of shape {array.shape}, it must be one number; return the energy of the whole "
            "structure."
        )
    return float(_finite(array.reshape(()), "an energy of {} eV", label))


def _forces(value: Any, n_atoms: int, label: str) -> Array:
    array = _numbers(value, "forces", label)
    if array.shape == (1, n_atoms, 3):
        array = array[0]
    if array.shape != (n_atoms, 3):
        raise InputError(
            f"{label} returned forces of shape {array.shape}, it must be ({n_atoms}, 3); return one row for each atom."
        )
    return _finite(array, "forces with a component of {} eV/Å", label)


def _stress(value: Any, label: str) -> Array:
    array = _finite(_numbers(value, "stress", label), "a stress with a component of {} eV/Å^3", label)
    if array.shape[:1] == (1,):
        array = array[0]
    if array.shape == (3, 3):
        asymmetry, largest = float(np.abs(array - array.T).max()), float(np.abs(array).max())
        if asymmetry > _ASYMMETRY_RELATIVE * largest + _ASYMMETRY:
            raise InputError(
                f"{label} returned a stress that differs by {asymmetry:.3g} eV/Å^3 from its transpose, it must be "
                "symmetric; return its symmetric part, or six components xx, yy, zz, yz, xz, xy."
            )
        array = np.asarray(full_3x3_to_voigt_6_stress(array))
    if array.shape != (6,):
        raise InputError(
            f"{label} returned a stress of shape {array.shape}, it must be (6,) or (3, 3); return xx, yy, zz, yz, xz, "
            "xy."
        )
    return array


def _numbers(value: Any, what: str, label: str) -> Array:
    if value is None:
        raise InputError(f"{label} returned no {what}, though it implements it; look at its `results`.")
    try:
        array = None if np.iscomplexobj(value) else np.array(value, dtype=np.float64)
    except (TypeError, ValueError, RuntimeError):
        array = None
    if array is None:
        raise InputError(f"{label} returned {what} that cannot be read as real numbers, {value!r:.60}; return floats.")
    return array


def _finite(array: Array, what: str, label: str) -> Array:
    if not np.isfinite(array).all():
        value = array[~np.isfinite(array)][0]
        raise NotFiniteError(
            f"{label} returned {what.format(value)}, it must be finite; look for overlapping atoms, or a calculation "
            "that failed."
        )
    return array
