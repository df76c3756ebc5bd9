"""Geometric observables and the texts that name them."""

import subprocess
import sys

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from ase_uq.errors import InputError
from ase_uq.observables import (
    AngleDistribution,
    CoordinationNumber,
    RadialDistribution,
    angle,
    dihedral,
    distance,
    parse_observables,
    umbrella,
)


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
    parsed = parse_observables(["r=distance:0,1", "umbrella:0,1,2,3"], ammonia(70.0))
    assert list(parsed) == ["r", "umbrella:0,1,2,3"]
    assert (parsed["r"](ammonia(70.0)), parsed["r"].unit) == (pytest.approx(1.02), "Å")
    assert parsed["umbrella:0,1,2,3"].unit == "°"


def box():
    """Four molecules of water in a cell with faces 9 and 10 Å apart."""
    atoms = molecule("H2O", cell=[4.5, 5.0, 10.0], pbc=True).repeat((2, 2, 1))
    atoms.wrap()
    return atoms


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("rdf:O-H", RadialDistribution("O", "H", r_max=4.2)),  # 95 % of 4.5, cut to a tenth
        ("rdf:O-O,4.5", RadialDistribution("O", "O", r_max=4.5)),
        ("rdf:*-H,4.0,20", RadialDistribution("*", "H", r_max=4.0, n_bins=20)),
        ("coordination:O-H,1.25", CoordinationNumber("O", "H", 1.25)),
        ("angles:H-O-H,1.3", AngleDistribution("H", "O", "H", cutoff=1.3)),
        ("angles:H-O-H,1.3,45", AngleDistribution("H", "O", "H", cutoff=1.3, n_bins=45)),
    ],
)
def test_texts_of_elements_become_observables(text, made):
    ((name, observable),) = parse_observables([text], box()).items()
    assert (name, observable) == (text, made)


def test_the_default_r_max_is_at_most_10():
    observable, *_ = parse_observables(["rdf:Cu-Cu"], bulk("Cu", cubic=True).repeat(7)).values()
    assert observable.r_max == 10.0


def test_texts_of_scalars_have_their_units():
    parsed = parse_observables(["density", "V=volume", "pressure", "potential_energy"], box())
    assert {name: observable.unit for name, observable in parsed.items()} == {
        "density": "g/cm^3",
        "V": "Å^3",
        "pressure": "eV/Å^3",
        "potential_energy": "eV",
    }
    assert parsed["V"](box()) == pytest.approx(900.0)


def test_texts_of_histograms_end_with_low_high_and_bins():
    parsed = parse_observables(["histogram:distance:0,1,0.8,1.4,40", "h=histogram:density,0,1,2"], box())
    bins = parsed["histogram:distance:0,1,0.8,1.4,40"]
    assert (bins.unit, bins.axis.name, bins.axis.unit, bins.is_histogram) == ("", "distance:0,1", "Å", True)
    np.testing.assert_allclose(bins.edges, np.linspace(0.8, 1.4, 41))
    assert bins(box()).argmax() == int((distance(box(), 0, 1) - 0.8) / 0.015)
    assert parsed["h"](box()).tolist() == [1.0, 0.0]  # 0.13 g/cm^3


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
        (["density:1"], "density takes nothing after its name, got '1'; write density"),
        (
            ["rdf:N"],
            "rdf takes two elements and, if wanted, r_max and a number of bins, got 'N'; write for example",
        ),
        (["rdf:N-H,wide"], "rdf takes two elements"),
        (["rdf:N-H,3,1.5"], "rdf takes two elements"),
        (["rdf:N-H,3,10,4"], "rdf takes two elements"),
        (["coordination:N-H"], "coordination takes two elements and a cut-off, got 'N-H'"),
        (["coordination:N-H,1.3,4"], "coordination takes two elements and a cut-off"),
        (["angles:H-N,1.3"], "angles takes three elements, a cut-off"),
        (["angles:H-N-H"], "angles takes three elements, a cut-off"),
        (["coordination:N-O,1.3"], "`second` must be an element of the structure, got 'O'; the structure has H, N"),
        (["rdf:N-H,3"], "`atoms` must be periodic in three directions"),
        (["rdf:N-H"], "`atoms` must be periodic in three directions"),
        (["density"], "`atoms.cell` must have three vectors that span a volume"),
        (["histogram:distance:0,1,0.8,1.4"], "histogram takes the text of one number"),
        (["histogram:distance:0,0.8,1.4,40"], "takes 2 different atom indices"),
        (["histogram:distance:0,1,1.4,0.8,40"], "histogram takes the text of one number, then low < high"),
        (["histogram:rdf:N-H,3,0,1,10"], "histogram takes the text of one number"),
        (["histogram:distance"], "histogram takes the text of one number"),
    ],
)
def test_bad_texts_are_named(texts, rule):
    with pytest.raises(InputError, match=rule):
        parse_observables(texts, ammonia(70.0))


def test_observables_need_no_torch():
    script = "import sys, ase_uq.observables; print([name for name in ('torch', 'vesin') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
