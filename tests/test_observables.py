"""Geometric observables and the texts that name them."""

import numpy as np
import pytest
from ase import Atoms
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from ase_uq.errors import InputError
from ase_uq.observables import angle, dihedral, distance, parse_observables, umbrella


def ammonia(theta, bond=1.02):
    """NH3 whose bonds make the angle theta (degrees) with the normal of the H plane."""
    t = np.radians(theta)
    around = np.radians([0.0, 120.0, 240.0])
    hydrogens = bond * np.stack([np.sin(t) * np.cos(around), np.sin(t) * np.sin(around), np.full(3, np.cos(t))], axis=1)
    return Atoms("NH3", np.vstack([[0.0, 0.0, 0.0], hydrogens]))


@settings(deadline=None)
@given(theta=st.floats(1.0, 179.0), seed=st.integers(0, 1000))
def test_umbrella_is_the_angle_that_made_the_molecule(theta, seed):
    atoms = ammonia(theta)
    atoms.positions = atoms.positions @ Rotation.random(random_state=seed).as_matrix().T + [1.0, 2.0, 3.0]
    assert umbrella(atoms, 0, 1, 2, 3) == pytest.approx(theta, abs=1e-6)
    # The other order of the hydrogens looks at the molecule from the other side.
    assert umbrella(atoms, 0, 1, 3, 2) == pytest.approx(180.0 - theta, abs=1e-6)


def test_umbrella_of_a_planar_molecule_is_90():
    assert umbrella(ammonia(90.0), 0, 1, 2, 3) == pytest.approx(90.0)


def test_distances_and_angles_follow_the_minimum_image():
    atoms = Atoms("H3", [[0.2, 0, 0], [9.8, 0, 0], [0.2, 0.4, 0]], cell=[10, 10, 10], pbc=True)
    assert distance(atoms, 0, 1) == pytest.approx(0.4)
    assert angle(atoms, 1, 0, 2) == pytest.approx(90.0)
    wrapped = ammonia(70.0)
    wrapped.set_cell([8, 8, 8])
    wrapped.pbc = True
    wrapped.wrap()
    assert umbrella(wrapped, 0, 1, 2, 3) == pytest.approx(70.0, abs=1e-6)


def test_dihedral():
    assert dihedral(Atoms("H4", [[1, 0, 0], [0, 0, 0], [0, 0, 1], [-1, 0, 1]]), 0, 1, 2, 3) == pytest.approx(180.0)
    atoms = Atoms("H4", [[1, 0, 0], [0, 0, 0], [0, 0, 1], [0, 1, 1]])
    assert dihedral(atoms, 0, 1, 2, 3) == pytest.approx(90.0)


def test_texts_become_functions():
    parsed = parse_observables(["r=distance:0,1", "umbrella:0,1,2,3"], 4)
    assert list(parsed) == ["r", "umbrella:0,1,2,3"]
    function, unit = parsed["r"]
    assert (function(ammonia(70.0)), unit) == (pytest.approx(1.02), "Å")
    assert parsed["umbrella:0,1,2,3"][1] == "°"


@pytest.mark.parametrize(
    ("texts", "rule"),
    [
        (["length:0,1"], "`observable` must be one of distance, angle"),
        (["distance:0"], "takes 2 different atom indices from 0 to 3, got '0'"),
        (["distance:0,4"], "takes 2 different atom indices"),
        (["distance:1,1"], "takes 2 different atom indices"),
        (["distance:a,b"], "takes 2 different atom indices"),
        (["distance"], "takes 2 different atom indices"),
        (["r=distance:0,1", "r=distance:0,2"], "names must differ, got 'r' twice"),
    ],
)
def test_bad_texts_are_named(texts, rule):
    with pytest.raises(InputError, match=rule):
        parse_observables(texts, 4)
