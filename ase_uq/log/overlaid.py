"""`OverlaidFile`: a file object that shows pieces of memory in the place of what is on the disk."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable
from typing import Any


class OverlaidFile(io.RawIOBase):
    """A file object for reading with `h5py.File`.

    Parameters
    ----------
    descriptor
        Of the open file.
    end
        Length that is shown, bytes; what is neither on the disk nor in memory reads as zeros.
    """

    def __init__(self, descriptor: int, end: int) -> None:
        super().__init__()
        self._descriptor, self._end = descriptor, end
        self._position = 0

    def pieces(self) -> Iterable[tuple[int, bytes]]:
        """Place and contents of what is shown, later ones over earlier ones."""
        raise NotImplementedError

    def readable(self) -> bool:
        """Return True: the file can be read."""
        return True

    def seekable(self) -> bool:
        """Return True: any position can be gone to."""
        return True

    def tell(self) -> int:
        """Return the position, bytes."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move; the end is that which is shown."""
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._end}[whence]
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer from the position on."""
        view = memoryview(buffer).cast("B")
        start, stop = self._position, min(self._position + len(view), self._end)
        n_read = max(stop - start, 0)
        found = os.preadv(self._descriptor, [view[:n_read]], start) if n_read else 0
        if found < n_read:
            view[found:n_read] = bytes(n_read - found)
        for place, piece in self.pieces():
            # HDF5 reads in a hundred thousand small portions: most pieces are passed by.
            if place < stop and place + len(piece) > start:
                first, last = max(place, start), min(place + len(piece), stop)
                view[first - start : last - start] = piece[first - place : last - place]
        self._position += n_read
        return n_read
