"""`RadialDistribution`: the partial g(r) of one frame."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from math import floor, pi

import numpy as np
from ase import Atoms

from ase_uq.arrays import Array
from ase_uq.errors import InputError
from ase_uq.observables.elements import ANY, check_element, chosen
from ase_uq.observables.observable import Observable
from ase_uq.observables.pairs import check_length, find_pairs, widest_cutoff
from ase_uq.reweighting.axis import Axis

_WIDEST_DEFAULT = 10.0  # Å
_ROOM = 0.95  # of the widest r_max of the start structure, left for a cell that breathes


@dataclass(frozen=True)
class RadialDistribution(Observable):
    """Partial radial distribution function g_AB(r) of one frame, normalised by the volume of that frame.

    A bin of volume v = 4 pi / 3 (r2^3 - r1^3) that holds n of the pairs (a, b), a of A and b another atom of B, has
    g = n V / (P v). P is the number of all such pairs: N_A N_B for two elements, N_A (N_A - 1) for one.

    Parameters
    ----------
    first, second
        Elements A and B, or "*" for any.
    r_max
        Where the bins end, Å; in no frame more than half the smallest distance between opposite faces of the cell.
    n_bins
        Number of bins, equally wide.

    Attributes
    ----------
    unit, axis
        "1"; middles of the bins, (n_bins,), "r", "Å".

    Raises
    ------
    InputError
        For arguments that break these rules; when called, for an element the structure lacks, a single atom, a cell
        that is not periodic in three directions, or one too small for `r_max`.

    Notes
    -----
    An ideal gas has g = 1 on average, for like pairs too and however few the atoms are. LAMMPS and
    `ase.geometry.rdf.get_rdf` divide like pairs by N_A^2 and get 1 - 1/N_A; in a frame repeated M times, g of like
    pairs changes by the factor (1 - 1/N_A) / (1 - 1/(M N_A)), where theirs stays.

    The mean number of B around an A closer than the edge of a bin is the sum over the bins up to it of g v P / (N_A V).

    Examples
    --------
    >>> from ase.build import bulk
    >>> g = RadialDistribution("Cu", "Cu", r_max=5.0, n_bins=50)
    >>> values = g(bulk("Cu", cubic=True).repeat(3))  # nearest neighbours at 2.55 Å
    >>> values.shape, float(g.centres[values.argmax()].round(2))
    ((50,), 2.55)
    """

    first: str = "O"
    second: str = "O"
    r_max: float = field(kw_only=True)
    n_bins: int = field(default=100, kw_only=True)

    unit = "1"

    def __post_init__(self) -> None:
        check_element(self.first, "first")
        check_element(self.second, "second")
        check_length(self.r_max, "r_max")
        if self.n_bins < 1:
            raise InputError(f"`n_bins` must be at least 1, got {self.n_bins}; 100 suits most liquids.")
        centres = np.asarray((np.arange(self.n_bins) + 0.5) * (self.r_max / self.n_bins))
        object.__setattr__(self, "axis", Axis(centres, "r", "Å"))

    @cached_property
    def shell_volumes(self) -> Array:
        """Volumes of the bins, (n_bins,), Å^3."""
        edges = np.arange(self.n_bins + 1) * (self.r_max / self.n_bins)
        return np.asarray(4.0 * pi / 3.0 * np.diff(edges**3))

    def __call__(self, atoms: Atoms) -> Array:
        """Return g at `centres`, (n_bins,)."""
        if not atoms.pbc.all():
            raise InputError(
                "`atoms` must be periodic in three directions, since g(r) needs a density, got pbc "
                f"{atoms.pbc.tolist()}; set its `pbc` if the cell repeats."
            )
        first, second = chosen(atoms, self.first, "first"), chosen(atoms, self.second, "second")
        like = self.first == self.second
        shared = min(len(first), len(second)) if like or ANY in (self.first, self.second) else 0
        n_pairs = len(first) * len(second) - shared
        if n_pairs == 0:
            raise InputError(
                f"`first` and `second` must make at least one pair, got {self.first!r} and {self.second!r}, which are "
                "one atom of the structure; choose other elements or a larger structure."
            )
        found = find_pairs(atoms, first, None if like else second, self.r_max, argument="r_max")
        bins = (found.lengths * (self.n_bins / self.r_max)).astype(np.int64)
        # Just below r_max the product may round up to the number of bins.
        counts = np.bincount(np.minimum(bins, self.n_bins - 1), minlength=self.n_bins)
        weight = 2.0 if like else 1.0
        return np.asarray(counts * (weight * atoms.get_volume() / n_pairs) / self.shell_volumes)


def default_r_max(atoms: Atoms) -> float:
    """Return an r_max, Å, that suits a structure and cells a little smaller: 10 Å, or less where it must be."""
    return floor(10.0 * min(_WIDEST_DEFAULT, _ROOM * widest_cutoff(atoms))) / 10.0
