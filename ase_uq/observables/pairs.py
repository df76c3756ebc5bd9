"""Pairs of atoms closer than a cut-off, exact in any cell, skewed ones included.

====================  ====================================================================
symbol                variable
====================  ====================================================================
n_k, w_k              normal of the faces k of the cell, and the distance between them
f_k = d.n_k / w_k     fractional components of a vector d
u_k = w_k f_k         its components along the normals, what the tree is made of
====================  ====================================================================

Let d be a vector shorter than half of every w_k. Then |f_k| <= |d| / w_k < 1/2, so that among the images of a pair it
is the one that rounding of fractional components leaves, whatever the skew, and the only one that short. And |u_k| <=
|d|: a search by the largest |u_k|, periodic by w_k, misses none. Hence cut-offs up to half the smallest w_k, no more.
"""

from __future__ import annotations

from math import floor, isfinite
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms
from ase.geometry import complete_cell
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from ase_uq.arrays import Array
from ase_uq.errors import InputError
from ase_uq.observables.elements import Integers
from ase_uq.structures.checks import check_structure

_ROUNDING = 1e-9  # relative: a cut-off of exactly half a width is allowed


class Pairs(NamedTuple):
    """Pairs of atoms.

    Attributes
    ----------
    i, j
        (P,) int64, the two atoms.
    vectors
        (3, P), from i to the nearest image of j, Å.
    lengths
        (P,), Å.
    """

    i: Integers
    j: Integers
    vectors: Array
    lengths: Array


def check_length(length: float, argument: str) -> None:
    """Refuse a length that is not positive and finite.

    Raises
    ------
    InputError
        Naming `argument`.
    """
    if not (isfinite(length) and length > 0):
        raise InputError(f"`{argument}` must be a positive number of Å, got {length}; pass for example 1.3.")


def widest_cutoff(atoms: Atoms) -> float:
    """Return half the smallest distance between opposite faces of the cell, Å; infinite without a periodic axis.

    Raises
    ------
    InputError
        For atoms that `check_structure` refuses.
    """
    check_structure(atoms)
    return _widest(_faces(atoms)[2], atoms.pbc)


def find_pairs(
    atoms: Atoms, first: Integers, second: Integers | None, cutoff: float, *, argument: str = "cutoff"
) -> Pairs:
    """Find the pairs shorter than `cutoff`.

    Parameters
    ----------
    atoms
        Any molecule, slab or bulk.
    first, second
        Indices of atoms: all i of `first` with all j of `second` other than i. Without `second`, all pairs within
        `first`, each once.
    cutoff
        Largest distance of a pair, Å.
    argument
        What the caller calls `cutoff`.

    Raises
    ------
    InputError
        For a cut-off wider than half the smallest distance between opposite faces of the cell, or atoms that
        `check_structure` refuses.
    """
    check_structure(atoms)
    cell, inverse, widths = _faces(atoms)
    _check_cutoff(cutoff, _widest(widths, atoms.pbc), argument)
    fractional = atoms.positions @ inverse
    fractional[:, atoms.pbc] -= np.floor(fractional[:, atoms.pbc])
    i, j = _candidates(fractional * widths, np.where(atoms.pbc, widths, 0.0), first, second, cutoff)
    vectors, lengths = _nearest_images(fractional.T, i, j, cell, atoms.pbc)
    near = np.flatnonzero(lengths < cutoff)
    return Pairs(i.take(near), j.take(near), vectors.take(near, axis=1), lengths.take(near))


def _candidates(
    along_normals: Array, periods: Array, first: Integers, second: Integers | None, cutoff: float
) -> tuple[Integers, Integers]:
    # Rounding may have put an atom on the far face, which the tree refuses.
    along_normals[(periods > 0) & (along_normals >= periods)] = 0.0
    reach = cutoff * (1.0 + _ROUNDING)
    # Boxes of leaves need not be tight nor even for one search: building is most of the time.
    options: dict[str, Any] = {"boxsize": periods, "balanced_tree": False, "compact_nodes": False}
    tree = cKDTree(along_normals[first], **options)
    if second is None:
        i, j = tree.query_pairs(reach, p=np.inf, output_type="ndarray").T
        return first.take(i), first.take(j)
    other = cKDTree(along_normals[second], **options)
    found = tree.sparse_distance_matrix(other, reach, p=np.inf, output_type="ndarray")
    i, j = first.take(found["i"]), second.take(found["j"])
    different = i != j
    return i[different], j[different]


def _nearest_images(
    fractional: Array, i: Integers, j: Integers, cell: Array, pbc: NDArray[np.bool_]
) -> tuple[Array, Array]:
    # In place: for thousands of pairs, asking the system for memory costs more than arithmetic.
    differences, images = fractional.take(j, axis=1), fractional.take(i, axis=1)
    differences -= images
    np.rint(differences, out=images)
    images[~pbc] = 0.0
    differences -= images
    vectors = np.matmul(cell.T, differences, out=images)
    lengths = np.einsum("kp,kp->p", vectors, vectors)
    return vectors, np.sqrt(lengths, out=lengths)


def _faces(atoms: Atoms) -> tuple[Array, Array, Array]:
    """Return the cell, its inverse and the distances between its faces; vectors nothing repeats along are replaced."""
    cell = atoms.cell.array
    if not atoms.pbc.all():
        cell = complete_cell(np.where(atoms.pbc[:, None], cell, 0.0))
    inverse = np.linalg.inv(cell)
    return cell, inverse, 1.0 / np.sqrt((inverse * inverse).sum(axis=0))


def _widest(widths: Array, pbc: NDArray[np.bool_]) -> float:
    return 0.5 * float(widths.min(where=pbc, initial=np.inf))


def _check_cutoff(cutoff: float, widest: float, argument: str) -> None:
    if cutoff > widest * (1.0 + _ROUNDING):
        raise InputError(
            f"`{argument}` must not exceed half the smallest distance between opposite faces of the cell in any frame, "
            f"got {cutoff:g} Å; pass at most {floor(1e3 * widest) / 1e3:.3f} Å, or a larger cell."
        )
