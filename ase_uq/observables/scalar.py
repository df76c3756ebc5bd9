"""Numbers of a whole frame: density, volume, pressure, potential energy; each is an `Observable`."""

from __future__ import annotations

from collections.abc import Callable
from functools import update_wrapper

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import PropertyNotImplementedError

from ase_uq.errors import InputError
from ase_uq.observables.observable import Observable

_G_PER_CM3 = units.kg / 1e3 / (units.m / 1e2) ** 3


def _in(unit: str) -> Callable[[Callable[[Atoms], float]], Observable]:
    def observable(function: Callable[[Atoms], float]) -> Observable:
        named = Observable(function, unit)
        update_wrapper(named, function)  # its name and its docstring
        return named

    return observable


@_in("Å^3")
def volume(atoms: Atoms) -> float:
    """Return the volume of the cell, Å^3.

    Raises
    ------
    InputError
        If the cell has none.
    """
    if atoms.cell.rank != 3:
        raise InputError(
            "`atoms.cell` must have three vectors that span a volume, got lengths "
            f"{atoms.cell.lengths().tolist()}; set the cell, or leave out what needs its volume."
        )
    return float(atoms.get_volume())


@_in("g/cm^3")
def density(atoms: Atoms) -> float:
    """Return the mass density, g/cm^3.

    Raises
    ------
    InputError
        If the cell has no volume.

    Examples
    --------
    >>> from ase.build import bulk
    >>> round(density(bulk("Cu", a=3.61)), 2)
    8.97
    """
    return float(atoms.get_masses().sum()) / float(volume(atoms)) / _G_PER_CM3


@_in("eV/Å^3")
def pressure(atoms: Atoms) -> float:
    """Return the pressure, eV/Å^3: -trace(stress) / 3 of the calculator + 2 E_kin / (3 V), with the kinetic energy.

    `pressure_gpa` is the same in GPa.

    Raises
    ------
    InputError
        If the cell has no volume, or the atoms no calculator with a stress.
    """
    volume(atoms)
    _check_calculator(atoms)
    try:
        stress = atoms.get_stress(include_ideal_gas=True)
    except PropertyNotImplementedError:
        raise InputError(
            f"`atoms.calc` must give a stress for the pressure, {type(atoms.calc).__name__} does not for these atoms; "
            "use a model with a stress and a periodic cell."
        ) from None
    # A bias is not what the pressure is asked of.
    biased = atoms.calc.results.get("bias_stress", np.zeros(6))
    return -float((stress - biased)[:3].sum()) / 3.0


@_in("GPa")
def pressure_gpa(atoms: Atoms) -> float:
    """Return `pressure` in GPa."""
    return float(pressure(atoms)) / units.GPa


@_in("eV")
def potential_energy(atoms: Atoms) -> float:
    """Return the potential energy of the calculator, without that of a bias, eV.

    Raises
    ------
    InputError
        If the atoms have no calculator.
    """
    _check_calculator(atoms)
    return float(atoms.get_potential_energy()) - float(atoms.calc.results.get("bias", 0.0))


def _check_calculator(atoms: Atoms) -> None:
    if atoms.calc is None:
        raise InputError("`atoms.calc` must be a calculator, got None; attach one, as UQCalculator(model).")
