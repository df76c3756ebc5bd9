"""`ThresholdSwitch`: the model where it is sure, and a baseline where it is not, with nothing in between."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ase.calculators.calculator import BaseCalculator

from ase_uq.arrays import Array
from ase_uq.calculators.baseline import WeightedBaseline
from ase_uq.calculators.calculator import Family, UQCalculator
from ase_uq.errors import InputError
from ase_uq.uncertainty.blend import Blend, Target
from ase_uq.uncertainty.prediction import Prediction


class ThresholdSwitch(WeightedBaseline):
    """ASE calculator that follows the model up to a standard deviation of its energy, and a baseline beyond.

    What many active-learning drivers do, for comparison with them. The energy jumps at the threshold: it is conserved
    on either side and not across, and such a run samples no known ensemble. `WeightedBaseline` has neither problem.

    Parameters
    ----------
    uq, baseline, offsets, member_offsets, members, aliases
        As for `WeightedBaseline`; `ThresholdSwitch.aligned(uq, baseline, frames, threshold=...)` fits the offsets.
    threshold
        Standard deviation of the total energy, calibrated and epistemic, up to which the model is followed, eV.
    threshold_per_atom
        The same per atom, eV; the total is this times N. Give one of the two.

    Raises
    ------
    InputError
        For both or no threshold or one that is not positive, and as `WeightedBaseline`.

    Notes
    -----
    The keys are those of `WeightedBaseline`; `weight` is 1 or 0, and `sigma_baseline` the threshold, eV. The weight has
    no gradient, so that a model needs no members here, only a variance of its energy.

    Examples
    --------
    >>> from ase import Atoms
    >>> from ase.calculators.lj import LennardJones
    >>> from ase_uq.calculators.committee import CommitteeUncertainty
    >>> model = CommitteeUncertainty([LennardJones(sigma=s) for s in (0.98, 1.02)])
    >>> atoms = Atoms("Ar2", positions=[[0, 0, 0], [0, 0, 1.2]])
    >>> atoms.calc = ThresholdSwitch(UQCalculator(model), LennardJones(epsilon=0.8), threshold=0.2)
    >>> energies = []
    >>> for r in (1.2, 0.9):  # the members part where atoms come close
    ...     atoms.positions[1, 2] = r
    ...     energies.append((round(atoms.get_potential_energy(), 3), atoms.calc.results["weight"]))
    >>> energies
    [(-0.882, 1.0), (5.313, 0.0)]
    """

    driver = "threshold_switch"
    _needed = ("energy_var",)

    def __init__(
        self,
        uq: UQCalculator,
        baseline: BaseCalculator,
        *,
        threshold: float | None = None,
        threshold_per_atom: float | None = None,
        offsets: Mapping[str, float] | None = None,
        member_offsets: Sequence[Mapping[str, float]] | None = None,
        members: bool = False,
        aliases: Family | None = None,
    ) -> None:
        if (threshold is None) == (threshold_per_atom is None):
            raise InputError(
                "exactly one of `threshold` (eV, total energy) and `threshold_per_atom` (eV) must be given, got "
                f"{threshold} and {threshold_per_atom}; use the one per atom when sizes vary."
            )
        for name, value in (("threshold", threshold), ("threshold_per_atom", threshold_per_atom)):
            if value is not None and not 0 < value < float("inf"):
                raise InputError(
                    f"`{name}` must be a positive number of eV, got {value}; look at `energy_var` of a run."
                )
        zeros: dict[str, Any] = {"offsets": offsets, "member_offsets": member_offsets}
        options: dict[str, Any] = {**zeros, "members": members, "aliases": aliases}
        super().__init__(uq, baseline, sigma_baseline=threshold, sigma_baseline_per_atom=threshold_per_atom, **options)

    def _check_alignment(self, model: Prediction, v_b: float, sigma_b: float) -> None:
        """Judge nothing: the threshold is no error of the baseline, and no force feels the gap."""

    def _target(self, energy_baseline: float, width: float, shift: Array | None) -> Target:
        return Target(energy_baseline=energy_baseline, threshold=width, shift=shift)

    def _blend(self, target: Target, model: Prediction) -> Blend:
        if model.energy_members is not None:
            return target.blend(model.energy_members)
        std = np.sqrt(model.require("energy_var_epistemic", type(self).__name__))
        return Blend(float(std <= target.threshold), np.zeros(0), np.zeros(0))
