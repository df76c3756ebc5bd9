"""Going on with a log: where it stopped, whether it is of the same run, and how much of it stays."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ase_uq.errors import InputError
from ase_uq.log.columns import SETTINGS, Column
from ase_uq.log.observables import mean_the_same
from ase_uq.log.reader import OpenLog, open_log


def last_step(path: Path) -> int:
    """Return the step of the last frame of a log, 0 without frames."""
    with open_log(path) as log:
        return int(log.datasets["step"][log.n_frames - 1]) if log.n_frames else 0


def logged_interval(path: str | os.PathLike[str]) -> int | None:
    """Steps between the last frames of a log, the median of up to ten; `None` with fewer than two frames."""
    with open_log(path) as log:
        steps = log.datasets["step"][max(log.n_frames - 11, 0) : log.n_frames]
    return int(np.median(np.diff(steps))) if len(steps) > 1 else None


def check_same_run(old: OpenLog, columns: Sequence[Column], attributes: Mapping[str, Any]) -> None:
    """Refuse to continue a log whose model, settings or datasets differ."""
    for name in (setting.name for setting in SETTINGS):
        before, now = old.attributes.get(name), attributes.get(name)
        if not np.array_equal(np.asarray(before), np.asarray(now)):
            shown = "the elements" if name == "numbers" else f"{name} ({before!r} there, {now!r} here)"
            raise InputError(
                f"`path` must be a log of the same run to continue it, {old.path} differs in {shown}; "
                "log to another file."
            )
    difference = sorted(set(old.datasets) ^ {column.name for column in columns})
    if difference:
        raise InputError(
            f"`path` must be a log with the same datasets to continue it, {old.path} and this run do not both have "
            f"{', '.join(difference)}; give the same `observables` and `store`, or log to another file."
        )
    for column in columns:
        dataset = old.datasets[column.name]
        wanted = {"unit": column.unit, **column.attributes}
        if dataset.shape[1:] != column.shape or not mean_the_same(dataset.attrs, wanted):
            raise InputError(
                f"`path` must be a log with the same observables to continue it, {old.path} has {column.name} with "
                "another shape, unit or axis; log to another file."
            )


def n_to_keep(old: OpenLog, start_step: int, frame: Mapping[str, Any]) -> int:
    """Return how many frames of a log come before a restart at `start_step`, after checking that `frame` joins them."""
    steps = old.datasets["step"][: old.n_frames]
    kept = int(np.searchsorted(steps, start_step, side="right"))
    if len(steps) > 1 and start_step > 2 * steps[-1] - steps[-2]:
        raise InputError(
            f"`start_step` must not leave a gap, {old.path} ends at step {steps[-1]}, got {start_step}; restart from a "
            "frame at or before the last one logged."
        )
    if kept and frame["step"] == steps[kept - 1]:
        logged = float(old.datasets["energy"][kept - 1])
        # Loose enough for text checkpoints and single-precision models, tight enough to notice another frame.
        if abs(frame["energy"] - logged) > 1e-3 + 1e-6 * abs(logged):
            raise InputError(
                f"`atoms` must be at step {frame['step']} of {old.path}, where the energy is {logged} eV, got "
                f"{frame['energy']} eV; restart from that frame or pass `start_step`."
            )
    return kept
