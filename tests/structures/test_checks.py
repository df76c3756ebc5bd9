"""What has changed between two structures, as ASE sees it."""

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.calculator import all_changes, compare_atoms

from ase_uq.errors import InputError
from ase_uq.structures.checks import changes_between, check_apart, check_positions, check_structure
from tests.made.structures import copper

CHANGES = {
    "nothing": lambda atoms: None,
    "a tag": lambda atoms: atoms.set_tags(3),
    "positions": lambda atoms: atoms.positions.__setitem__((1, 2), np.nextafter(atoms.positions[1, 2], 9.0) + 1e-12),
    "one atom more": lambda atoms: atoms.append("Cu"),
    "an element": lambda atoms: atoms.symbols.__setitem__(0, "Au"),
    "cell": lambda atoms: atoms.set_cell(atoms.cell.array * 1.001),
    "pbc": lambda atoms: atoms.set_pbc([True, False, True]),
    "charges": lambda atoms: atoms.set_initial_charges([0.1, 0.0, 0.0, 0.0]),
    "charges that are zero": lambda atoms: atoms.set_initial_charges([0.0] * 4),
    "moments": lambda atoms: atoms.set_initial_magnetic_moments([1.0] * 4),
}


@pytest.mark.parametrize("name", CHANGES)
def test_changes_are_those_of_ase(name):
    old, new = copper(), copper()
    CHANGES[name](new)
    ours, ases = changes_between(old, new), compare_atoms(old, new, tol=1e-15)
    if len(old) == len(new):
        assert sorted(ours) == sorted(ases)
    else:
        assert {"positions", "numbers"} <= set(ours)
    assert bool(ours) == bool(ases)


def test_everything_has_changed_before_the_first_evaluation():
    assert changes_between(None, copper()) == list(all_changes)


def with_positions(value):
    atoms = copper()
    atoms.positions[1, 2] = value
    return atoms


@pytest.mark.parametrize("value", [np.nan, np.inf, -1e200, 1e11])
def test_absurd_positions_are_refused(value):
    """Neighbour lists count bins in whole numbers, and would end the interpreter."""
    with pytest.raises(InputError, match="atom 1 is not"):
        check_positions(with_positions(value))


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e200])
def test_absurd_cells_are_refused(value):
    atoms = copper()
    atoms.cell[0, 0] = value
    with pytest.raises(InputError, match="`atoms.cell` must be finite"):
        check_structure(atoms)


@pytest.mark.parametrize(
    ("pbc", "apart"), [((0, 0, 0), True), ((1, 0, 0), False), ((0, 1, 1), True), ((1, 1, 1), False)]
)
def test_atoms_at_one_place_are_refused(pbc, apart):
    cell = [[10.0, 3.0, 2.0], [0.0, 5.0, 0.0], [0.0, 1.0, 7.0]]
    atoms = Atoms("H3", [[4.0, 1.0, 1.0], [-1e-17, -1e-17, 0.0], [10.0, 3.0, 2.0]], cell=cell, pbc=pbc)
    if apart:
        check_apart(atoms)
        atoms.positions[2] = atoms.positions[1] + 0.003
    with pytest.raises(InputError, match="atoms 1 and 2 of 3 are within 0.01 Å"):
        check_apart(atoms)
