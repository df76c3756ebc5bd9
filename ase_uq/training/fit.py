"""`fit`: the one training loop, for one potential.

The loop is a function of (potential, data, settings) and of the state file alone: interrupted and resumed it does the
same steps. The weights that are judged, kept and returned are the exponential moving average (EMA).
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ase_uq.errors import InputError, RunError
from ase_uq.files import replacing
from ase_uq.training.balance import usual_objective
from ase_uq.training.batches import Batch, Batches
from ase_uq.training.losses import Errors, FollowsEpochs, FollowsErrors, Objective
from ase_uq.training.schedule import learning_rate_factor
from ase_uq.training.settings import FitSettings


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """One epoch: losses, validation errors, finished part.

    The errors are RMSE: energies in eV per atom, force components in eV/Å, components of the stress in eV/Å^3, `None`
    where no validation frame has one. `seconds` count from the start of the training, `learning_rate` is that of Adam.
    `terms` are what the objective follows beside the loss, means over the training frames.
    """

    epoch: int
    epochs: int
    train_loss: float
    valid_loss: float
    energy_rmse: float
    forces_rmse: float
    learning_rate: float
    seconds: float
    progress: float
    terms: Mapping[str, float] = field(default_factory=dict)
    stress_rmse: float | None = None


class SampleCallback(Protocol):
    """Called with every training batch after its step: which samples, and their signed errors."""

    def __call__(self, *, epoch: int, batch: Batch, energy_error: Tensor, force_error: Tensor) -> None:
        """`energy_error` (S,) eV; `force_error` (N, 3) eV/Å; both of the weights before the step."""
        ...


@dataclass(slots=True)
class _Progress:
    """What a state file holds beside the tensors."""

    epoch: int = 0
    seconds: float = 0.0
    best: int = -1
    errors: list[Errors] = field(default_factory=list)

    @property
    def losses(self) -> list[float]:
        """Validation losses, one an epoch."""
        return [each.loss for each in self.errors]


def fit(
    potential: nn.Module,
    train: Batches,
    valid: Batches,
    settings: FitSettings,
    *,
    objective: Objective | None = None,
    on_epoch: Callable[[EpochRecord], None] | None = None,
    on_samples: SampleCallback | None = None,
    state_path: Path | None = None,
    resume: bool = False,
) -> list[float]:
    """Train a potential; it ends with the best weights by validation loss.

    Parameters
    ----------
    potential
        A trainable potential with a `scale`; changed in place.
    train, valid
        Frames to train on, and to validate with.
    settings
        How to train.
    objective
        What is minimised, that of `settings` by default.
    on_epoch, on_samples
        Hooks for progress and for methods that follow single samples.
    state_path
        Where the state of the training is kept after every epoch; nothing is kept by default.
    resume
        Go on from `state_path` if it exists.

    Returns
    -------
    list of float
        Validation loss of every epoch.

    Raises
    ------
    RunError
        If the loss stops being a number.
    """
    objective = usual_objective(settings) if objective is None else objective
    averaged = AveragedModel(potential, multi_avg_fn=get_ema_multi_avg_fn(settings.ema), use_buffers=False)
    optimizer = torch.optim.Adam(potential.parameters(), lr=settings.learning_rate, amsgrad=settings.amsgrad)
    best = {name: value.clone() for name, value in potential.state_dict().items()}
    parts = {"potential": potential, "averaged": averaged, "optimizer": optimizer}
    done, fixed = _Progress(), asdict(settings)
    if isinstance(objective, FollowsEpochs):
        fixed |= objective.settings
    if resume and state_path is not None and state_path.exists():
        done, best = _load_state(state_path, parts, fixed)
    while not _finished(done, settings):
        began = time.monotonic()
        rate = _begin_epoch(optimizer, objective, settings, done)
        train_loss, terms = _train_epoch(
            potential, averaged, optimizer, objective, train, settings, done.epoch, on_samples
        )
        errors = validate(averaged.module, valid, objective)
        if not (math.isfinite(train_loss) and math.isfinite(errors.loss)):
            raise RunError(f"training diverged in epoch {done.epoch + 1}; lower the learning rate ({rate:.2g}).")
        if _is_best(errors, done, objective, potential):
            done.best = done.epoch
            best = {name: value.clone() for name, value in averaged.module.state_dict().items()}
        done.epoch += 1
        done.errors.append(errors)
        done.seconds += time.monotonic() - began
        if state_path is not None:
            _save_state(state_path, parts, fixed, done, best)
        if on_epoch is not None:
            on_epoch(_record(done, settings, train_loss, errors, rate, terms))
    potential.load_state_dict(best)
    return done.losses


def validate(potential: Any, data: Batches, objective: Objective) -> Errors:
    """Score a potential on all frames."""
    total = energy = per_root = forces = stress = 0.0
    n_forces = n_stress = 0
    for batch in data.in_order():
        scored = objective(potential, batch.graph, batch.labels, training=False)
        total += scored.loss.item() * len(batch.samples)
        energy += ((scored.energy_error / batch.graph.n_atoms) ** 2).sum().item()
        per_root += (scored.energy_error**2 / batch.graph.n_atoms).sum().item()
        forces += (scored.force_error**2).sum().item()
        n_forces += scored.force_error.numel()
        if scored.stress_error is not None:
            stress += (scored.stress_error**2).sum().item()
            n_stress += scored.stress_error.numel()
    n = len(data.frames)
    return Errors(
        total / n,
        math.sqrt(energy / n),
        math.sqrt(forces / n_forces),
        math.sqrt(stress / n_stress) if n_stress else None,
        math.sqrt(per_root / n),
    )


def _begin_epoch(
    optimizer: torch.optim.Optimizer, objective: Objective, settings: FitSettings, done: _Progress
) -> float:
    progress = _progress(done, settings)
    rate = settings.learning_rate * learning_rate_factor(
        settings.schedule, progress=progress, losses=done.losses, patience=settings.patience
    )
    for group in optimizer.param_groups:
        group["lr"] = rate
    if isinstance(objective, FollowsEpochs):
        objective.begin_epoch(done.epoch, progress=progress)
    if isinstance(objective, FollowsErrors):
        objective.follow(done.errors, progress=progress)
    return rate


def _is_best(errors: Errors, done: _Progress, objective: Objective, potential: Any) -> bool:
    # Both by the weights of now: as they change, losses of other epochs say nothing.
    if done.best < 0:
        return True
    if not isinstance(objective, FollowsErrors):
        return errors.loss < done.errors[done.best].loss
    scale = float(potential.scale)
    return objective.loss(errors, scale=scale) < objective.loss(done.errors[done.best], scale=scale)


def _record(
    done: _Progress, settings: FitSettings, train_loss: float, errors: Errors, rate: float, terms: Mapping[str, float]
) -> EpochRecord:
    return EpochRecord(
        epoch=done.epoch,
        epochs=settings.epochs,
        train_loss=train_loss,
        valid_loss=errors.loss,
        energy_rmse=errors.energy_rmse,
        forces_rmse=errors.forces_rmse,
        learning_rate=rate,
        seconds=done.seconds,
        progress=min(1.0, _progress(done, settings)),
        terms=terms,
        stress_rmse=errors.stress_rmse,
    )


def _train_epoch(
    potential: Any,
    averaged: AveragedModel,
    optimizer: torch.optim.Optimizer,
    objective: Objective,
    train: Batches,
    settings: FitSettings,
    epoch: int,
    on_samples: SampleCallback | None,
) -> tuple[float, dict[str, float]]:
    total, terms = 0.0, defaultdict[str, float](float)
    for batch in train.shuffled(seed=settings.seed, epoch=epoch):
        optimizer.zero_grad(set_to_none=True)
        scored = objective(potential, batch.graph, batch.labels, training=True)
        scored.loss.backward()
        nn.utils.clip_grad_norm_(potential.parameters(), settings.clip)
        optimizer.step()
        averaged.update_parameters(potential)
        part = len(batch.samples) / len(train.frames)
        total += part * scored.loss.item()
        for name, value in scored.terms.items():
            terms[name] += part * value.item()
        if on_samples is not None:
            on_samples(
                epoch=epoch,
                batch=batch,
                energy_error=scored.energy_error.detach(),
                force_error=scored.force_error.detach(),
            )
    return total, dict(terms)


def _progress(done: _Progress, settings: FitSettings) -> float:
    by_time = done.seconds / (60.0 * settings.minutes) if settings.minutes else 0.0
    return max(done.epoch / settings.epochs, by_time)


def _finished(done: _Progress, settings: FitSettings) -> bool:
    if done.epoch == 0:
        return False
    # The next epoch must fit into the budget: stop before it, not after.
    pace = done.seconds / done.epoch
    over = settings.minutes is not None and done.seconds + pace > 60.0 * settings.minutes
    since_best = len(done.losses) - 1 - done.losses.index(min(done.losses))
    stalled = settings.schedule != "cosine" and since_best >= settings.stop_after
    return done.epoch >= settings.epochs or over or stalled


def _save_state(
    path: Path, parts: dict[str, Any], fixed: dict[str, Any], done: _Progress, best: dict[str, Tensor]
) -> None:
    state = {name: part.state_dict() for name, part in parts.items()}
    with replacing(path) as aside:
        torch.save({**state, "best": best, "settings": fixed, "done": asdict(done)}, aside)


def _load_state(path: Path, parts: dict[str, Any], fixed: dict[str, Any]) -> tuple[_Progress, dict[str, Tensor]]:
    try:
        state = torch.load(path, weights_only=True)
    except Exception as e:
        raise InputError(f"the training state `{path}` could not be read; delete it, or train without --resume.") from e
    if "errors" not in state["done"]:
        raise InputError(f"the training state `{path}` is of an earlier version; delete it, or train without --resume.")
    # The length of the run may change on resuming; everything else would make it another training.
    free = ("epochs", "minutes", "stop_after")
    for name, value in fixed.items():
        if name not in free and state["settings"].get(name) != value:
            raise InputError(
                f"`{name}` must be {state['settings'].get(name)!r} as in the interrupted training, got {value!r}; "
                "set it so, or train without --resume."
            )
    for name, part in parts.items():
        part.load_state_dict(state[name])
    done = state["done"]
    return _Progress(**{**done, "errors": [Errors(**each) for each in done["errors"]]}), state["best"]
