"""`Axis`: what the entries of a vector stand for, of an observable as well as of its average."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ase_uq.arrays import Array


@dataclass(frozen=True, slots=True, eq=False)
class Axis:
    """What the entries of a vector stand for.

    Attributes
    ----------
    centres
        (n_bins,), middles of the bins.
    name, unit
        Of the axis, such as "r" and "Å".
    """

    centres: Array
    name: str = ""
    unit: str = ""

    @classmethod
    def of_entries(cls, n_entries: int) -> Axis:
        """Return the axis of a vector about which nothing is known: its entries, counted from 0."""
        return cls(np.arange(n_entries, dtype=np.float64), "entry")
