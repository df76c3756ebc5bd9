"""Energies and stresses against forces: other signs, units and orders are named; published labels get no word."""

from dataclasses import replace

import numpy as np
import pytest
from ase.build import molecule
from ase.units import GPa, Hartree, kcal, mol

from ase_uq.errors import InputError
from ase_uq.training import Frame
from ase_uq.training.consistency import label_warnings
from ase_uq.training.crude_fit import Equations
from ase_uq.training.signs_and_units import energies_against_forces, stresses_against_forces, unjudged_stresses
from tests.training.test_consistency import labelled

BOHR = 0.529177


@pytest.fixture(scope="module")
def frames():
    return labelled(30, elements=("Cu",))


def water(n=20, seed=0):
    """Molecules on springs, whose energies are exact."""
    rng, found = np.random.default_rng(seed), []
    rest = molecule("H2O")
    for _ in range(n):
        atoms = rest.copy()
        atoms.positions += 0.08 * rng.normal(size=(3, 3))
        energy, forces = 0.0, np.zeros((3, 3))
        for i, j in ((0, 1), (0, 2), (1, 2)):
            vector = atoms.positions[j] - atoms.positions[i]
            length, usual = np.linalg.norm(vector), rest.get_distance(i, j)
            energy += 10.0 * (length - usual) ** 2
            pull = 20.0 * (length - usual) * vector / length
            forces[i] += pull
            forces[j] -= pull
        found.append(Frame(atoms, energy - 100.0, forces, None, ""))
    return found


def scaled(frames, energy=1.0, forces=1.0):
    return [replace(frame, energy=energy * frame.energy, forces=forces * frame.forces) for frame in frames]


def stressed(frames, change):
    return [replace(frame, stress=change(frame.stress)) for frame in frames]


@pytest.mark.parametrize("frames", [labelled(30, elements=("Cu",)), water()], ids=["copper", "water"])
class TestEnergies:
    def test_right_ones_get_no_word(self, frames):
        assert energies_against_forces(Equations(frames)) == []
        assert label_warnings(frames, []) == ()

    @pytest.mark.parametrize(
        ("energy", "forces", "said"),
        [
            (1.0, -1.0, "of the other sign"),
            (-1.0, 1.0, "of the other sign"),
            (mol / kcal, 1.0, "in kcal/mol:"),
            (1.0, BOHR / Hartree, "in Hartree/Bohr:"),
            (1.0, mol / kcal, "in kcal/mol/Å:|in Hartree:"),
            (1.0 / Hartree, 1.0, "in kcal/mol/Å:|in Hartree:"),
        ],
    )
    def test_another_sign_or_unit_is_refused(self, frames, energy, forces, said):
        with pytest.raises(InputError, match=said):
            label_warnings(scaled(frames, energy, forces), [])


def test_energies_per_atom_are_doubted():
    frames = water()
    assert "per atom" in label_warnings([replace(each, energy=each.energy / 5.0) for each in frames], [])[0]


def test_forces_of_other_atoms_are_doubted(frames):
    turned = [replace(frame, forces=np.roll(frame.forces, 1, axis=0)) for frame in frames]
    assert "order of the atoms" in label_warnings(turned, [])[0]


@pytest.mark.parametrize("n", [9, 30])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda stress: -stress, "of the other sign"),
        (lambda stress: stress / (Hartree / BOHR**3), "in Hartree/Bohr"),
        (lambda stress: stress / GPa, "in GPa"),
        (lambda stress: -stress / (0.1 * GPa), "of the other sign and .* in kbar"),
        (lambda stress: stress[[0, 1, 2, 5, 3, 4]], "in the order xx, yy, zz, xy, yz, xz"),
        (lambda stress: stress[[0, 1, 2, 5, 4, 3]], "in the order xx, yy, zz, xy, xz, yz"),
        (lambda stress: stress[[0, 5, 4, 1, 3, 2]], "in the order xx, xy, xz, yy, yz, zz"),
        (lambda stress: stress[[0, 5, 1, 4, 3, 2]], "in the order xx, xy, yy, xz, yz, zz"),
    ],
)
def test_another_stress_is_refused_even_of_few_frames(frames, n, change, said):
    some = frames[:n]
    assert stresses_against_forces(Equations(some), some, is_sure=True) == []
    with pytest.raises(InputError, match=said):
        label_warnings(stressed(some, change), [])


def test_a_handful_of_small_frames_is_not_judged(frames):
    some = stressed(frames[:4], lambda stress: -stress)
    assert stresses_against_forces(Equations(some), some, is_sure=True) == []
    assert "too few" in unjudged_stresses(some)[0]
    assert unjudged_stresses(frames) == []
    assert unjudged_stresses(water(4)) == []


@pytest.mark.parametrize("n", [12, 22, 24, 40])
@pytest.mark.parametrize("elements", [("Cu", "Au"), ("Ni", "Al"), ("Cu", "Au", "Ag")])
def test_alloys_of_many_compositions_get_no_word(n, elements):
    """Forces do not say how much the energies of two compositions differ."""
    for seed in (0, 1):
        assert label_warnings(labelled(n, seed=seed, elements=elements), []) == ()
