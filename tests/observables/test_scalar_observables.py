"""Density, volume, pressure and energy, those of the members, and histograms of a number."""

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones

from ase_uq.calculators.calculator import UQCalculator
from ase_uq.calculators.committee import CommitteeUncertainty
from ase_uq.errors import InputError
from ase_uq.observables import (
    Histogram,
    MemberEnergies,
    MemberPressures,
    density,
    distance,
    potential_energy,
    pressure,
    volume,
)
from ase_uq.uncertainty.prediction import Prediction

SIGMAS = (2.26, 2.28, 2.31)


def member(sigma):
    return LennardJones(sigma=sigma, epsilon=0.41, rc=5.0, smooth=True)


def warm(calc=None):
    atoms = bulk("Cu", cubic=True).repeat(2)
    atoms.set_momenta(np.random.default_rng(0).normal(scale=1.6, size=(len(atoms), 3)))
    atoms.rattle(0.1, seed=1)
    atoms.calc = calc
    return atoms


def committee():
    return UQCalculator(CommitteeUncertainty([member(sigma) for sigma in SIGMAS]))


def test_density_is_mass_over_volume():
    # 4 x 63.546 u in (3.61 Å)^3, with 1 u = 1.66053907e-24 g.
    assert density(bulk("Cu", a=3.61, cubic=True)) == pytest.approx(4 * 63.546 * 1.66053907 / 3.61**3, rel=1e-6)
    ice = molecule("H2O", cell=[4.0, 4.0, 2.039], pbc=True)  # 32.6 Å^3 for a molecule
    assert density(ice) == pytest.approx(0.917, abs=1e-3)
    assert volume(ice) == pytest.approx(32.624)


def test_pressure_of_an_ideal_gas():
    atoms = Atoms("Ar27", cell=[60.0] * 3, pbc=True)
    atoms.set_scaled_positions(np.stack(np.meshgrid(*[[0.0, 1 / 3, 2 / 3]] * 3), axis=-1).reshape(-1, 3))
    atoms.calc = LennardJones(sigma=3.4, epsilon=0.01, rc=10.0)
    atoms.set_momenta(np.random.default_rng(0).normal(size=(27, 3)))
    assert pressure(atoms) == pytest.approx(27 * units.kB * atoms.get_temperature() / 60.0**3)


@pytest.mark.parametrize("calc", [EMT(), member(2.28)])
def test_pressure_at_rest_is_minus_the_derivative_by_volume(calc):
    atoms = bulk("Cu", a=3.5, cubic=True).repeat(2)
    atoms.calc = calc
    energies, volumes = [], []
    for strain in (-1e-4, 1e-4):
        strained = atoms.copy()
        strained.set_cell(atoms.cell.array * (1 + strain), scale_atoms=True)
        strained.calc = calc
        energies.append(potential_energy(strained))
        volumes.append(volume(strained))
    assert pressure(atoms) == pytest.approx(-np.diff(energies)[0] / np.diff(volumes)[0], rel=1e-5)


def test_motion_adds_two_thirds_of_its_energy_density():
    atoms = warm(EMT())
    total, kinetic = pressure(atoms), atoms.get_kinetic_energy()
    atoms.set_momenta(np.zeros((len(atoms), 3)))
    assert total - pressure(atoms) == pytest.approx(2 * kinetic / (3 * atoms.get_volume()))


def test_members_have_their_own_energies_and_pressures():
    atoms = warm(committee())
    mean = atoms.get_potential_energy()
    energies, pressures = MemberEnergies()(atoms), MemberPressures()(atoms)
    alone = [warm(member(sigma)) for sigma in SIGMAS]
    np.testing.assert_allclose(energies, [potential_energy(one) for one in alone])
    np.testing.assert_allclose(pressures, [pressure(one) for one in alone])
    assert energies.mean() == pytest.approx(mean)
    assert pressures.mean() == pytest.approx(pressure(atoms))
    assert MemberEnergies().of_members
    assert MemberPressures().of_members
    assert (MemberEnergies().unit, MemberPressures().unit) == ("eV", "eV/Å^3")
    energies[0] = 0.0  # what was given out is the caller's own
    assert MemberEnergies()(atoms)[0] != 0.0


