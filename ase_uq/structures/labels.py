"""Where the labels of a structure are, what they are called, and in which convention they come.

Energies and forces are under REF_energy and REF_forces, or ASE's own; where there is no energy, a free energy is one. A
frame may be without forces, and then counts by its energy alone. A stress is taken from the first of REF_stress,
REF_virial(s), ASE's own, virial(s) that is there; a virial W (eV) is turned into the stress -W / V, as QUIP, MACE,
DeePMD and GPUMD define it. Labels of one frame belong to one calculation: with energies under REF_energy, ASE's own
stress is another one's if ASE has an energy of its own that differs.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError
from ase.units import GPa

from ase_uq.arrays import Array
from ase_uq.errors import InputError
from ase_uq.structures.checks import is_periodic
from ase_uq.structures.numbers import as_numbers, check_finite

REFERENCE_KEYS = {"energy": "REF_energy", "forces": "REF_forces", "stress": "REF_stress"}
OWN, OWN_FREE = "ASE's own labels", "ASE's own free energy"
_VIRIAL = re.compile("virial", re.IGNORECASE)
_VIRIALS = ("REF_virial", "REF_virials", "virial", "virials")
# Arrays of three numbers an atom that are no forces, whatever their names remind of.
_NO_FORCES = {"positions", "momenta", "velocities", "numbers", "initial_magmoms"}
_FORCE_LIKE = re.compile("forc|frc|grad", re.IGNORECASE)
# eV: energies that differ by less are one, written with other digits.
_SAME_ENERGY = 1e-4


@dataclass(slots=True)
class RawLabels:
    """Labels as they were found, with the names of their sources, and notes on what was done with the stress."""

    energy: float
    forces: Array | None
    stress: Array | None
    source: str
    forces_source: str = ""
    stress_source: str = ""
    notes: list[str] = field(default_factory=list)


def find_labels(atoms: Atoms, keys: dict[str, str | None], where: str) -> RawLabels:
    """Find the labels of a structure.

    Parameters
    ----------
    atoms
        A structure as ASE read it.
    keys
        Names of "energy", "forces" and "stress", or `None` for the usual ones. A name of a stress that contains
        "virial" is one.
    where
        The frame, for messages.

    Raises
    ------
    InputError
        For an energy that is missing, a label that is no number or of a wrong shape, and energies and forces of two
        calculations.
    """
    value, source = _energy(atoms, keys["energy"], where)
    energy = as_numbers(value, "energy", where)
    if energy.size != 1:
        raise InputError(f"{where}: the energy must be one number, got shape {energy.shape}; check the keys.")
    found = RawLabels(float(energy.ravel()[0]), None, None, source)
    forces, found.forces_source = _forces(atoms, keys["forces"], where)
    own = _own_energy(atoms)[0]
    foreign = own is not None and abs(float(as_numbers(own, "energy", where).ravel()[0]) - found.energy) > _SAME_ENERGY
    if forces is not None:
        found.forces = as_numbers(forces, "forces", where)
        if found.forces.shape != (len(atoms), 3):
            raise InputError(
                f"{where}: the forces must be ({len(atoms)}, 3), got shape {found.forces.shape}; check the keys."
            )
        if keys["energy"] is None and keys["forces"] is None:
            _check_one_calculation(found, where, foreign=foreign)
    _add_stress(found, atoms, keys["stress"], where, skip_own=foreign)
    if foreign and source == "REF_energy":
        found.notes.append("ASE's own labels have another energy; `REF_energy` is read")
    return found


def voigt(stress: Array, where: str) -> Array:
    """Return a stress of 6 or 9 numbers in Voigt order, (6,).

    Raises
    ------
    InputError
        For another number of numbers, or one that is not symmetric.
    """
    if stress.shape == (6,):
        return stress
    if stress.size != 9:
        raise InputError(f"{where}: the stress must hold 6 or 9 numbers, got shape {stress.shape}; check the key.")
    full = stress.reshape(3, 3)
    if np.abs(full - full.T).max() > 1e-3 * max(1e-3, np.abs(full).max()):
        raise InputError(f"{where}: the stress must be symmetric, got {full.tolist()}; check how it was written.")
    return np.array([full[0, 0], full[1, 1], full[2, 2], full[1, 2], full[0, 2], full[0, 1]])


def check_stress_size(stress: Array, max_stress: float, where: str) -> None:
    """Refuse a stress that no material bears, which is one of another unit.

    Raises
    ------
    InputError
        Beyond `max_stress`, eV/Å^3.
    """
    largest = float(np.abs(stress).max())
    if largest > max_stress:
        raise InputError(
            f"{where}: a stress of {largest:.4g} eV/Å^3 ({largest / GPa:.3g} GPa) exceeds `max_stress` {max_stress:g}; "
            f"is it in GPa or kbar? Labels are in eV/Å^3 and positive under tension: 1 GPa is {GPa:.6g}, 1 kbar is "
            f"{0.1 * GPa:.6g}, and VASP prints kbar with the other sign (multiply by {-0.1 * GPa:.6g})."
        )


def _check_one_calculation(found: RawLabels, where: str, *, foreign: bool) -> None:
    of_energy, of_forces = found.source, found.forces_source
    if (of_energy in (OWN, OWN_FREE)) is (of_forces == OWN):
        return
    if of_energy in (OWN, OWN_FREE) or foreign:
        raise InputError(
            f"{where}: the energy is that of {_named(of_energy)}, the forces are those of {_named(of_forces)}; they "
            "must be of one calculation: name both, with `energy_key` and `forces_key`."
        )


def _named(source: str) -> str:
    return source if source in (OWN, OWN_FREE) else f"`{source}`"


def _own(atoms: Atoms, name: str) -> Any:
    if atoms.calc is None:
        return None
    try:
        return atoms.calc.get_property(name, atoms, allow_calculation=False)
    except PropertyNotImplementedError:
        return None


def _own_energy(atoms: Atoms) -> tuple[Any, str]:
    for name, source in (("energy", OWN), ("free_energy", OWN_FREE)):
        value = _own(atoms, name)
        if value is not None:
            return value, source
    return None, ""


def _energy(atoms: Atoms, key: str | None, where: str) -> tuple[Any, str]:
    if key is not None:
        if key in atoms.info:
            return atoms.info[key], key
        value = _own(atoms, key) if key in ("energy", "free_energy") else None
        if value is not None:
            return value, OWN if key == "energy" else OWN_FREE
        raise _missing(atoms, "energy", key, where)
    if "REF_energy" in atoms.info:
        return atoms.info["REF_energy"], "REF_energy"
    value = _own(atoms, "energy")
    if value is not None:
        return value, OWN
    for name in ("REF_free_energy", "free_energy"):
        if name in atoms.info:
            return atoms.info[name], name
    value = _own(atoms, "free_energy")
    if value is None:
        raise _missing(atoms, "energy", key, where)
    return value, OWN_FREE


def _forces(atoms: Atoms, key: str | None, where: str) -> tuple[Any, str]:
    """Return forces and their source, or `None` where a frame has nothing that could be forces."""
    name = REFERENCE_KEYS["forces"] if key is None else key
    if name in atoms.arrays:
        return atoms.arrays[name], name
    own = _own(atoms, "forces")
    if key in (None, "forces") and own is not None:
        return own, OWN
    alike = [each for each in atoms.arrays if each not in _NO_FORCES and _FORCE_LIKE.search(each)]
    alike += difflib.get_close_matches(name, set(atoms.arrays) - _NO_FORCES, n=1, cutoff=0.7)
    if own is not None or alike:
        raise _missing(atoms, "forces", key, where)
    return None, ""


def missing_forces(atoms: Atoms, key: str | None, where: str) -> InputError:
    """Return what to say of a frame that should have forces."""
    return _missing(atoms, "forces", key, where)


def _missing(atoms: Atoms, name: str, key: str | None, where: str) -> InputError:
    store = atoms.arrays if name == "forces" else atoms.info
    wanted = key or REFERENCE_KEYS[name]
    known = sorted(set(store) - {"numbers", "positions", "config_type"})
    close = difflib.get_close_matches(wanted, known, n=1, cutoff=0.5)
    guess = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(known) or 'none'}."
    return InputError(f"{where} has no {name} under `{wanted}`; {guess} Name it with `{name}_key`.")


def _add_stress(found: RawLabels, atoms: Atoms, key: str | None, where: str, *, skip_own: bool) -> None:
    if key is None:
        name, value = _usual_stress(atoms, found.notes, skip_own=skip_own)
    else:
        name, value = _named_stress(atoms, key, where)
    if name is None:
        return
    if not is_periodic(atoms):
        found.notes.append(f"`{name}` is left out: a stress needs a cell with a volume and a periodic axis")
        return
    found.stress_source = name
    numbers = as_numbers(value, "stress", where)
    check_finite(numbers.ravel(), "stress", where)
    stress = voigt(numbers, where)
    if _VIRIAL.search(name):
        found.notes.append(f"stress = -`{name}` / volume")
        found.stress = np.asarray(-stress / atoms.get_volume())
        return
    _compare_with_virial(atoms, stress, name, where, found.notes)
    found.stress = stress


def _named_stress(atoms: Atoms, key: str, where: str) -> tuple[str | None, Any]:
    if key in atoms.info:
        return key, atoms.info[key]
    own = _own(atoms, "stress") if key == "stress" else None
    if own is not None:
        return OWN, own
    if is_periodic(atoms):
        raise _missing(atoms, "stress", key, where)
    return None, None


def _usual_stress(atoms: Atoms, notes: list[str], *, skip_own: bool) -> tuple[str | None, Any]:
    own = _own(atoms, "stress")
    if own is not None and skip_own:
        notes.append("ASE's own stress is left out: it comes with another energy than the one that is read")
        own = None
    for name in ("REF_stress", "REF_virial", "REF_virials", OWN, "virial", "virials"):
        value = own if name == OWN else atoms.info.get(name)
        if value is not None:
            return name, value
    notes.extend(
        f"`{name}` is not read; with `stress_key={name!r}` it is, as stress = -virial / volume"
        for name in sorted(atoms.info)
        if _VIRIAL.search(name)
    )
    return None, None


def _compare_with_virial(atoms: Atoms, stress: Array, name: str, where: str, notes: list[str]) -> None:
    for other in _VIRIALS:
        value = as_numbers(atoms.info.get(other, ()), other, where)
        if value.size not in (6, 9):
            continue
        of_virial = -voigt(value, where) / atoms.get_volume()
        if np.abs(of_virial - stress).max() > 0.05 * np.abs(stress).max() + 1e-5:
            notes.append(f"`{name}` is not -`{other}` / volume, in sign or in size, and it is `{name}` that is read")
