"""`UQCalculator`: an `UncertaintyModel` as an ordinary ASE calculator.

Every evaluation fills all keys at once: a step of molecular dynamics costs one model evaluation whatever ASE asks for.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from ase import Atoms
from ase.calculators.calculator import BaseCalculator, Calculator, all_changes
from ase.outputs import Properties, all_outputs
from numpy.typing import NDArray

from ase_uq.calculators.by_thread import ByThread, OneAtATime
from ase_uq.calculators.foreign import further_changes
from ase_uq.calculators.portable import Portable
from ase_uq.errors import InputError
from ase_uq.structures.checks import changes_between, check_positions, check_structure
from ase_uq.uncertainty.abilities import CombiningModel
from ase_uq.uncertainty.blend import Target
from ase_uq.uncertainty.force_variance import (
    Exact,
    ForceVariance,
    Off,
    Resumable,
    Stochastic,
    force_variance,
    settings_of,
)
from ase_uq.uncertainty.prediction import (
    DERIVATIVE_UNCERTAINTY,
    ON_REQUEST,
    STANDARD,
    UNCERTAINTY,
    Prediction,
    UncertaintyModel,
)

Family = Literal["mace", "metatomic"]

# The names two living families of packages use, each with the field of `Prediction` it stands for.
ALIASES: dict[str, dict[str, str]] = {
    "mace": {"energy_comm": "energy_members", "forces_comm": "forces_members", "stress_comm": "stress_members"},
    "metatomic": {
        "energy_uncertainty": "energy_std",
        "forces_uncertainty": "forces_std",
        "energy_ensemble": "energy_members",
        "forces_ensemble": "forces_members",
    },
}


class PredictionCalculator(Calculator):
    """Base of the calculators that publish a `Prediction` under the result keys of the design.

    Subclasses implement `_predict(atoms, properties)`, which returns the prediction and their extra result keys.
    """

    intermittent = False
    """Whether variances of forces are there only at some evaluations."""

    # `calculate` copies the atoms; a second copy made by ASE would only cost time.
    use_cache = False

    def __init__(
        self, declared: Sequence[str], *, members: bool = False, aliases: Family | None = None, **parameters: Any
    ) -> None:
        if aliases is not None and aliases not in ALIASES:
            raise InputError(f"`aliases` must be one of {sorted(ALIASES)}, got {aliases!r}; drop it for our own names.")
        self._aliases = ALIASES[aliases] if aliases else {}
        self._members = members
        # On the instance: a list extended on the class would leak into every other calculator.
        self.implemented_properties = [*declared, *self._aliases]
        self._by_thread, self._turn = ByThread(), OneAtATime()
        # Names that `copy_uncertainty` has put on atoms: no input of anything.
        self.carried: frozenset[str] = frozenset()
        super().__init__(ddof=1, **parameters)

    @property
    def atoms(self) -> Atoms | None:
        """Copy of the structure that was evaluated last, in this thread if it has asked for any."""
        return self._by_thread.present.atoms

    @atoms.setter
    def atoms(self, value: Atoms | None) -> None:
        if value is None:
            self._by_thread.leave()
        else:
            self._by_thread.present.atoms = value

    @property
    def results(self) -> dict[str, Any]:
        """Results for `atoms`."""
        return self._by_thread.present.results

    @results.setter
    def results(self, value: dict[str, Any]) -> None:
        self._by_thread.present.results = value

    @property
    def prediction(self) -> Prediction:
        """The typed result of the last evaluation; reading it never computes anything.

        Raises
        ------
        InputError
            If nothing has been evaluated yet.
        """
        present = self._by_thread.present
        if present.prediction is None or not present.results:
            raise InputError("`prediction` is there after an evaluation; call atoms.get_potential_energy() first.")
        return present.prediction

    @property
    def force_std_norm(self) -> NDArray[np.float64] | None:
        """Norm of the component standard deviations of every atom, (N,), eV/Å, as the log records it.

        That of `prediction`; with "stochastic" variances a mean over the last few steps instead, for the root of a
        single estimate is too small on average.
        """
        return self._force_std(self.prediction)

    def check_state(self, atoms: Atoms, tol: float = 0.0) -> list[str]:  # noqa: ARG002
        """Return what has changed since the last evaluation; dynamics asks several times a step.

        Foreign calculators may look at anything: `atoms.info`, and arrays such as tags, count where there are any, and
        so does what they say by their own `check_state`.
        """
        old = self.atoms
        found = changes_between(old, atoms)
        if old is None or self._looks_at_structure_alone():
            return found
        further = further_changes(old, atoms, leave_out=self.carried)
        return list(dict.fromkeys([*found, *further, *self._own_changes(atoms)]))

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Evaluate the structure and fill every key the model provides; one thread at a time."""
        with self._turn:
            if atoms is not None:
                self._by_thread.begin(atoms)
            self._calculate(atoms, properties, system_changes)

    def set(self, **kwargs: Any) -> dict[str, Any]:
        """Change parameters, as ASE's calculators do; results of the old ones are discarded in every thread."""
        changed: dict[str, Any] = super().set(**kwargs)
        if changed and self.discard_results_on_any_change:
            self._by_thread.forget()
        return changed

    def __getstate__(self) -> dict[str, Any]:
        # A copy has results of its own; what is pickled is what this thread finds.
        state = {**self.__dict__, "_by_thread": copy.copy(self._by_thread), "_turn": OneAtATime()}
        foreign = (
            name
            for name, value in state.items()
            if isinstance(value, BaseCalculator) and not isinstance(value, PredictionCalculator)
        )
        return state | {name: Portable(state[name]) for name in foreign}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__.update(
            {name: value.calculator if isinstance(value, Portable) else value for name, value in state.items()}
        )

    def _calculate(self, atoms: Atoms | None, properties: Sequence[str], system_changes: Sequence[str]) -> None:
        own: Atoms
        if atoms is not None and isinstance(self.atoms, Atoms) and list(system_changes) == ["positions"]:
            # A step of dynamics: the copy that is there moves along, with all that atoms carry.
            own = self.atoms
            own.arrays = {name: values.copy() for name, values in atoms.arrays.items()}
            own.info = dict(atoms.info)
            check = check_positions
        else:
            super().calculate(atoms, properties, system_changes)
            # The base class has taken a copy: the caller's atoms are never kept.
            own, check = self.atoms, check_structure  # type: ignore[assignment]
        if own.info and not self._looks_at_structure_alone():
            # What is compared later must not change with that of the caller.
            own.info = copy.deepcopy(own.info)
        present = self._by_thread.present
        present.results, present.prediction = {}, None
        check(own)
        if system_changes:
            self._remember()
        prediction, extra = self._predict(own, properties)
        present.prediction = prediction
        present.results = {
            **self._published(prediction),
            **{key: value for key, value in extra.items() if value is not None},
        }

    def run_state(self) -> dict[str, Any]:
        """Return what the present evaluation depended on beside the atoms, as JSON can hold it once arrays are lists.

        A run that goes on from the present structure with this state, evaluating it again, is the uninterrupted one to
        the last bit: it keeps the phase of `every` and the random numbers of "stochastic" variances.
        """
        return {}

    def restore_run_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `run_state` returned, of a calculator made in the same way."""

    def _looks_at_structure_alone(self) -> bool:
        """Whether results depend on nothing but what `changes_between` compares."""
        return False

    def _own_changes(self, atoms: Atoms) -> list[str]:  # noqa: ARG002
        """Return what foreign calculators inside say has changed."""
        return []

    def _force_std(self, prediction: Prediction) -> NDArray[np.float64] | None:
        return prediction.force_std_norm

    def _remember(self) -> None:
        """Keep what `run_state` returns, before the first evaluation of a structure."""

    def export_properties(self) -> Properties:
        """Return the results that ASE's typed registry knows; the others stay in `results`."""
        return Properties({key: value for key, value in self.results.items() if key in all_outputs})

    def _predict(self, atoms: Atoms, properties: Sequence[str]) -> tuple[Prediction, Mapping[str, Any]]:
        raise NotImplementedError

    def _published(self, prediction: Prediction) -> dict[str, Any]:
        values: dict[str, Any] = {"free_energy": prediction.energy}
        fields = {key: key for key in (*STANDARD, *UNCERTAINTY) if key != "free_energy"}
        if self._members:
            fields |= {key: key for key in ON_REQUEST}
        for key, field in (fields | self._aliases).items():
            value = getattr(prediction, field)
            if value is not None:
                values[key] = value.copy() if isinstance(value, np.ndarray) else value
        return values


