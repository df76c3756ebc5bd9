"""Where the labels of a structure are, what they are called, and in which convention they come.

Energies and forces are under REF_energy and REF_forces, or ASE's own. A stress is taken from the first of REF_stress,
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

REFERENCE_KEYS = {"energy": "REF_energy", "forces": "REF_forces", "stress": "REF_stress"}
OWN = "ASE's own labels"
_VIRIAL = re.compile("virial", re.IGNORECASE)
_VIRIALS = ("REF_virial", "REF_virials", "virial", "virials")
# eV: energies that differ by less are one, written with other digits.
_SAME_ENERGY = 1e-4


@dataclass(slots=True)
class RawLabels:
    """Labels as they were found, with the name of the energy's source, and notes on what was done with the stress."""

    energy: Any
    forces: Any
    stress: Array | None
    source: str
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
        For a label that is missing or of a wrong shape, and energies and forces of two calculations.
    """
    energy, source = _required(atoms, "energy", keys["energy"], where)
    forces, of_forces = _required(atoms, "forces", keys["forces"], where)
    own = _own(atoms, "energy")
    foreign = own is not None and abs(float(own) - float(np.ravel(energy)[0])) > _SAME_ENERGY
    if keys["energy"] is None and keys["forces"] is None and source != of_forces:
        other_forces = source == OWN or (of_forces == OWN and foreign)
        if other_forces:
            raise InputError(
                f"{where}: the energy is that of {_named(source)}, the forces are those of {_named(of_forces)}; they "
                "must be of one calculation: name both, with `energy_key` and `forces_key`."
            )
    found = RawLabels(energy, forces, None, source)
    found.stress = _stress(atoms, keys["stress"], where, found.notes, skip_own=foreign)
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


def _named(source: str) -> str:
    return source if source == OWN else f"`{source}`"


def _own(atoms: Atoms, name: str) -> Any:
    if atoms.calc is None:
        return None
    try:
        return atoms.calc.get_property(name, atoms, allow_calculation=False)
    except PropertyNotImplementedError:
        return None


def _required(atoms: Atoms, name: str, key: str | None, where: str) -> tuple[Any, str]:
    store = atoms.arrays if name == "forces" else atoms.info
    if key is not None and key in store:
        return store[key], key
    if key is None and REFERENCE_KEYS[name] in store:
        return store[REFERENCE_KEYS[name]], REFERENCE_KEYS[name]
    if key in (None, name):
        value = _own(atoms, name)
        if value is not None:
            return value, OWN
    raise _missing(atoms, name, key, where)


def _missing(atoms: Atoms, name: str, key: str | None, where: str) -> InputError:
    store = atoms.arrays if name == "forces" else atoms.info
    wanted = key or REFERENCE_KEYS[name]
    known = sorted(set(store) - {"numbers", "positions", "config_type"})
    close = difflib.get_close_matches(wanted, known, n=1, cutoff=0.5)
    guess = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(known) or 'none'}."
    return InputError(f"{where} has no {name} under `{wanted}`; {guess} Name it with `{name}_key`.")


def _stress(atoms: Atoms, key: str | None, where: str, notes: list[str], *, skip_own: bool) -> Array | None:
    if key is None:
        name, value = _usual_stress(atoms, notes, skip_own=skip_own)
    else:
        name, value = _named_stress(atoms, key, where)
    if name is None:
        return None
    if not is_periodic(atoms):
        notes.append(f"`{name}` is left out: a stress needs a cell with a volume and a periodic axis")
        return None
    found = voigt(np.asarray(value, dtype=np.float64), where)
    if not _VIRIAL.search(name):
        _compare_with_virial(atoms, found, name, where, notes)
        return found
    notes.append(f"stress = -`{name}` / volume")
    return np.asarray(-found / atoms.get_volume())


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
        value = np.asarray(atoms.info.get(other, ()), dtype=np.float64)
        if value.size not in (6, 9):
            continue
        of_virial = -voigt(value, where) / atoms.get_volume()
        if np.abs(of_virial - stress).max() > 0.05 * np.abs(stress).max() + 1e-5:
            notes.append(f"`{name}` is not -`{other}` / volume, in sign or in size, and it is `{name}` that is read")
