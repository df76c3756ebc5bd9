"""`BiasedCalculator`: dynamics under the model and a bias, with the bias at hand to take it away again.

Frames of such a run follow exp(-(V + V_bias)/kT). Averages without the bias need the weight exp(+V_bias/kT) of every
frame. The log records the energy of the bias by itself, and `reweight_log`, `OnlineReweighter`, the command line and
the report use it; for `reweight` it is `log_weights=read_log(path).log_weights`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import BaseCalculator

from ase_uq.arrays import Array
from ase_uq.calculators.calculator import PredictionCalculator
from ase_uq.calculators.foreign import keeping_info, own_changes
from ase_uq.calculators.plain_values import check_plain, plain_values
from ase_uq.errors import InputError
from ase_uq.uncertainty.prediction import Prediction


class BiasedCalculator(PredictionCalculator):
    """A calculator of this package plus a bias, which every member gets alike.

    Parameters
    ----------
    calculator
        `UQCalculator`, `WeightedBaseline`, `ThresholdSwitch` or another `BiasedCalculator`.
    bias
        ASE calculator of the bias alone: `Plumed` around a calculator that gives zeros, a restraint, a wall.

    Raises
    ------
    InputError
        If the first is no calculator of this package, or the bias has no energy and forces.

    Notes
    -----
    The keys are those of `calculator`, and `bias` (eV) and `bias_stress` (6,), what is of all biases alone. `energy`,
    `forces`, `stress` and the members include the bias, variances and `energy_members - energy` are as without it. The
    logger writes the energy of the bias as `bias_energy`, and its kind as the attribute `bias`.

    Examples
    --------
    >>> from ase import Atoms
    >>> from ase.calculators.lj import LennardJones
    >>> from ase_uq.calculators.calculator import UQCalculator
    >>> from ase_uq.calculators.committee import CommitteeUncertainty
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
        declared = [*calculator.implemented_properties, "bias"]
        super().__init__(list(dict.fromkeys(declared)), **_kept(calculator), bias=_described(calculator, bias))

    def _own_changes(self, atoms: Atoms) -> list[str]:
        return [*self.calculator._own_changes(atoms), *own_changes(self.bias, atoms)]

    def _force_std(self, prediction: Prediction) -> Array | None:
        return self.calculator._force_std(prediction)

    def run_state(self) -> dict[str, Any]:
        """Return the state of the calculator under the bias."""
        return self.calculator.run_state()

    def restore_run_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self.calculator.restore_run_state(state)

    def _remember(self) -> None:
        self.calculator._remember()

    def _predict(self, atoms: Atoms, properties: Sequence[str]) -> tuple[Prediction, Mapping[str, Any]]:
        prediction, extra = self.calculator._predict(atoms, properties)
        own = plain_values(self.bias, keeping_info(atoms), with_stress=prediction.stress is not None, label="`bias`")
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
        energy, stress = extra.get("bias", 0.0) + own.energy, own.stress
        if stress is not None and extra.get("bias_stress") is not None:
            stress = stress + extra["bias_stress"]
        return biased, {**extra, "bias": energy, "bias_stress": stress}


def bias_energy(atoms: Atoms) -> float:
    """Energy of the bias in the last evaluation, eV, as an observable.

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


def _described(calculator: PredictionCalculator, bias: BaseCalculator) -> str:
    """Name the biases with what tells two of one kind apart, where they say their parameters."""
    inner, parameters = (
        calculator.parameters.get("bias"),
        repr(_plain(bias.todict() if hasattr(bias, "todict") else {})),
    )
    own = f"{type(bias).__name__} {hashlib.sha256(parameters.encode()).hexdigest()[:8]}"
    return own if inner is None else f"{inner}, {own}"


def _plain(value: Any) -> Any:
    # The same text in every process: an object says where it lies in memory.
    if isinstance(value, Mapping):
        return sorted((str(key), _plain(item)) for key, item in value.items())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return value if isinstance(value, str | int | float | bool | None) else type(value).__name__


def _kept(calculator: PredictionCalculator) -> dict[str, Any]:
    names = ("model", "model_hash", "forces_var", "offsets")
    return {name: calculator.parameters[name] for name in names if name in calculator.parameters}
