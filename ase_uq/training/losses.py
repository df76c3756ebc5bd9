"""What a training minimises: an objective scores a batch.

`SquaredErrors`, on energies, forces and stresses of the mean::

    loss = w_F <(dF / scale)^2> + w_E <(dE / (N scale))^2> + w_S <(V d(stress) / (N scale))^2>

Energy and virial are taken per atom. Their errors in one structure push all atoms the same way: divided by less than N
they drown the forces of large structures early in the training, when they are still systematic. `scale` is the force
scale of the potential, so that the weights mean the same for every material (lengths in Å).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from ase_uq.potentials.base import Evaluation, evaluate
from ase_uq.potentials.graph import Graph
from ase_uq.training.settings import Weights


@dataclass(frozen=True, slots=True)
class Labels:
    """Targets of a batch: (S,) eV, (N, 3) eV/Å, (S, 6) eV/Å^3 with (S,) bool where a stress is known."""

    energies: Tensor
    forces: Tensor
    stresses: Tensor
    has_stress: Tensor


@dataclass(frozen=True, slots=True)
class Scored:
    """A loss, with the signed errors of the mean it was formed from: (S,) eV and (N, 3) eV/Å.

    `terms` are further numbers to be followed, means over the batch. `stress_error` (n_known, 6) eV/Å^3 are errors
    of the structures with a label, or `None` where stresses were not evaluated.
    """

    loss: Tensor
    energy_error: Tensor
    force_error: Tensor
    terms: Mapping[str, Tensor] = field(default_factory=dict)
    stress_error: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Errors:
    """A validation: loss, and RMSE of energies (eV per atom), forces (eV/Å) and stresses (eV/Å^3), if any.

    `energy_rmse_per_root`, eV, is that of energies over the square root of atoms: what errors of atoms add up to.
    """

    loss: float
    energy_rmse: float
    forces_rmse: float
    stress_rmse: float | None
    energy_rmse_per_root: float = 0.0


class Objective(Protocol):
    """What a training minimises."""

    def __call__(self, potential: Any, graph: Graph, labels: Labels, *, training: bool) -> Scored:
        """Evaluate the potential on a batch and score it."""
        ...


@runtime_checkable
class FollowsEpochs(Protocol):
    """An optional ability of objectives that change along the training, and go on after an interruption as before.

    `settings`, plain numbers and words, must then be the same.
    """

    settings: dict[str, Any]

    def begin_epoch(self, epoch: int, *, progress: float) -> None:
        """Prepare for an epoch, counted from 0; `progress` is the part of the training that is done."""
        ...


@runtime_checkable
class FollowsErrors(Protocol):
    """An optional ability of objectives whose weights follow from the validations so far."""

    def follow(self, past: Sequence[Errors], *, progress: float) -> None:
        """Prepare for an epoch: errors of those before, and the part of the training that is done."""
        ...

    def loss(self, errors: Errors, *, scale: float) -> float:
        """Return the validation loss of an epoch for the weights as they are now; `scale` is the potential's, eV/Å."""
        ...


class SquaredErrors:
    """Weighted squared errors of the mean over members; one backward pass for any number of members."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights

    def __call__(self, potential: Any, graph: Graph, labels: Labels, *, training: bool) -> Scored:
        """Score a batch."""
        return self.evaluated(potential, graph, labels, training=training)[1]

    def evaluated(self, potential: Any, graph: Graph, labels: Labels, *, training: bool) -> tuple[Evaluation, Scored]:
        """Score a batch, and return what was evaluated for it: member energies and derivatives of their mean."""
        stress = bool(labels.has_stress.any())
        evaluation = evaluate(potential, graph, stress=stress, training=training, combine=_mean)
        return evaluation, _squared(evaluation, labels, graph, weights=self.weights, scale=potential.scale)


def _mean(energies: Tensor) -> Tensor:
    n_members = len(energies)
    return torch.full((1, n_members), 1.0 / n_members, dtype=energies.dtype, device=energies.device)


def _squared(evaluation: Evaluation, labels: Labels, graph: Graph, *, weights: Weights, scale: Tensor) -> Scored:
    # `evaluation` has the derivatives of the mean alone.
    n_atoms = graph.n_atoms
    energy_error = evaluation.energies.mean(dim=0) - labels.energies
    force_error = evaluation.forces[0] - labels.forces
    energy = (energy_error / n_atoms / scale) ** 2
    total = weights.energy * energy.mean() + weights.forces * ((force_error / scale) ** 2).mean()
    stress_error = None
    if evaluation.stresses is not None:
        stress_error = (evaluation.stresses[0] - labels.stresses)[labels.has_stress]
        volumes = torch.linalg.det(graph.cells).abs().unsqueeze(1)
        known = labels.has_stress.unsqueeze(1)
        virial = torch.where(known, (evaluation.stresses[0] - labels.stresses) * volumes, 0.0)
        squares = (virial / n_atoms.unsqueeze(1) / scale) ** 2
        total = total + weights.stress * squares.sum() / (6 * labels.has_stress.sum())
    return Scored(total, energy_error, force_error, stress_error=stress_error)
