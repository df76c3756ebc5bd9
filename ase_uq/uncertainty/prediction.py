"""`Prediction`, what every model returns, and `UncertaintyModel`, the protocol that returns it.

This is the only place where moments over members are taken, with divisor M-1. Each constructor takes the epistemic part
in another form (members, energies of members, variances) and the aleatoric part as variances.

=================  ==========================================================
symbol             variable
=================  ==========================================================
E_i, f_i           raw member energies and forces, `energies[i]`, `forces[i]`
Ebar               `energy`, the member mean
alpha              `alpha`, the calibration factor of the energies, and so of the members
alpha_F, alpha_S   `alpha_forces`, `alpha_stress`: factors of the variances of forces and stress
V_i, F_i           `energy_members[i]` = Ebar + alpha (E_i - Ebar), and its gradient, alpha as well
alpha^2 s^2        `energy_var_epistemic`; alpha_F^2 s_F^2: `forces_var_epistemic`
v                  `energy_var_aleatoric`, noise of the labels, which no factor touches; v_F: `forces_var_aleatoric`
=================  ==========================================================

References
----------
Imbalzano et al., J. Chem. Phys. 154, 074102 (2021), arXiv:2011.08828, Eqs. 1, 2 and 7.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
from ase import Atoms
from numpy.typing import ArrayLike

from ase_uq.arrays import Array
from ase_uq.errors import InputError
from ase_uq.uncertainty.checks import (
    checked_combination,
    checked_factor,
    checked_members,
    checked_values,
    checked_variance,
)

# Keys of the results of a calculator; all but `free_energy` are fields of `Prediction`.
STANDARD = ("energy", "free_energy", "forces", "stress")
UNCERTAINTY = ("energy_var", "forces_var", "stress_var", "energy_members")
DERIVATIVE_UNCERTAINTY = ("forces_var", "stress_var")
ON_REQUEST = ("forces_members",)


@dataclass(frozen=True, slots=True)
class Prediction:
    """Energy, forces and stress of one structure, with what is known of their uncertainty.

    A field that a method cannot provide is `None`. Arrays are float64; the member axis is first.

    Attributes
    ----------
    energy
        Mean energy, eV.
    forces
        (N, 3), eV/Å, minus the gradient of `energy`.
    stress
        (6,), eV/Å^3, Voigt order xx, yy, zz, yz, xz, xy in ASE's sign; `None` without a periodic cell.
    energy_members, forces_members, stress_members
        (M,), (M, N, 3), (M, 6): calibrated members, mean + alpha (member - mean).
    energy_var_epistemic, forces_var_epistemic, stress_var_epistemic
        Scalar, (N, 3), (6,): variance of the raw members with divisor M-1, times the square of the factor of each of
        the three, squared units.
    energy_var_aleatoric, forces_var_aleatoric, stress_var_aleatoric
        Noise variance of the labels, for methods that model it; squared units.
    alpha, alpha_forces, alpha_stress
        Calibration factors: `alpha` is inside all members and the variance of the energy, the others inside the
        variances of forces and stress. One factor is not right for all three, and a member has one: its forces are the
        gradient of its energy.
    mean_share
        Share of the members' variance that their mean carries as its own error: 1/M for M independent members, 0 where
        the mean is pinned by construction; `None` without members.
    dof
        Degrees of freedom of the spread: M - 1, or infinite where the covariance of the members is exact.

    References
    ----------
    arXiv:2011.08828, Eqs. 1, 2 and 7.
    """

    energy: float
    forces: Array
    stress: Array | None = None
    energy_members: Array | None = None
    forces_members: Array | None = None
    stress_members: Array | None = None
    energy_var_epistemic: float | None = None
    forces_var_epistemic: Array | None = None
    stress_var_epistemic: Array | None = None
    energy_var_aleatoric: float | None = None
    forces_var_aleatoric: Array | None = None
    stress_var_aleatoric: Array | None = None
    alpha: float = 1.0
    alpha_forces: float = 1.0
    alpha_stress: float = 1.0
    mean_share: float | None = None
    dof: float | None = None

    @classmethod
    def from_members(
        cls,
        *,
        energies: ArrayLike,
        forces: ArrayLike,
        stresses: ArrayLike | None = None,
        alpha: float = 1.0,
        alpha_forces: float | None = None,
        alpha_stress: float | None = None,
        mean_share: float | None = None,
        dof: float | None = None,
        energy_var_aleatoric: float | None = None,
        forces_var_aleatoric: ArrayLike | None = None,
        stress_var_aleatoric: ArrayLike | None = None,
    ) -> Prediction:
        """Take the moments of raw members.

        Parameters
        ----------
        energies, forces, stresses
            Raw members, shapes (M,), (M, N, 3) and (M, 6).
        alpha
            Calibration factor, applied once, around the mean, to all three.
        alpha_forces, alpha_stress
            Factors of the variances of forces and of stress; `alpha`, and that of the forces, if not given.
        mean_share, dof
            As the attributes: 1/M and M - 1 if not given.
        energy_var_aleatoric, forces_var_aleatoric, stress_var_aleatoric
            Noise variance of the labels, scalar, (N, 3) and (6,), where the model has it; no factor is applied.

        Raises
        ------
        InputError
            If there are fewer than two members, an energy, force or stress of a member is not finite, or a variance has
            another shape, is not finite or negative.

        Examples
        --------
        >>> import numpy as np
        >>> p = Prediction.from_members(energies=[1.0, 3.0], forces=np.zeros((2, 1, 3)), alpha=2.0)
        >>> p.energy, p.energy_var, p.energy_members.tolist()
        (2.0, 8.0, [0.0, 4.0])
        """
        e, f, s = checked_members(energies, forces, stresses)
        of_forces = alpha if alpha_forces is None else alpha_forces
        of_stress = of_forces if alpha_stress is None else alpha_stress
        e_mean, e_members, e_var = _moments(e, alpha, alpha)
        f_mean, f_members, f_var = _moments(f, alpha, of_forces)
        s_mean, s_members, s_var = (None, None, None) if s is None else _moments(s, alpha, of_stress)
        noise = _aleatoric(f_mean, s_mean, energy_var_aleatoric, forces_var_aleatoric, stress_var_aleatoric)
        return cls(
            energy=float(e_mean),
            forces=f_mean,
            stress=s_mean,
            energy_members=e_members,
            forces_members=f_members,
            stress_members=s_members,
            energy_var_epistemic=float(e_var),
            forces_var_epistemic=f_var,
            stress_var_epistemic=s_var,
            **_law(len(e), (alpha, of_forces, of_stress), mean_share, dof),
            **noise,
        )

    @classmethod
    def from_energies(
        cls,
        *,
        energies: ArrayLike,
        forces: Array,
        stress: Array | None = None,
        forces_var: Array | None = None,
        stress_var: Array | None = None,
        alpha: float = 1.0,
        alpha_forces: float | None = None,
        alpha_stress: float | None = None,
        mean_share: float | None = None,
        dof: float | None = None,
        energy_var_aleatoric: float | None = None,
        forces_var_aleatoric: ArrayLike | None = None,
        stress_var_aleatoric: ArrayLike | None = None,
    ) -> Prediction:
        """Take the moments of raw member energies; forces and stress come ready, with their variances or without.

        Parameters
        ----------
        energies
            Raw members, (M,).
        forces, stress
            (N, 3) and (6,): of the mean, or of whichever combination of members was asked for.
        forces_var, stress_var
            Epistemic variances of the **raw** members; their factors are applied here.
        alpha, alpha_forces, alpha_stress, mean_share, dof
            As for `from_members`.
        energy_var_aleatoric, forces_var_aleatoric, stress_var_aleatoric
            As for `from_members`.

        Raises
        ------
        InputError
            If there are fewer than two members, an energy, force or stress is not finite, or a noise variance has
            another shape, is not finite or negative.
        """
        e = checked_combination(energies, forces, stress)
        of_forces = alpha if alpha_forces is None else alpha_forces
        of_stress = of_forces if alpha_stress is None else alpha_stress
        mean, members, variance = _moments(e, alpha, alpha)
        noise = _aleatoric(forces, stress, energy_var_aleatoric, forces_var_aleatoric, stress_var_aleatoric)
        return cls(
            energy=float(mean),
            forces=forces,
            stress=stress,
            energy_members=members,
            energy_var_epistemic=float(variance),
            forces_var_epistemic=None if forces_var is None else of_forces**2 * forces_var,
            stress_var_epistemic=None if stress_var is None else of_stress**2 * stress_var,
            **_law(len(e), (alpha, of_forces, of_stress), mean_share, dof),
            **noise,
        )

    @classmethod
    def from_variances(
        cls,
        *,
        energy: float,
        forces: ArrayLike,
        stress: ArrayLike | None = None,
        energy_var: float | None = None,
        forces_var: ArrayLike | None = None,
        stress_var: ArrayLike | None = None,
        alpha: float = 1.0,
        alpha_forces: float | None = None,
        alpha_stress: float | None = None,
        energy_var_aleatoric: float | None = None,
        forces_var_aleatoric: ArrayLike | None = None,
        stress_var_aleatoric: ArrayLike | None = None,
    ) -> Prediction:
        """Take what a model without members says: its values, and the widths it has, any of them or all.

        Parameters
        ----------
        energy, forces, stress
            eV, (N, 3) eV/Å, (6,) eV/Å^3.
        energy_var, forces_var, stress_var
            Epistemic variances, **uncalibrated**, scalar, (N, 3) and (6,); their factors are applied here. A width per
            atom is the same variance in all three components. Errors are taken to be normal about these widths.
        alpha, alpha_forces, alpha_stress
            Calibration factors of the three; those of forces and stress are `alpha`, and that of the forces, if not
            given.
        energy_var_aleatoric, forces_var_aleatoric, stress_var_aleatoric
            As for `from_members`.

        Raises
        ------
        InputError
            For a value that is not finite or of another shape, a negative variance, a bad factor, or a variance of a
            stress that is not there.

        Examples
        --------
        >>> import numpy as np
        >>> p = Prediction.from_variances(energy=-1.0, forces=np.zeros((1, 3)), forces_var=[[0.01] * 3], alpha=2.0)
        >>> p.n_members, p.energy_var, p.forces_std.round(12).tolist()
        (None, None, [[0.2, 0.2, 0.2]])
        """
        of_energy = checked_factor("alpha", alpha)
        of_forces = of_energy if alpha_forces is None else checked_factor("alpha_forces", alpha_forces)
        of_stress = of_forces if alpha_stress is None else checked_factor("alpha_stress", alpha_stress)
        f = checked_values("forces", forces, (np.shape(forces)[0] if np.ndim(forces) == 2 else 0, 3))
        s = None if stress is None else checked_values("stress", stress, (6,))
        e_var = checked_variance("energy_var", energy_var, ())
        f_var = checked_variance("forces_var", forces_var, f.shape)
        s_var = checked_variance("stress_var", stress_var, None if s is None else (6,))
        return cls(
            energy=float(checked_values("energy", energy, ())),
            forces=f,
            stress=s,
            energy_var_epistemic=None if e_var is None else float(of_energy**2 * e_var),
            forces_var_epistemic=None if f_var is None else of_forces**2 * f_var,
            stress_var_epistemic=None if s_var is None else of_stress**2 * s_var,
            alpha=of_energy,
            alpha_forces=of_forces,
            alpha_stress=of_stress,
            **_aleatoric(f, s, energy_var_aleatoric, forces_var_aleatoric, stress_var_aleatoric),
        )

    @property
    def n_members(self) -> int | None:
        """M, or `None` for a method without members."""
        return None if self.energy_members is None else len(self.energy_members)

    @property
    def energy_var(self) -> float | None:
        """Total variance of the energy, eV^2: epistemic + aleatoric where the method has it."""
        return _total(self.energy_var_epistemic, self.energy_var_aleatoric)

    @property
    def forces_var(self) -> Array | None:
        """Total variance of each force component, (N, 3), (eV/Å)^2."""
        return _total(self.forces_var_epistemic, self.forces_var_aleatoric)

    @property
    def stress_var(self) -> Array | None:
        """Total variance of each stress component, (6,), (eV/Å^3)^2."""
        return _total(self.stress_var_epistemic, self.stress_var_aleatoric)

    @property
    def energy_std(self) -> float | None:
        """Standard deviation of the energy, eV."""
        variance = self.energy_var
        return None if variance is None else float(np.sqrt(variance))

    @property
    def forces_std(self) -> Array | None:
        """Standard deviation of each force component, (N, 3), eV/Å."""
        return None if self.forces_var is None else np.sqrt(self.forces_var)

    @property
    def force_std_norm(self) -> Array | None:
        """Norm of the three component standard deviations of each atom, (N,), eV/Å."""
        return None if self.forces_var is None else np.sqrt(self.forces_var.sum(axis=1))

    def without_force_variance(self) -> Prediction:
        """Return the same without anything that says how far forces and stress are uncertain."""
        return replace(
            self,
            forces_members=None,
            stress_members=None,
            forces_var_epistemic=None,
            stress_var_epistemic=None,
            forces_var_aleatoric=None,
            stress_var_aleatoric=None,
        )

    def require(self, field: str, needed_by: str) -> Any:
        """Return a field, or raise an `InputError` that names it when the method does not provide it."""
        value = getattr(self, field)
        if value is None:
            raise InputError(
                f"{needed_by} needs `{field}`, which this model does not provide; use a model with members, "
                "such as CommitteeUncertainty or a trained model."
            )
        return value


@runtime_checkable
class UncertaintyModel(Protocol):
    """Anything that predicts a structure with its uncertainty.

    It may have members, noise, both, or nothing but a width per atom: what it does not know is `None` in its
    predictions. Optional attributes are read where a model has them: `implemented_properties`, the result keys it can
    fill (default: all of them), `model_hash`, which identifies it in logs, and `description`, a few words for them.
    What else it may be able to do stands in `ase_uq.uncertainty.abilities`.
    """

    def predict(self, atoms: Atoms, properties: Collection[str]) -> Prediction:
        """Predict `atoms`; `properties` names the result keys that were asked for, as a hint."""
        ...


def _aleatoric(
    forces: Array, stress: Array | None, energy_var: Any, forces_var: Any, stress_var: Any
) -> dict[str, Any]:
    of_energy = checked_variance("energy_var_aleatoric", energy_var, ())
    return {
        "energy_var_aleatoric": None if of_energy is None else float(of_energy),
        "forces_var_aleatoric": checked_variance("forces_var_aleatoric", forces_var, np.shape(forces)),
        "stress_var_aleatoric": checked_variance("stress_var_aleatoric", stress_var, None if stress is None else (6,)),
    }


def _law(n_members: int, alphas: tuple[float, float, float], mean_share: float | None, dof: float | None) -> Any:
    return {
        **dict(zip(("alpha", "alpha_forces", "alpha_stress"), map(float, alphas), strict=True)),
        "mean_share": 1.0 / n_members if mean_share is None else mean_share,
        "dof": n_members - 1.0 if dof is None else dof,
    }


def _moments(members: Array, alpha: float, of_variance: float) -> tuple[Any, Array, Any]:
    # Deviations are formed from the raw members, so that a large common offset costs no digits of the variance.
    mean = members.sum(axis=0) / len(members)
    deviations = members - mean
    variance = of_variance**2 * (deviations**2).sum(axis=0) / (len(members) - 1)
    return mean, mean + alpha * deviations, variance


Moment = TypeVar("Moment", float, Array)


def _total(epistemic: Moment | None, aleatoric: Moment | None) -> Moment | None:
    if epistemic is None or aleatoric is None:
        return aleatoric if epistemic is None else epistemic
    return epistemic + aleatoric
