"""Calculators that compute something else have another hash, whatever their weights are kept in."""

import os
import pickle
import subprocess
import sys
import threading

import pytest
import torch
from ase.build import bulk, molecule
from ase.calculators.calculator import Calculator, FileIOCalculator
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.calculators.mixing import LinearCombinationCalculator, SumCalculator

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


class OfNetwork(Spring):
    """A network with several heads, one of which is read; computing leaves traces."""

    def __init__(self, layer, head=0, *, factor=1.0, field=0.0):
        super().__init__(1.0)
        self.layer, self.head, self.factor, self.field = layer, head, factor, field
        self.count = 0

    def calculate(self, atoms=None, *arguments, **options):
        super().calculate(atoms, *arguments, **options)
        self.count += 1
        self.results["energy"] *= self.factor * float(self.layer.weight[self.head].sum().detach())


class Slotted(Spring):
    __slots__ = ("charge",)

    def __init__(self, charge):
        super().__init__(1.0)
        self.charge = charge


class Counting(torch.nn.Linear):
    def __init__(self, order=1, shift=0.0):
        torch.manual_seed(0)
        super().__init__(2, 3)
        self.order = order
        self.register_buffer("shift", torch.tensor(shift), persistent=False)


@pytest.mark.parametrize("structure", [None, WATER], ids=["before there is a structure", "for a structure"])
@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda: OfNetwork(Counting()), lambda: OfNetwork(Counting(), 1)),
        (lambda: OfNetwork(Counting()), lambda: OfNetwork(Counting(), factor=2.0)),
        (lambda: OfNetwork(Counting()), lambda: OfNetwork(Counting(2))),
        (lambda: OfNetwork(Counting()), lambda: OfNetwork(Counting(shift=1.0))),
        (lambda: SumCalculator([OfNetwork(Counting())]), lambda: SumCalculator([OfNetwork(Counting(), 1)])),
        (
            lambda: LinearCombinationCalculator([OfNetwork(Counting())], [1.0]),
            lambda: LinearCombinationCalculator([OfNetwork(Counting())], [2.0]),
        ),
        (lambda: Slotted(1.0), lambda: Slotted(2.0)),
    ],
    ids=["head", "factor", "number of a network", "unsaved buffer", "head of a part", "weight of a part", "slot"],
)
def test_what_is_beside_the_weights_counts(one, other, structure):
    assert fingerprint(one(), structure) != fingerprint(other(), structure)
    assert fingerprint(one(), structure) == fingerprint(one(), structure)


def test_what_no_small_structure_shows_counts():
    """A term for an electric field in `atoms.info`, which made-up structures do not have."""

    class InAField(Spring):
        def __init__(self, charge):
            super().__init__(1.0)
            self.charge = charge

    assert fingerprint(InAField(1.0), WATER) != fingerprint(InAField(2.0), WATER)


@pytest.mark.parametrize("make", [lambda: OfNetwork(Counting()), lambda: Slotted(1.0), EMT])
def test_traces_of_evaluations_do_not_count(make):
    structure = bulk("Cu", cubic=True)
    used = make()
    for scale in (1.0, 1.1, 1.2):
        atoms = bulk("Cu", a=3.6 * scale) * (2, 1, 1)
        atoms.calc = used
        atoms.get_potential_energy()
    assert fingerprint(used, structure) == fingerprint(make(), structure)
    assert fingerprint(pickle.loads(pickle.dumps(Slotted(1.0))), structure) == fingerprint(Slotted(1.0), structure)


def test_another_process_finds_the_same():
    """Sets have another order in every process."""
    script = (
        "from ase.build import bulk; from ase.calculators.lj import LennardJones; "
        "from ase.calculators.mixing import SumCalculator; from ase_uq.calculators.fingerprint import fingerprint; "
        "made = SumCalculator([LennardJones(sigma=2.3), LennardJones(sigma=2.4)]); "
        "print(fingerprint(made), fingerprint(made, bulk('Cu')))"
    )
    told = set()
    for seed in ("1", "2", "3"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        ran = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True
        )
        told.add(ran.stdout)
    assert len(told) == 1
