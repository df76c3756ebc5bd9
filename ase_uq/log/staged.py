"""`StagedFile`: what HDF5 writes is held in memory until it can be put on the disk in an order that is always whole.

HDF5 cannot go back when a write fails half-way, on a full disk for instance; its file is then good for nothing. Here it
writes to memory, where nothing fails. `commit` extends the file on the disk first, which is all that can run out of
space and is taken back if it does; then come, in place, the start of the file and the pieces that refer to what is new.
A process that ends anywhere leaves a file that every HDF5 reader opens, at any time while the run goes on, too.

It also knows what the start of the file should be and how long it is, and so notices another program that writes there.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable
from typing import Any

from ase_uq.log.overlaid import OverlaidFile

# What is compared: the start holds the attributes of the run and the first frames, and no two runs have it alike.
_HEAD = 2**16


class StagedFile(OverlaidFile):
    """A file object for `h5py.File`, for reading and writing.

    Parameters
    ----------
    disk
        The file, open for reading and writing; it stays open when this is closed.
    """

    def __init__(self, disk: io.FileIO) -> None:
        self._on_disk = self._reach = os.fstat(disk.fileno()).st_size
        super().__init__(disk.fileno(), self._on_disk)
        self._head = bytearray(os.pread(self._descriptor, _HEAD, 0))
        # By place and length, in the order they were written.
        self._pieces: dict[tuple[int, int], bytes] = {}
        self._in_place = False
        self._deaf = False

    def pieces(self) -> Iterable[tuple[int, bytes]]:
        """What is held in memory."""
        return ((offset, piece) for (offset, _), piece in self._pieces.items())

    def writable(self) -> bool:
        """Return True: the file can be written."""
        return True

    def write(self, data: Any) -> int:
        """Keep a piece in memory."""
        piece = bytes(data)
        if not self._deaf:
            self._pieces.pop((self._position, len(piece)), None)
            self._pieces[self._position, len(piece)] = piece
            self._end = max(self._end, self._position + len(piece))
        self._position += len(piece)
        return len(piece)

    def truncate(self, size: int | None = None) -> int:
        """Move the end."""
        end = self._position if size is None else size
        if not self._deaf:
            self._end = max(end, self._on_disk)
        return end

    @property
    def untouched(self) -> bool:
        """Whether the file on the disk is as this object has left it, by its length and its start."""
        if not self._on_disk <= os.fstat(self._descriptor).st_size <= self._reach:
            return False
        return self._in_place or os.pread(self._descriptor, _HEAD, 0)[: self._on_disk] == self._head[: self._on_disk]

    def commit(self) -> None:
        """Put everything on the disk; after an interruption it can be called again.

        Raises
        ------
        OSError
            If the disk does not take it; the file is then as long as before, and whole.
        """
        if not self._in_place:
            self._extend()
        self._in_place = True
        # The start of the file says how long it is, and comes before what refers to the new part.
        for (offset, length), piece in sorted(self._pieces.items(), key=lambda item: item[0][0] != 0):
            inside = min(length, self._on_disk - offset)
            if inside > 0:
                self._put(piece[:inside], offset)
        self._pieces, self._on_disk, self._in_place = {}, self._end, False

    def abandon(self, *, finish: bool = True) -> None:
        """Forget what is in memory, and all that is written from now on.

        Parameters
        ----------
        finish
            Whether a commit that had begun is finished first.
        """
        if self._in_place and finish:
            self.commit()
        self._deaf = True
        self._pieces, self._end = {}, self._on_disk

    def _extend(self) -> None:
        # In one piece, gaps included: nothing behind the old end is left without a place on the disk.
        added = bytearray(self._end - self._on_disk)
        for (offset, _), piece in self._pieces.items():
            start = offset - self._on_disk
            if start + len(piece) > 0:
                added[max(start, 0) : start + len(piece)] = piece[max(-start, 0) :]
        try:
            self._put(added, self._on_disk)
        except OSError:
            os.ftruncate(self._descriptor, self._on_disk)
            raise

    def _put(self, data: bytes | bytearray, offset: int) -> None:
        self._reach = max(self._reach, offset + len(data))
        if offset < _HEAD:
            # Before it is on the disk: an interrupt between the two is one of a commit that has begun.
            start = bytes(data[: _HEAD - offset])
            self._head[offset : offset + len(start)] = start
        view = memoryview(data)
        while view:
            n = os.pwrite(self._descriptor, view, offset)
            view, offset = view[n:], offset + n
