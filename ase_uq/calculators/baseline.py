"""`WeightedBaseline`: a potential that falls back to a cheap, robust one where the model is uncertain.

======================  ==================================================================
symbol                  variable
======================  ==================================================================
V_i, Vbar               calibrated members `energy_members[i]` and their mean, the model's `energy`
sigma^2                 `energy_var_epistemic`, alpha^2 s^2 with divisor M-1
V_b                     `v_b`, energy of the baseline plus the offsets of its elements
sigma_b                 `sigma_b`, standard error of V_b for the whole structure
w                       `weight` = sigma_b^2 / (sigma_b^2 + sigma^2)
Dbar, D_i               `gap` = Vbar - V_b, `gaps[i]` = V_i - V_b
g_i                     `gradient_coefficients[i]` = dw/dV_i
U, U_i                  `energy` = V_b + w Dbar, `energy_members[i]` = V_b + w D_i
======================  ==================================================================

With d(sigma^2) = 2/(M-1) sum_i (V_i - Vbar) dV_i the gradient of the weight needs only weighted sums over members::

    g_i = -2 sigma_b^2 / (sigma_b^2 + sigma^2)^2 (V_i - Vbar) / (M-1),        sum_i g_i = 0
    dU  = (1 - w) dV_b + sum_i c_i dV_i,     c_i = w/M + Dbar g_i,            sum_i c_i = w
    dU_i = (1 - w) dV_b + w dV_i + D_i sum_k g_k dV_k

References
----------
Imbalzano et al., J. Chem. Phys. 154, 074102 (2021), arXiv:2011.08828, Eqs. 8-12.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import BaseCalculator

from ase_uq.arrays import Array
from ase_uq.calculators.calculator import Family, PredictionCalculator, UQCalculator
from ase_uq.calculators.foreign import keeping_info, own_changes
from ase_uq.calculators.member_alignment import MemberOffsets
from ase_uq.calculators.plain_values import PlainValues, check_plain, has_stress, plain_values
from ase_uq.errors import InputError
from ase_uq.structures.offsets import fit_offsets, offset_energy
from ase_uq.uncertainty.blend import Blend, Target
from ase_uq.uncertainty.force_variance import Exact, Off
from ase_uq.uncertainty.prediction import DERIVATIVE_UNCERTAINTY, ON_REQUEST, STANDARD, UNCERTAINTY, Prediction

logger = logging.getLogger(__name__)

_FEWEST_TO_ALIGN_MEMBERS = 5
# Standard errors of the gap between model and baseline; further apart are two zeros of energy, not two errors.
_WIDEST_GAP = 10.0
_EXTRA = ("weight", "energy_baseline", "sigma_baseline")


class WeightedBaseline(PredictionCalculator):
    """ASE calculator that weighs a model against a baseline by their uncertainties.

    U = V_b + w (Vbar - V_b) with w = sigma_b^2 / (sigma_b^2 + sigma^2). Forces and stress are the exact derivatives of
    U, with the gradient of w, so that energy is conserved while the weight changes.

    Parameters
    ----------
    uq
        The model, wrapped; it must have members.
    baseline
        Any ASE calculator with energy and forces. Its `free_energy` is used where it declares one, since that is what
        its forces are the gradient of.
    sigma_baseline
        Standard error of the baseline for the **total** energy of the structure, eV: the standard deviation of
        baseline minus reference over a few structures. Has to be retuned when the system grows.
    sigma_baseline_per_atom
        The same per atom, eV; the total is this times N. Give one of the two. Replicating a cell multiplies the spread
        of the members by the number of replicas, as it does this width, so the weight stays the same.
    offsets
        Energy in eV added to the baseline per atom of each element, so that its zero is the model's; see
        `WeightedBaseline.aligned`. `None` takes the baseline as it is.
    member_offsets
        Energy in eV added to each member per atom of each element, so that they share a zero: constants of a
        composition cancel in every force and average, and say nothing about where the model is lost. See
        `WeightedBaseline.aligned`.
    members
        Also publish `forces_members`, (M, N, 3).
    aliases
        As for `UQCalculator`.

    Raises
    ------
    InputError
        For both or no width or one that is not positive, a model without members, a baseline without energy and forces,
        and, when evaluated, an element that is missing in `offsets`, and zeros of energy that are far apart: a first
        structure where model and baseline differ by ten times sqrt(sigma_b^2 + sigma^2) without `offsets`.

    Notes
    -----
    The keys of `UQCalculator`, with these meanings:

    ==================  =========  ====================================================================
    key                 shape      meaning
    ==================  =========  ====================================================================
    energy, free_energy float      U
    forces              (N, 3)     -dU/dr
    stress              (6,)       dU/d(strain)/V; absent, with the other stress keys, when the baseline
                                   gives no stress
    energy_members      (M,)       U_i = V_b + w (V_i - V_b), the same w(r) for every member; mean = U
    forces_members      (M, N, 3)  -dU_i/dr, with `members=True`; mean = forces
    energy_var          float      of the **model**: alpha^2 s^2 (plus noise where modelled), not of U;
                                   without the constants of `member_offsets`
    forces_var          (N, 3)     of the model
    stress_var          (6,)       of the model
    weight              float      w in [0, 1]; 1 = the model
    energy_baseline     float      V_b, aligned, eV
    sigma_baseline      float      sigma_b for this structure, eV
    ==================  =========  ====================================================================

    The variances stay those of the model because they say where it is lost. The members are blended because frames of
    this dynamics follow exp(-U/kT): reweighing needs U_i - U = w (V_i - Vbar), which averages to zero.
    Only the epistemic variance sets the weight: noise in the labels says nothing about where the model is lost.
    A residual of the zeros of energy is felt as a force wherever w varies; align them. Zeros that are far apart at the
    first structure are refused, or warned about where `offsets` were given.

    References
    ----------
    arXiv:2011.08828, Eqs. 8-12.

    Examples
    --------
    >>> from ase import Atoms
    >>> from ase.calculators.lj import LennardJones
    >>> from ase_uq.calculators.committee import CommitteeUncertainty
    >>> model = CommitteeUncertainty([LennardJones(sigma=s) for s in (0.98, 1.02)])
    >>> atoms = Atoms("Ar2", positions=[[0, 0, 0], [0, 0, 1.2]])
    >>> atoms.calc = WeightedBaseline(UQCalculator(model), LennardJones(epsilon=0.8), sigma_baseline=0.2)
    >>> round(atoms.get_potential_energy(), 4), round(atoms.calc.results["weight"], 4)
    (-0.8607, 0.8789)
    """

    driver = "weighted_baseline"
    # Keys that a model must be able to fill.
    _needed: tuple[str, ...] = ("energy_members", "forces_members")
    # `set(sigma_baseline=...)` changes the potential.
    discard_results_on_any_change = True

    def __init__(
        self,
        uq: UQCalculator,
        baseline: BaseCalculator,
        *,
        sigma_baseline: float | None = None,
        sigma_baseline_per_atom: float | None = None,
        offsets: Mapping[str, float] | None = None,
        member_offsets: Sequence[Mapping[str, float]] | None = None,
        members: bool = False,
        aliases: Family | None = None,
    ) -> None:
        _check_parts(uq, baseline)
        self.uq = uq
        self._aligned_for: bytes | None = None
        self._resumed = False
        self.intermittent = uq.intermittent
        self.baseline = baseline
        if members and not isinstance(uq.forces_var, Exact):
            raise InputError(
                f"`members` needs a UQCalculator with forces_var='exact', got {uq.forces_var}; change one."
            )
        provided = getattr(uq.model, "implemented_properties", (*STANDARD, *UNCERTAINTY, *ON_REQUEST))
        for field in self._needed:
            if field not in provided:
                # The same sentence as when a prediction comes without it.
                Prediction(energy=0.0, forces=np.zeros((0, 3))).require(field, type(self).__name__)
        hidden = () if members else ON_REQUEST
        if isinstance(uq.forces_var, Off):
            hidden = (*hidden, *DERIVATIVE_UNCERTAINTY)
        declared = [
            key for key in provided if key not in hidden and (has_stress(baseline) or not key.startswith("stress"))
        ]
        super().__init__(
            [*declared, *_EXTRA],
            members=members,
            aliases=aliases,
            model=uq.parameters.get("model"),
            model_hash=uq.parameters.get("model_hash"),
            forces_var=uq.parameters.get("forces_var"),
            baseline=type(baseline).__name__,
            sigma_baseline=sigma_baseline,
            sigma_baseline_per_atom=sigma_baseline_per_atom,
            offsets=None if offsets is None else {symbol: float(value) for symbol, value in offsets.items()},
            member_offsets=None if member_offsets is None else [dict(each) for each in member_offsets],
        )

    @classmethod
    def aligned(
        cls, uq: UQCalculator, baseline: BaseCalculator, frames: Sequence[Atoms], **options: Any
    ) -> WeightedBaseline:
        """Fit the offsets on frames where the model is at home, then construct.

        Parameters
        ----------
        uq, baseline
            As for the constructor. Both are evaluated once on every frame.
        frames
            Structures, best from the training set. With a single composition only the offset of that composition is
            determined; see `ase_uq.structures.offsets.fit_offsets`. From 5 on the constants by which members differ are
            fitted as well, and taken out; from fewer they cannot be told from what members do not know.
        **options
            The other arguments of the constructor, without `offsets`.

        Raises
        ------
        InputError
            As the constructor; also for no frames or an energy that is not finite.
        """
        _check_parts(uq, baseline)
        predictions = [uq.model.predict(atoms, ["energy", "forces"]) for atoms in frames]
        offsets = fit_offsets(
            frames,
            model_energies=[prediction.energy for prediction in predictions],
            baseline_energies=[
                plain_values(baseline, atoms.copy(), with_stress=False, label="`baseline`").energy for atoms in frames
            ],
        )
        shown = ", ".join(f"{symbol} {value:+.4f}" for symbol, value in offsets.items())
        logger.info("baseline aligned on %d frames, offsets in eV per atom: %s", len(frames), shown)
        members = [each.energy_members for each in predictions if each.energy_members is not None]
        if len(members) == len(frames) >= _FEWEST_TO_ALIGN_MEMBERS:
            options = {"member_offsets": MemberOffsets.fit(frames, members).offsets, **options}
        return cls(uq, baseline, offsets=offsets, **options)

    @property
    def offsets(self) -> dict[str, float] | None:
        """Energy added to the baseline per atom of each element, eV."""
        return self.parameters["offsets"]  # type: ignore[no-any-return]

    def sigma_baseline(self, n_atoms: int) -> float:
        """Standard error of the baseline for a structure of `n_atoms` atoms, eV."""
        total = self.parameters["sigma_baseline"]
        return float(total if total is not None else self.parameters["sigma_baseline_per_atom"] * n_atoms)

    def set(self, **kwargs: Any) -> dict[str, Any]:
        """Change parameters, as `set(sigma_baseline=0.3)`; results of the old ones are discarded."""
        merged = {**(self.parameters or {}), **kwargs}
        _check_widths(merged["sigma_baseline"], merged["sigma_baseline_per_atom"])
        return super().set(**kwargs)

    def __repr__(self) -> str:
        key = "sigma_baseline" if self.parameters["sigma_baseline"] is not None else "sigma_baseline_per_atom"
        return (
            f"{type(self).__name__}(model={self.parameters['model']}, baseline={self.parameters['baseline']}, "
            f"{key}={self.parameters[key]}, offsets={self.offsets})"
        )

    def _own_changes(self, atoms: Atoms) -> list[str]:
        return [*self.uq._own_changes(atoms), *own_changes(self.baseline, atoms)]

    def _force_std(self, prediction: Prediction) -> Array | None:
        return self.uq._force_std(prediction)

    def run_state(self) -> dict[str, Any]:
        """Return the state of the model's calculator."""
        return self.uq.run_state()

    def restore_run_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a state; the zeros of energy were checked where the run began."""
        self.uq.restore_run_state(state)
        self._resumed = bool(state)

    def _remember(self) -> None:
        self.uq._remember()

    def _check_alignment(self, model: Prediction, v_b: float, sigma_b: float) -> None:
        """Refuse, at the first structure, a baseline whose zero of energy is not the model's."""
        members = model.require("energy_members", "WeightedBaseline")
        gap = float(members.mean()) - v_b
        allowed = float(np.sqrt(sigma_b**2 + members.var(ddof=1)))
        if abs(gap) <= _WIDEST_GAP * allowed:
            return
        found = (
            f"the model is {gap:+.4g} eV from the baseline at the first structure, {abs(gap) / allowed:.3g} times what "
            f"the two widths allow (sigma_baseline {sigma_b:.3g} eV, members {members.std(ddof=1):.3g} eV)"
        )
        if self.offsets is not None:
            # Somebody has looked at the zeros: this structure may be the odd one.
            logger.warning("%s; check `offsets`, the width, and the structure", found)
            return
        raise InputError(
            f"`baseline` must have the model's zero of energy, {found}; construct it by WeightedBaseline.aligned(uq, "
            "baseline, frames, ...) or give `offsets`, or a larger width if the baseline does err that much."
        )

    def _target(self, energy_baseline: float, width: float, shift: Array | None) -> Target:
        return Target(energy_baseline=energy_baseline, sigma_baseline=width, shift=shift)

    def _blend(self, target: Target, model: Prediction) -> Blend:
        name = type(self).__name__
        blend = target.blend(model.require("energy_members", name))
        if not self.uq.combines:
            # The gradient of the weight is made of those of the members.
            model.require("forces_members", name)
            if "stress" in self.implemented_properties and model.stress is not None:
                model.require("stress_members", name)
        return blend

    def _predict(self, atoms: Atoms, properties: Sequence[str]) -> tuple[Prediction, Mapping[str, Any]]:
        with_stress = "stress" in self.implemented_properties
        own = plain_values(self.baseline, keeping_info(atoms), with_stress=with_stress, label="`baseline`")
        v_b = own.energy + (0.0 if self.offsets is None else offset_energy(atoms, self.offsets))
        sigma_b = self.sigma_baseline(len(atoms))

        # One evaluation, and a single backward pass where the model can: with the coefficients of the blend.
        shift = self._member_shift(atoms)
        target = self._target(v_b, sigma_b, shift)
        model, shown = self.uq.predict_due(atoms, properties, combine=target)
        found = self._blend(target, model)
        if shift is not None:
            model = _without(model, shift)
        if (composition := atoms.numbers.tobytes()) != self._aligned_for:
            if not self._resumed:
                self._check_alignment(model, v_b, sigma_b)
            self._aligned_for, self._resumed = composition, False
        prediction = _blended(model, PlainValues(v_b, own.forces, own.stress), found, combined=self.uq.combines)
        extra = {"weight": found.weight, "energy_baseline": v_b, "sigma_baseline": sigma_b}
        return prediction if shown else prediction.without_force_variance(), extra

    def _member_shift(self, atoms: Atoms) -> Array | None:
        """What members of this composition differ by, about their mean, (M,), eV."""
        offsets = self.parameters["member_offsets"]
        if offsets is None:
            return None
        shift = np.array([-offset_energy(atoms, each) for each in offsets])
        return shift - float(shift.mean())


