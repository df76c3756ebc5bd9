"""Checksums of a log: one for the values of every frame in every dataset, one for the attributes of every object.

HDF5 protects its own structures, and with `fletcher32` the chunks of a dataset: enough for any reader to refuse a
damaged one. It does not protect texts of attributes, does not see a chunk that is all zeros, and says of a hundred
frames at once that they are bad, also where a crash came between writing a chunk and its checksum. So a log has, beside
that, the dataset `checksum`: row t, column c is the CRC-32 of the bytes of frame t in dataset `columns[c]`. Its
attribute `attributes_crc32` has one sum for the attributes of each of these datasets, one for those of the root and one
for its own.

References
----------
CRC-32 as in ISO 3309 and `zlib.crc32`; it notices every change of up to 32 neighbouring bits.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

CHECKSUM = "checksum"
COLUMNS = "columns"
OF_ATTRIBUTES = "attributes_crc32"

# Wider rows are as quick one by one.
_TABLE_BYTES = 64


def crc32_of_rows(values: NDArray[Any]) -> NDArray[np.uint32]:
    """CRC-32 of the bytes of each row, (n,), of an array (n, ...) of numbers, little-endian.

    Examples
    --------
    >>> int(crc32_of_rows(np.array([[1.0, 2.0]]))[0]) == zlib.crc32(np.array([1.0, 2.0]).tobytes())
    True
    """
    little = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))
    width = int(np.prod(little.shape[1:], dtype=np.int64)) * little.itemsize
    rows = little.reshape(len(little), width // little.itemsize).view(np.uint8)
    if width > _TABLE_BYTES or len(rows) < _TABLE_BYTES:
        return np.fromiter((zlib.crc32(row.tobytes()) for row in rows), np.uint32, len(rows))
    # The sum is linear: each byte contributes what a table says, whatever the others are.
    table = _table(width)
    crc = np.full(len(rows), zlib.crc32(bytes(width)), np.uint32)
    for position in range(width):
        crc ^= table[position][rows[:, position]]
    return crc


def crc32_of_attributes(attributes: Mapping[str, Any]) -> int:
    """CRC-32 of all attributes of one object of the file but for this sum itself, as h5py gives them."""
    crc = 0
    for name in sorted(set(attributes) - {OF_ATTRIBUTES}):
        value = attributes[name]
        array = np.asarray(value)
        what = (str(value) if array.dtype.kind in "OUS" and array.ndim == 0 else str(array.tolist())).encode(
            "utf-8", "surrogateescape"
        )
        kind = array.dtype.kind if array.dtype.kind in "OUS" else array.dtype.newbyteorder("<").str
        crc = zlib.crc32(f"{name}\0{kind}\0{array.shape}\0".encode("utf-8", "surrogateescape") + what, crc)
    return crc


@lru_cache(maxsize=16)
def _table(width: int) -> NDArray[np.uint32]:
    """What each value of each byte of a row changes, (width, 256)."""
    zeros = bytes(width)
    of_zeros = zlib.crc32(zeros)
    table = np.empty((width, 256), np.uint32)
    for position in range(width):
        for byte in range(256):
            table[position, byte] = zlib.crc32(zeros[:position] + bytes([byte]) + zeros[position + 1 :]) ^ of_zeros
    return table
