"""Geometric observables, and the short text by which the command line names them.

================================  ====  ======================================================================
text                              unit  value
================================  ====  ======================================================================
distance:0,1                      Å     length of 0-1
angle:1,0,2                       °     angle at 0
dihedral:0,1,2,3                  °     torsion about 1-2, 0 to 360
umbrella:0,1,2,3                  °     mean angle between the bonds 0-1, 0-2, 0-3 and the normal of the
                                        plane 1-2-3, 0 to 180; 90 is planar, inversion reflects it at 90
================================  ====  ======================================================================

A name may be put in front: `r_NH=distance:0,1`. Vectors follow the minimum image where the cell is periodic.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from ase import Atoms
from ase.geometry import find_mic

from ase_uq.errors import InputError

Observable = tuple[Callable[[Atoms], float], str]


def distance(atoms: Atoms, i: int, j: int) -> float:
    """Return the length of i-j, Å."""
    return float(atoms.get_distance(i, j, mic=bool(atoms.pbc.any())))


def angle(atoms: Atoms, i: int, j: int, k: int) -> float:
    """Return the angle at j, degrees."""
    return float(atoms.get_angle(i, j, k, mic=bool(atoms.pbc.any())))


def dihedral(atoms: Atoms, i: int, j: int, k: int, n: int) -> float:
    """Return the torsion about j-k, degrees, 0 to 360."""
    return float(atoms.get_dihedral(i, j, k, n, mic=bool(atoms.pbc.any())))


def umbrella(atoms: Atoms, apex: int, i: int, j: int, k: int) -> float:
    """Return the mean angle between the bonds of `apex` and the normal of the plane i-j-k, degrees.

    The normal is (r_j - r_i) x (r_k - r_i): its side follows from the order of the atoms, so an inversion takes the
    angle from theta to 180 - theta.
    """
    bonds = atoms.positions[[i, j, k]] - atoms.positions[apex]
    if atoms.pbc.any():
        bonds = find_mic(bonds, atoms.cell, atoms.pbc)[0]
    normal = np.cross(bonds[1] - bonds[0], bonds[2] - bonds[0])
    cosines = bonds @ normal / np.linalg.norm(bonds, axis=1) / np.linalg.norm(normal)
    return float(np.degrees(np.arccos(np.clip(cosines, -1.0, 1.0))).mean())


_KINDS: dict[str, tuple[Callable[..., float], int, str]] = {
    "distance": (distance, 2, "Å"),
    "angle": (angle, 3, "°"),
    "dihedral": (dihedral, 4, "°"),
    "umbrella": (umbrella, 4, "°"),
}


def parse_observables(texts: Sequence[str], n_atoms: int) -> dict[str, Observable]:
    """Turn texts such as "distance:0,1" into name -> (function of atoms, unit).

    Raises
    ------
    InputError
        For an unknown kind, a wrong number of atoms, an index out of range, or a name given twice.
    """
    parsed: dict[str, Observable] = {}
    for text in texts:
        name, _, definition = text.rpartition("=")
        name = name or definition.replace("/", "_")
        if name in parsed:
            raise InputError(f"`observable` names must differ, got {name!r} twice; write NAME=KIND:ATOMS.")
        parsed[name] = _parse(definition, n_atoms)
    return parsed


def _parse(definition: str, n_atoms: int) -> Observable:
    kind, _, numbers = definition.partition(":")
    if kind not in _KINDS:
        raise InputError(
            f"`observable` must be one of {', '.join(_KINDS)}, got {kind!r}; write for example distance:0,1."
        )
    function, n_indices, unit = _KINDS[kind]
    try:
        indices = [int(number) for number in numbers.split(",")]
    except ValueError:
        indices = []
    if len(indices) != n_indices or len(set(indices)) != n_indices or not all(0 <= i < n_atoms for i in indices):
        raise InputError(
            f"`observable` {kind} takes {n_indices} different atom indices from 0 to {n_atoms - 1}, got {numbers!r}; "
            f"write for example {kind}:{','.join(map(str, range(n_indices)))}."
        )
    return lambda atoms: function(atoms, *indices), unit
