"""`train_shallow`: one body and M heads, trained in two phases.

1. The mean by squared errors, the spread of the heads by the likelihood of the energies: one backward pass a step.
2. Everything by the likelihood of energies and forces, from where the first phase ended.

References
----------
Kellner & Ceriotti, arXiv:2402.16621; Schaefer et al., arXiv:2602.15747.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ase_uq.device import checked_device
from ase_uq.errors import InputError
from ase_uq.potentials import ShallowEnsemble
from ase_uq.training.batches import Batches
from ase_uq.training.data import Frame
from ase_uq.training.fit import EpochRecord, FitSettings, fit
from ase_uq.training.likelihood import EnergyLikelihood, Likelihood
from ase_uq.training.losses import Objective
from ase_uq.training.reference import new_potential

# Part of the epochs or minutes that the second phase gets, and its learning rate against that of the first.
SECOND_PART, SECOND_RATE = 0.4, 0.2


def train_shallow(
    train: Sequence[Frame],
    valid: Sequence[Frame],
    *,
    n_members: int,
    settings: FitSettings,
    config: dict[str, Any] | None = None,
    start: ShallowEnsemble | None = None,
    device: str = "cpu",
    state_dir: Path | None = None,
    resume: bool = False,
    on_epoch: Callable[[int, EpochRecord], None] | None = None,
) -> ShallowEnsemble:
    """Train a shallow ensemble.

    Parameters
    ----------
    train, valid
        Labelled frames.
    n_members
        M, at least 2.
    settings
        How to train; `epochs` and `minutes` are those of both phases together, the learning rate that of the first.
    config
        Arguments of `EquivariantPotential` other than `elements` and `seed`.
    start
        Ensemble to fine-tune; only the second phase is done.
    state_dir
        Folder for the states of an interrupted training; removed at the end.
    resume
        Go on from `state_dir`.
    on_epoch
        Called with (phase 0 or 1, record) after every epoch.

    Raises
    ------
    InputError
        For M < 2 or other settings out of range.
    """
    checked_device(device)
    if start is not None and start.n_members != n_members:
        raise InputError(f"`n_members` must be {start.n_members} as in the starting model, got {n_members}.")
    ensemble = _start(train, n_members, settings, config) if start is None else start
    ensemble.requires_grad_(True).to(device)
    first, second = _phases(settings) if start is None else (None, settings)
    if state_dir is not None:
        state_dir.mkdir(parents=True, exist_ok=True)
    shown, held_out = (
        Batches(frames, cutoff=ensemble.cutoff, batch_size=settings.batch_size, device=device)
        for frames in (train, valid)
    )
    phases: list[tuple[FitSettings | None, Objective]] = [
        (first, EnergyLikelihood(settings.weights)),
        (second, Likelihood()),
    ]
    for phase, (plan, objective) in enumerate(phases):
        if plan is None:
            continue
        fit(
            ensemble,
            shown,
            held_out,
            plan,
            objective=objective,
            on_epoch=_reporting(on_epoch, phase),
            state_path=None if state_dir is None else state_dir / f"phase_{phase}.pt",
            resume=resume,
        )
    if state_dir is not None:
        shutil.rmtree(state_dir)
    return ensemble.cpu()


def _start(
    train: Sequence[Frame], n_members: int, settings: FitSettings, config: dict[str, Any] | None
) -> ShallowEnsemble:
    return ShallowEnsemble(new_potential(train, seed=settings.seed, config=config), n_members, seed=settings.seed)


def _phases(settings: FitSettings) -> tuple[FitSettings, FitSettings]:
    def part(fraction: float, rate: float) -> FitSettings:
        return replace(
            settings,
            epochs=max(1, round(fraction * settings.epochs)),
            minutes=None if settings.minutes is None else fraction * settings.minutes,
            learning_rate=rate * settings.learning_rate,
        )

    return part(1.0 - SECOND_PART, 1.0), part(SECOND_PART, SECOND_RATE)


def _reporting(on_epoch: Callable[[int, EpochRecord], None] | None, phase: int) -> Callable[[EpochRecord], None] | None:
    if on_epoch is None:
        return None
    return lambda record: on_epoch(phase, record)
