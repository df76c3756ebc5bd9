"""`BiasedCalculator`: dynamics under the model and a bias, with the bias at hand to take it away again.

Frames of such a run follow exp(-(V + V_bias)/kT). Averages without the bias need the weight exp(+V_bias/kT) of every
frame: `reweight_log(..., bias="bias")`, `ase-uq reweight --bias bias`, or `log_weights` of `reweight`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import BaseCalculator
from numpy.typing import NDArray

from ase_uq.calculator import PredictionCalculator
from ase_uq.errors import InputError
from ase_uq.plain_values import check_plain, plain_values
from ase_uq.prediction import Prediction

Array = NDArray[np.float64]


class BiasedCalculator(PredictionCalculator):
    """A calculator of this package plus a bias, which every member gets alike.

    Parameters
    ----------
    calculator
        `UQCalculator` or `WeightedBaseline`.
    bias
        ASE calculator of the bias alone: `Plumed` around a calculator that gives zeros, a restraint, a wall.

    Raises
    ------
    InputError
        If the first is no calculator of this package, or the bias has no energy and forces.

    Notes
    -----
    The keys are those of `calculator`, and `bias` (eV) and `bias_stress` (6,), what is of the bias alone. `energy`,
    `forces`, `stress` and the members include the bias, variances and `energy_members - energy` are as without it. Log
    it with `observables={"bias": (bias_energy, "eV")}`.

    Examples
    --------
    >>> from ase import Atoms
    >>> from ase.calculators.lj import LennardJones
    >>> from ase_uq.calculator import UQCalculator
    >>> from ase_uq.committee import CommitteeUncertainty
    >>> model = CommitteeUncertainty([LennardJones(sigma=s) for s in (0.98, 1.02)])
    >>> atoms = Atoms("Ar2", positions=[[0, 0, 0], [0, 0, 1.2]])
    >>> atoms.calc = BiasedCalculator(UQCalculator(model), LennardJones(epsilon=0.1))
    >>> round(atoms.get_potential_energy(), 4), round(bias_energy(atoms), 4)
    (-0.9702, -0.0885)
    """

    def __init__(self, calculator: PredictionCalculator, bias: BaseCalculator) -> None:
        if not isinstance(calculator, PredictionCalculator):
            raise InputError(
                f"`calculator` must be one of ase_uq, got {type(calculator).__name__}; write "
                "BiasedCalculator(UQCalculator(model), bias)."
            )
        check_plain(bias, "bias")
        self.calculator, self.bias = calculator, bias
        self.driver = getattr(calculator, "driver", "model")
        self.intermittent = calculator.intermittent
        super().__init__([*calculator.implemented_properties, "bias"], **_kept(calculator))

    def _predict(self, atoms: Atoms, properties: Sequence[str]) -> tuple[Prediction, Mapping[str, Any]]:
        prediction, extra = self.calculator._predict(atoms, properties)
        own = plain_values(self.bias, atoms.copy(), with_stress=prediction.stress is not None, label="`bias`")
        if prediction.stress is not None and own.stress is None:
            raise InputError(
                f"`bias` must give a stress in a periodic cell, {type(self.bias).__name__} has none; use a cell "
                "without periodicity, or a bias with stress."
            )
        p = prediction
        biased = replace(
            p,
            energy=p.energy + own.energy,
            forces=p.forces + own.forces,
            stress=_shifted(p.stress, own.stress),
            energy_members=_shifted(p.energy_members, own.energy),
            forces_members=_shifted(p.forces_members, own.forces),
            stress_members=_shifted(p.stress_members, own.stress),
        )
        return biased, {**extra, "bias": own.energy, "bias_stress": own.stress}


def bias_energy(atoms: Atoms) -> float:
    """Energy of the bias in the last evaluation, eV, for the log.

    Raises
    ------
    InputError
        If `atoms.calc` is no `BiasedCalculator`, or has not evaluated anything.
    """
    calculator: Any = atoms.calc
    if not isinstance(calculator, BiasedCalculator) or "bias" not in calculator.results:
        raise InputError(
            f"`atoms.calc` must be a BiasedCalculator that has evaluated the atoms, got {type(calculator).__name__}; "
            "attach one and call atoms.get_forces() first."
        )
    return float(calculator.results["bias"])


def _shifted(values: Array | None, by: float | Array | None) -> Array | None:
    return None if values is None or by is None else np.asarray(values + by)


def _kept(calculator: PredictionCalculator) -> dict[str, Any]:
    names = ("model", "model_hash", "forces_var", "offsets")
    return {name: calculator.parameters[name] for name in names if name in calculator.parameters}
