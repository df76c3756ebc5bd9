"""The frames of a training from files: isolated atoms, energies of atoms as text, two files."""

import numpy as np
import pytest
from ase import Atoms
from ase.io import write

from ase_uq.errors import InputError
from ase_uq.training.data import read_training_data
from tests.made.alloys import emt_frames


def atom(symbol, energy):
    return Atoms(symbol, info={"REF_energy": energy, "config_type": "IsolatedAtom"})


@pytest.fixture
def files(tmp_path):
    def made(name="a.xyz", *more, n=12, seed=0):
        write(tmp_path / name, [*more, *emt_frames(n, seed=seed)])
        return tmp_path / name

    return made


def test_isolated_atoms_are_zeros_of_energy(files):
    path = files("a.xyz", atom("Cu", -100.0), atom("Au", -5000.0))
    found = read_training_data(path)
    assert (len(found.train), len(found.valid)) == (11, 1)
    assert found.e0s == {"Cu": -100.0, "Au": -5000.0}
    assert "isolated atoms (Au -5000, Cu -100 eV) are the zeros of energy, and not trained on." in found.notes
    assert read_training_data(path, e0s="isolated").e0s == found.e0s
    assert read_training_data(path, e0s="Cu:1,Au:-2").e0s == {"Cu": 1.0, "Au": -2.0}
    average = read_training_data(path, e0s="average")
    assert average.e0s is None
    assert len(average.train) == 11
    assert "frames of isolated atoms (Au, Cu) are not trained on." in average.notes


def test_atoms_of_some_elements_are_no_zeros(files):
    path = files("a.xyz", atom("Cu", -100.0))
    found = read_training_data(path)
    assert found.e0s is None
    assert "of Au there is none: zeros of energy are fitted" in found.notes[-1]
    with pytest.raises(InputError, match="`e0s` must have an energy for every element .* Au is missing from Cu"):
        read_training_data(path, e0s="isolated")
    with pytest.raises(InputError, match="Au is missing from Cu"):
        read_training_data(path, e0s="Cu:-1")


def test_two_files(files, tmp_path):
    data, valid = files(), files("b.xyz", n=4, seed=9)
    found = read_training_data(data, valid)
    assert (len(found.train), len(found.valid), found.notes, found.warnings) == (12, 4, (), ())
    renamed = emt_frames(4, seed=9)
    for atoms in renamed:
        atoms.info["my_energy"] = atoms.info.pop("REF_energy")
        atoms.info["energy"] = atoms.info.pop("my_energy")
        atoms.arrays["forces"] = atoms.arrays.pop("REF_forces")
    write(tmp_path / "c.xyz", renamed)
    (note,) = read_training_data(data, tmp_path / "c.xyz").notes
    assert note.startswith("energies of a.xyz are under REF_energy, those of c.xyz under ASE's own labels")
    write(tmp_path / "d.xyz", [atom("Cu", -100.0)])
    with pytest.raises(InputError, match="must hold more than isolated atoms"):
        read_training_data(tmp_path / "d.xyz")
    assert np.isfinite(found.train[0].energy)


def test_isolated_atoms_of_another_calculation_are_named(files):
    usual = read_training_data(files("a.xyz", atom("Cu", -3.0), atom("Au", -4.0)))
    other = read_training_data(files("b.xyz", atom("Cu", -100.0), atom("Au", -5000.0)))
    assert usual.warnings == ()
    assert "hardly of the calculation of the frames" in other.warnings[0]


def test_energies_without_any_weight_are_refused_by_name(tmp_path):
    frames = emt_frames(6)
    for atoms in frames:
        atoms.info["config_energy_weight"] = 0.0
    write(tmp_path / "a.xyz", frames)
    with pytest.raises(InputError, match="must have energies to train on, all 5 have the weight 0"):
        read_training_data(tmp_path / "a.xyz")


@pytest.mark.parametrize("limit", [0.0, float("nan")])
def test_the_limit_of_residuals_is_a_number_above_zero(files, limit):
    with pytest.raises(InputError, match="`max_residual` must be a number above 0"):
        read_training_data(files(), max_residual=limit)
