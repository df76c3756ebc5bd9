"""Structures for tests: every kind of cell a graph must get right."""

import numpy as np
from ase import Atoms
from ase.build import bulk, fcc111, molecule


def rattled(atoms: Atoms, seed: int = 0, amplitude: float = 0.05) -> Atoms:
    atoms = atoms.copy()
    atoms.positions += np.random.default_rng(seed).normal(scale=amplitude, size=(len(atoms), 3))
    return atoms


def copper() -> Atoms:
    return rattled(bulk("Cu", cubic=True))


def primitive() -> Atoms:
    """One atom; its neighbours are its own images."""
    return bulk("Cu")


def skewed() -> Atoms:
    atoms = bulk("Cu", cubic=True)
    atoms.set_cell(atoms.cell.array @ np.array([[1.0, 0.3, 0.2], [0.0, 1.0, 0.4], [0.0, 0.0, 1.1]]), scale_atoms=True)
    return rattled(atoms, 1)


def left_handed() -> Atoms:
    atoms = skewed()
    atoms.set_cell(atoms.cell.array[[1, 0, 2]])
    assert atoms.cell.handedness == -1
    return atoms


def slab() -> Atoms:
    """Periodic in two directions, with an empty third cell vector."""
    atoms = rattled(fcc111("Cu", (2, 2, 2)), 2)
    cell = atoms.cell.array.copy()
    cell[2] = 0.0
    atoms.set_cell(cell)
    atoms.pbc = [True, True, False]
    return atoms


def water() -> Atoms:
    return rattled(molecule("H2O"), 3)


STRUCTURES = {f.__name__: f for f in (copper, primitive, skewed, left_handed, slab, water)}
PERIODIC = ("copper", "skewed", "left_handed")


def ethanol(seed=1):
    atoms = molecule("CH3CH2OH")
    atoms.rattle(0.05, seed=seed)
    return atoms
