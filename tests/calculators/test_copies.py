"""Copies of calculators, in this process and in others: the same numbers."""

import copy
import multiprocessing
import pickle
import warnings

import joblib
import numpy as np
import pytest
from ase.calculators.emt import EMT

from ase_uq import (
    BiasedCalculator,
    CommitteeUncertainty,
    InputError,
    ThresholdSwitch,
    UQCalculator,
    WeightedBaseline,
    load,
    save,
)
from ase_uq.models.compiled import CompiledPotential
from ase_uq.models.members import MemberUncertainty
from ase_uq.potentials import make_variational, sample_members
from ase_uq.potentials.graph import Neighbours
from tests.made.potentials import ensemble, potential, shallow
from tests.made.structures import copper, rattled

TINY = {"channels": 4, "radial_width": 8}
BASELINE = {"sigma_baseline": 50.0}


def of_file(tmp_path, made):
    save(MemberUncertainty(made), tmp_path / "model.pt")
    return load(tmp_path / "model.pt")


def committee():
    return CommitteeUncertainty([EMT(), EMT()])


CALCULATORS = {
    "deep": lambda path: UQCalculator(of_file(path, ensemble(2, **TINY))),
    "shallow, stochastic": lambda path: UQCalculator(of_file(path, shallow(3, **TINY)), forces_var="stochastic"),
    "shallow, low rank": lambda path: UQCalculator(of_file(path, shallow(3, **TINY)), forces_var="low_rank"),
    "frozen draws": lambda path: UQCalculator(
        of_file(path, sample_members(make_variational(potential(**TINY)), 3, seed=0)), members=True
    ),
    "committee": lambda path: UQCalculator(committee(), aliases="mace"),
    "baseline": lambda path: WeightedBaseline(UQCalculator(of_file(path, shallow(3, **TINY))), EMT(), **BASELINE),
    "switch": lambda path: ThresholdSwitch(UQCalculator(of_file(path, shallow(3, **TINY))), EMT(), threshold=1.0),
    "bias": lambda path: BiasedCalculator(UQCalculator(of_file(path, shallow(3, **TINY))), EMT()),
}
COPIES = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda calculator: pickle.loads(pickle.dumps(calculator)),
}


def numbers(calculator, atoms):
    atoms = atoms.copy()
    atoms.calc = calculator
    atoms.get_forces()
    return {key: np.array(value) for key, value in calculator.results.items()}


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        # Sums round with the place of their terms in memory.
        np.testing.assert_allclose(found[key], value, rtol=1e-9, atol=1e-12, err_msg=key)


@pytest.mark.parametrize("kind", CALCULATORS)
@pytest.mark.parametrize("how", COPIES)
def test_a_copy_gives_the_same_numbers(kind, how, tmp_path):
    calculator, atoms = CALCULATORS[kind](tmp_path), copper()
    evaluated = numbers(calculator, atoms)
    twin = COPIES[how](calculator)
    # What was computed goes along, and nothing that follows is shared.
    assert_equal({key: np.array(value) for key, value in twin.results.items()}, evaluated)
    assert twin.prediction.energy == calculator.prediction.energy
    moved = rattled(atoms, 5)
    if how == "copy" and kind.startswith("shallow,"):
        numbers(twin, moved)  # a shallow copy shares the random numbers of the estimator
    else:
        assert_equal(numbers(twin, moved), numbers(calculator, moved))
    numbers(twin, rattled(atoms, 6))
    assert calculator.check_state(moved) == [] or how == "copy"
    assert twin.results["energy"] != calculator.results["energy"]


def energy(calculator_and_atoms):
    calculator, atoms = calculator_and_atoms
    found = numbers(calculator, atoms)
    return float(found["energy"]), float(found["energy_var"])


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_pools_of_processes(method, tmp_path):
    calculator = WeightedBaseline(UQCalculator(of_file(tmp_path, shallow(3, **TINY))), EMT(), **BASELINE)
    structures = [rattled(copper(), seed) for seed in range(3)]
    expected = [energy((calculator, atoms)) for atoms in structures]
    with warnings.catch_warnings():
        # Python 3.12 says at every fork of a process with threads what torch has had for years.
        warnings.simplefilter("ignore", DeprecationWarning)
        with multiprocessing.get_context(method).Pool(1) as pool:
            found = pool.map_async(energy, [(calculator, atoms) for atoms in structures]).get(timeout=300)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_joblib(tmp_path):
    calculator = CALCULATORS["deep"](tmp_path)
    structures = [rattled(copper(), seed) for seed in range(2)]
    expected = [energy((calculator, atoms)) for atoms in structures]
    for backend in ("loky", "threading"):
        jobs = (joblib.delayed(energy)((calculator, atoms)) for atoms in structures)
        assert np.allclose(joblib.Parallel(n_jobs=2, backend=backend)(jobs), expected, rtol=1e-9)


def test_machine_code_is_found_again_by_a_copy(tmp_path):
    made = CompiledPotential([shallow(3, **TINY).requires_grad_(False)], folder=tmp_path)
    made._packages[0] = object()  # what a loader gives cannot be pickled
    for how in ("deepcopy", "pickle"):
        twin = COPIES[how](made)
        assert (twin.folder, twin._key, twin._packages) == (made.folder, made._key, {})
        assert [[value.tolist() for value in each] for each in twin._weights] == [
            [value.tolist() for value in each] for each in made._weights
        ]


def test_neighbours_of_a_copy():
    found = Neighbours(3.5, skin=0.7)
    atoms = copper()
    expected = found.graph(atoms)
    for how in COPIES.values():
        twin = how(found)
        assert (twin.cutoff, twin.skin) == (3.5, 0.7)
        assert twin.graph(atoms).senders.tolist() == expected.senders.tolist()


class Kept(EMT):
    def __init__(self):
        super().__init__()
        self.needed = lambda: 1.0

    def calculate(self, *args, **kwargs):
        super().calculate(*args, **kwargs)
        self.results["energy"] *= self.needed()


def test_a_function_that_is_needed_is_missed_by_name():
    twin = pickle.loads(pickle.dumps(UQCalculator(CommitteeUncertainty([Kept(), EMT()]))))
    with pytest.raises(InputError, match="Kept.__init__.<locals>.<lambda>` must be there to go on"):
        numbers(twin, copper())
    broken = EMT()
    broken.connection = (each for each in ())  # as a socket or a process
    with pytest.raises(InputError, match="`EMT` must be a calculator that can be pickled"):
        pickle.dumps(UQCalculator(CommitteeUncertainty([broken, EMT()])))
