"""`train_apart`: the members of a deep ensemble, each by itself, one after the other or in processes of their own."""

from __future__ import annotations

import copy
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, replace
from queue import Empty
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ase_uq.errors import InputError
from ase_uq.potentials import DeepEnsemble
from ase_uq.structures.frames import Frame
from ase_uq.training.deep import Deep
from ase_uq.training.last_layer import without_last_steps
from ase_uq.training.run import PartCallback, TrainingRun
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
    states = _in_processes(made, jobs, run) if jobs > 1 else [_train(job, run.note) for job in made]
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


def _train(job: _Job, on_epoch: PartCallback) -> State:
    run = job.run
    run.on_epoch = on_epoch
    potential: Any = job.body.to(run.device)
    data = run.batches(potential.cutoff)
    settings, last = without_last_steps(run.settings)
    run.fit(potential, data, f"member_{job.member}", part=job.member, settings=settings)
    run.finish_body(potential, data, minutes=last)
    return _arrays(potential.state_dict())


def _in_processes(made: list[_Job], jobs: int, run: TrainingRun) -> list[State]:
    # Spawned, not forked: torch's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    records = context.Manager().Queue()
    threads = max(1, torch.get_num_threads() // jobs)
    with ProcessPoolExecutor(jobs, context, initializer=torch.set_num_threads, initargs=(threads,)) as pool:
        futures = [pool.submit(_train_and_report, job, records) for job in made]
        pending: set[Future[State]] = set(futures)
        try:
            while pending:
                finished, pending = wait(pending, timeout=0.2, return_when=FIRST_COMPLETED)
                _drain(records, run)
                for future in finished:
                    future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        return [future.result() for future in futures]


def _train_and_report(job: _Job, records: Any) -> State:
    return _train(job, lambda member, record: records.put((member, record)))


def _drain(records: Any, run: TrainingRun) -> None:
    while True:
        try:
            member, record = records.get_nowait()
        except Empty:
            return
        run.note(member, record)
