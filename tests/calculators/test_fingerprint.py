"""Calculators that compute something else have another hash, whatever their weights are kept in."""

import threading

import pytest
import torch
from ase.build import bulk, molecule
from ase.calculators.calculator import Calculator, FileIOCalculator
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones

from ase_uq import CommitteeUncertainty
from ase_uq.calculators.fingerprint import fingerprint, made_up, probe
from tests.faults.runs import Spring

WATER = molecule("H2O")


class Network(Calculator):
    implemented_properties = ("energy", "forces")

    def __init__(self, weight):
        super().__init__()
        layer = torch.nn.Linear(1, 1)
        layer.weight.data[:] = weight
        layer.bias.data[:] = 0.0
        self.models = {"inner": [layer]}

    def calculate(self, *arguments):
        raise AssertionError("a network is not evaluated for its hash")


class Program(FileIOCalculator):
    implemented_properties = ("energy", "forces")

    def __init__(self, **parameters):
        super().__init__(command="program", **parameters)

    def calculate(self, *arguments):
        raise AssertionError("a program is not started for a hash")


class Uncopyable(Spring):
    """As calculators that hold a process or a library."""

    def __init__(self, k):
        super().__init__(k)
        self.lock = threading.Lock()


@pytest.mark.parametrize("structure", [None, WATER], ids=["before there is a structure", "for a structure"])
@pytest.mark.parametrize("make", [Spring, Network, Uncopyable, lambda s: LennardJones(sigma=s)])
def test_other_weights_are_another_hash(make, structure):
    assert fingerprint(make(1.0), structure) != fingerprint(make(1.0001), structure)


@pytest.mark.parametrize("make", [Spring, Network, lambda s: LennardJones(sigma=s)])
def test_the_same_weights_are_the_same_hash(make):
    assert fingerprint(make(1.0)) == fingerprint(make(1.0))
    assert fingerprint(make(1.0), WATER) == fingerprint(make(1.0), WATER)


def test_what_cannot_be_known_is_never_the_same():
    assert fingerprint(Uncopyable(1.0), WATER) != fingerprint(Uncopyable(1.0), WATER)


def test_it_does_not_depend_on_what_was_computed_before():
    used = EMT()
    copper = bulk("Cu", cubic=True)
    used.get_potential_energy(copper)
    assert fingerprint(used, copper) == fingerprint(EMT(), copper)
    results = dict(used.results)
    fingerprint(used, copper)
    assert used.results == results
    assert used.atoms == copper


def test_files_that_parameters_name_are_read(tmp_path):
    weights, output = tmp_path / "weights.dat", tmp_path / "log.txt"
    weights.write_text("1.0")
    output.write_text("before")
    made = Program(pair=[f"pair_coeff * * {weights} Cu"], txt=str(output))
    before = fingerprint(made, WATER)
    output.write_text("after")
    assert fingerprint(made, WATER) == before
    weights.write_text("1.1")
    assert fingerprint(made, WATER) != before


def test_made_up_structures_have_the_elements_and_no_two_equal_distances():
    for structure in made_up(bulk("NaCl", "rocksalt", a=5.6)):
        assert sorted(structure.symbols) == ["Cl", "Cl", "Na", "Na"]
        assert structure.pbc.all()
        distances = structure.get_all_distances(mic=True)[([0, 0, 0, 1, 1, 2], [1, 2, 3, 2, 3, 3])]
        assert len(set(distances.round(3))) == 6
        assert distances.min() > 1.0


def test_energies_that_say_nothing_do_not_count():
    class Zero(Spring):
        def calculate(self, *arguments, **options):
            super().calculate(*arguments, **options)
            self.results["energy"] = 0.0

    assert probe(Zero(1.0), WATER) is None
    assert fingerprint(Zero(1.0), WATER) != fingerprint(Zero(2.0), WATER)


def test_committees_that_differ_in_weights_have_other_hashes():
    one, other = (CommitteeUncertainty([Spring(k), Spring(2.0)]) for k in (1.0, 1.1))
    assert one.model_hash != other.model_hash
    assert one.hash_for(WATER) != other.hash_for(WATER)
    assert one.hash_for(WATER) == CommitteeUncertainty([Spring(1.0), Spring(2.0)]).hash_for(WATER)
    assert one.model_hash != one.calibrated(1.1).model_hash
