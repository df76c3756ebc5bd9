"""Logs opened together: the parts of them that averages are taken over, frame by frame or in stretches."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from ase_uq.errors import InputError
from ase_uq.log.columns import OBSERVABLES, SETTINGS, key_of, name_of
from ase_uq.log.reader import OpenLog, alike, check_spacing, open_log
from ase_uq.reweighting import MIN_FRAMES

Array = NDArray[np.float64]
Path = str | os.PathLike[str]

_CHUNK = 4096


@dataclass(frozen=True, slots=True)
class LogPart:
    """One log, from the frame where averages begin."""

    log: OpenLog
    start: int


@contextmanager
def opened(paths: Path | Sequence[Path], skip_fs: float) -> Iterator[list[LogPart]]:
    """Open one or several logs of one system and model; without the first `skip_fs` of each, fs."""
    with ExitStack() as stack:
        given = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
        parts = [_part(stack.enter_context(open_log(path)), skip_fs) for path in given]
        _check_parts(parts)
        yield parts


def stretches(parts: Sequence[LogPart]) -> Iterator[tuple[LogPart, slice]]:
    """All frames, some thousands at a time."""
    for part in parts:
        for first in range(part.start, part.log.n_frames, _CHUNK):
            yield part, slice(first, min(first + _CHUNK, part.log.n_frames))


def first_structure(path: Path) -> Atoms:
    """First structure of a log with stored positions, for `parse_observables`."""
    with open_log(path) as log:
        if log.n_frames == 0:
            raise InputError(f"`{log.path}` must hold at least one complete frame, got none; run longer.")
        return next(stored_frames(log, slice(0, 1)))


def observe(path: Path, function: Callable[[Atoms], Any]) -> Array:
    """Values (T, ...) of a function of the atoms in every frame of a log with stored positions."""
    with open_log(path) as log:
        return np.concatenate([observed(log, rows, function) for _, rows in stretches([LogPart(log, 0)])])


def observed(log: OpenLog, rows: slice, function: Callable[[Atoms], Any]) -> Array:
    """Values (t, ...) of a function of the atoms in some of the frames."""
    return np.array([function(atoms) for atoms in stored_frames(log, rows)], dtype=np.float64)


def stored_frames(log: OpenLog, part: slice) -> Iterator[Atoms]:
    """Structures of a log with stored positions; they have no calculator."""
    if "positions" not in log.datasets:
        raise InputError(
            f"`positions` must be in the log to compute observables from it, {log.path} has none; run with "
            '`store=("positions",)` (md --store positions).'
        )
    attributes, positions = log.attributes, log.datasets["positions"][part]
    cells = log.datasets["cell"][part] if "cell" in log.datasets else None
    fixed = attributes.get("cell", np.zeros((3, 3)))
    if "pbc" not in attributes and cells is None and np.isfinite(log.datasets["volume"][part]).any():
        raise InputError(
            f"`cell` must be in the log to compute observables from it, {log.path} is of a version that did not write "
            "it; log the observable itself, or `store` the cell too."
        )
    pbc = attributes.get("pbc", cells is not None)
    if cells is None and np.any(pbc) and np.ptp(log.datasets["volume"][part]) > 0:
        raise InputError(
            f"`cell` must be in the log of a run whose volume changes, {log.path} has none; run with "
            '`store=("positions", "cell")`.'
        )
    atoms = Atoms(numbers=attributes["numbers"], pbc=pbc)
    for index, frame in enumerate(positions):
        atoms.set_cell(fixed if cells is None else cells[index])
        atoms.positions = frame
        yield atoms


def _part(log: OpenLog, skip_fs: float) -> LogPart:
    if log.n_frames == 0:
        raise InputError(f"`{log.path}` must hold at least one complete frame, got none; run longer.")
    time = log.datasets["time_fs"][: log.n_frames]
    length = float(time[-1] - time[0])
    if not 0 <= skip_fs <= length:
        raise InputError(f"`skip_fs` must lie within the run of {length:g} fs, got {skip_fs:g}; leave out less.")
    start = int(np.searchsorted(time, time[0] + skip_fs))
    check_spacing(log.datasets["step"][start : log.n_frames], log.path)
    return LogPart(log, start)


def _check_parts(parts: Sequence[LogPart]) -> None:
    first = parts[0].log
    for log in (part.log for part in parts):
        if "energy_members_minus_energy" not in log.datasets:
            raise InputError(
                f"{log.path} has no `energy_members`, so nothing can be reweighed; log a model with members."
            )
        for name in (setting.name for setting in SETTINGS if setting.of_averages):
            here, there = (np.asarray(each.attributes.get(name, "")) for each in (log, first))
            if not np.array_equal(here, there):
                shown = f"{name} {here}" if here.ndim == 0 else f"other {name}"
                raise InputError(
                    f"`paths` must be logs of one system and model at one temperature, {log.path} has {shown}, unlike "
                    f"{first.path}; reweigh them apart, or join states with `ase_uq.reweighting.multistate`."
                )
    resolved = [part.log.path.resolve() for part in parts]
    if len(set(resolved)) < len(resolved):
        twice = next(path for path in resolved if resolved.count(path) > 1)
        raise InputError(f"`paths` must be different logs, {twice} was given twice; give each once.")
    n_frames = sum(part.log.n_frames - part.start for part in parts)
    if n_frames < MIN_FRAMES:
        raise InputError(
            f"`paths` must hold at least {MIN_FRAMES} frames after `skip_fs`, got {n_frames} in {first.path}; run "
            "longer."
        )


def dataset_of(parts: Sequence[LogPart], name: str, argument: str) -> Any:
    """Return the dataset of the first log, after checking that all have it alike."""
    found = []
    for log in (part.log for part in parts):
        if key_of(name) not in log.datasets:
            logged = [name_of(key) for key in log.datasets if key.startswith(OBSERVABLES)]
            raise InputError(
                f"`{argument}` must be in the log, got {name!r}; {log.path} has: {', '.join(logged) or 'none'}."
            )
        found.append(log.datasets[key_of(name)])
        if not alike(found[0], found[-1]):
            raise InputError(
                f"`paths` must hold {name!r} with one shape, unit and axis, {log.path} differs from {parts[0].log.path}"
                "; reweigh them apart."
            )
    return found[0]


def finite(name: str, values: Array) -> Array:
    """Return the values, after refusing any that is not finite."""
    if not np.isfinite(values).all():
        raise InputError(f"`{name}` must be finite in every frame of the log, got {values[~np.isfinite(values)][0]}.")
    return values
