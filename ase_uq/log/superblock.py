"""`UnclosedFile`: lets HDF5 open a file whose writer is still running, was killed, or which was cut off.

The first 48 bytes of an HDF5 file (the superblock, version 3) say that a writer has it open and how long it should be.
HDF5 refuses to open it when the first is set or the second is not true, and its own way around waits without end for
metadata that a cut has removed. This file object shows the same bytes with the two entries as they should read, so that
only the parts that are really missing fail to be read. The same goes for a heap of texts ("GCOL"), the one structure of
HDF5 without a checksum: where its chain of texts is broken, HDF5 looks for the next one for ever, and is shown an end.
Nothing is written.

References
----------
HDF5 File Format Specification, version 3.0, sections II.A and III.E. B. Jenkins, `lookup3`, hash of a byte string (the
checksum).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from pathlib import Path

from ase_uq.log.overlaid import OverlaidFile

SIGNATURE = b"\x89HDF\r\n\x1a\n"
VERSION = 3
SIZE = 48

# Offsets of the entries in the superblock.
_FLAGS, _END, _CHECKSUM = 11, 28, 44
_MASK = 0xFFFFFFFF

# The texts of a log are written before its first frame.
_WITH_HEAPS = 2**20
_HEAP = b"GCOL\1\0\0\0"


class UnclosedFile(OverlaidFile):
    """A read-only file object for `h5py.File`.

    Parameters
    ----------
    path
        An HDF5 file with a superblock of version 3, as every file of HDF5 1.10's format has it.

    Attributes
    ----------
    whole
        Whether the superblock of the file has the checksum that it should have.

    Raises
    ------
    ValueError
        If the file is shorter than the superblock or has another version.
    """

    def __init__(self, path: Path) -> None:
        self._stream = path.open("rb")
        super().__init__(self._stream.fileno(), os.fstat(self._stream.fileno()).st_size)
        head = bytearray(self._stream.read(SIZE))
        if len(head) < SIZE or head[:8] != SIGNATURE or head[len(SIGNATURE)] != VERSION:
            self._stream.close()
            raise ValueError(f"{path} has no superblock of version 3")
        self.whole = struct.unpack_from("<I", head, _CHECKSUM)[0] == lookup3(bytes(head[:_CHECKSUM]))
        head[_FLAGS] = 0
        struct.pack_into("<Q", head, _END, self._end)
        struct.pack_into("<I", head, _CHECKSUM, lookup3(bytes(head[:_CHECKSUM])))
        self._stream.seek(0)
        # What is shown instead of what is there, by place.
        self._shown = {**heap_ends(self._stream.read(_WITH_HEAPS)), 0: bytes(head)}

    def pieces(self) -> Iterable[tuple[int, bytes]]:
        """What is corrected."""
        return self._shown.items()

    def close(self) -> None:
        """Close the file."""
        self._stream.close()
        super().close()


def heap_ends(start: bytes) -> dict[int, bytes]:
    """Find heaps of texts at the start of a file whose chain is broken, and what would end it, by place.

    A heap is a head, "GCOL", a version and its size, and then texts, each after its number, its count of references and
    its length. Number 0 is the free rest.
    """
    found: dict[int, bytes] = {}
    heap = start.find(_HEAP)
    while heap >= 0:
        size = int.from_bytes(start[heap + 8 : heap + 16], "little")
        end, at = heap + size, heap + 16
        while at + 16 <= min(end, len(start)):
            number, length = struct.unpack_from("<H6xQ", start, at)
            step = length if number == 0 else 16 + -(-length // 8) * 8
            if step < 16 or at + step > end:
                found[at] = struct.pack("<HH4xQ", 0, 0, end - at)
                break
            at += step
        heap = start.find(_HEAP, heap + 8)
    return found


def lookup3(data: bytes) -> int:
    """Return the 32-bit hash that HDF5 keeps as the checksum of its metadata.

    Examples
    --------
    >>> hex(lookup3(b"Four score and seven years ago"))
    '0x17770551'
    """
    a = b = c = (0xDEADBEEF + len(data)) & _MASK
    # Three words at a time; the last three, though full, are treated as the rest.
    n_blocks = max(-(-len(data) // 12), 1)
    words = struct.unpack(f"<{3 * n_blocks}I", data.ljust(12 * n_blocks, b"\0"))
    for i in range(0, 3 * n_blocks, 3):
        a, b, c = (a + words[i]) & _MASK, (b + words[i + 1]) & _MASK, (c + words[i + 2]) & _MASK
        if i == 3 * n_blocks - 3:
            break
        for shift in (4, 6, 8, 16, 19, 4):
            a = (a - c) & _MASK ^ _rotated(c, shift)
            a, b, c = b, (c + b) & _MASK, a
    if not data:
        return c
    for shift in (14, 11, 25, 16, 4, 14, 24):
        c = (c ^ b) - _rotated(b, shift) & _MASK
        a, b, c = b, c, a
    return b


def _rotated(word: int, shift: int) -> int:
    return (word << shift | word >> 32 - shift) & _MASK
