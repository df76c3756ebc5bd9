"""What a structure must satisfy before any model sees it."""

from __future__ import annotations

import math

import numpy as np
from ase import Atoms
from ase.calculators.calculator import all_changes
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from ase_uq.errors import InputError

# Of the box that cell vectors of these lengths could span; a smaller cell is rounding.
SMALLEST_VOLUME = 1e-14
# Å; neighbour lists count bins in whole numbers, which end.
LARGEST = 1e11
_ONE_PLACE = 0.01  # Å


def is_periodic(atoms: Atoms) -> bool:
    """Return whether a stress is defined: three cell vectors that span a volume, and at least one periodic axis."""
    return bool(atoms.pbc.any()) and atoms.cell.rank == 3


def changes_between(old: Atoms | None, new: Atoms) -> list[str]:
    """Return the names of what differs, as ASE's `compare_atoms` does without its tolerance and its price."""
    if old is None:
        return list(all_changes)
    pairs = {
        "positions": (old.arrays["positions"], new.arrays["positions"]),
        "numbers": (old.arrays["numbers"], new.arrays["numbers"]),
        "cell": (old.cell.array, new.cell.array),
        "pbc": (old.pbc, new.pbc),
    }
    for name in ("initial_charges", "initial_magmoms"):
        if name in old.arrays or name in new.arrays:
            none = np.zeros(0)
            pairs[name] = (old.arrays.get(name, none), new.arrays.get(name, none))
    # Bytes: asked several times a step, and NumPy's comparisons cost more than copies of this size.
    return [name for name, (before, now) in pairs.items() if before.tobytes() != now.tobytes()]


def check_structure(atoms: Atoms) -> None:
    """Refuse a structure that no potential can evaluate.

    Raises
    ------
    InputError
        For no atoms, a periodic axis without a cell vector, a degenerate cell, or positions and cell vectors that are
        not finite or absurdly large.
    """
    if len(atoms) == 0:
        raise InputError("`atoms` must hold at least one atom, got an empty structure; check the input file.")
    check_positions(atoms)
    if not np.abs(atoms.cell.array).max() < LARGEST:
        raise InputError(
            f"`atoms.cell` must be finite and below {LARGEST:g} Å, got {atoms.cell.array.tolist()}; correct the file."
        )
    lengths = atoms.cell.lengths()
    for axis in np.flatnonzero(atoms.pbc):
        if lengths[axis] == 0.0:
            raise InputError(
                f"`atoms.cell` must have a vector along every periodic axis, axis {axis} is periodic and empty; "
                "set the cell, or atoms.pbc = False for a molecule."
            )
    if atoms.pbc.any() and not _independent(atoms.cell.array[lengths > 0]):
        raise InputError(
            f"`atoms.cell` must have independent vectors, got lengths {lengths.tolist()} that span no volume; "
            "set a cell with a volume."
        )


def check_apart(atoms: Atoms) -> None:
    """Refuse atoms at one place, where no potential has a force: a file that was put together twice, say."""
    positions, boxes = atoms.positions, np.zeros(3)
    if atoms.pbc.any():
        # Coordinates along the vectors, folded back where these are periodic: what is at one place is so in them, too.
        cell = atoms.cell.complete()
        positions, boxes = cell.scaled_positions(positions) * cell.lengths(), np.where(atoms.pbc, cell.lengths(), 0.0)
        positions -= np.floor(positions / np.where(atoms.pbc, boxes, np.inf)) * boxes
        positions = np.where(atoms.pbc & (positions >= boxes), 0.0, positions)
    pairs = cKDTree(positions, boxsize=boxes).query_pairs(_ONE_PLACE)
    if pairs:
        i, j = min(pairs)
        raise InputError(
            f"`atoms` must be apart, atoms {i} and {j} of {len(atoms)} are within {_ONE_PLACE:g} Å of each other; "
            "correct the file."
        )


def check_positions(atoms: Atoms) -> None:
    """Refuse positions that are not finite, or absurd: what can go wrong from one step to the next."""
    # Not a number is not below, either.
    if not np.abs(atoms.positions).max(initial=0.0) < LARGEST:
        bad = int(np.argmin((np.abs(atoms.positions) < LARGEST).all(axis=1)))
        rule = f"below {LARGEST:g} Å" if np.isfinite(atoms.positions[bad]).all() else "finite"
        raise InputError(
            f"`atoms.positions` must be {rule}, atom {bad} is not; the dynamics has probably blown up: restart from an "
            "earlier frame with a shorter time step."
        )


def _independent(vectors: NDArray[np.float64]) -> bool:
    if len(vectors) < 3:
        return bool(np.linalg.matrix_rank(vectors) == len(vectors))
    # Asked at every step: the triple product of numbers is much faster than a decomposition.
    a, b, c = vectors.tolist()
    cross = [a[i - 2] * b[i - 1] - a[i - 1] * b[i - 2] for i in range(3)]
    volume = sum(x * y for x, y in zip(cross, c, strict=True))
    return bool(abs(volume) > SMALLEST_VOLUME * math.prod(math.hypot(*vector) for vector in (a, b, c)))
