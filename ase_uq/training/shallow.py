"""`train_shallow`: one body and M heads, one after the other.

1. The body by squared errors, as one potential, and at the end its last layer and its constants by least squares.
2. The heads by the CRPS of forces and energies, with the body as it is: see `heads`.

References
----------
Kellner & Ceriotti, arXiv:2402.16621; Schaefer et al., arXiv:2602.15747.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ase_uq.errors import InputError
from ase_uq.potentials import ShallowEnsemble
from ase_uq.potentials.device import checked_device
from ase_uq.structures.frames import Frame
from ase_uq.training.batches import Batches
from ase_uq.training.constants import centre_heads
from ase_uq.training.fit import EpochRecord, FitSettings, fit
from ase_uq.training.heads import fit_heads
from ase_uq.training.last_layer import finish_body, without_last_steps
from ase_uq.training.reference import new_potential


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
        How to train; `minutes` are those of body and heads together.
    config
        Arguments of `EquivariantPotential` other than `elements` and `seed`.
    start
        Ensemble to fine-tune: its body goes on, and gets new heads. It is changed.
    state_dir
        Folder for the states of an interrupted training; removed at the end.
    resume
        Go on from `state_dir`.
    on_epoch
        Called with (0, record) after every epoch of the body.

    Raises
    ------
    InputError
        For M < 2 or other settings out of range.
    """
    checked_device(device)
    if start is not None and start.n_members != n_members:
        raise InputError(f"`n_members` must be {start.n_members} as in the starting model, got {n_members}.")
    if n_members < 2:
        raise InputError(f"`n_members` must be at least 2 to have a variance, got {n_members}; 8 or more is usual.")
    if start is None:
        body: Any = new_potential(train, seed=settings.seed, config=config)
    else:
        body = start.potential
    body.requires_grad_(True).to(device)
    first, last = without_last_steps(settings)
    if state_dir is not None:
        state_dir.mkdir(parents=True, exist_ok=True)
    shown, held_out = (
        Batches(frames, cutoff=body.cutoff, batch_size=settings.batch_size, device=device) for frames in (train, valid)
    )
    fit(
        body,
        shown,
        held_out,
        first,
        on_epoch=None if on_epoch is None else lambda record: on_epoch(0, record),
        state_path=None if state_dir is None else state_dir / "body.pt",
        resume=resume,
    )
    rows = finish_body(body, shown, held_out, settings, minutes=last)
    deviations = None if rows is None else fit_heads(*rows, n_members, seed=settings.seed)
    ensemble = ShallowEnsemble(body.cpu(), n_members, seed=settings.seed, deviations=deviations)
    centre_heads(ensemble, shown)
    if state_dir is not None:
        shutil.rmtree(state_dir)
    return ensemble
