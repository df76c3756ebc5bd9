"""`refit_last_layer`: the last layer by least squares, when a training is over.

    dw = argmin  w_F <(r_F - x_F dw)^2> + w_E <(r_E - x_E dw)^2 / N> + w_S <(r_S - x_S dw)^2> + ridge

with rows x and errors r of forces, energies and virials as in `rows`. The energy is linear in the last layer, and the
loss quadratic: after a short training, whose last steps were still large, its minimum is elsewhere. The ridge is the
one that fits the validation rows best, no step among them and smaller ones only where they are worth it, and the step
is kept where the validation loss is no larger for it.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ase_uq.potentials.abilities import RefitsReadout
from ase_uq.training.balance import balanced, usual_objective
from ase_uq.training.batches import Batches
from ase_uq.training.constants import refit_constants
from ase_uq.training.fit import validate
from ase_uq.training.losses import SquaredErrors
from ase_uq.training.rows import Part, Rows, last_layer_rows
from ase_uq.training.settings import FitSettings, Weights

# Of the diagonal of the normal equations.
RIDGES = (1e1, 1.0, 1e-1, 1e-2, 1e-3, 1e-4)
# By how much the last layer may grow: large weights that cancel each other do so no longer outside of the data, or
# after the first step of a fine-tuning.
_MOST_GROWTH = 3.0
# A smaller ridge must lower the loss by as much to be taken.
_WORTH_IT = 0.98
# Of a time budget, what comes after the epochs.
LAST_PART = 0.15
# Of the time for the last steps of a training: rows of the training frames, and of the validation frames.
_OF_TRAINING, _OF_VALIDATION = 0.5, 0.2


def without_last_steps(settings: FitSettings) -> tuple[FitSettings, float | None]:
    """Return settings that leave time for the last steps of a training, and the minutes that are left for them."""
    if settings.minutes is None:
        return settings, None
    return replace(settings, minutes=(1.0 - LAST_PART) * settings.minutes), LAST_PART * settings.minutes


def finish_body(
    potential: Any, train: Batches, valid: Batches, settings: FitSettings, *, minutes: float | None = None
) -> tuple[Rows, Rows] | None:
    """Refit the last layer and the constants of a trained potential, in place.

    Parameters
    ----------
    potential
        Of one member; one without a last layer to refit gets its constants alone.
    train, valid
        Labelled frames.
    settings
        Those of the training: the weights of the loss, as they are at its end, and the seed of the frames and
        components that are looked at.
    minutes
        About how long it may take.

    Returns
    -------
    tuple of Rows, or None
        Those of the training and of the validation frames, for the weights as they are now.
    """
    began = time.monotonic()
    refit_constants(potential, train)
    if not isinstance(potential, RefitsReadout):
        return None
    weights, seed = _last_weights(potential, valid, settings), settings.seed
    left = None if minutes is None else max(0.0, 60.0 * minutes - (time.monotonic() - began))
    shown = last_layer_rows(potential, train, seed=seed, seconds=None if left is None else _OF_TRAINING * left)
    held_out = last_layer_rows(potential, valid, seed=seed, seconds=None if left is None else _OF_VALIDATION * left)
    if shown is None or held_out is None:
        return None
    step = best_step(shown, held_out, weights, readout=potential.readout().detach().cpu())
    if step is None or not _improves(potential, step, train, valid, weights):
        return shown, held_out
    return shown.moved(step), held_out.moved(step)


def _last_weights(potential: Any, valid: Batches, settings: FitSettings) -> Weights:
    objective = usual_objective(settings)
    if not objective.stage:
        return settings.weights
    return balanced(settings.weights, validate(potential, valid, objective))


def best_step(train: Rows, valid: Rows, weights: Weights, *, readout: Tensor) -> Tensor | None:
    """Return the step (F,) whose ridge has the smallest loss on the validation rows; `None` if that is no step.

    Steps that make the last layer, `readout` (F,), several times as large are left out.
    """
    hessian, gradient = _normal_equations(train, weights)
    size = hessian.diagonal().clamp(min=1e-12 * float(hessian.diagonal().max())).sqrt()
    scaled, target = hessian / torch.outer(size, size), gradient / size
    best, smallest = None, _loss(valid, weights)
    for ridge in RIDGES:
        identity = torch.eye(len(scaled), dtype=scaled.dtype)
        step = torch.linalg.solve(scaled + ridge * identity, target) / size
        if (size * (readout + step)).norm() > _MOST_GROWTH * (size * readout).norm():
            continue
        loss = _loss(valid.moved(step), weights)
        if loss < _WORTH_IT * smallest:
            best, smallest = step, loss
    return best


def _normal_equations(rows: Rows, weights: Weights) -> tuple[Tensor, Tensor]:
    parts = _terms(rows, weights)
    hessian = sum(weight / len(part.x) * (part.x.T @ part.x) for weight, part in parts)
    gradient = sum(weight / len(part.x) * (part.x.T @ part.error) for weight, part in parts)
    return torch.as_tensor(hessian), torch.as_tensor(gradient)


def _loss(rows: Rows, weights: Weights) -> float:
    return sum(weight * part.rms**2 for weight, part in _terms(rows, weights))


def _terms(rows: Rows, weights: Weights) -> list[tuple[float, Part]]:
    """The terms of the loss with their weights, energies per atom; without those that have no rows."""
    per_atom = rows.sizes.rsqrt()
    energies = Part(rows.energies.x * per_atom.unsqueeze(1), rows.energies.error * per_atom)
    terms = [(weights.forces, rows.forces), (weights.energy, energies), (weights.stress, rows.virials)]
    return [(weight, part) for weight, part in terms if len(part.x)]


def _improves(potential: Any, step: Tensor, train: Batches, valid: Batches, weights: Weights) -> bool:
    # The rows are a part of the frames: the loss itself decides.
    objective = SquaredErrors(weights)
    before = {name: value.clone() for name, value in potential.state_dict().items()}
    loss = validate(potential, valid, objective).loss
    potential.move_readout(step)
    refit_constants(potential, train)
    if validate(potential, valid, objective).loss <= loss:
        return True
    potential.load_state_dict(before)
    return False
