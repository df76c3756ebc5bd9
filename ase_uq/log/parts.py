"""Logs opened together: the parts of them that averages are taken over, frame by frame or in stretches."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

import numpy as np
from ase import Atoms

from ase_uq.arrays import Array
from ase_uq.errors import InputError
from ase_uq.log.columns import EXPLODED, KINDS, OBSERVABLES, PER_ATOM, SETTINGS, key_of, name_of
from ase_uq.log.held import log_of
from ase_uq.log.ramp import check_one_temperature
from ase_uq.log.reader import OpenLog, RunLog, alike, check_any, check_spacing, first_frame, open_log
from ase_uq.log.twins import check_different
from ase_uq.observables.observable import Observable
from ase_uq.observables.observing import Observing
from ase_uq.reweighting import MIN_FRAMES

Path = str | os.PathLike[str]
Run = Path | RunLog

_CHUNK = 4096
_OF_EVERY_FRAME = tuple(name for name in KINDS if name not in PER_ATOM)


@dataclass(frozen=True, slots=True)
class LogPart:
    """Frames of one log that averages are taken over: from `start` to before `stop`, every `step`-th."""

    log: OpenLog
    start: int
    stop: int
    step: int = 1

    @property
    def n_frames(self) -> int:
        """Number of frames that the averages are taken over."""
        return len(range(self.start, self.stop, self.step))

    @property
    def rows(self) -> slice:
        """Rows of the log that hold these frames, as one slice."""
        return slice(self.start, self.stop, self.step)

    @property
    def stretches(self) -> Iterator[slice]:
        """Slices that hold the same rows, some thousands at a time."""
        reach = _CHUNK * self.step
        for first in range(self.start, self.stop, reach):
            yield slice(first, min(first + reach, self.stop), self.step)


@contextmanager
def opened(
    runs: Run | Sequence[Run], skip_fs: float = 0.0, *, stored: bool = False, observables: Sequence[str] | None = None
) -> Iterator[list[LogPart]]:
    """Open one or several runs of one system and model; without the first `skip_fs` of each, fs.

    Damaged frames are left out: with `stored` those whose stored positions are, too, and of observables those damaged
    in one of `observables`, by default in any.
    """
    read = None if observables is None else {*_OF_EVERY_FRAME, *map(key_of, observables)}
    with ExitStack() as stack:
        given = [runs] if isinstance(runs, str | os.PathLike | RunLog) else list(runs)
        _check_once(given)
        logs = [
            log_of(run) if isinstance(run, RunLog) else stack.enter_context(open_log(run, stored=stored, read=read))
            for run in given
        ]
        parts = [_part(log, skip_fs) for log in logs]
        _check_parts(parts)
        check_different(parts)
        yield parts


def stretches(parts: Sequence[LogPart]) -> Iterator[tuple[LogPart, slice]]:
    """All frames, some thousands at a time."""
    for part in parts:
        for rows in part.stretches:
            yield part, rows


def first_structure(path: Path) -> Atoms:
    """First structure of a log with stored positions, for `parse_observables`."""
    with open_log(path, stored=True, read=()) as log:
        check_any(log)
        return next(stored_frames(log, slice(0, 1)))


def observe(path: Path, observable: Observable, name: str = "observable") -> Array:
    """Values (T, ...) of an observable in every frame of a log with stored positions, NaN where it has none."""
    observing = Observing({name: observable})
    with open_log(path, stored=True) as log:
        parts = [observed(log, rows, observing) for _, rows in stretches([LogPart(log, 0, log.n_frames)])]
    return np.concatenate(parts)


def observed(log: OpenLog, rows: slice, observing: Observing) -> Array:
    """Values (t, ...) of a single observable in some of the frames."""
    (name,) = observing.observables
    return np.array([observing.values(atoms)[name] for atoms in stored_frames(log, rows)], dtype=np.float64)


def stored_frames(log: OpenLog, part: slice) -> Iterator[Atoms]:
    """Structures of a log with stored positions; they have no calculator."""
    if "positions" not in log.datasets:
        raise InputError(
            f"`positions` must be in the log to compute observables from it, {log.path} has none; run with "
            '`store=("positions",)`, or log the observable itself.'
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
    check_any(log)
    start = first_frame(log.datasets["time_fs"][: log.n_frames], skip_fs)
    check_spacing(log.datasets["step"][start : log.n_frames], log.path)
    return LogPart(log, start, log.n_frames)


def _check_once(runs: Sequence[Run]) -> None:
    places = [id(run) if isinstance(run, RunLog) else FilePath(run).resolve() for run in runs]
    if not runs:
        raise InputError("`runs` must hold at least one log or run, got none; pass a path.")
    for run, place in zip(runs, places, strict=True):
        if places.count(place) > 1:
            shown = run.path if isinstance(run, RunLog) else place
            raise InputError(f"`runs` must be different runs, {shown} was given twice; give each once.")


def _check_parts(parts: Sequence[LogPart]) -> None:
    first = parts[0].log
    for log in (part.log for part in parts):
        check_one_temperature(log.attributes, log.path)
        if "energy_members_minus_energy" not in log.datasets:
            raise InputError(
                f"{log.path} has no `energy_members`, so nothing can be reweighed; log a model with members."
            )
        for name in (setting.name for setting in SETTINGS if setting.of_averages):
            here, there = (np.asarray(each.attributes.get(name, "")) for each in (log, first))
            if not np.array_equal(here, there):
                shown = f"{name} {here}" if here.ndim == 0 else f"other {name}"
                raise InputError(
                    f"`runs` must be logs of one system and model at one temperature, {log.path} has {shown}, unlike "
                    f"{first.path}; reweigh them apart, or join states with `ase_uq.reweighting.multistate`."
                )
    n_frames = sum(part.n_frames for part in parts)
    if n_frames < MIN_FRAMES:
        exploded = first.attributes.get(EXPLODED)
        cure = f"the run exploded: {exploded}" if exploded else "run longer"
        raise InputError(
            f"`runs` must hold at least {MIN_FRAMES} frames after `skip_fs`, got {n_frames} in {first.path}; {cure}."
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
                f"`runs` must hold {name!r} with one shape, unit and axis, {log.path} differs from {parts[0].log.path}"
                "; reweigh them apart."
            )
    return found[0]


def finite(name: str, values: Array) -> Array:
    """Return the values, after refusing any that is not finite."""
    if not np.isfinite(values).all():
        raise InputError(f"`{name}` must be finite in every frame of the log, got {values[~np.isfinite(values)][0]}.")
    return values
