"""The regression loss on energies, forces and stresses.

loss = w_F <(dF / scale)^2> + w_E <(dE / (N scale))^2> + w_S <(V d(stress) / (N scale))^2>

Energy and virial are taken per atom. Their errors in one structure push all atoms the same way: divided by less than N
they drown the forces of large structures early in the training, when they are still systematic. `scale` is the force
scale of the potential, so that the weights mean the same for every material (lengths in Å).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ase_uq.graph import Graph
from ase_uq.potentials.base import Evaluation


@dataclass(frozen=True, slots=True)
class Labels:
    """Targets of a batch: (S,) eV, (N, 3) eV/Å, (S, 6) eV/Å^3 with (S,) bool where a stress is known."""

    energies: Tensor
    forces: Tensor
    stresses: Tensor
    has_stress: Tensor


@dataclass(frozen=True, slots=True)
class Weights:
    """Weights of the three terms."""

    energy: float
    forces: float
    stress: float


def squared_errors(evaluation: Evaluation, labels: Labels, graph: Graph, scale: Tensor) -> tuple[Tensor, ...]:
    """Return the three squared errors of a single-member evaluation, without weights: (S,), (N, 3), (S, 6)."""
    n_atoms = graph.n_atoms.to(torch.float64)
    energy = ((evaluation.energies[0] - labels.energies) / n_atoms / scale) ** 2
    forces = (evaluation.forces[0] - labels.forces) ** 2 / scale**2
    if evaluation.stresses is None:
        return energy, forces, torch.zeros_like(labels.stresses)
    volumes = torch.linalg.det(graph.cells).abs().unsqueeze(1)
    known = labels.has_stress.unsqueeze(1)
    virial = torch.where(known, (evaluation.stresses[0] - labels.stresses) * volumes, 0.0)
    return energy, forces, (virial / n_atoms.unsqueeze(1) / scale) ** 2


def loss(evaluation: Evaluation, labels: Labels, graph: Graph, *, weights: Weights, scale: Tensor) -> Tensor:
    """Return the weighted loss, a scalar."""
    energy, forces, stress = squared_errors(evaluation, labels, graph, scale)
    total = weights.energy * energy.mean() + weights.forces * forces.mean()
    n_stress = int(labels.has_stress.sum())
    if evaluation.stresses is not None and n_stress:
        total = total + weights.stress * stress.sum() / (6 * n_stress)
    return total
