"""What drives a run: the calculator of this package behind the atoms, and energy that is not its model's.

The integrator follows the model's energy, the energy of a bias (`BiasedCalculator`, however deep), and that of
constraints which have one (`Hookean`, `ExternalForce`). Whoever records frames or averages them needs the last two.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from ase import Atoms
from ase.units import kB

from ase_uq.calculators.calculator import PredictionCalculator
from ase_uq.errors import InputError


class AddedEnergy(NamedTuple):
    """Energy beside the model's, eV: of all biases, and of those of them that constraints are.

    The energy of the calculator holds the biases of calculators, and not that of constraints.
    """

    total: float
    of_constraints: float


def driving_calculator(atoms: Atoms) -> PredictionCalculator:
    """Return the calculator of the atoms, after refusing one that hides a model of this package or has none.

    Raises
    ------
    InputError
        If `atoms.calc` is no calculator of this package.
    """
    calculator = atoms.calc
    if isinstance(calculator, PredictionCalculator):
        return calculator
    raise InputError(
        f"`atoms.calc` must be a calculator of ase_uq, got {type(calculator).__name__}; attach UQCalculator(model) or "
        "WeightedBaseline(...) itself, not a sum around it, and a bias by BiasedCalculator(UQCalculator(model), bias)."
    )


def added_energy(atoms: Atoms) -> AddedEnergy | None:
    """Return the energy the last evaluation added to the model's, or `None` for a run without a bias."""
    calculator: Any = atoms.calc
    bias = calculator.results.get("bias")
    constraints = [each for each in atoms.constraints if hasattr(each, "adjust_potential_energy")]
    if bias is None and not constraints:
        return None
    own = sum(float(each.adjust_potential_energy(atoms)) for each in constraints)
    return AddedEnergy((0.0 if bias is None else float(bias)) + own, own)


def temperature(atoms: Atoms, kinetic_energy: float) -> float:
    """Return the instantaneous temperature, K; 0 where nothing can move."""
    degrees = degrees_of_freedom(atoms)
    return 2.0 * kinetic_energy / (kB * degrees) if degrees > 0 else 0.0


def degrees_of_freedom(atoms: Atoms) -> int:
    """Return 3N less what constraints remove; those that do not say (`MirrorForce`) remove none."""
    try:
        return int(atoms.get_number_of_degrees_of_freedom())
    except NotImplementedError:
        degrees = 3 * len(atoms)
        for each in atoms.constraints:
            try:
                degrees -= int(each.get_removed_dof(atoms))
            except NotImplementedError:
                continue
        return degrees
