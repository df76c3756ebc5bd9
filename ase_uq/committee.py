"""`CommitteeUncertainty`: a committee of any ASE calculators."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ase import Atoms
from ase.calculators.calculator import BaseCalculator

from ase_uq.calculator import ON_REQUEST, STANDARD, UNCERTAINTY
from ase_uq.errors import InputError
from ase_uq.plain_values import has_stress, plain_values
from ase_uq.prediction import Prediction, checked_factor


class CommitteeUncertainty:
    """Energy, force and stress variance from the disagreement of M ASE calculators.

    Parameters
    ----------
    calculators
        At least two different calculator objects that give an energy and forces. The energy of a member is the one its
        forces are the gradient of: `free_energy` where it declares one. Stress, (6,) or (3, 3), is provided when every
        one of them gives it for the structure at hand.
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
        self._has_stress = all(has_stress(calculator) for calculator in self.calculators)

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

        Raises
        ------
        InputError
            If a member returns something that is not finite, or of another shape; its number and class are named.
        """
        # A copy without a calculator: a member cannot alter the caller's atoms.
        own = atoms.copy()
        values = [
            plain_values(each, own, with_stress=self._has_stress, label=f"member {i} ({type(each).__name__})")
            for i, each in enumerate(self.calculators)
        ]
        stresses = [value.stress for value in values]
        return Prediction.from_members(
            energies=[value.energy for value in values],
            forces=[value.forces for value in values],
            # A member without a stress for this structure leaves the committee without one.
            stresses=None if any(stress is None for stress in stresses) else stresses,  # type: ignore[arg-type]
            **self._factors,
        )
