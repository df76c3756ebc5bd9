"""Datasets of a log as they lie in the file: which rows are there, which are whole, and reading the whole ones.

A row is whole if it has the checksum that was written with it. Where HDF5 refuses a chunk, because one row of a hundred
is damaged or because a crash came before the checksum of the chunk, the others are read past it.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from ase_uq.errors import InputError
from ase_uq.log.checksums import crc32_of_rows

# What h5py raises on a damaged file, whatever is damaged.
DAMAGE = (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError, MemoryError)

_BLOCK_BYTES = 2**21
_UNREADABLE, _UNPROVEN, SOUND = 0, 1, 2


class Presence(NamedTuple):
    """Rows that lie within the file.

    Attributes
    ----------
    n_rows
        How many there are at most.
    gaps
        First row and row after the last of every stretch that is not there.
    lost
        Whether the file says of more that they should be: it was cut off, or its index is damaged.
    """

    n_rows: int
    gaps: tuple[tuple[int, int], ...]
    lost: bool

    def __len__(self) -> int:
        return self.n_rows

    def complete(self, n: int) -> bool:
        """Whether all of the first n rows are there."""
        return n <= self.n_rows and not any(start < n for start, _ in self.gaps)

    def part(self, start: int, stop: int) -> NDArray[np.bool_]:
        """Whether each row is there, (stop - start,)."""
        there = np.arange(start, stop) < self.n_rows
        for first, after in self.gaps:
            there[max(first - start, 0) : max(after - start, 0)] = False
        return there


class Series:
    """The frames of one dataset that are whole, as an array in the file; it reads what it is asked for.

    Parameters
    ----------
    dataset
        Of h5py.
    attrs
        Its attributes.
    kept
        (T,), rows of the dataset that are frames of the log.
    proven
        Whether the checksums of these rows were compared.
    """

    __slots__ = ("_dataset", "_kept", "_proven", "attrs", "shape")

    def __init__(self, dataset: Any, attrs: dict[str, Any], kept: NDArray[np.int64], *, proven: bool) -> None:
        self._dataset, self._kept, self._proven = dataset, kept, proven
        self.attrs = attrs
        self.shape: tuple[int, ...] = (len(kept), *dataset.shape[1:])

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, part: int | slice) -> Any:
        if not isinstance(part, slice):
            return self[part : part + 1 or None][0]
        rows = self._kept[part]
        if not len(rows):
            return np.empty((0, *self.shape[1:]), self._dataset.dtype)
        first, last = int(rows.min()), int(rows.max())
        step = int(rows[1] - rows[0]) if len(rows) > 1 else 1
        even = step > 0 and bool((np.diff(rows) == step).all())
        try:
            return self._dataset[first : last + 1 : step] if even else self._dataset[first : last + 1][rows - first]
        except DAMAGE as error:
            if not self._proven:
                name = self._dataset.name.lstrip("/")
                raise InputError(
                    f"`{name}` must be readable, frames {first} to {last} of the log are damaged: {error}; leave them "
                    "out, or restore the log from a copy."
                ) from error
        values, _ = _past_damage(self._dataset, first, last + 1)
        return values[rows - first]

    @property
    def ndim(self) -> int:
        """Of all frames together."""
        return len(self.shape)


def presence(dataset: Any) -> Presence:
    """Find the rows of a dataset that lie within the file, without reading them."""
    end, n_rows = dataset.file.id.get_filesize(), int(dataset.shape[0])
    if dataset.chunks is None:
        if dataset.id.get_create_plist().get_layout() == h5py.h5d.COMPACT:
            return Presence(n_rows, (), False)
        offset, of_row = dataset.id.get_offset(), _bytes_of_row(dataset)
        there = 0 if offset is None else min(max(end - offset, 0) // max(of_row, 1), n_rows)
        return Presence(there, (), there < n_rows)
    rows, tiles = dataset.chunks[0], len(_tiles(dataset))
    found: dict[int, int] = {}
    lost = False
    for start, stop in _chunks(dataset, end):
        if stop is None or stop > end:
            lost = True
        else:
            found[start] = found.get(start, 0) + 1
    there = min(max(found, default=-rows) + rows, n_rows)
    whole = [start for start in sorted(found) if found[start] == tiles]
    ends = [0, *(start + rows for start in whole)]
    gaps = [gap for gap in zip(ends, [*whole, there], strict=True) if gap[0] < gap[1]]
    return Presence(there, tuple(gaps), lost)


def whole_rows(
    dataset: Any,
    first: int,
    present: NDArray[np.bool_],
    sums: NDArray[np.uint32] | None,
    trusted: NDArray[np.bool_],
) -> NDArray[np.bool_]:
    """Whether each of n rows of a dataset is as it was written, (n,); where nothing tells, whether it is there.

    Parameters
    ----------
    first
        The first of the rows.
    present
        (n,), of `presence`.
    sums
        (n,), checksums written with them, or `None`.
    trusted
        (n,), whether the sums themselves are sound; where not, HDF5's own must do.
    """
    if sums is None and not dataset.fletcher32:
        return present
    whole = present.copy()
    for start, stop in _blocks(dataset, first, first + len(present)):
        here = slice(start - first, stop - first)
        if not present[here].any():
            continue
        values, state = rows_read(dataset, start, stop)
        good = state == SOUND
        if sums is not None:
            same = (crc32_of_rows(values) == sums[here]) & (state > _UNREADABLE)
            # A block of zeros has a right sum for HDF5, whatever it was.
            written = values.reshape(len(values), -1).any(axis=1) if values.size else good
            good = same | (good & written & ~trusted[here])
        whole[here] &= good
    return whole


def readable_rows(dataset: Any, n: int) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Return the first n rows as far as they can be read, and whether HDF5 finds nothing wrong with each."""
    values, sound = np.empty((n, *dataset.shape[1:]), dataset.dtype), np.empty(n, bool)
    for start, stop in _blocks(dataset, 0, n):
        values[start:stop], state = rows_read(dataset, start, stop)
        sound[start:stop] = state == SOUND
    return values, sound


