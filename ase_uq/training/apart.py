"""`train_apart`: the members of a deep ensemble, each by itself, one after the other or in processes of their own."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ase_uq.errors import InputError
from ase_uq.potentials import DeepEnsemble
from ase_uq.structures.frames import Frame
from ase_uq.training.deep import Deep
from ase_uq.training.last_layer import without_last_steps
from ase_uq.training.processes import in_processes
from ase_uq.training.run import TrainingRun
from ase_uq.training.settings import FitSettings

# NumPy arrays: pickled tensors would share memory with another process, which may be about to end.
State = dict[str, NDArray[Any]]


def train_members(
    train: Sequence[Frame],
    valid: Sequence[Frame],
    *,
    n_members: int,
    settings: FitSettings,
    subsample: float = 1.0,
    jobs: int = 1,
    **run: Any,
) -> DeepEnsemble:
    """Train a deep ensemble: `TrainingRun` with the method `Deep` in one call, without the model around it.

    Parameters
    ----------
    train, valid
        Labelled frames.
    n_members, subsample, jobs
        As for `Deep`.
    settings
        How to train each member.
    **run
        `config`, `start`, `device`, `state_dir`, `resume`, `on_epoch`: as for `TrainingRun`. A deep ensemble to start
        from keeps its architecture, shifts and scale.

    Raises
    ------
    InputError
        For M < 2 or other settings out of range.
    """
    method = Deep(n_members, subsample, jobs)
    training = TrainingRun(train, valid, method, settings, **run)
    with training.keeping():
        trained = train_apart(method, training)
        training.clear()
    return trained


@dataclass(frozen=True, slots=True)
class _Job:
    """All that one member's training depends on, `run` with its own frames and seed; travels to a worker process."""

    member: int
    run: TrainingRun
    body: Any  # a module that is a potential


def train_apart(method: Deep, run: TrainingRun) -> DeepEnsemble:
    """Train the members of a deep ensemble.

    Raises
    ------
    InputError
        If the deep ensemble to start from has another number of members.
    """
    start = run.start
    if start is not None and start.n_members != method.n_members:
        raise InputError(
            f"`n_members` must be {start.n_members} as in the starting model, got {method.n_members}; set it so."
        )
    seeds = [run.settings.seed + member for member in range(method.n_members)]
    bodies = [run.new_body(seed=seed) for seed in seeds] if start is None else list(start.members)
    made = [
        _Job(
            member,
            replace(
                run,
                train=subsample(run.train, method.subsample, seed),
                settings=replace(run.settings, seed=seed),
                start=None,
                on_epoch=None,
            ),
            # As it is, of whatever class. A model has fixed its weights.
            copy.deepcopy(body).requires_grad_(True),
        )
        for member, (seed, body) in enumerate(zip(seeds, bodies, strict=True))
    ]
    jobs = method.at_a_time(run.device)
    if jobs > 1:
        states = in_processes(_train, made, at_a_time=jobs, on_note=run.note)
    else:
        states = [_train(job, run.note) for job in made]
    for job, state in zip(made, states, strict=True):
        job.body.cpu().load_state_dict({name: torch.from_numpy(value) for name, value in state.items()})
    return DeepEnsemble([job.body for job in made])


def subsample(frames: Sequence[Frame], fraction: float, seed: int) -> list[Frame]:
    """Draw a part of the frames without replacement, in their order."""
    if fraction == 1.0:
        return list(frames)
    size = max(1, round(fraction * len(frames)))
    chosen = np.random.default_rng([seed, 1]).choice(len(frames), size=size, replace=False)
    return [frames[i] for i in sorted(chosen)]


def _arrays(state: dict[str, torch.Tensor]) -> State:
    return {name: value.cpu().numpy() for name, value in state.items()}


def _train(job: _Job, on_epoch: Callable[..., None]) -> State:
    run = job.run
    run.on_epoch = on_epoch
    potential: Any = job.body.to(run.device)
    data = run.batches(potential.cutoff)
    settings, last = without_last_steps(run.settings)
    run.fit(potential, data, f"member_{job.member}", part=job.member, settings=settings)
    run.finish_body(potential, data, minutes=last)
    return _arrays(potential.state_dict())
