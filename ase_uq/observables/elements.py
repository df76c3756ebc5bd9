"""Atoms chosen by element; "*" stands for any."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers
from numpy.typing import NDArray

from ase_uq.errors import InputError

Integers = NDArray[np.int64]

ANY = "*"


def check_element(symbol: str, argument: str) -> None:
    """Refuse what is neither the symbol of an element nor "*".

    Raises
    ------
    InputError
        Naming `argument`.
    """
    if symbol != ANY and symbol not in atomic_numbers:
        raise InputError(
            f"`{argument}` must be the symbol of an element or '*', got {symbol!r}; write for example 'O'."
        )


def chosen(atoms: Atoms, symbol: str, argument: str) -> Integers:
    """Return the indices of the atoms of one element, or of all for "*", in rising order.

    Raises
    ------
    InputError
        If there is none.
    """
    found = _indices(atoms.numbers.astype(np.int64, copy=False).tobytes(), symbol)
    if len(found) == 0:
        present = ", ".join(sorted(set(atoms.get_chemical_symbols()))) or "no atoms"
        raise InputError(
            f"`{argument}` must be an element of the structure, got {symbol!r}; the structure has {present}."
        )
    return found


# A trajectory asks for the same few groups at every frame.
@lru_cache(maxsize=32)
def _indices(numbers: bytes, symbol: str) -> Integers:
    values = np.frombuffer(numbers, dtype=np.int64)
    found = np.arange(len(values)) if symbol == ANY else np.flatnonzero(values == atomic_numbers[symbol])
    found.setflags(write=False)
    return found
