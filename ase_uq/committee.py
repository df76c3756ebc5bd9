"""`CommitteeUncertainty`: a committee of any ASE calculators."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import BaseCalculator, all_changes

from ase_uq.calculator import ON_REQUEST, STANDARD, UNCERTAINTY
from ase_uq.errors import InputError
from ase_uq.member_alignment import MemberOffsets, check_zeros
from ase_uq.prediction import Prediction
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
    align
        Structures on which every member gets a constant per element, by least squares, so that their energies agree on
        average. The mean of the members, its zero included, all forces and stresses stay as they are; only the spread
        of the energies changes. A few structures of what will be run are enough; with a single composition the sum of
        the constants over it is what is determined.

    Raises
    ------
    InputError
        For fewer than two calculators, the same object twice, something that is no calculator, or a bad `alpha`; for no
        frames to align on. At the first evaluation, for members whose zeros of energy are electronvolts apart, unless
        they are aligned; at every one, for a composition that those aligned on do not determine.

    Notes
    -----
    Members from one training share a zero of energy. Those of different programs, functionals or sets of atomic
    energies do not: their energies then spread by a constant that says nothing about what they know. Align them.

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
    >>> members = [EMT(), LennardJones(sigma=2.3, epsilon=0.4, rc=6.0)]
    >>> model = CommitteeUncertainty(members, align=[bulk("Cu", cubic=True)])
    >>> prediction = model.predict(bulk("Cu", cubic=True), ["energy"])
    >>> prediction.n_members, prediction.forces_var.shape, prediction.stress_var.shape
    (2, (4, 3), (6,))
    """

    def __init__(
        self,
        calculators: Sequence[BaseCalculator],
        *,
        alpha: float = 1.0,
        align: Sequence[Atoms] | None = None,
    ) -> None:
        self.calculators = tuple(calculators)
        self.alpha = float(alpha)
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
        if not (np.isfinite(self.alpha) and self.alpha > 0):
            raise InputError(f"`alpha` must be a positive number, got {alpha}; use 1.0 when uncalibrated.")
        self._has_stress = all("stress" in calculator.implemented_properties for calculator in self.calculators)
        self._alignment = None if align is None else self._aligned(align)
        self._zeros_checked = self._alignment is not None

    @property
    def n_members(self) -> int:
        """M."""
        return len(self.calculators)

    @property
    def offsets(self) -> tuple[dict[str, float], ...] | None:
        """Energy added to each member per atom of each element, eV; `None` for members as they are."""
        return None if self._alignment is None else self._alignment.offsets

    @property
    def description(self) -> str:
        """What it is made of, for the log."""
        name = type(self).__name__
        return name if self._alignment is None else f"{name}, aligned on {', '.join(self._alignment.formulas)}"

    @property
    def implemented_properties(self) -> tuple[str, ...]:
        """Result keys this committee can fill."""
        keys = (*STANDARD, *UNCERTAINTY, *ON_REQUEST)
        return tuple(key for key in keys if self._has_stress or not key.startswith("stress"))

    @property
    def model_hash(self) -> str:
        """SHA-256 of the names and parameters of the members, of `alpha`, and of their offsets where they have some."""
        content: list[Any] = [self.alpha, [(calculator.name, calculator.todict()) for calculator in self.calculators]]
        if self.offsets is not None:
            # To a micro-electronvolt: the last digits of a fit are those of the processor.
            content.append([{z: round(value, 6) + 0.0 for z, value in member.items()} for member in self.offsets])
        return hashlib.sha256(json.dumps(content, default=str).encode()).hexdigest()

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
        energies, forces = ([value[name] for value in values] for name in ("energy", "forces"))
        if not self._zeros_checked:
            check_zeros(own, energies, forces)
            self._zeros_checked = True
        if self._alignment is not None:
            energies = list(energies + self._alignment.energies(own))
        return Prediction.from_members(
            energies=energies,
            forces=forces,
            stresses=[value["stress"] for value in values] if "stress" in names else None,
            alpha=self.alpha,
        )

    def _aligned(self, frames: Sequence[Atoms]) -> MemberOffsets:
        if isinstance(frames, Atoms) or len(frames) == 0 or not all(isinstance(atoms, Atoms) for atoms in frames):
            got = "none" if len(frames) == 0 else f"a {type(frames).__name__} of {type(frames[0]).__name__}"
            raise InputError(
                f"`align` must be a list of ase.Atoms, at least one, got {got}; pass a few frames of what you will run."
            )
        names, members = ["energy", "forces"], self.calculators
        return MemberOffsets.fit(
            frames, [[_evaluate(member, atoms.copy(), names)["energy"] for member in members] for atoms in frames]
        )


def _evaluate(calculator: BaseCalculator, atoms: Atoms, names: list[str]) -> dict[str, Any]:
    # All names in one call: some calculators compute only what they are asked for.
    if calculator.calculation_required(atoms, names):
        calculator.calculate(atoms, names, all_changes)
    return {name: calculator.get_property(name, atoms) for name in names}
