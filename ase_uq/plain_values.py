"""Energy, forces and stress of any ASE calculator, in one evaluation: of a baseline, or of a bias."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from ase import Atoms
from ase.calculators.calculator import BaseCalculator, all_changes
from numpy.typing import NDArray

from ase_uq.errors import InputError
from ase_uq.structure import is_periodic

Array = NDArray[np.float64]


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


def plain_values(calculator: BaseCalculator, atoms: Atoms, *, with_stress: bool) -> PlainValues:
    """Evaluate; the stress where it is asked for, the cell is periodic and the calculator has one."""
    energy = "free_energy" if "free_energy" in calculator.implemented_properties else "energy"
    names = ["energy", "forces"] + ([energy] if energy != "energy" else [])
    if with_stress and has_stress(calculator) and is_periodic(atoms):
        names.append("stress")
    # All names in one call: some calculators compute only what they are asked for.
    if calculator.calculation_required(atoms, names):
        calculator.calculate(atoms, names, all_changes)
    values = {name: calculator.get_property(name, atoms) for name in names}
    stress = values.get("stress")
    return PlainValues(
        float(values[energy]),
        np.array(values["forces"], dtype=np.float64),
        None if stress is None else np.array(stress, dtype=np.float64),
    )
