"""What of a log is whole: its datasets, its frames, and sentences about what is damaged.

Frames are numbered as in the file, from 0. A frame that is damaged in one dataset is left out in all, so that what
remains is a run. Per-atom data, which are large, and observables, which can be many, are looked through only when they
will be read. All goes block by block: a log of any length takes the memory of one block and a byte or two a frame.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ase_uq.errors import InputError
from ase_uq.log.accepted import check_column_attributes, check_dataset, check_expansion, check_link
from ase_uq.log.checksums import CHECKSUM, COLUMNS, OF_ATTRIBUTES, crc32_of_attributes
from ase_uq.log.columns import KINDS, OBSERVABLES, PER_ATOM
from ase_uq.log.stored import DAMAGE, SOUND, Presence, Series, presence, readable_rows, rows_read, whole_rows

# Without these there is no run.
_ESSENTIAL = ("step", "time_fs", "energy", "kinetic_energy", "temperature_K", "volume")
_MOST_SHOWN = 4
_MOST_COUNTED = 10**7
_BLOCK_BYTES = 2**22
_BLOCK_ROWS = (256, 2**14)


@dataclass(frozen=True, slots=True)
class Surveyed:
    """Datasets of a log with its whole frames, how many these are, and what is damaged, in sentences."""

    datasets: dict[str, Series]
    n_frames: int
    damage: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Sums:
    """Checksums of the frames, in the file, and which columns have one; none in earlier logs."""

    dataset: Any
    columns: tuple[str, ...]
    present: Presence

    def blocks(self, n: int, names: Collection[str]) -> Iterator[tuple[int, int, dict[str, Any], NDArray[np.bool_]]]:
        """First row of every block, the row after its last, sums by name, and whether each frame's are sound."""
        # In one piece where most are wanted: a selection of columns is slower, and takes less memory.
        wanted = [index for index, name in enumerate(self.columns) if name in names]
        chosen: Any = slice(None) if 2 * len(wanted) > len(self.columns) else wanted
        width = len(self.columns[chosen]) if isinstance(chosen, slice) else len(wanted)
        fewest, most = _BLOCK_ROWS
        reach = min(max(_BLOCK_BYTES // (4 * max(width, 1)), fewest), most)
        for start in range(0, n, reach):
            stop = min(start + reach, n)
            values, sound = self._read(start, stop, chosen)
            held = range(len(self.columns)) if isinstance(chosen, slice) else wanted
            yield start, stop, {self.columns[index]: values[:, k] for k, index in enumerate(held)}, sound

    def _read(self, start: int, stop: int, chosen: Any) -> tuple[NDArray[np.uint32], NDArray[np.bool_]]:
        there = 0 if self.dataset is None else max(min(stop, int(self.dataset.shape[0])) - start, 0)
        width = len(self.columns) if isinstance(chosen, slice) else len(chosen)
        values, sound = np.zeros((stop - start, width), np.uint32), np.zeros(stop - start, bool)
        if not (there and width):
            return values, sound
        try:
            values[:there], sound[:there] = self.dataset[start : start + there, chosen], True
        except DAMAGE:
            with suppress(*DAMAGE):
                rows, state = rows_read(self.dataset, start, start + there)
                values[:there], sound[:there] = rows[:, chosen], state == SOUND
        # A block of zeros has a right checksum of its own, and no frame is like that.
        return values, sound & self.present.part(start, stop) & values.any(axis=1)


@dataclass(slots=True)
class _Found:
    """Datasets of a file and their attributes, the dataset of checksums apart, and what is damaged so far."""

    datasets: dict[str, Any]
    attributes: dict[str, dict[str, Any]]
    checksum: Any
    damage: list[str]


def attributes_of(thing: Any) -> tuple[dict[str, Any], bool]:
    """Attributes of a file or a dataset as far as they can be read, and whether all can."""
    found: dict[str, Any] = {}
    names = list(thing.attrs)
    for name in names:
        with suppress(*DAMAGE):
            found[name] = thing.attrs[name]
    return found, len(found) == len(names)


def plain(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return attributes with numbers and texts of Python's own."""
    found = {name: value.item() if isinstance(value, np.generic) else value for name, value in attributes.items()}
    # Of a text that was cut to its size the last letter may be in pieces.
    return {name: each.decode(errors="ignore") if isinstance(each, bytes) else each for name, each in found.items()}


def surveyed(
    path: Path, file: Any, settings: Mapping[str, Any], *, stored: bool, read: Collection[str] | None
) -> Surveyed:
    """Look through an open file, as `ase_uq.log.reader.open_log` says."""
    opened = _opened(path, file, settings)
    found, damage = opened.datasets, opened.damage
    presences = {name: presence(dataset) for name, dataset in found.items()}
    check_expansion(path, found, len(presences["step"]))
    steps = _steps(found["step"], len(presences["step"]))
    n = len(steps)
    announced = int(found["step"].shape[0]) if presences["step"].lost else n
    damage += _not_there(list(presences.values()), n, announced)
    sums = _sums(opened.checksum)
    looked = [name for name in found if (name in PER_ATOM and stored) or _is_read(name, read)]
    kept = np.ones(n, bool)
    for name, bad in _bad_rows({name: (found[name], presences[name]) for name in looked}, sums, n).items():
        if bad.all() and name not in _ESSENTIAL:
            damage.append(f"`{_shown(name)}` cannot be read and is left out")
            found.pop(name)
            looked.remove(name)
            continue
        damage += _damaged(name, bad & presences[name].part(0, n), n)
        kept &= ~bad
    kept, wrong = _sensible(kept, steps, found["energy"])
    damage += wrong
    rows = np.flatnonzero(kept)
    of_log = {
        name: Series(dataset, opened.attributes[name], rows, proven=name in looked and name in sums.columns)
        for name, dataset in found.items()
    }
    return Surveyed(of_log, len(rows), tuple(damage))


def _is_read(name: str, read: Collection[str] | None) -> bool:
    return name not in PER_ATOM if read is None else name in read


def _bad_rows(datasets: Mapping[str, tuple[Any, Presence]], sums: _Sums, n: int) -> dict[str, NDArray[np.bool_]]:
    """Of every dataset that is not whole, which of the first n rows are not as they were written."""
    found: dict[str, NDArray[np.bool_]] = {}
    for start, stop, values, trusted in sums.blocks(n, datasets):
        for name, (dataset, present) in datasets.items():
            whole = whole_rows(dataset, start, present.part(start, stop), values.get(name), trusted)
            if not whole.all():
                found.setdefault(name, np.zeros(n, bool))[start:stop] = ~whole
    return found


def _opened(path: Path, file: Any, settings: Mapping[str, Any]) -> _Found:
    """Open the datasets. `step` comes first: what it announces is in the others when they are opened."""
    found = _Found({}, {}, None, [])
    for name in _names(path, file):
        try:
            dataset = file[name]
        except DAMAGE:
            found.damage.append(_left_out(path, name))
            continue
        check_dataset(path, name, dataset, settings)
        if name == CHECKSUM:
            found.checksum = dataset
        else:
            found.datasets[name] = dataset
    sums = _sums_of_attributes(found)
    attributes, readable = attributes_of(file)
    if not readable or ("" in sums and sums[""] != crc32_of_attributes(attributes)):
        found.damage.append("attributes of the run, such as the model or the ensemble, were changed or are damaged")
    for name, dataset in found.datasets.items():
        attributes, readable = {}, False
        with suppress(*DAMAGE):
            attributes, readable = attributes_of(dataset)
        if not readable or (name in sums and sums[name] != crc32_of_attributes(attributes)):
            found.damage.append(f"unit or axis of `{_shown(name)}` was changed or is damaged")
        check_column_attributes(path, name, attributes, dataset.shape[1:])
        found.attributes[name] = {"unit": KINDS[name].unit if name in KINDS else "", **plain(attributes)}
    return found


def _names(path: Path, file: Any) -> list[str]:
    for name in file:
        check_link(path, file, name)
    names = ["step", *(name for name in file if name != "step" and name in (*KINDS, CHECKSUM))]
    for name in _ESSENTIAL:
        if name not in file:
            raise InputError(f"`{path}` must have the dataset {name!r} of every log, it has none; check the path.")
    group = OBSERVABLES.rstrip("/")
    if group in file:
        observables = file[group]
        if not isinstance(observables, h5py.Group):
            raise InputError(f"`{path}` must have a group at {group!r}, got {type(observables).__name__}.")
        for name in observables:
            check_link(path, observables, name)
            names.append(OBSERVABLES + name)
    return names


def _sums_of_attributes(found: _Found) -> dict[str, int]:
    """Checksums of the attributes of datasets, and under "" of the root; empty in earlier logs."""
    if found.checksum is None:
        return {}
    try:
        own = dict(found.checksum.attrs)
        names, sums = [str(name) for name in own[COLUMNS]], [int(each) for each in own[OF_ATTRIBUTES]]
        if len(sums) == len(names) + 2 and sums[-1] == crc32_of_attributes(own):
            return dict(zip([*names, ""], sums[:-1], strict=True))
    except DAMAGE:
        pass
    found.damage.append("the checksums of the attributes are damaged")
    found.checksum = None
    return {}


def _left_out(path: Path, name: str) -> str:
    if name in _ESSENTIAL:
        raise InputError(
            f"`{path}` is damaged: the header of its dataset {name!r} cannot be read, and without it there are no "
            "frames; restore the log from a copy."
        )
    return f"`{_shown(name)}` cannot be read and is left out"


def _steps(dataset: Any, n: int) -> NDArray[np.int64]:
    """Steps up to the last row that was written; those after it are -1, as a crash leaves them."""
    values, _ = readable_rows(dataset, n)
    written = np.flatnonzero(values != -1)
    return values[: written[-1] + 1 if len(written) else 0].astype(np.int64)


def _sums(checksum: Any) -> _Sums:
    none = _Sums(None, (), Presence(0, (), False))
    if checksum is None or checksum.ndim != 2:
        return none
    try:
        columns = tuple(str(name) for name in checksum.attrs[COLUMNS])
        return _Sums(checksum, columns, presence(checksum)) if len(columns) == checksum.shape[1] else none
    except DAMAGE:
        return none


def _not_there(presences: list[Presence], n: int, announced: int) -> list[str]:
    there = np.ones(n, bool)
    for each in presences:
        if not each.complete(n):
            there &= each.part(0, n)
    lost = np.concatenate([np.flatnonzero(~there), np.arange(n, min(announced, n + _MOST_COUNTED))])
    if not len(lost):
        return []
    return [
        f"frames {_ranges(lost)} of {max(announced, n)} are not in the file: it was cut off, or its index is damaged"
    ]


def _damaged(name: str, bad: NDArray[np.bool_], n: int) -> list[str]:
    if not bad.any():
        return []
    return [f"frames {_ranges(np.flatnonzero(bad))} of {n} are damaged in `{_shown(name)}`"]


def _sensible(kept: NDArray[np.bool_], steps: NDArray[np.int64], energy: Any) -> tuple[NDArray[np.bool_], list[str]]:
    """Leave out frames whose energy no logger would have taken, and those that break the order of steps."""
    n, damage = len(steps), []
    if not kept.any():
        return kept, []
    values, _ = readable_rows(energy, n)
    finite = np.isfinite(values) | ~kept
    if not finite.all():
        damage.append(f"the energy is not finite in frames {_ranges(np.flatnonzero(~finite))} of {n}")
    kept = kept & finite
    rows = np.flatnonzero(kept)
    ordered = _increasing(steps[rows])
    if not ordered.all():
        damage.append(f"steps do not increase at frames {_ranges(rows[~ordered])} of {n}")
        kept[rows[~ordered]] = False
    return kept, damage


def _increasing(steps: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Mark the longest part of the steps, not negative, that increases."""
    marked = steps >= 0
    if marked.all() and (np.diff(steps) > 0).all():
        return marked
    # Patience: for every length the smallest last step, and for every step the one before it.
    ends: list[int] = []
    last_of: list[int] = []
    before = np.full(len(steps), -1)
    for index in np.flatnonzero(marked):
        length = int(np.searchsorted(ends, steps[index]))
        before[index] = last_of[length - 1] if length else -1
        ends[length : length + 1], last_of[length : length + 1] = [int(steps[index])], [int(index)]
    found = np.zeros(len(steps), bool)
    at = last_of[-1] if last_of else -1
    while at >= 0:
        found[at] = True
        at = int(before[at])
    return found


def _ranges(rows: NDArray[Any]) -> str:
    """Text for frame numbers, such as "3, 7 to 12"."""
    breaks = np.flatnonzero(np.diff(rows) > 1) + 1
    parts = [f"{part[0]}" if len(part) == 1 else f"{part[0]} to {part[-1]}" for part in np.split(rows, breaks)]
    more = len(parts) - _MOST_SHOWN
    return ", ".join(parts[:_MOST_SHOWN]) + (f" and {more} more places" if more > 0 else "")


def _shown(name: str) -> str:
    return name.removeprefix(OBSERVABLES)