def rows_read(dataset: Any, start: int, stop: int) -> tuple[NDArray[Any], NDArray[np.uint8]]:
    """Return rows as far as they can be read, and of each whether HDF5 finds it sound, cannot tell, or cannot read."""
    there = min(stop, max(int(dataset.shape[0]), start))
    if there < stop:
        # Its header is of an earlier moment than that of the steps.
        values, state = rows_read(dataset, start, there)
        rest = np.zeros((stop - there, *dataset.shape[1:]), dataset.dtype)
        return np.concatenate([values, rest]), np.concatenate([state, np.full(stop - there, _UNREADABLE, np.uint8)])
    try:
        return dataset[start:stop], np.full(stop - start, SOUND, np.uint8)
    except DAMAGE:
        return _past_damage(dataset, start, stop)


def _past_damage(dataset: Any, start: int, stop: int) -> tuple[NDArray[Any], NDArray[np.uint8]]:
    """Read chunk by chunk, and those that HDF5 refuses without its check."""
    values = np.zeros((stop - start, *dataset.shape[1:]), dataset.dtype)
    state = np.full(stop - start, _UNREADABLE, np.uint8)
    rows = dataset.chunks[0] if dataset.chunks else 256
    for first in range(start - start % rows, stop, rows):
        low, high = max(first, start), min(first + rows, stop)
        here = slice(low - start, high - start)
        try:
            values[here], state[here] = dataset[low:high], SOUND
        except DAMAGE:
            raw = _raw_chunk(dataset, first)
            if raw is not None:
                values[here], state[here] = raw[low - first : high - first], _UNPROVEN
    return values, state


def _raw_chunk(dataset: Any, first: int) -> NDArray[Any] | None:
    plist = dataset.id.get_create_plist()
    filters = [plist.get_filter(i)[0] for i in range(plist.get_nfilters())]
    if dataset.chunks is None or filters != [h5py.h5z.FILTER_FLETCHER32] or len(_tiles(dataset)) != 1:
        return None
    try:
        _, raw = dataset.id.read_direct_chunk((first, *(0,) * (dataset.ndim - 1)))
        chunk = np.frombuffer(raw[:-4], dataset.dtype).reshape(dataset.chunks)
    except DAMAGE:
        return None
    return chunk[(slice(None), *(slice(n) for n in dataset.shape[1:]))]


def _chunks(dataset: Any, end: int) -> Iterator[tuple[int, int | None]]:
    """First row of every chunk, and where it ends in the file; `None` where that cannot be found out."""
    found: list[tuple[int, int | None]] = []

    def visit(chunk: Any) -> None:
        if chunk.byte_offset is not None:
            found.append((chunk.chunk_offset[0], chunk.byte_offset + chunk.size))

    try:
        # One walk over all chunks; asking for them one by one searches the index every time.
        dataset.id.chunk_iter(visit)
    except DAMAGE:
        return _chunks_past_damage(dataset, end)
    return iter(found)


def _chunks_past_damage(dataset: Any, end: int) -> Iterator[tuple[int, int | None]]:
    rows, tiles = dataset.chunks[0], _tiles(dataset)
    # No more than could be in the file, whatever its header says.
    most = rows * (1 + end // 512)
    for start in range(0, min(int(dataset.shape[0]), most), rows):
        for tile in tiles:
            try:
                chunk = dataset.id.get_chunk_info_by_coord((start, *tile))
            except DAMAGE:
                yield start, None
                continue
            if chunk.byte_offset is not None:
                yield start, chunk.byte_offset + chunk.size


def _tiles(dataset: Any) -> list[tuple[int, ...]]:
    """Corners of the chunks that a row is made of, without the row itself."""
    axes = (range(0, n, chunk) for n, chunk in zip(dataset.shape[1:], dataset.chunks[1:], strict=True))
    return list(product(*axes))


def _blocks(dataset: Any, first: int, end: int) -> Iterator[tuple[int, int]]:
    """Rows in portions that begin and end with chunks, as far as `first` and `end` do."""
    rows = dataset.chunks[0] if dataset.chunks else 1
    reach = max(_BLOCK_BYTES // max(_bytes_of_row(dataset), 1) // rows, 1) * rows
    starts = [first, *range(first - first % reach + reach, end, reach)] if first < end else []
    return zip(starts, [*starts[1:], end], strict=True) if starts else iter(())


def _bytes_of_row(dataset: Any) -> int:
    return int(np.prod(dataset.shape[1:], dtype=np.int64)) * int(dataset.dtype.itemsize)
