"""`Binned`: what everything with bins has in common."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

Array = NDArray[np.float64]


@runtime_checkable
class Binned(Protocol):
    """An observable with one value (K,) for each bin of an axis."""

    @property
    def centres(self) -> Array:
        """Middles of the bins, (K,)."""

    @property
    def axis_name(self) -> str:
        """Name of the axis, such as r."""

    @property
    def axis_unit(self) -> str:
        """Unit of the axis, such as Å."""

    def __call__(self, atoms: Atoms) -> Array:
        """Values of one frame, (K,)."""
