"""`FrameWriter`: the HDF5 file of a run, safe against a crash at any moment.

The file is made complete but for its frames under another name and then renamed. From there on frames are only
appended, in HDF5's single-writer mode and without compression, so that whatever a flush has written is never moved.
Every flush finishes all other datasets before `step` is extended.

References
----------
HDF5 File Format Specification, version 3.0; HDF5 User Guide, single-writer multiple-reader mode.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ase_uq.errors import InputError
from ase_uq.log.columns import Column

FORMAT = "ase_uq"
FORMAT_VERSION = 1

# Rows of one chunk: as many as one flush writes, so that a cut costs at most about one flush.
_CHUNK_ROWS = (16, 256)
_COPY_ROWS = 1024
# Every piece of metadata in a sector of its own: what is rewritten in place is rewritten whole or not at all.
_WHOLE_SECTORS = {"alignment_threshold": 1, "alignment_interval": 512, "meta_block_size": 1}


class FrameWriter:
    """Appends frames to a new log: construct, `publish`, then `append`, `flush`, `close`.

    Nothing is under the final name before `publish`.
    """

    def __init__(
        self, path: Path, columns: Sequence[Column], attributes: Mapping[str, Any], *, flush_every: int
    ) -> None:
        self.path = path
        self.columns = {column.name: column for column in columns}
        self.n_frames = 0
        self._rows: dict[str, list[Any]] = {column.name: [] for column in columns}
        self._aside = path.with_name(f".{path.name}.part")
        # Readable with HDF5 1.10 and later, the first with single-writer mode.
        try:
            self._file = h5py.File(self._aside, "w", libver=("v110", "v110"), **_WHOLE_SECTORS)
        except OSError as error:
            raise InputError(
                f"`path` must be writable, {path.parent} is not: {error}; choose another folder."
            ) from error
        try:
            self._file.attrs.update({"format": FORMAT, "format_version": FORMAT_VERSION, **attributes})
            self._datasets = {column.name: self._dataset(column, flush_every) for column in columns}
            self._file.swmr_mode = True
        except BaseException:
            self.close()
            raise

    def _dataset(self, column: Column, flush_every: int) -> Any:
        fewest, most = _CHUNK_ROWS
        dataset = self._file.create_dataset(
            column.name,
            shape=(0, *column.shape),
            maxshape=(None, *column.shape),
            chunks=(min(max(flush_every, fewest), most), *(max(n, 1) for n in column.shape)),
            dtype=column.dtype,
            # What no frame holds: rows that were announced but never written are recognised.
            fillvalue=-1 if column.dtype == "int64" else np.nan,
        )
        dataset.attrs.update({"unit": column.unit, **column.attributes})
        return dataset

    def copy(self, datasets: Mapping[str, Any], n_frames: int) -> None:
        """Take over the first frames of another log, given by its datasets, which have the same columns."""
        for start in range(0, n_frames, _COPY_ROWS):
            stop = min(start + _COPY_ROWS, n_frames)
            self._write({name: datasets[name][start:stop] for name in self.columns})

    def publish(self) -> None:
        """Flush, and move the file to its final name, replacing what is there."""
        self.flush()
        self._aside.replace(self.path)

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
        for name, rows in self._rows.items():
            rows.append(np.array(frame[name], dtype=self.columns[name].dtype))

    @property
    def descriptor(self) -> int:
        """Of the open file."""
        return int(self._file.id.get_vfd_handle())

    @property
    def n_pending(self) -> int:
        """Frames in memory."""
        return len(self._rows["step"])

    def flush(self) -> None:
        """Write the frames in memory so that readers see them and a crash does not lose them."""
        if self.n_pending:
            self._write({name: np.stack(rows) for name, rows in self._rows.items()})
            self._rows = {name: [] for name in self.columns}
        else:
            self._file.flush()

    def close(self) -> None:
        """Flush and close; a file that was never published is removed."""
        if self._file:
            if self._aside.exists():
                self._file.close()
                self._aside.unlink()
            else:
                self.flush()
                self._file.close()

    def _write(self, values: Mapping[str, NDArray[Any]]) -> None:
        n_new = len(values["step"])
        # `step` last: it says how many frames there are.
        for name in [*(name for name in self.columns if name != "step"), "step"]:
            dataset = self._datasets[name]
            dataset.resize(self.n_frames + n_new, axis=0)
            dataset[self.n_frames :] = values[name]
            dataset.flush()
        self.n_frames += n_new
