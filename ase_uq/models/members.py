"""`MemberUncertainty`: any potential with members as an `UncertaintyModel`. The one crossing from torch to NumPy.

A potential that models the noise of its labels (`NoisyPotential`) has it in every prediction as the aleatoric part.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

import numpy as np
import torch
from ase import Atoms
from ase.data import atomic_numbers

from ase_uq.arrays import Array
from ase_uq.errors import InputError
from ase_uq.models.evaluator import Evaluator
from ase_uq.potentials import Evaluation, Potential, abilities_of
from ase_uq.potentials.graph import Graph, Neighbours, build_graph, collate
from ase_uq.potentials.label_noise import NoisyPotential
from ase_uq.potentials.stored import build, describe
from ase_uq.uncertainty.blend import Target
from ase_uq.uncertainty.checks import checked_factor
from ase_uq.uncertainty.force_variance import ForceVariance
from ase_uq.uncertainty.prediction import ON_REQUEST, STANDARD, UNCERTAINTY, Prediction


class MemberUncertainty:
    """Uncertainty from the spread of the members of one potential.

    Parameters
    ----------
    potential
        A potential with at least two members, such as `DeepEnsemble`; it is put in evaluation mode. What is evaluated
        is a copy: make a new `MemberUncertainty` after training it further.
    alpha
        Calibration factor of the deviations from the mean.
    alpha_forces, alpha_stress
        Factors of the variances of forces and stress, where they have their own; `alpha`, and that of the forces, else.
    calibration
        What the factors were fitted on, JSON-able, stored with the model.
    training
        How the members were trained, JSON-able, stored with the model.
    skin
        Å, of the Verlet list of neighbours; it changes no number.
    device, compile, memory_limit
        How it is evaluated, see `ase_uq.models.evaluator`; they change numbers by no more than rounding.

    Raises
    ------
    InputError
        For a single member or a bad `alpha`.

    References
    ----------
    arXiv:2011.08828, Eqs. 1, 2 and 7.
    """

    implemented_properties = (*STANDARD, *UNCERTAINTY, *ON_REQUEST)
    looks_at_structure_alone = True
    """Nothing that atoms carry beside elements, positions and cell is an input."""

    def __init__(
        self,
        potential: Potential,
        *,
        alpha: float = 1.0,
        alpha_forces: float | None = None,
        alpha_stress: float | None = None,
        calibration: Mapping[str, Any] | None = None,
        training: Mapping[str, Any] | None = None,
        skin: float = 1.0,
        device: str = "cpu",
        compile: str = "off",  # noqa: A002
        memory_limit: float | None = None,
    ) -> None:
        if potential.n_members < 2:
            raise InputError(
                f"`potential` must have at least 2 members to have a variance, got {potential.n_members}; "
                "join several in DeepEnsemble([...]), or draw them with sample_members."
            )
        self.potential = potential
        self._abilities = abilities_of(potential)
        self._set_factors(alpha, alpha_forces, alpha_stress)
        self.calibration = None if calibration is None else dict(calibration)
        self.training = None if training is None else dict(training)
        if isinstance(potential, torch.nn.Module):
            potential.eval().requires_grad_(False)
        self._evaluator = Evaluator(potential, device=device, compile=compile, memory_limit=memory_limit)
        # What is evaluated may be a copy on another device.
        of_copy = self._evaluator.potential
        self._noisy = of_copy if isinstance(of_copy, NoisyPotential) else None
        self._neighbours = Neighbours(potential.cutoff, skin=skin)
        self._hash = _hash(potential, self._factors)

    @property
    def n_members(self) -> int:
        """Number of members, M."""
        return self.potential.n_members

    @property
    def mean_share(self) -> float:
        """Share of the members' variance that their mean carries: 1/M, or 0 where members are pinned to their mean."""
        return 0.0 if self._abilities.pinned_mean else 1.0 / self.n_members

    @property
    def dof(self) -> float:
        """Degrees of freedom of the spread: M - 1, or infinite where the members have an exact covariance."""
        return np.inf if self._abilities.exact_spread else self.n_members - 1.0

    @property
    def elements(self) -> tuple[str, ...] | None:
        """Chemical symbols the potential knows, or `None` if it does not say."""
        return self._abilities.elements

    @property
    def usual_forces_var(self) -> str:
        """How calculators and reruns find the variance of forces where nothing is said: "exact", "stochastic", ..."""
        return self._abilities.usual_forces_var

    @property
    def description(self) -> str:
        """What it is made of, for the log: the kind of potential, M, and the seed where members are drawn."""
        seed = self._abilities.seed
        drawn = "" if seed is None else f" drawn with seed {seed}"
        return f"{type(self.potential).__name__}, {self.n_members} members{drawn}"

    @property
    def model_hash(self) -> str:
        """SHA-256 of the weights and the calibration factors; the same model gives the same hash on every machine."""
        return self._hash

    def calibrated(
        self,
        alpha: float,
        calibration: Mapping[str, Any],
        *,
        alpha_forces: float | None = None,
        alpha_stress: float | None = None,
    ) -> Self:
        """Return the same members under other calibration factors, with what they were fitted on."""
        twin = copy.copy(self)
        twin._set_factors(alpha, alpha_forces, alpha_stress)
        twin.calibration = dict(calibration)
        twin._hash = _hash(self.potential, twin._factors)
        return twin

    def state(self) -> dict[str, Any]:
        """Return what a file holds of it: the architecture, the weights, the factors, and how all that came about.

        Raises
        ------
        InputError
            For a potential that no description can hold, see `ase_uq.potentials.stored`.
        """
        potential: Any = self.potential
        return {
            "potential": describe(potential),
            "weights": dict(potential.state_dict()),
            "alpha": self.alpha,
            "alpha_forces": self.alpha_forces,
            "alpha_stress": self.alpha_stress,
            "calibration": self.calibration,
            "training": self.training,
        }

    @classmethod
    def from_state(
        cls,
        state: Mapping[str, Any],
        *,
        skin: float = 1.0,
        device: str = "cpu",
        compile: str = "off",  # noqa: A002
        memory_limit: float | None = None,
    ) -> Self:
        """Make the model of a state; the other arguments, how it is evaluated, are those of the constructor."""
        potential = build(state["potential"])
        potential.load_state_dict(state["weights"])
        # A subclass may be constructed from something else; what was stored are its members.
        made = cls.__new__(cls)
        MemberUncertainty.__init__(
            made,
            potential,
            alpha=state["alpha"],
            alpha_forces=state["alpha_forces"],
            alpha_stress=state["alpha_stress"],
            calibration=state["calibration"],
            training=state["training"],
            skin=skin,
            device=device,
            compile=compile,
            memory_limit=memory_limit,
        )
        made._restore(state)
        return made

    def _restore(self, state: Mapping[str, Any]) -> None:
        """Take from a state what a subclass has beside its members."""

    def _set_factors(self, alpha: float, alpha_forces: float | None, alpha_stress: float | None) -> None:
        self.alpha = checked_factor("alpha", alpha)
        self.alpha_forces = None if alpha_forces is None else checked_factor("alpha_forces", alpha_forces)
        self.alpha_stress = None if alpha_stress is None else checked_factor("alpha_stress", alpha_stress)

    @property
    def _factors(self) -> dict[str, float]:
        given = {"alpha": self.alpha, "alpha_forces": self.alpha_forces, "alpha_stress": self.alpha_stress}
        return {name: value for name, value in given.items() if value is not None}

    @property
    def _law(self) -> dict[str, Any]:
        """What the spread of the members means, for `Prediction`."""
        return {**self._factors, "mean_share": self.mean_share, "dof": self.dof}

    def predict(self, atoms: Atoms, properties: Collection[str] = ()) -> Prediction:  # noqa: ARG002
        """Evaluate all members of one structure: energies, forces and, for periodic cells, stress."""
        self._check_elements(atoms)
        return self._predictions(self._neighbours.graph(atoms))[0]

    def predict_combined(
        self,
        atoms: Atoms,
        *,
        forces_var: ForceVariance,
        combine: Target | None = None,
    ) -> Prediction:
        """Evaluate one structure with as few backward passes as `forces_var` needs; see `CombiningModel`."""
        chosen = forces_var.directions(self.n_members) if self._evaluator.shares_body else None
        if chosen is None:
            # Members that share nothing cost one pass each whatever is asked for.
            prediction = self.predict(atoms)
            forces_var.learn(prediction.require("forces_members", "predict_combined"))
            return prediction
        self._check_elements(atoms)
        graph = self._neighbours.graph(atoms)
        evaluation = self._with_noise(
            self._evaluator.combined(graph, directions=chosen, combine=combine, alpha=self.alpha), graph
        )
        forces = _array(evaluation.forces)
        stresses = None if evaluation.stresses is None else _array(evaluation.stresses)[:, 0]
        return Prediction.from_energies(
            energies=_array(evaluation.energies)[:, 0],
            forces=forces[0],
            stress=None if stresses is None else stresses[0],
            forces_var=forces_var.variance(forces[1:]) if len(chosen) else None,
            stress_var=forces_var.variance(stresses[1:]) if len(chosen) and stresses is not None else None,
            **_noise(evaluation, 0, slice(None), stress=stresses is not None, of_derivatives=len(chosen) > 0),
            **self._law,
        )

    def predict_many(self, structures: Sequence[Atoms], *, forces_var: bool = True) -> list[Prediction]:
        """Evaluate several structures, in one pass if memory allows; the same numbers as one by one.

        Without `forces_var` members that share a body need a single backward pass.
        """
        for atoms in structures:
            self._check_elements(atoms)
        graphs = [build_graph(atoms, self.potential.cutoff) for atoms in structures]
        predict = self._predictions if forces_var or not self._evaluator.shares_body else self._mean_predictions
        return [prediction for part in self._evaluator.parts(graphs) for prediction in predict(collate(part))]

    def _mean_predictions(self, graph: Graph) -> list[Prediction]:
        evaluation = self._with_noise(self._evaluator.means(graph), graph)
        energies, forces = _array(evaluation.energies), _array(evaluation.forces)[0]
        stresses = None if evaluation.stresses is None else _array(evaluation.stresses)[0]
        return [
            Prediction.from_energies(
                energies=energies[:, s],
                forces=forces[atoms],
                stress=stresses[s] if stresses is not None and periodic else None,
                # Without the epistemic part of forces theirs would be taken for all of it.
                **_noise(evaluation, s, atoms, stress=False, of_derivatives=False),
                **self._law,
            )
            for s, atoms, periodic in _structures(graph)
        ]

    def _predictions(self, graph: Graph) -> list[Prediction]:
        evaluation = self._with_noise(self._evaluator.members(graph), graph)
        energies = _array(evaluation.energies)
        forces = _array(evaluation.forces)
        stresses = None if evaluation.stresses is None else _array(evaluation.stresses)
        return [
            Prediction.from_members(
                energies=energies[:, s],
                forces=forces[:, atoms],
                stresses=stresses[:, s] if stresses is not None and periodic else None,
                **_noise(evaluation, s, atoms, stress=stresses is not None and periodic),
                **self._law,
            )
            for s, atoms, periodic in _structures(graph)
        ]

    def _with_noise(self, evaluation: Evaluation, graph: Graph) -> Evaluation:
        if self._noisy is None or evaluation.noise is not None:
            return evaluation
        with torch.no_grad():
            return replace(evaluation, noise=self._noisy.label_noise(graph.to(self._evaluator.device)))

    def _check_elements(self, atoms: Atoms) -> None:
        if self.elements is None:
            return
        known = {atomic_numbers[symbol] for symbol in self.elements}
        unknown = sorted(set(atoms.symbols) - set(self.elements)) if set(atoms.numbers.tolist()) - known else []
        if unknown:
            raise InputError(
                f"`atoms` must hold only elements the model was trained on ({', '.join(self.elements)}), got "
                f"{', '.join(unknown)}; train with frames that contain them."
            )


