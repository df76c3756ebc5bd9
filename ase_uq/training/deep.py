"""`train_members`: M potentials that differ in seed, in data order and, by option, in a random sub-sample.

References
----------
Sub-sampling without replacement: arXiv:2011.08828, section II.
"""

from __future__ import annotations

import copy
import multiprocessing
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from queue import Empty
from typing import Any

import numpy as np
import torch
from torch import nn

from ase_uq.errors import InputError
from ase_uq.potentials import ARCHITECTURES, DeepEnsemble, TrainablePotential
from ase_uq.potentials.device import checked_device
from ase_uq.structures.frames import Frame
from ase_uq.training.batches import Batches
from ase_uq.training.fit import EpochRecord, FitSettings, fit
from ase_uq.training.last_layer import finish_body, without_last_steps
from ase_uq.training.reference import Reference, fit_reference

MemberCallback = Callable[[int, EpochRecord], None]


@dataclass(frozen=True, slots=True)
class _Job:
    """All that one member's training depends on; travels to a worker process."""

    member: int
    architecture: type[TrainablePotential]
    config: dict[str, Any]
    reference: Reference | None
    start: nn.Module | None
    train: list[Frame]
    valid: list[Frame]
    settings: FitSettings
    state_path: Path | None
    resume: bool
    device: str


def train_members(
    train: Sequence[Frame],
    valid: Sequence[Frame],
    *,
    n_members: int,
    settings: FitSettings,
    config: dict[str, Any] | None = None,
    architecture: type[TrainablePotential] = ARCHITECTURES["equivariant"],
    start: DeepEnsemble | None = None,
    subsample: float = 1.0,
    jobs: int = 1,
    device: str = "cpu",
    state_dir: Path | None = None,
    resume: bool = False,
    on_epoch: MemberCallback | None = None,
) -> DeepEnsemble:
    """Train a deep ensemble.

    Parameters
    ----------
    train, valid
        Labelled frames.
    n_members
        M, at least 2.
    settings
        How to train each member; member i uses `settings.seed` + i for weights, data order and sub-sample.
    config
        Arguments of the architecture other than `elements` and `seed`.
    architecture
        What is trained, see `ase_uq.potentials.architectures`.
    start
        Ensemble to fine-tune; its architecture, shifts and scale are kept.
    subsample
        Part of the training frames each member sees, drawn without replacement.
    jobs
        Members trained at the same time, each in a process of its own with its share of torch's threads.
    state_dir
        Folder for the states of interrupted trainings; removed at the end.
    resume
        Go on from `state_dir`.
    on_epoch
        Called with (member, record) after every epoch of every member.

    Raises
    ------
    InputError
        For M < 2 or other settings out of range.
    """
    if n_members < 2:
        raise InputError(f"`n_members` must be at least 2 to have a variance, got {n_members}; 4 or more is usual.")
    if not 0.0 < subsample <= 1.0:
        raise InputError(f"`subsample` must lie in (0, 1], got {subsample}; 1.0 shows every frame to every member.")
    checked_device(device)
    if start is not None and start.n_members != n_members:
        raise InputError(f"`n_members` must be {start.n_members} as in the starting model, got {n_members}.")
    config = dict(config or {})
    reference = None
    if start is None:
        # The architecture knows what its cut-off is where nothing is said.
        untrained = architecture.from_config({**config, "elements": sorted(train[0].atoms.symbols.species())})
        reference = fit_reference(train, cutoff=untrained.cutoff)
    if state_dir is not None:
        state_dir.mkdir(parents=True, exist_ok=True)
    made = [
        _Job(
            member,
            architecture,
            config,
            reference,
            None if start is None else start.members[member],
            _subsample(train, subsample, settings.seed + member),
            list(valid),
            replace(settings, seed=settings.seed + member),
            None if state_dir is None else state_dir / f"member_{member}.pt",
            resume,
            device,
        )
        for member in range(n_members)
    ]
    states = _in_processes(made, jobs, on_epoch) if jobs > 1 else [_train(job, on_epoch) for job in made]
    members = []
    for job, state in zip(made, states, strict=True):
        potential = _potential(job)
        potential.load_state_dict(state)
        members.append(potential)
    if state_dir is not None:
        shutil.rmtree(state_dir)
    return DeepEnsemble(members)


def _subsample(frames: Sequence[Frame], fraction: float, seed: int) -> list[Frame]:
    if fraction == 1.0:
        return list(frames)
    size = max(1, round(fraction * len(frames)))
    chosen = np.random.default_rng([seed, 1]).choice(len(frames), size=size, replace=False)
    return [frames[i] for i in sorted(chosen)]


def _potential(job: _Job) -> Any:
    if job.start is not None:
        # As it is, of whatever class. A model has fixed its weights.
        return copy.deepcopy(job.start).requires_grad_(True)
    assert job.reference is not None
    potential: Any = job.architecture.from_config(
        {**job.config, "elements": job.reference.elements, "seed": job.settings.seed}
    )
    potential.set_reference(
        shifts=job.reference.shifts, scale=job.reference.scale, mean_neighbours=job.reference.mean_neighbours
    )
    return potential


def _train(job: _Job, on_epoch: MemberCallback | None) -> dict[str, Any]:
    potential = _potential(job)
    potential.to(job.device)
    train, valid = (
        Batches(frames, cutoff=potential.cutoff, batch_size=job.settings.batch_size, device=job.device)
        for frames in (job.train, job.valid)
    )
    settings, last = without_last_steps(job.settings)
    fit(
        potential,
        train,
        valid,
        settings,
        on_epoch=None if on_epoch is None else lambda record: on_epoch(job.member, record),
        state_path=job.state_path,
        resume=job.resume,
    )
    finish_body(potential, train, valid, job.settings.weights, seed=job.settings.seed, minutes=last)
    state: dict[str, Any] = potential.cpu().state_dict()
    return state


def _in_processes(made: list[_Job], jobs: int, on_epoch: MemberCallback | None) -> list[dict[str, Any]]:
    # Spawned, not forked: torch's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    records = context.Manager().Queue()
    threads = max(1, torch.get_num_threads() // jobs)
    with ProcessPoolExecutor(jobs, context, initializer=torch.set_num_threads, initargs=(threads,)) as pool:
        futures = [pool.submit(_train_and_report, job, records) for job in made]
        pending: set[Future[dict[str, Any]]] = set(futures)
        try:
            while pending:
                finished, pending = wait(pending, timeout=0.2, return_when=FIRST_COMPLETED)
                _drain(records, on_epoch)
                for future in finished:
                    future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        return [{name: torch.from_numpy(value) for name, value in future.result().items()} for future in futures]


def _train_and_report(job: _Job, records: Any) -> dict[str, Any]:
    state = _train(job, lambda member, record: records.put((member, record)))
    # NumPy arrays: pickled tensors would share memory with a process that is about to end.
    return {name: value.numpy() for name, value in state.items()}


def _drain(records: Any, on_epoch: MemberCallback | None) -> None:
    while True:
        try:
            member, record = records.get_nowait()
        except Empty:
            return
        if on_epoch is not None:
            on_epoch(member, record)
