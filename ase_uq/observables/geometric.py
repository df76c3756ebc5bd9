"""Lengths and angles of named atoms.

Vectors follow the minimum image where the cell is periodic.
"""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.geometry import find_mic


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
