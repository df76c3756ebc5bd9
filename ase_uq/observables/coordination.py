"""`CoordinationNumber`: how many atoms of one element are near an atom of another."""

from __future__ import annotations

from dataclasses import dataclass

from ase import Atoms

from ase_uq.observables.elements import check_element, chosen
from ase_uq.observables.observable import Observable
from ase_uq.observables.pairs import check_length, find_pairs


@dataclass(frozen=True)
class CoordinationNumber(Observable):
    """Mean number of atoms of `second` that are closer than `cutoff` to an atom of `first`.

    Parameters
    ----------
    first, second
        Elements, or "*" for any; an atom is no neighbour of itself.
    cutoff
        Å, sharp; where the cell is periodic at most half the smallest distance between its opposite faces.

    Attributes
    ----------
    unit
        "1".

    Raises
    ------
    InputError
        For arguments that break these rules; when called, for an element the structure lacks or a cell too small for
        `cutoff`.

    Examples
    --------
    >>> from ase.build import molecule
    >>> CoordinationNumber("C", "H", 1.3)(molecule("CH4"))
    4.0
    """

    first: str
    second: str
    cutoff: float

    unit = "1"

    def __post_init__(self) -> None:
        check_element(self.first, "first")
        check_element(self.second, "second")
        check_length(self.cutoff, "cutoff")

    def __call__(self, atoms: Atoms) -> float:
        """Return the mean number of neighbours."""
        first, second = chosen(atoms, self.first, "first"), chosen(atoms, self.second, "second")
        like = self.first == self.second
        found = find_pairs(atoms, first, None if like else second, self.cutoff)
        return (2.0 if like else 1.0) * len(found.lengths) / len(first)
