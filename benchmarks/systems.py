"""The systems of the timings: a molecule of 27 atoms, a metal of 64, liquid water of 192 and 1536."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk, molecule
from ase.io import read
from scipy.spatial.transform import Rotation

DEFAULT_ROOT = Path(__file__).resolve().parents[1].parent / "shared" / "data"
# g/cm^3 in atomic mass units per Å^3.
GRAM_PER_CM3 = 0.602214


def mol27() -> Atoms:
    """3BPA, a drug-like molecule of C, H, N and O, as in the first test frame of its data set."""
    root = Path(os.environ.get("ASE_UQ_DATA", DEFAULT_ROOT))
    atoms = read(root / "3bpa" / "test_300K.xyz.gz", index=0)
    return Atoms(atoms.symbols, positions=atoms.positions)


def metal64() -> Atoms:
    """Copper, 4 x 4 x 4 primitive cells, rattled by 0.05 Å."""
    atoms = bulk("Cu").repeat(4)
    atoms.rattle(0.05, seed=0)
    return atoms


def water(n_side: int = 4, *, density: float = 1.0, seed: int = 0) -> Atoms:
    """Molecules on a cubic lattice in random orientations at the density of the liquid; 3 n_side^3 atoms."""
    rng = np.random.default_rng(seed)
    one = molecule("H2O")
    one.positions -= one.get_center_of_mass()
    spacing = (one.get_masses().sum() / (density * GRAM_PER_CM3)) ** (1.0 / 3.0)
    box = Atoms(cell=[n_side * spacing] * 3, pbc=True)
    for corner in np.ndindex(n_side, n_side, n_side):
        turned = one.copy()
        turned.positions = one.positions @ Rotation.random(random_state=rng).as_matrix().T
        turned.translate((np.array(corner) + 0.5) * spacing)
        box += turned
    return box


SYSTEMS = {"mol27": mol27, "metal64": metal64, "water192": water, "water1536": lambda: water(8)}
