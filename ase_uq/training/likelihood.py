"""Gaussian negative log-likelihood of the mean and the variance of members, for heads that share a body.

    nll(r, v) = (log v + r^2 / v) / 2,        v = variance over members (divisor M-1) + floor

`EnergyLikelihood` fits the mean by squared errors and the spread of the energies by their likelihood; it needs one
backward pass. `Likelihood` takes energies *and* forces, with the forces of every member: energies alone leave the
spread of the forces miscalibrated. The cheap recipe trains with the first and ends with the second.

References
----------
Kellner & Ceriotti, arXiv:2402.16621, Eq. 6; Schaefer et al., arXiv:2602.15747 (forces, recipe in two phases).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ase_uq.graph import Graph
from ase_uq.potentials.base import evaluate
from ase_uq.training.losses import Labels, Scored, SquaredErrors, Weights

# In units of the force scale, Å: smallest std of an energy per square root of atoms, and of a force component.
# They keep the logarithm finite where members agree by accident, and lie well below the errors of any potential.
ENERGY_FLOOR, FORCE_FLOOR = 3e-4, 1e-3


class EnergyLikelihood:
    """Squared errors of the mean, plus the likelihood of the spread of the energies.

    Parameters
    ----------
    weights
        Of the squared errors.
    spread_weight
        Of the likelihood. The errors in it are held fixed: it moves the spread, not the mean. Small, so that the body
        hardly feels it; for the heads, which feel nothing else, Adam makes up for the size.
    """

    def __init__(self, weights: Weights, *, spread_weight: float = 1e-4) -> None:
        self.mean = SquaredErrors(weights)
        self.spread_weight = spread_weight

    def __call__(self, potential: Any, graph: Graph, labels: Labels, *, training: bool) -> Scored:
        """Score a batch."""
        evaluation, scored = self.mean.evaluate(potential, graph, labels, training=training)
        floor = (ENERGY_FLOOR * potential.scale) ** 2 * graph.n_atoms
        spread = _nll(scored.energy_error.detach(), evaluation.energies.var(dim=0) + floor)
        return replace(scored, loss=scored.loss + self.spread_weight * spread.mean())


class Likelihood:
    """Likelihood of energies and forces.

    Parameters
    ----------
    energy_weight
        Of the energies, mean over structures, against the mean over force components.
    """

    def __init__(self, *, energy_weight: float = 0.1) -> None:
        self.energy_weight = energy_weight

    def __call__(self, potential: Any, graph: Graph, labels: Labels, *, training: bool) -> Scored:
        """Score a batch."""
        # No part of the likelihood, but to be followed.
        stress = not training and bool(labels.has_stress.any())
        evaluation = evaluate(potential, graph, stress=stress, training=training)
        energy_error = evaluation.energies.mean(dim=0) - labels.energies
        force_error = evaluation.forces.mean(dim=0) - labels.forces
        energy_floor = (ENERGY_FLOOR * potential.scale) ** 2 * graph.n_atoms
        energy = _nll(energy_error, evaluation.energies.var(dim=0) + energy_floor)
        forces = _nll(force_error, evaluation.forces.var(dim=0) + (FORCE_FLOOR * potential.scale) ** 2)
        stress_error = None
        if evaluation.stresses is not None:
            stress_error = (evaluation.stresses.mean(dim=0) - labels.stresses)[labels.has_stress]
        loss = self.energy_weight * energy.mean() + forces.mean()
        return Scored(loss, energy_error, force_error, stress_error=stress_error)


def _nll(error: Tensor, variance: Tensor) -> Tensor:
    return 0.5 * (torch.log(variance) + error**2 / variance)