def test_members_are_read_and_never_computed():
    atoms = warm(committee())
    with pytest.raises(InputError, match="`atoms` must carry a calculator of ase_uq that has evaluated"):
        MemberEnergies()(atoms)
    atoms.get_potential_energy()
    atoms.positions[0] += 0.1
    with pytest.raises(InputError, match="`atoms` must carry a calculator of ase_uq that has evaluated"):
        MemberPressures()(atoms)
    with pytest.raises(InputError, match="`atoms` must carry a calculator of ase_uq that has evaluated"):
        MemberEnergies()(warm(EMT()))


class WithoutMembers:
    def predict(self, atoms, properties):
        return Prediction(energy=0.0, forces=np.zeros((len(atoms), 3)))


@pytest.mark.parametrize(("observable", "field"), [(MemberEnergies(), "energy"), (MemberPressures(), "stress")])
def test_a_model_without_members_is_named(observable, field):
    atoms = warm(UQCalculator(WithoutMembers()))
    atoms.get_potential_energy()
    with pytest.raises(InputError, match=f"{type(observable).__name__} needs `{field}_members`"):
        observable(atoms)


@pytest.mark.parametrize("function", [volume, density, pressure, MemberPressures()])
def test_molecules_have_no_volume(function):
    with pytest.raises(InputError, match="`atoms.cell` must have three vectors that span a volume"):
        function(molecule("H2O"))


def test_a_calculator_is_needed():
    for function in (pressure, potential_energy):
        with pytest.raises(InputError, match="`atoms.calc` must be a calculator, got None"):
            function(warm())
    atoms = warm(UQCalculator(WithoutMembers()))
    with pytest.raises(InputError, match="`atoms.calc` must give a stress for the pressure, UQCalculator does not"):
        pressure(atoms)


def test_scalars_know_their_units():
    assert [f.unit for f in (density, volume, pressure, potential_energy)] == ["g/cm^3", "Å^3", "eV/Å^3", "eV"]


def test_a_histogram_marks_the_bin():
    edges = [0.0, 1.0, 1.5, 4.0]
    bins = Histogram(lambda atoms: atoms.info["x"], edges)
    values = [0.0, 0.3, 1.0, 1.49, 1.5, 4.0, -0.1, 4.1, np.nan, 3.0]
    atoms = Atoms("H")
    marks = []
    for atoms.info["x"] in values:
        marks.append(bins(atoms))
    np.testing.assert_array_equal(np.sum(marks, axis=0), np.histogram(values[:6] + values[9:], edges)[0])
    np.testing.assert_array_equal(np.sum(marks, axis=1), [1, 1, 1, 1, 1, 1, 0, 0, 0, 1])
    assert bins.centres.tolist() == [0.5, 1.25, 2.75]
    assert (bins.is_histogram, bins.unit, bins.axis.name) == (True, "", "")


@pytest.mark.parametrize("edges", [[1.0], [1.0, 1.0], [2.0, 1.0], [[0.0, 1.0]], [0.0, np.inf], []])
def test_edges_must_rise(edges):
    with pytest.raises(InputError, match="`edges` must be at least 2 rising numbers"):
        Histogram(lambda atoms: 0.0, edges)


def test_a_histogram_is_of_one_number():
    with pytest.raises(InputError, match="`function` must be a function of the atoms, got 'distance'"):
        Histogram("distance", [0.0, 1.0])
    with pytest.raises(InputError, match=r"`function` must return one number, got shape \(3, 3\)"):
        Histogram(lambda atoms: atoms.positions, [0.0, 1.0])(molecule("H2O"))
    assert Histogram(lambda atoms: distance(atoms, 0, 1), [0.0, 0.5, 1.0])(molecule("H2O")).tolist() == [0.0, 1.0]