def _structures(graph: Graph) -> Iterator[tuple[int, slice, bool]]:
    """Return the number of each structure, its atoms, and whether it has a stress."""
    ends = np.cumsum([0, *graph.n_atoms.tolist()])
    for s in range(graph.n_structures):
        yield s, slice(ends[s], ends[s + 1]), bool(graph.periodic[s])


def _noise(
    evaluation: Evaluation, structure: int, atoms: slice, *, stress: bool, of_derivatives: bool = True
) -> dict[str, Any]:
    """Return the aleatoric part of one structure, as `Prediction` takes it."""
    noise = evaluation.noise
    if noise is None:
        return {}
    found: dict[str, Any] = {}
    if noise.energies is not None:
        found["energy_var_aleatoric"] = _array(noise.energies[structure])
    if noise.forces is not None and of_derivatives:
        found["forces_var_aleatoric"] = _array(noise.forces[atoms])
    if noise.stresses is not None and of_derivatives and stress:
        found["stress_var_aleatoric"] = _array(noise.stresses[structure])
    return found


def _hash(potential: Potential, factors: Mapping[str, float]) -> str:
    digest = hashlib.sha256(json.dumps(dict(factors)).encode())
    if isinstance(potential, torch.nn.Module):
        for name, value in sorted(potential.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _array(tensor: torch.Tensor) -> Array:
    return np.asarray(tensor.detach().cpu().numpy(), dtype=np.float64)
