"""`check_different`: frames that are given twice would count twice, and make error bars too small.

A log has copies, hard links and, where it was copied and both were gone on with, a twin that shares its start; a run
done again with the same seed is the same run. None of that can be told by names of files. Logs of one run carry its
random name; runs without a common name are the same if their first frames agree to the last bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from ase_uq.errors import InputError
from ase_uq.log.reader import alike

if TYPE_CHECKING:
    from ase_uq.log.parts import LogPart

_COMPARED = ("energy", "kinetic_energy")
_FIRST, _SPREAD = 8, 32


def check_different(parts: Sequence[LogPart]) -> None:
    """Refuse parts that hold the same frames of the same run.

    Raises
    ------
    InputError
        Naming both logs.
    """
    starts: dict[bytes, LogPart] = {}
    of_run: dict[str, list[LogPart]] = {}
    for part in parts:
        start = _start(part)
        if start is not None and (twin := starts.setdefault(start, part)) is not part and _look_alike(twin, part):
            raise _refusal(twin, part)
        if name := str(part.log.attributes.get("run_id", "")):
            of_run.setdefault(name, []).append(part)
    for group in of_run.values():
        for one, other in combinations(group, 2):
            if _look_alike(one, other) and _share_frames(one, other):
                raise _refusal(one, other)


def _look_alike(one: LogPart, other: LogPart) -> bool:
    """Whether two parts have the same datasets; what differs otherwise is told where it is asked for."""
    first, second = one.log.datasets, other.log.datasets
    return first.keys() == second.keys() and all(alike(first[name], second[name]) for name in first)


def _start(part: LogPart) -> bytes | None:
    """First frames, as bytes; `None` if these say nothing."""
    rows = slice(part.start, min(part.stop, part.start + _FIRST * part.step), part.step)
    energy, kinetic = (np.asarray(part.log.datasets[name][rows]) for name in _COMPARED)
    if len(energy) < _FIRST or np.ptp(energy) == 0:
        return None
    return np.asarray(part.log.datasets["step"][rows]).tobytes() + energy.tobytes() + kinetic.tobytes()


def _share_frames(one: LogPart, other: LogPart) -> bool:
    """Whether two parts of runs with one name agree in frames that both have; twins part on other processors."""
    first, second = (np.asarray(part.log.datasets["step"][part.rows]) for part in (one, other))
    shared, *places = np.intersect1d(first, second, assume_unique=True, return_indices=True)
    if len(shared) < 2:
        return False
    chosen = np.unique(np.concatenate([np.arange(min(_FIRST, len(shared))), _evenly(len(shared))]))
    same = 0
    for index in chosen:
        found: list[tuple[Any, ...]] = []
        for part, place in zip((one, other), places, strict=True):
            row = part.start + int(place[index]) * part.step
            found.append(tuple(float(part.log.datasets[name][row]) for name in _COMPARED))
        same += found[0] == found[1]
    return same > 1


def _evenly(n: int) -> Any:
    return np.linspace(0, n - 1, min(_SPREAD, n)).astype(int)


def _refusal(one: LogPart, other: LogPart) -> InputError:
    return InputError(
        f"`runs` must be different runs, {one.log.path} and {other.log.path} hold the same frames: one is a copy of "
        "the other, or both were run with the same seed; give one of them, or run again with another seed."
    )
