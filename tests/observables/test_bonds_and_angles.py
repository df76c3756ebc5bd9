"""Coordination numbers and the distribution of angles."""

from itertools import combinations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from scipy.spatial.transform import Rotation

from ase_uq.errors import InputError
from ase_uq.observables import AngleDistribution, CoordinationNumber


def water(theta, bond=0.97, seed=0):
    t = np.radians(theta) / 2
    atoms = Atoms("OH2", bond * np.array([[0, 0, 0], [np.sin(t), np.cos(t), 0], [-np.sin(t), np.cos(t), 0]]))
    atoms.positions = atoms.positions @ Rotation.random(random_state=seed).as_matrix().T
    return atoms


def waters(theta, n=4):
    """Molecules across the faces of a skewed cell, each turned its own way."""
    atoms = Atoms(cell=[[5.0, 0, 0], [2.0, 5.0, 0], [-1.0, 2.0, 20.0]], pbc=True)
    for k in range(n):
        one = water(theta, seed=k)
        one.positions += k * atoms.cell.array[2] / n
        atoms += one
    atoms.wrap()
    return atoms


def by_loops(atoms, first, centre, second, cutoff):
    """Angles, each pair of arms once."""
    symbols = atoms.get_chemical_symbols()
    found = []
    for c in range(len(atoms)):
        if centre in ("*", symbols[c]):
            ends = [e for e in range(len(atoms)) if e != c and atoms.get_distance(c, e, mic=True) < cutoff]
            for a, b in combinations(ends, 2):
                for x, y in ((a, b), (b, a)):
                    if first in ("*", symbols[x]) and second in ("*", symbols[y]):
                        found.append(atoms.get_angle(x, c, y, mic=True))
                        break
    return np.array(found)


def test_coordination_of_molecules_slabs_and_crystals():
    assert CoordinationNumber("O", "H", 1.25)(waters(104.5)) == 2.0
    assert CoordinationNumber("H", "O", 1.25)(waters(104.5)) == 1.0
    assert CoordinationNumber("C", "*", 1.3)(molecule("CH4")) == 4.0
    assert CoordinationNumber("*", "*", 1.3)(molecule("CH4")) == 8 / 5
    assert CoordinationNumber("Cu", "Cu", 3.0)(bulk("Cu").repeat(5)) == 12.0
    assert CoordinationNumber("Cu", "Cu", 3.0)(fcc111("Cu", (3, 3, 2), vacuum=5.0)) == 9.0
    assert CoordinationNumber("C", "H", 0.5)(molecule("CH4")) == 0.0
    assert CoordinationNumber("C", "H", 0.5).unit == "1"


@pytest.mark.parametrize("theta", [60.0, 104.5, 135.0, 180.0])
def test_water_has_the_angle_it_was_made_with(theta):
    angles = AngleDistribution("H", "O", "H", cutoff=1.3, n_bins=36)
    for atoms in (water(theta + 1e-3 * (theta < 180)), waters(theta + 1e-3 * (theta < 180))):
        density = angles(atoms)
        expected = np.zeros(36)
        expected[min(int(theta / 5), 35)] = 1 / 5
        np.testing.assert_allclose(density, expected, atol=1e-15)


def test_methane_has_six_angles_of_109_47():
    mixed = molecule("CH4")
    mixed.positions += 5.0
    mixed += water(100.0)
    density = AngleDistribution("H", "*", "H", cutoff=1.3, n_bins=1800)(mixed)
    # The molecule of the library is a tetrahedron to its digits.
    assert density[np.abs(np.arange(1800) * 0.1 + 0.05 - 109.4712) < 0.06].sum() * 0.1 == pytest.approx(6 / 7)
    assert density[[999, 1000]].sum() * 0.1 == pytest.approx(1 / 7)


@pytest.mark.parametrize("kinds", [("H", "C", "H"), ("H", "C", "O"), ("*", "C", "H"), ("*", "*", "*"), ("O", "H", "*")])
@pytest.mark.parametrize("pbc", [True, False, [True, False, True]])
def test_each_pair_of_arms_counts_once(kinds, pbc):
    atoms = Atoms("C8H16O6", cell=[[6.0, 0, 0], [2.5, 6.0, 0], [1.0, -2.0, 7.0]], pbc=pbc)
    atoms.set_scaled_positions(np.random.default_rng(1).random((30, 3)))
    angles = by_loops(atoms, *kinds, cutoff=2.5)
    assert len(angles) > 10
    found = AngleDistribution(*kinds, cutoff=2.5, n_bins=30)
    np.testing.assert_allclose(found(atoms), np.histogram(angles, 30, (0.0, 180.0), density=True)[0])
    assert found(atoms).sum() * 6.0 == pytest.approx(1.0)
    swapped = AngleDistribution(*kinds[::-1], cutoff=2.5, n_bins=30)
    np.testing.assert_allclose(swapped(atoms), found(atoms))


def test_a_frame_without_the_angle_is_zero():
    angles = AngleDistribution("H", "O", "H", cutoff=0.5)
    np.testing.assert_array_equal(angles(water(100.0)), np.zeros(90))
    assert (angles.unit, angles.axis.name, angles.axis.unit) == ("1/°", "angle", "°")
    assert (angles.centres[0], angles.centres[-1]) == (1.0, 179.0)


@pytest.mark.parametrize(
    ("make", "rule"),
    [
        (lambda: CoordinationNumber("O", "H", -1.0), "`cutoff` must be a positive number of Å, got -1.0"),
        (lambda: CoordinationNumber("Q", "H", 1.0), "`first` must be the symbol of an element"),
        (
            lambda: CoordinationNumber("O", "N", 1.0)(water(100.0)),
            "`second` must be an element of the struct",
        ),
        (lambda: CoordinationNumber("O", "H", 2.6)(waters(100.0)), "`cutoff` must not exceed half .* got 2.6 Å"),
        (lambda: AngleDistribution("H", "O", "H", cutoff=np.nan), "`cutoff` must be a positive number"),
        (lambda: AngleDistribution("H", "J", "H", cutoff=1.3), "`centre` must be the symbol of an element"),
        (lambda: AngleDistribution("H", "O", "H", cutoff=1.3, n_bins=0), "`n_bins` must be at least 1, got 0"),
        (
            lambda: AngleDistribution("H", "N", "H", cutoff=1.3)(water(100.0)),
            "`centre` must be an element of the",
        ),
        (lambda: AngleDistribution("H", "O", "H", cutoff=2.6)(waters(100.0)), "`cutoff` must not exceed half"),
    ],
)
def test_mistakes_are_named(make, rule):
    with pytest.raises(InputError, match=rule):
        make()