class UQCalculator(PredictionCalculator):
    """ASE calculator of any `UncertaintyModel`.

    Parameters
    ----------
    model
        The model; `ase_uq.load(path)` or `CommitteeUncertainty([...])` make one.
    members
        Also publish `forces_members`, (M, N, 3).
    aliases
        "mace" adds `energy_comm`, `forces_comm`, `stress_comm`; "metatomic" adds `energy_uncertainty`,
        `forces_uncertainty`, `energy_ensemble`, `forces_ensemble` (standard deviations and members).
    forces_var
        How the variances of forces and stress are found: "exact", "low_rank", "stochastic" or "off", or an estimator of
        `ase_uq.uncertainty.force_variance`. Only members that share a body make anything cheaper than "exact". By
        default "exact", or what the model prefers, as its `usual_forces_var` says; with `members` always "exact".
    every
        Evaluations from one estimate of these variances to the next. In between their keys are absent; asking for them
        computes them.

    Notes
    -----
    `results` after any evaluation, as far as the model provides them (eV, Å):

    ==================  =========  ===============================================================
    key                 shape      meaning
    ==================  =========  ===============================================================
    energy, free_energy float      member mean
    forces              (N, 3)     exact minus-gradient of `energy`
    stress              (6,)       Voigt, ASE's sign; periodic cells only
    energy_var          float      alpha^2 s^2 with divisor M-1, plus the noise where modelled
    forces_var          (N, 3)     the same per component
    stress_var          (6,)       the same
    energy_members      (M,)       mean + alpha (E_i - mean)
    forces_members      (M, N, 3)  with `members=True`
    ==================  =========  ===============================================================

    Examples
    --------
    >>> from ase.build import molecule
    >>> from ase.calculators.lj import LennardJones
    >>> from ase_uq.calculators.committee import CommitteeUncertainty
    >>> atoms = molecule("H2O")
    >>> atoms.calc = UQCalculator(CommitteeUncertainty([LennardJones(sigma=s) for s in (0.9, 1.0)]))
    >>> atoms.get_forces().shape, atoms.calc.results["energy_members"].shape
    ((3, 3), (2,))
    """

    def __init__(
        self,
        model: UncertaintyModel,
        *,
        members: bool = False,
        aliases: Family | None = None,
        forces_var: str | ForceVariance | None = None,
        every: int = 1,
    ) -> None:
        if not isinstance(model, UncertaintyModel):
            raise InputError(
                f"`model` must have a predict(atoms, properties) method, got {type(model).__name__}; "
                "wrap ASE calculators in CommitteeUncertainty([...]) and files in ase_uq.load(path)."
            )
        self.model = model
        self._combining = model if isinstance(model, CombiningModel) else None
        self.forces_var = force_variance(
            "exact" if members and forces_var is None else forces_var, every=every, model=model
        )
        self.intermittent = self.forces_var.every > 1
        self._resumable = self.forces_var if isinstance(self.forces_var, Resumable) else None
        self._evaluations = 0
        self._before: tuple[int, Mapping[str, Any] | None] | None = None
        if members and not isinstance(self.forces_var, Exact):
            raise InputError(f"`members` needs forces_var='exact', got {self.forces_var}; choose one or the other.")
        provided = tuple(getattr(model, "implemented_properties", (*STANDARD, *UNCERTAINTY, *ON_REQUEST)))
        hidden = () if members else ON_REQUEST
        if isinstance(self.forces_var, Off):
            hidden = (*hidden, *DERIVATIVE_UNCERTAINTY)
        super().__init__(
            [key for key in provided if key not in hidden],
            members=members,
            aliases=aliases,
            model=getattr(model, "description", type(model).__name__),
            model_hash=getattr(model, "model_hash", None),
            forces_var=settings_of(self.forces_var),
        )

    @property
    def combines(self) -> bool:
        """Whether the model differentiates combinations of members, so that theirs are not needed one by one."""
        return self._combining is not None

    def predict_due(
        self,
        atoms: Atoms,
        properties: Sequence[str] = (),
        *,
        combine: Target | None = None,
    ) -> tuple[Prediction, bool]:
        """Predict once; say, too, whether variances of forces are due or asked for in `properties`.

        `combine` as in `CombiningModel.predict_combined`.
        """
        with self._turn:
            return self._evaluate(atoms, properties, combine)

    def _evaluate(self, atoms: Atoms, properties: Sequence[str], combine: Target | None) -> tuple[Prediction, bool]:
        asked = any(key in properties for key in (*DERIVATIVE_UNCERTAINTY, *ON_REQUEST))
        shown = not isinstance(self.forces_var, Off) and (asked or self._evaluations % self.forces_var.every == 0)
        self._evaluations += 1
        if self._combining is None:
            return self.model.predict(atoms, properties), shown
        estimator = self.forces_var if shown else Off()
        prediction = self._combining.predict_combined(atoms, forces_var=estimator, combine=combine)
        if isinstance(estimator, Stochastic) and prediction.forces_var_epistemic is not None:
            estimator.running.observe(prediction.forces_var_epistemic)
        return prediction, shown

    def _force_std(self, prediction: Prediction) -> NDArray[np.float64] | None:
        running = self.forces_var.running.std if isinstance(self.forces_var, Stochastic) else None
        if self._combining is None or running is None or prediction.forces_var is None:
            return prediction.force_std_norm
        noise = prediction.forces_var_aleatoric
        return running if noise is None else np.sqrt(running**2 + noise.sum(axis=1))

    def _looks_at_structure_alone(self) -> bool:
        return bool(getattr(self.model, "looks_at_structure_alone", False))

    def _own_changes(self, atoms: Atoms) -> list[str]:
        changes = getattr(self.model, "changes", None)
        return [] if changes is None else list(changes(atoms))

    def run_state(self) -> dict[str, Any]:
        """Return the phase of `every` and the state of the estimator of force variances."""
        if self._before is None:
            return {}
        evaluations, estimator = self._before
        return {"forces_var": repr(self.forces_var), "evaluations": evaluations, "estimator": estimator}

    def restore_run_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a state; one of another estimator is left alone."""
        if state.get("forces_var") != repr(self.forces_var):
            return
        self._evaluations = int(state["evaluations"])
        if self._resumable is not None and state["estimator"] is not None:
            self._resumable.restore(state["estimator"])
        self._before = self._evaluations, state["estimator"]

    def _remember(self) -> None:
        self._before = self._evaluations, self._resumable.state() if self._resumable is not None else None

    def _predict(self, atoms: Atoms, properties: Sequence[str]) -> tuple[Prediction, Mapping[str, Any]]:
        prediction, shown = self.predict_due(atoms, properties)
        return prediction if shown else prediction.without_force_variance(), {}
