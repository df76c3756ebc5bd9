"""The last stage of a training: energies that are left behind get a larger weight.

=======  =====================================================================
symbol   variable
=======  =====================================================================
p        `progress`, the part of the training that is done, 0 to 1
a        `stage`, the part at its end that is this stage
E, F     RMSE of energies per atom and of forces on validation frames
D        RMSE of energies over the square root of atoms
l        `LENGTH`, 0.1 Å
f        factor on the weight of energies, `energy_factor`
=======  =====================================================================

    f = b^h(x),   h(x) = x^2 (3 - 2 x),   x = min(1, 2 (p - 1 + a) / a)
    b = max(1, min((D / l F)^2, 2 (w_F F^2) / (w_E E^2), 30))

A structure has one energy and hundreds of force components. Where the errors of atoms are independent, D is about
0.1 Å F at the end of a training, and a larger weight only adds noise to the steps. Where D is larger, the energies of
whole kinds of structures are off together (strained crystals, surfaces), of which forces say nothing: then the weight
rises, until energies are no longer behind or their term is twice that of forces. b is the geometric mean over the last
epochs, so that one validation does not decide, and the rise is over in the middle of the stage. All this follows from
the errors of the epochs so far, which the state of a training holds.

References
----------
A second stage with a larger weight of energies, at fixed weights: arXiv:2206.07697 (MACE).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from ase_uq.potentials.graph import Graph
from ase_uq.training.losses import Errors, Labels, Scored, SquaredErrors
from ase_uq.training.settings import FitSettings, Weights

# Epochs that are averaged.
_LAST = 3
# Å, what the term of energies may be over that of forces, and the largest factor: beyond, a few energies would be all
# that a step sees.
LENGTH, SHARE, MOST = 0.1, 2.0, 30.0


def energy_factor(weights: Weights, past: Sequence[Errors], *, stage: float, progress: float) -> float:
    """Return the factor on the weight of energies.

    Parameters
    ----------
    weights
        Of the loss before this stage.
    past
        Errors of the epochs so far.
    stage
        Part of the training, at its end; 0 for none.
    progress
        Finished part of the training.
    """
    if stage <= 0.0 or progress <= 1.0 - stage or not past:
        return 1.0
    x = min(1.0, 2.0 * (progress - 1.0 + stage) / stage)
    logs = [math.log(balance(weights, errors)) for errors in past[-_LAST:]]
    return math.exp(x * x * (3.0 - 2.0 * x) * sum(logs) / len(logs))


def balance(weights: Weights, errors: Errors) -> float:
    """Return the factor at the end of the stage for errors as these: 1 where energies are not behind."""
    forces = SHARE * weights.forces * errors.forces_rmse**2
    energies = weights.energy * errors.energy_rmse**2
    if energies == 0.0 or forces == 0.0:
        return 1.0
    behind = (errors.energy_rmse_per_root / (LENGTH * errors.forces_rmse)) ** 2
    return max(1.0, min(behind, forces / energies, MOST))


def balanced(weights: Weights, errors: Errors) -> Weights:
    """Return the weights at the end of the stage."""
    return replace(weights, energy=weights.energy * balance(weights, errors))


class BalancedErrors(SquaredErrors):
    """Squared errors with a last stage; those of validation have the weights before it, by which epochs compare.

    Follows the weight of energies as `energy_weight`.

    Parameters
    ----------
    weights
        Before the stage.
    stage
        Part of the training; 0 for none.
    """

    def __init__(self, weights: Weights, *, stage: float) -> None:
        super().__init__(weights)
        self.first, self.stage, self.factor = weights, stage, 1.0

    def follow(self, past: Sequence[Errors], *, progress: float) -> None:
        """Set the weights of the next epoch."""
        self.factor = energy_factor(self.first, past, stage=self.stage, progress=progress)

    def __call__(self, potential: Any, graph: Graph, labels: Labels, *, training: bool) -> Scored:
        """Score a batch."""
        energy = self.first.energy * (self.factor if training else 1.0)
        self.weights = replace(self.first, energy=energy)
        scored = super().__call__(potential, graph, labels, training=training)
        if not training:
            return scored
        return replace(scored, terms={"energy_weight": torch.tensor(energy, dtype=torch.float64)})

    def loss(self, errors: Errors, *, scale: float) -> float:
        """Return the validation loss of an epoch for the weights as they are now."""
        return errors.loss + (self.factor - 1.0) * self.first.energy * (errors.energy_rmse / scale) ** 2


def usual_objective(settings: FitSettings) -> BalancedErrors:
    """Return what a training minimises by default: squared errors, with the last stage where there is one."""
    return BalancedErrors(settings.weights, stage=settings.energy_stage if settings.schedule == "cosine" else 0.0)
