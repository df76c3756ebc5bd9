"""`CommitteeUncertainty`: a committee of any ASE calculators."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ase import Atoms
from ase.calculators.calculator import BaseCalculator, all_changes

from ase_uq.calculator import ON_REQUEST, STANDARD, UNCERTAINTY
from ase_uq.errors import InputError
from ase_uq.prediction import Prediction, checked_factor
from ase_uq.structure import is_periodic


class CommitteeUncertainty:
    """Energy, force and stress variance from the disagreement of M ASE calculators.

    Parameters
    ----------
    calculators
        At least two different calculator objects that give an energy and forces. Stress is provided when every one of
        them gives it.
    alpha
        Calibration factor of the deviations from the mean; 1 when uncalibrated.
    alpha_forces, alpha_stress
        Factors of the variances of forces and stress, where they have their own; `alpha`, and that of the forces, else.

    Raises
    ------
    InputError
        For fewer than two calculators, the same object twice, something that is no calculator, or a bad `alpha`.

    Notes
    -----
    A correction that all members share, such as a dispersion term, belongs **inside** the members
    (`SumCalculator([member, dispersion])` for each): a sum around the committee keeps only the properties both parts
    declare, and loses the uncertainties.

    References
    ----------
    arXiv:2011.08828, Eqs. 1, 2 and 7.

    Examples
    --------
    >>> from ase.build import bulk
    >>> from ase.calculators.emt import EMT
    >>> from ase.calculators.lj import LennardJones
    >>> model = CommitteeUncertainty([EMT(), LennardJones(sigma=2.3, epsilon=0.4, rc=6.0)])
    >>> prediction = model.predict(bulk("Cu", cubic=True), ["energy"])
    >>> prediction.n_members, prediction.forces_var.shape, prediction.stress_var.shape
    (2, (4, 3), (6,))
    """

    def __init__(
        self,
        calculators: Sequence[BaseCalculator],
        *,
        alpha: float = 1.0,
        alpha_forces: float | None = None,
        alpha_stress: float | None = None,
    ) -> None:
        self.calculators = tuple(calculators)
        given = {"alpha": alpha, "alpha_forces": alpha_forces, "alpha_stress": alpha_stress}
        self._factors = {name: checked_factor(name, value) for name, value in given.items() if value is not None}
        if len(self.calculators) < 2:
            raise InputError(
                "`calculators` must hold at least 2 members to have a variance, "
                f"got {len(self.calculators)}; add members."
            )
        if len({id(calculator) for calculator in self.calculators}) < len(self.calculators):
            raise InputError("`calculators` must be different objects, got one of them twice; construct each one.")
        for i, calculator in enumerate(self.calculators):
            missing = {"energy", "forces"} - set(getattr(calculator, "implemented_properties", ()))
            if missing:
                raise InputError(
                    f"`calculators[{i}]` must implement energy and forces, {type(calculator).__name__} lacks "
                    f"{' and '.join(sorted(missing))}; pass ASE calculators."
                )
        self._has_stress = all("stress" in calculator.implemented_properties for calculator in self.calculators)

    @property
    def n_members(self) -> int:
        """M."""
        return len(self.calculators)

    @property
    def alpha(self) -> float:
        """Calibration factor of the members."""
        return self._factors["alpha"]

    @property
    def mean_share(self) -> float:
        """Share of the members' variance that their mean carries, 1/M: they are taken to be independent."""
        return 1.0 / self.n_members

    def calibrated(
        self,
        alpha: float,
        calibration: Mapping[str, Any] | None = None,  # noqa: ARG002
        *,
        alpha_forces: float | None = None,
        alpha_stress: float | None = None,
    ) -> CommitteeUncertainty:
        """Return the same members under other calibration factors; there is no file to keep `calibration` in."""
        factors = {"alpha_forces": alpha_forces, "alpha_stress": alpha_stress}
        return CommitteeUncertainty(self.calculators, alpha=alpha, **factors)

    @property
    def implemented_properties(self) -> tuple[str, ...]:
        """Result keys this committee can fill."""
        keys = (*STANDARD, *UNCERTAINTY, *ON_REQUEST)
        return tuple(key for key in keys if self._has_stress or not key.startswith("stress"))

    @property
    def model_hash(self) -> str:
        """SHA-256 of the names and parameters of the members."""
        described = [(calculator.name, calculator.todict()) for calculator in self.calculators]
        return hashlib.sha256(json.dumps([self._factors, described], default=str).encode()).hexdigest()

    def predict(self, atoms: Atoms, properties: Collection[str]) -> Prediction:  # noqa: ARG002
        """Evaluate every member once.

        Returns
        -------
        Prediction
            With members and variances of energy, forces and, for periodic cells, stress.
        """
        names = ["energy", "forces"] + (["stress"] if self._has_stress and is_periodic(atoms) else [])
        # A copy without a calculator: a member cannot alter the caller's atoms.
        own = atoms.copy()
        values = [_evaluate(calculator, own, names) for calculator in self.calculators]
        return Prediction.from_members(
            energies=[value["energy"] for value in values],
            forces=[value["forces"] for value in values],
            stresses=[value["stress"] for value in values] if "stress" in names else None,
            **self._factors,
        )


def _evaluate(calculator: BaseCalculator, atoms: Atoms, names: list[str]) -> dict[str, Any]:
    # All names in one call: some calculators compute only what they are asked for.
    if calculator.calculation_required(atoms, names):
        calculator.calculate(atoms, names, all_changes)
    return {name: calculator.get_property(name, atoms) for name in names}
