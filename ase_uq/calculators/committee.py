"""`CommitteeUncertainty`: a committee of any ASE calculators."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Self

from ase import Atoms
from ase.calculators.calculator import BaseCalculator

from ase_uq.calculators.fingerprint import fingerprint
from ase_uq.calculators.foreign import keeping_info, own_changes
from ase_uq.calculators.member_alignment import MemberOffsets, check_zeros
from ase_uq.calculators.plain_values import PlainValues, check_plain, has_stress, plain_values
from ase_uq.calculators.portable import Portable
from ase_uq.errors import InputError
from ase_uq.uncertainty.checks import checked_factor
from ase_uq.uncertainty.prediction import ON_REQUEST, STANDARD, UNCERTAINTY, Prediction


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
    align
        Structures on which every member gets a constant per element, by least squares, so that their energies agree on
        average. The mean of the members, its zero included, all forces and stresses stay as they are; only the spread
        of the energies changes. A few structures of what will be run are enough; with a single composition the sum of
        the constants over it is what is determined. S of them make standard deviations of energies sqrt(1 + 1/S) times
        as large as they are without constants, since constants carry what members differ by in these structures: with
        one 1.4 times, with five 1.1 times.

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
        alpha_forces: float | None = None,
        alpha_stress: float | None = None,
        align: Sequence[Atoms] | None = None,
    ) -> None:
        self.calculators = tuple(calculators)
        self._factors = _factors(alpha, alpha_forces, alpha_stress)
        if len(self.calculators) < 2:
            raise InputError(
                "`calculators` must hold at least 2 members to have a variance, "
                f"got {len(self.calculators)}; add members."
            )
        if len({id(calculator) for calculator in self.calculators}) < len(self.calculators):
            raise InputError("`calculators` must be different objects, got one of them twice; construct each one.")
        for i, calculator in enumerate(self.calculators):
            check_plain(calculator, f"calculators[{i}]")
        self._fingerprints = [fingerprint(calculator) for calculator in self.calculators]
        self._has_stress = all(has_stress(calculator) for calculator in self.calculators)
        self._alignment = None if align is None else self._aligned(align)
        self._zeros_checked = self._alignment is not None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "calculators": tuple(map(Portable, self.calculators))}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__.update({**state, "calculators": tuple(each.calculator for each in state["calculators"])})

    @property
    def n_members(self) -> int:
        """Number of members, M."""
        return len(self.calculators)

    @property
    def alpha(self) -> float:
        """Calibration factor of the members."""
        return self._factors["alpha"]

    @property
    def mean_share(self) -> float:
        """Share of the variance of the members that their mean carries, 1/M: they are taken to be independent."""
        return 1.0 / self.n_members

    @property
    def offsets(self) -> tuple[dict[str, float], ...] | None:
        """Energy added to each member per atom of each element, eV; `None` for members as they are."""
        return None if self._alignment is None else self._alignment.offsets

    @property
    def description(self) -> str:
        """What it is made of, for the log."""
        name = type(self).__name__
        return name if self._alignment is None else f"{name}, aligned on {', '.join(self._alignment.formulas)}"

    def calibrated(
        self,
        alpha: float,
        calibration: Mapping[str, Any] | None = None,  # noqa: ARG002
        *,
        alpha_forces: float | None = None,
        alpha_stress: float | None = None,
    ) -> Self:
        """Return the same members under other calibration factors; there is no file to keep `calibration` in."""
        twin = copy.copy(self)
        twin._factors = _factors(alpha, alpha_forces, alpha_stress)
        return twin

    @property
    def implemented_properties(self) -> tuple[str, ...]:
        """Result keys this committee can fill."""
        keys = (*STANDARD, *UNCERTAINTY, *ON_REQUEST)
        return tuple(key for key in keys if self._has_stress or not key.startswith("stress"))

    @property
    def model_hash(self) -> str:
        """SHA-256 of what tells the members apart, of the factors, and of their offsets where there are."""
        return self._hash(self._fingerprints)

    def hash_for(self, atoms: Atoms) -> str:
        """Return the same from what members whose weights cannot be found compute for the elements of `atoms`.

        It does not depend on whether the members have been used, and is what logs carry.
        """
        return self._hash([fingerprint(calculator, atoms) for calculator in self.calculators])

    def _hash(self, fingerprints: Sequence[str]) -> str:
        content: list[Any] = [self._factors, list(fingerprints)]
        if self.offsets is not None:
            # To a micro-electronvolt: the last digits of a fit are those of the processor.
            content.append([{z: round(value, 6) + 0.0 for z, value in member.items()} for member in self.offsets])
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def changes(self, atoms: Atoms) -> list[str]:
        """Return what members say has changed, by their own `check_state`, beside what the calculator compares."""
        return [name for each in self.calculators for name in own_changes(each, atoms)]

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
        own = keeping_info(atoms)
        values = self._values(own, with_stress=self._has_stress)
        energies, forces = [each.energy for each in values], [each.forces for each in values]
        stresses = [each.stress for each in values]
        if not self._zeros_checked:
            check_zeros(own, energies, forces)
            self._zeros_checked = True
        if self._alignment is not None:
            energies = list(energies + self._alignment.energies(own))
        return Prediction.from_members(
            energies=energies,
            forces=forces,
            # A member without a stress for this structure leaves the committee without one.
            stresses=None if any(stress is None for stress in stresses) else stresses,  # type: ignore[arg-type]
            **self._factors,
        )

    def _values(self, atoms: Atoms, *, with_stress: bool) -> list[PlainValues]:
        return [
            plain_values(each, atoms, with_stress=with_stress, label=f"member {i} ({type(each).__name__})")
            for i, each in enumerate(self.calculators)
        ]

    def _aligned(self, frames: Sequence[Atoms]) -> MemberOffsets:
        if isinstance(frames, Atoms) or len(frames) == 0 or not all(isinstance(atoms, Atoms) for atoms in frames):
            got = "none" if len(frames) == 0 else f"a {type(frames).__name__} of {type(frames[0]).__name__}"
            raise InputError(
                f"`align` must be a list of ase.Atoms, at least one, got {got}; pass a few frames of what you will run."
            )
        values = [self._values(atoms.copy(), with_stress=False) for atoms in frames]
        return MemberOffsets.fit(frames, [[each.energy for each in row] for row in values])


def _factors(alpha: float, alpha_forces: float | None, alpha_stress: float | None) -> dict[str, float]:
    given = {"alpha": alpha, "alpha_forces": alpha_forces, "alpha_stress": alpha_stress}
    return {name: checked_factor(name, value) for name, value in given.items() if value is not None}
