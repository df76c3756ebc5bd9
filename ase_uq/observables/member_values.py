"""What each member of a model says about a frame: observables of which every member has its own value.

They read the last evaluation of the calculator and never compute.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase import Atoms

from ase_uq.arrays import Array
from ase_uq.calculators.calculator import PredictionCalculator
from ase_uq.errors import InputError
from ase_uq.observables.observable import Observable
from ase_uq.observables.scalar import volume
from ase_uq.uncertainty.prediction import Prediction


@dataclass(frozen=True)
class MemberEnergies(Observable):
    """Potential energies of the calibrated members, without that of a bias, (M,), eV.

    Attributes
    ----------
    unit, of_members
        "eV", `True`: the values are one for each member.

    Raises
    ------
    InputError
        When called with atoms that no calculator of this package has evaluated, or by one without members.

    Examples
    --------
    >>> from ase.build import bulk
    >>> from ase.calculators.lj import LennardJones
    >>> from ase_uq.calculators.calculator import UQCalculator
    >>> from ase_uq.calculators.committee import CommitteeUncertainty
    >>> atoms = bulk("Ar", cubic=True)
    >>> atoms.calc = UQCalculator(CommitteeUncertainty([LennardJones(sigma=s, epsilon=0.01) for s in (3.3, 3.4)]))
    >>> energy = atoms.get_potential_energy()
    >>> bool(np.isclose(MemberEnergies()(atoms).mean(), energy))
    True
    """

    unit = "eV"
    of_members = True

    def __call__(self, atoms: Atoms) -> Array:
        """Return the energies, (M,)."""
        energies: Array = _prediction(atoms).require("energy_members", type(self).__name__)
        return np.asarray(energies - atoms.calc.results.get("bias", 0.0))


@dataclass(frozen=True)
class MemberPressures(Observable):
    """Pressures of the calibrated members, (M,), eV/Å^3: -trace(stress_i) / 3 + 2 E_kin / (3 V), the kinetic energy.

    Attributes
    ----------
    unit, of_members
        "eV/Å^3", `True`: the values are one for each member.

    Raises
    ------
    InputError
        When called with atoms without a volume, atoms that no calculator of this package has evaluated, or by one that
        has no stress for each member.
    """

    unit = "eV/Å^3"
    of_members = True

    def __call__(self, atoms: Atoms) -> Array:
        """Return the pressures, (M,)."""
        kinetic = 2.0 * atoms.get_kinetic_energy() / (3.0 * volume(atoms))
        stresses: Array = _prediction(atoms).require("stress_members", type(self).__name__)
        stresses = stresses - atoms.calc.results.get("bias_stress", 0.0)
        return np.asarray(kinetic - stresses[:, :3].sum(axis=1) / 3.0)


def _prediction(atoms: Atoms) -> Prediction:
    calc = atoms.calc
    if not isinstance(calc, PredictionCalculator) or calc.check_state(atoms):
        raise InputError(
            "`atoms` must carry a calculator of ase_uq that has evaluated these positions; "
            "call atoms.get_potential_energy() first."
        )
    return calc.prediction