def _without(model: Prediction, shift: Array) -> Prediction:
    members = model.require("energy_members", "WeightedBaseline") - shift
    return replace(model, energy_members=members, energy_var_epistemic=float(members.var(ddof=1)))


def _blended(model: Prediction, own: PlainValues, blend: Blend, *, combined: bool) -> Prediction:
    w, members = blend.weight, model.energy_members
    gaps = np.zeros(0) if members is None else members - own.energy
    gap = model.energy - own.energy if members is None else float(gaps.mean())
    # Forces of the mean are those of sum_i c_i V_i where the weight has no gradient.
    share = 1.0 if combined else w
    forces, forces_members = _derivative(own.forces, share * model.forces, model.forces_members, gaps, blend)
    stress, stress_members = None, None
    if own.stress is not None and model.stress is not None:
        stress, stress_members = _derivative(own.stress, share * model.stress, model.stress_members, gaps, blend)
    with_stress = stress is not None
    return replace(
        model,
        energy=own.energy + w * gap,
        forces=forces,
        stress=stress,
        energy_members=None if members is None else own.energy + w * gaps,
        forces_members=forces_members,
        stress_members=stress_members,
        stress_var_epistemic=model.stress_var_epistemic if with_stress else None,
        stress_var_aleatoric=model.stress_var_aleatoric if with_stress else None,
    )


