"""`AngleDistribution`: the probability density of the angles between bonds."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from ase_uq.arrays import Array
from ase_uq.errors import InputError
from ase_uq.observables.elements import Integers, check_element, chosen
from ase_uq.observables.observable import Observable
from ase_uq.observables.pairs import Pairs, check_length, find_pairs
from ase_uq.reweighting.axis import Axis


@dataclass(frozen=True)
class AngleDistribution(Observable):
    """Probability density of the angles first-centre-second of one frame, from 0 to 180°.

    Parameters
    ----------
    first, centre, second
        Elements, or "*" for any. A pair of arms is counted once, whichever end is called first.
    cutoff
        Both arms are shorter, Å; where the cell is periodic at most half the smallest distance between its opposite
        faces.
    n_bins
        Number of bins, equally wide.

    Attributes
    ----------
    unit, axis
        "1/°"; middles of the bins, (n_bins,), "angle", "°".

    Raises
    ------
    InputError
        For arguments that break these rules; when called, for an element the structure lacks or a cell too small for
        `cutoff`.

    Notes
    -----
    The integral over the bins is 1 in a frame with at least one such angle, and 0 in a frame without. The density is
    that of the angle: without any order it is proportional to its sine.

    Examples
    --------
    >>> from ase.build import molecule
    >>> angles = AngleDistribution("H", "C", "H", cutoff=1.3, n_bins=180)
    >>> angles.centres[angles(molecule("CH4")) > 0].tolist()  # all six are 109.47°
    [109.5]
    """

    first: str
    centre: str
    second: str
    cutoff: float = field(kw_only=True)
    n_bins: int = field(default=90, kw_only=True)

    unit = "1/°"

    def __post_init__(self) -> None:
        for argument in ("first", "centre", "second"):
            check_element(getattr(self, argument), argument)
        check_length(self.cutoff, "cutoff")
        if self.n_bins < 1:
            raise InputError(f"`n_bins` must be at least 1, got {self.n_bins}; 90 are 2° wide.")
        centres = np.asarray((np.arange(self.n_bins) + 0.5) * (180.0 / self.n_bins))
        object.__setattr__(self, "axis", Axis(centres, "angle", "°"))

    def __call__(self, atoms: Atoms) -> Array:
        """Return the density at `centres`, (n_bins,), 1/°."""
        angles = self._angles(atoms)
        # 180° itself belongs to the last bin.
        bins = np.minimum((angles * (self.n_bins / 180.0)).astype(np.int64), self.n_bins - 1)
        counts = np.bincount(bins, minlength=self.n_bins)
        return np.asarray(counts * (self.n_bins / 180.0) / max(len(angles), 1))

    def _angles(self, atoms: Atoms) -> Array:
        centre = chosen(atoms, self.centre, "centre")
        ends = chosen(atoms, self.first, "first"), chosen(atoms, self.second, "second")
        one = find_pairs(atoms, centre, ends[0], self.cutoff)
        two = one if self.first == self.second else find_pairs(atoms, centre, ends[1], self.cutoff)
        a, b = _arms_of_one_centre(one, two, len(atoms))
        distinct = _once(one.j.take(a), two.j.take(b), *ends, len(atoms))
        a, b = a[distinct], b[distinct]
        products = np.einsum("kp,kp->p", one.vectors.take(a, axis=1), two.vectors.take(b, axis=1))
        cosines = products / (one.lengths.take(a) * two.lengths.take(b))
        return np.asarray(np.degrees(np.arccos(np.clip(cosines, -1.0, 1.0))))


def _arms_of_one_centre(one: Pairs, two: Pairs, n_atoms: int) -> tuple[Integers, Integers]:
    """Return all pairs of arms, one of each list, that share their centre: places in `one` and in `two`, (P,)."""
    order = np.argsort(two.i, kind="stable")
    counts = np.bincount(two.i, minlength=n_atoms)
    starts = np.cumsum(counts) - counts
    repeats = counts.take(one.i)
    a = np.repeat(np.arange(len(one.i)), repeats)
    rank = np.arange(len(a)) - np.repeat(np.cumsum(repeats) - repeats, repeats)
    return a, order.take(starts.take(one.i.take(a)) + rank)


def _once(end: Integers, other_end: Integers, first: Integers, second: Integers, n_atoms: int) -> NDArray[np.bool_]:
    """Mark one of each pair of arms, (P,): where both ends belong to both groups the pair is there in both orders."""
    in_first, in_second = np.zeros((2, n_atoms), dtype=np.bool_)
    in_first[first] = in_second[second] = True
    twice = in_second[end] & in_first[other_end]
    return ~twice | (end < other_end)
