"""Energies of isolated atoms: from frames, and as text."""

import numpy as np
import pytest
from ase import Atoms

from ase_uq.errors import InputError
from ase_uq.structures.isolated import check_covered, parse_e0s, without_isolated_atoms
from ase_uq.training import Frame


def atom(symbol, energy, group="IsolatedAtom"):
    return Frame(Atoms(symbol), energy, np.zeros((1, 3)), None, group)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("O:-432.1,H:-13.6", {"O": -432.1, "H": -13.6}),
        (" O: -4.321e2 , H:-13.6 ", {"O": -432.1, "H": -13.6}),
        ("{8: -432.1, 1: -13.6}", {"O": -432.1, "H": -13.6}),
        ("Isolated", "isolated"),
        ("average", "average"),
    ],
)
def test_text_is_read(text, found):
    assert parse_e0s(text) == found


@pytest.mark.parametrize("text", ["", "O", "O:x", "O:-432,", "Xx:1", "O:nan", "O:-1,O:-2", "O=-432", "isolate", "0:1"])
def test_other_text_is_refused(text):
    with pytest.raises(InputError, match="`e0s` must be energies of isolated atoms in eV, such as"):
        parse_e0s(text)


def test_isolated_atoms_are_taken_out():
    other = atom("H", -1.0, "")
    frames, energies = without_isolated_atoms([atom("O", -432.1), other, atom("H", -13.6, "isolated_atom")])
    assert frames == [other]
    assert energies == {"O": -432.1, "H": -13.6}
    with pytest.raises(InputError, match="isolated atoms of O have two energies, -432.1 and -430 eV"):
        without_isolated_atoms([atom("O", -432.1), atom("O", -430.0)])


def test_elements_that_are_missing_are_named():
    check_covered({"O": -1.0, "H": -2.0}, ["O"])
    with pytest.raises(InputError, match="C, H is missing from O"):
        check_covered({"O": -1.0}, ["O", "H", "C"])