def _derivative(
    own: Array, combined: Array, members: Array | None, gaps: Array, blend: Blend
) -> tuple[Array, Array | None]:
    # One rule for forces and stress: both are linear in the derivatives of V_b and V_i.
    base = (1.0 - blend.weight) * own
    if members is None:
        return base + combined, None
    of_weight = np.tensordot(blend.gradient_coefficients, members, axes=1)
    mean = base + np.tensordot(blend.coefficients, members, axes=1)
    return mean, base + blend.weight * members + np.multiply.outer(gaps, of_weight)


def _check_parts(uq: UQCalculator, baseline: BaseCalculator) -> None:
    if not isinstance(uq, UQCalculator):
        raise InputError(
            f"`uq` must be a UQCalculator, got {type(uq).__name__}; write WeightedBaseline(UQCalculator(model), ...)."
        )
    check_plain(baseline, "baseline")


def _check_widths(total: float | None, per_atom: float | None) -> None:
    if (total is None) == (per_atom is None):
        raise InputError(
            "exactly one of `sigma_baseline` (eV, total energy) and `sigma_baseline_per_atom` (eV) must be given, got "
            f"{total} and {per_atom}; use the per-atom width when sizes vary."
        )
    for name, value in (("sigma_baseline", total), ("sigma_baseline_per_atom", per_atom)):
        if value is not None and not (np.isfinite(value) and value > 0):
            raise InputError(
                f"`{name}` must be a positive number of eV, got {value}; "
                "take the standard deviation of baseline minus reference."
            )
