"""`FrameWriter`: the HDF5 file of a run, safe against a crash, an interrupt or a full disk at any moment.

The file is made complete but for its frames under another name and then renamed; from there on it only grows.
Every flush puts all other datasets on the disk before `step` is extended, so that no frame is announced before it is
whole, and frames leave the memory only when they are on the disk: whatever ends a flush early, the next one writes the
same rows to the same place.

References
----------
HDF5 File Format Specification, version 3.0.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from ase_uq.errors import InputError, RunError
from ase_uq.files import aside_of, followed
from ase_uq.log.checksums import CHECKSUM, COLUMNS, OF_ATTRIBUTES, crc32_of_attributes, crc32_of_rows
from ase_uq.log.columns import EXPLODED, EXPLODED_BYTES, Column
from ase_uq.log.companions import beside
from ase_uq.log.staged import StagedFile

logger = logging.getLogger(__name__)

FORMAT = "ase_uq"
FORMAT_VERSION = 1

# Rows of one chunk: as many as one flush writes, so that a cut costs at most about one flush. Chunks are written whole,
# with their checksum: those of large frames are smaller.
_CHUNK_ROWS = (16, 256)
_CHUNK_BYTES = 2**20
_COPY_ROWS = 1024
_LAYOUT = {
    # Readable with HDF5 1.10 and later, the first whose structures all have checksums.
    "libver": ("v110", "v110"),
    # Every piece of metadata in a sector of its own: what is rewritten in place is rewritten whole or not at all.
    "alignment_threshold": 1,
    "alignment_interval": 512,
    "meta_block_size": 1,
    # Memory must not grow with the log: every flush puts whole rows on the disk, and nobody asks for them again.
    "rdcc_nbytes": 0,
}
# Of its structures HDF5 keeps those in use; by itself its cache grows with the index of the datasets.
_METADATA_BYTES = 2**19
_CURES = {
    errno.ENOSPC: "free space on the disk",
    errno.EDQUOT: "free space within your quota",
    errno.EFBIG: "raise the limit of the size of a file (ulimit -f)",
}


class _Handles(NamedTuple):
    """The open file: what HDF5 writes to, the file as HDF5 sees it, and its datasets."""

    staged: StagedFile
    file: Any
    datasets: Mapping[str, Any]


class FrameWriter:
    """Appends frames to a new log: construct, `publish`, then `append`, `flush`, `close`.

    Nothing is under the final name before `publish`. A symbolic link stays one: the file it points to is written.
    """

    def __init__(
        self, path: Path, columns: Sequence[Column], attributes: Mapping[str, Any], *, flush_every: int
    ) -> None:
        self.path, self.attributes, self.flush_every = path, dict(attributes), flush_every
        self.columns = {column.name: column for column in columns}
        # Frames on the disk, the step of the last one, and the frames in memory: changed in one go.
        self._state: tuple[int, int | None, list[dict[str, Any]]] = (0, None, [])
        self._target = followed(path)
        self._aside: Path | None = aside_of(self._target, "part")
        try:
            self._disk = self._aside.open("w+b", buffering=0)
        except OSError as error:
            raise InputError(
                f"`path` must be writable, {self._target.parent} is not: {error}; choose another folder."
            ) from error
        try:
            self._handles = self._created(attributes, flush_every)
            self._sound = True
        except BaseException:
            self.close()
            raise

    @property
    def n_frames(self) -> int:
        """Frames on the disk."""
        return self._state[0]

    @property
    def descriptor(self) -> int:
        """Of the open file."""
        return self._disk.fileno()

    @property
    def closed(self) -> bool:
        """Whether all is written and the file closed."""
        return self._disk.closed

    @property
    def untouched(self) -> bool:
        """Whether no other program has written to the file."""
        return self.closed or self._handles.staged.untouched

    @property
    def pending(self) -> list[dict[str, Any]]:
        """Frames in memory."""
        return self._state[2]

    @property
    def last_step(self) -> int | None:
        """Step of the last frame, on the disk or in memory; `None` without frames."""
        _, last, pending = self._state
        return int(pending[-1]["step"]) if pending else last

    def copy(self, datasets: Mapping[str, Any], n_frames: int) -> None:
        """Take over the first frames of another log, given by its datasets, which have the same columns."""
        for start in range(0, n_frames, _COPY_ROWS):
            stop = min(start + _COPY_ROWS, n_frames)
            self.extend({name: np.asarray(datasets[name][start:stop]) for name in self.columns})

    def publish(self, *, keep_old: bool = False) -> None:
        """Flush, and move the file to its final name, replacing what is there; `keep_old` keeps that under another."""
        assert self._aside is not None
        self.flush()
        with self._told():
            self._handles.file.flush()
            self._handles.staged.commit()
            # A name that survives a power cut must not stand for contents that do not.
            os.fsync(self._disk.fileno())
        if keep_old:
            names = (beside(self._target, f".damaged{number or ''}") for number in count())
            kept = next(name for name in names if not os.path.lexists(name))
            os.link(self._target, kept)
            logger.warning("the damaged log is kept as %s, and %s goes on with its whole frames", kept, self.path)
        self._aside.replace(self._target)
        self._aside = None

    def append(self, frame: Mapping[str, Any]) -> None:
        """Keep a frame in memory until the next `flush`; one value per column."""
        if frame.keys() != self.columns.keys():
            changed = ", ".join(sorted(frame.keys() ^ self.columns.keys()))
            raise InputError(
                f"`atoms.calc` must give the same fields along the run, {changed} changed; start another log."
            )
        for name, column in self.columns.items():
            if np.shape(frame[name]) != column.shape:
                raise InputError(
                    f"`{name}` must keep its shape {column.shape} along the run, got {np.shape(frame[name])}; "
                    "start another log when the number of atoms or members changes."
                )
        self._state[2].append({name: np.array(frame[name], column.dtype) for name, column in self.columns.items()})

    def extend(self, frames: Mapping[str, NDArray[Any]]) -> None:
        """Put many frames on the disk at once, behind those that are there: (t, ...) of every column."""
        self.flush()
        n_frames = self.n_frames
        self._write(n_frames, frames)
        self._state = (n_frames + len(frames["step"]), int(frames["step"][-1]), [])

    def flush(self) -> None:
        """Write the frames in memory so that readers see them and a crash does not lose them.

        Raises
        ------
        RunError
            If the disk is full or the like. The file keeps what it had, and the frames stay in memory: `flush` can be
            called again.
        """
        n_frames, _, pending = self._state
        if pending:
            self._write(n_frames, {name: np.stack([row[name] for row in pending]) for name in self.columns})
            self._state = (n_frames + len(pending), int(pending[-1]["step"]), [])

    def mark_exploded(self, found: str) -> None:
        """Flush, and write down what shows that the run has exploded; the place for it is there from the start."""
        self.flush()
        if not self._sound:
            self._reopen()
        file, checksum = self._handles.file, self._handles.datasets[CHECKSUM]
        with self._told():
            self._sound = False
            file.attrs.modify(EXPLODED, _in_bytes(found))
            sums = checksum.attrs[OF_ATTRIBUTES]
            # That of the root stands before the last one, which is of all others.
            sums[-2] = crc32_of_attributes(dict(file.attrs))
            checksum.attrs.modify(OF_ATTRIBUTES, sums)
            file.flush()
            self._handles.staged.commit()
            self._sound = True

    def discard(self) -> None:
        """Close without writing anything more to a file that is another program's by now; frames in memory go."""
        self._handles.staged.abandon(finish=False)
        self._state = (*self._state[:2], [])
        self.close()

    def close(self) -> None:
        """Flush and close; a file that was never published is removed."""
        if self._disk.closed:
            return
        if self._aside is None:
            self.flush()
        if hasattr(self, "_handles"):
            # All that counts is on the disk.
            self._handles.staged.abandon()
            self._handles.file.close()
        if self._aside is not None:
            self._aside.unlink(missing_ok=True)
        self._disk.close()

    def _created(self, attributes: Mapping[str, Any], flush_every: int) -> _Handles:
        staged = StagedFile(self._disk)
        file = _opened(staged, "w")
        exploded = _in_bytes(str(attributes.get(EXPLODED, "")))
        file.attrs.update({"format": FORMAT, "format_version": FORMAT_VERSION, **attributes, EXPLODED: exploded})
        datasets = {column.name: _dataset(file, column, flush_every) for column in self.columns.values()}
        of_frames = Column(CHECKSUM, "1", "uint32", (len(self.columns),), {COLUMNS: list(self.columns)})
        datasets[CHECKSUM] = _dataset(file, of_frames, flush_every)
        described = [*(datasets[name] for name in self.columns), file, datasets[CHECKSUM]]
        sums = [crc32_of_attributes(dict(each.attrs)) for each in described]
        datasets[CHECKSUM].attrs[OF_ATTRIBUTES] = np.array(sums, np.uint32)
        return _Handles(staged, file, datasets)

    def _write(self, start: int, values: Mapping[str, NDArray[Any]]) -> None:
        """Put frames on the disk, from row `start` on; what an earlier call left there is overwritten."""
        if not self._sound:
            self._reopen()
        columns = {name: np.ascontiguousarray(values[name], column.dtype) for name, column in self.columns.items()}
        sums = np.stack([crc32_of_rows(each) for each in columns.values()], axis=1)
        step = columns.pop("step")
        with self._told():
            self._sound = False
            # `step` last: it says how many frames there are.
            self._put(start, {**columns, CHECKSUM: sums})
            self._put(start, {"step": step})
            self._sound = True

    def _put(self, start: int, values: Mapping[str, NDArray[Any]]) -> None:
        try:
            for name, rows in values.items():
                dataset = self._handles.datasets[name]
                dataset.resize(start + len(rows), axis=0)
                dataset[start:] = rows
            self._handles.file.flush()
        except (AttributeError, SystemError) as error:
            # An interrupt inside of a call-back of HDF5, which may call further ones before it is told.
            raise KeyboardInterrupt from error
        self._handles.staged.commit()

    def _reopen(self) -> None:
        """After an interruption go on from what is on the disk, which is always whole; HDF5's memory may not be."""
        with self._told():
            self._handles.staged.abandon()
        with suppress(Exception):
            self._handles.file.close()
        staged = StagedFile(self._disk)
        file = _opened(staged, "r+")
        self._handles = _Handles(staged, file, {name: file[name] for name in (*self.columns, CHECKSUM)})

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Say in one sentence why the disk did not take the frames, and what is there."""
        try:
            yield
        except OSError as error:
            n_frames, last, _ = self._state
            there = f"it holds {n_frames} frames up to step {last}" if n_frames else "it is empty"
            if self._aside is not None:
                there = "nothing was changed"
            cure = _CURES.get(error.errno or 0, "look after the disk")
            raise RunError(
                f"the log {self.path} could not be written: {error.strerror or error}; {there}; {cure} and go on."
            ) from error


def _in_bytes(text: str) -> Any:
    return np.array(text.encode()[:EXPLODED_BYTES], f"S{EXPLODED_BYTES}")


def _opened(staged: StagedFile, mode: str) -> Any:
    # A list of the gaps that the alignment leaves would grow, too, and they are too small to be used.
    of_new = {"fs_strategy": "none"} if mode == "w" else {}
    file = h5py.File(staged, mode, **_LAYOUT, **of_new)
    cache = file.id.get_mdc_config()
    cache.set_initial_size, cache.initial_size = True, _METADATA_BYTES
    cache.min_size = cache.max_size = _METADATA_BYTES
    file.id.set_mdc_config(cache)
    return file


def _dataset(file: Any, column: Column, flush_every: int) -> Any:
    fewest, most = _CHUNK_ROWS
    shape = tuple(max(n, 1) for n in column.shape)
    of_row = int(np.prod(shape, dtype=np.int64)) * np.dtype(column.dtype).itemsize
    rows = max(min(max(flush_every, fewest), most, _CHUNK_BYTES // of_row), 1)
    # What no frame holds: rows that were announced but never written are recognised.
    fill = {"i": -1, "u": 0}.get(np.dtype(column.dtype).kind, np.nan)
    dataset = file.create_dataset(
        column.name,
        shape=(0, *column.shape),
        maxshape=(None, *column.shape),
        chunks=(rows, *shape),
        dtype=column.dtype,
        fillvalue=fill,
        fletcher32=True,
    )
    dataset.attrs.update({"unit": column.unit, **column.attributes})
    return dataset
