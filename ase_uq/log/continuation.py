"""Going on with a log: where it stopped, whether it is of the same run, and how much of it stays."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ase_uq.errors import InputError
from ase_uq.log.columns import EXPLODED, OBSERVABLES, SETTINGS, Column, name_of
from ase_uq.log.definition import differences, told
from ase_uq.log.observables import mean_the_same
from ase_uq.log.reader import OpenLog, open_log


def last_step(path: Path) -> int:
    """Return the step of the last frame of a log, 0 without frames."""
    with open_log(path, read=("step",)) as log:
        return int(log.datasets["step"][log.n_frames - 1]) if log.n_frames else 0


def logged_interval(path: str | os.PathLike[str]) -> int | None:
    """Steps between the last frames of a log, the median of up to ten; `None` with fewer than two frames."""
    with open_log(path, read=("step",)) as log:
        steps = log.datasets["step"][max(log.n_frames - 11, 0) : log.n_frames]
    return int(np.median(np.diff(steps))) if len(steps) > 1 else None


def run_id_of(path: str | os.PathLike[str]) -> str:
    """Return the random name of the run that a log is of, "" in a log of an earlier version."""
    with open_log(path, read=()) as log:
        return str(log.attributes.get("run_id", ""))


def exploded_in(path: str | os.PathLike[str]) -> str:
    """What shows that the run of a log has exploded, as its driver has said; "" else."""
    with open_log(path) as log:
        return str(log.attributes.get(EXPLODED, ""))


def definition_in(log: OpenLog) -> dict[str, Any]:
    """Return what the run of a log is, see `ase_uq.log.definition`; empty in a log of an earlier version."""
    try:
        found = json.loads(str(log.attributes.get("definition", "{}")))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def check_same_run(old: OpenLog, columns: Sequence[Column], attributes: Mapping[str, Any]) -> None:
    """Refuse to continue a log whose model, settings, definition or datasets differ."""
    found: list[tuple[str, Any, Any]] = []
    for name in (setting.name for setting in SETTINGS):
        before, now = old.attributes.get(name), attributes.get(name)
        if not np.array_equal(np.asarray(before), np.asarray(now)):
            found.append(("the elements" if name == "numbers" else name, before, now))
    found += differences(definition_in(old), json.loads(attributes.get("definition", "{}")))
    if found:
        raise InputError(
            f"`path` must be a log of the same run to continue it, {old.path} differs in {told(found)}; "
            "give what the run began with, or log to another file."
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
    gap = steps[-1] - steps[-2] if len(steps) > 1 else definition_in(old).get("interval")
    if len(steps) and gap is not None and start_step > steps[-1] + gap:
        raise InputError(
            f"`start_step` must not leave a gap, {old.path} ends at step {steps[-1]}, got {start_step}; restart from a "
            "frame at or before the last one logged, or put the log back that belongs to the state."
        )
    if kept and frame["step"] == steps[kept - 1]:
        logged = float(old.datasets["energy"][kept - 1])
        # Loose enough for text checkpoints and single-precision models, tight enough to notice another frame.
        if abs(frame["energy"] - logged) > 1e-3 + 1e-6 * abs(logged):
            raise InputError(
                f"`atoms` must be at step {frame['step']} of {old.path}, where the energy is {logged} eV, got "
                f"{frame['energy']} eV; restart from that frame or pass `start_step`."
            )
        _check_observables(old, kept - 1, frame)
    return kept


def _check_observables(old: OpenLog, row: int, frame: Mapping[str, Any]) -> None:
    """Refuse observables that give something else for the frame from which a run goes on exactly."""
    for name, precision in (("energy", 1e-9), ("kinetic_energy", 1e-6)):
        if not np.isclose(frame[name], old.datasets[name][row], rtol=precision, atol=1e-9):
            return  # from a checkpoint with fewer digits, or without velocities
    for name in (name for name in frame if name.startswith(OBSERVABLES) and name in old.datasets):
        before, now = np.asarray(old.datasets[name][row]), np.asarray(frame[name])
        if before.shape == now.shape and not np.allclose(before, now, rtol=1e-3, atol=1e-6, equal_nan=True):
            shown = f"{before} there, {now} here" if before.ndim == 0 else "other values"
            raise InputError(
                f"`observables` must mean what they meant in {old.path}, {name_of(name)!r} gives something else for "
                f"the frame at step {frame['step']} ({shown}); give it another name, and log to another file."
            )
