"""Threads that share a model, a calculator, a member or a baseline: the numbers of one thread alone."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from ase.calculators.emt import EMT
from ase.mep import NEB

from ase_uq import BiasedCalculator, CommitteeUncertainty, UQCalculator, WeightedBaseline
from ase_uq.calculators.by_thread import ByThread, OneAtATime
from ase_uq.models.members import MemberUncertainty
from ase_uq.potentials import make_variational, sample_members
from tests.made.potentials import ensemble, potential, shallow
from tests.made.structures import copper, rattled, water

TINY = {"channels": 4, "radial_width": 8}
MODELS = {
    "deep": lambda: MemberUncertainty(ensemble(2, **TINY)),
    "shallow": lambda: MemberUncertainty(shallow(3, **TINY)),
    "frozen draws": lambda: MemberUncertainty(sample_members(make_variational(potential(**TINY)), 3, seed=0)),
    "committee": lambda: CommitteeUncertainty([SlowEMT(1.0), SlowEMT(1.01)]),
}


class SlowEMT(EMT):
    """A member that lets other threads in between its energy and its forces."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def calculate(self, atoms=None, properties=("energy",), system_changes=()):
        super().calculate(atoms, properties, system_changes)
        threading.Event().wait(1e-4)
        self.results = {name: self.factor * value for name, value in self.results.items()}


def frames(n=12):
    return [rattled(copper() if k % 3 else copper().repeat((2, 1, 1)), k, 0.1) for k in range(n)]


def in_two_threads(work):
    failed = []

    def guarded(which):
        try:
            work(which)
        except BaseException as e:
            failed.append(e)

    threads = [threading.Thread(target=guarded, args=(which,)) for which in (0, 1)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    if failed:
        raise failed[0]


@pytest.mark.parametrize("shared", ["model", "calculator"])
@pytest.mark.parametrize("kind", MODELS)
def test_two_threads_on_one_model(kind, shared):
    model, structures = MODELS[kind](), frames()
    right = [model.predict(atoms, ["energy"]) for atoms in structures]
    calculator = UQCalculator(model)

    def work(which):
        own = calculator if shared == "calculator" else UQCalculator(model)
        for k in [*range(which, len(structures), 2)] * 2:
            atoms = structures[k].copy()
            atoms.calc = own
            np.testing.assert_allclose(atoms.get_forces(), right[k].forces, rtol=1e-9, atol=1e-12)
            # What is read afterwards is of this thread's atoms, too.
            assert own.results["energy_var"] == own.prediction.energy_var
            assert own.prediction.energy_var == pytest.approx(right[k].energy_var, rel=1e-9)
            assert own.check_state(atoms) == []

    in_two_threads(work)


def test_a_pool_on_one_weighted_baseline():
    model, structures = MODELS["committee"](), frames()
    settings = {"sigma_baseline": 0.5, "offsets": {"Cu": 0.0}}
    wrapped = WeightedBaseline(UQCalculator(model), SlowEMT(0.98), **settings)
    biased = BiasedCalculator(wrapped, SlowEMT(0.01))

    def energies(atoms):
        atoms = atoms.copy()
        atoms.calc = biased
        return atoms.get_potential_energy(), biased.results["weight"], atoms.get_forces().sum(), biased.results["bias"]

    expected = [energies(atoms) for atoms in structures]
    with ThreadPoolExecutor(3) as pool:
        np.testing.assert_allclose(list(pool.map(energies, structures)), expected, rtol=1e-9, atol=1e-9)


def test_what_a_pool_computed_is_read_outside_of_it():
    """The results of one object are the latest, whichever thread has computed them."""
    atoms = copper()
    atoms.calc = UQCalculator(MODELS["committee"]())
    before = atoms.get_potential_energy()
    atoms.rattle(0.1, seed=1)
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(atoms.get_potential_energy).result()
    assert atoms.calc.results["energy"] == found != before
    assert atoms.calc.check_state(atoms) == []


def test_a_parameter_that_changes_counts_in_every_thread():
    atoms = copper()
    wrapped = WeightedBaseline(UQCalculator(MODELS["committee"]()), EMT(), sigma_baseline=0.5)
    atoms.calc = wrapped
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(atoms.get_potential_energy).result()
        wrapped.set(sigma_baseline=1e-3)
        assert pool.submit(atoms.get_potential_energy).result() != first


def test_a_band_in_threads_and_with_one_calculator():
    ends = [rattled(copper(), 1), rattled(copper(), 2)]
    model = MODELS["committee"]()
    found = []
    for shared in (True, False):
        images = [ends[0].copy(), *(ends[0].copy() for _ in range(2)), ends[1].copy()]
        calculator = UQCalculator(model)
        for image in images:
            image.calc = calculator if shared else UQCalculator(model)
        band = NEB(images, allow_shared_calculator=shared, parallel=not shared, method="improvedtangent")
        band.interpolate()
        found.append(band.get_forces())
    np.testing.assert_allclose(found[0], found[1], atol=1e-12)


def test_desks():
    by_thread, atoms, others = ByThread(), copper(), water()
    by_thread.begin(atoms)
    by_thread.present.results = {"energy": 1.0}

    def elsewhere():
        assert by_thread.present.results == {"energy": 1.0}
        by_thread.begin(others)
        by_thread.present.results = {"energy": 2.0}
        assert by_thread.present.results == {"energy": 2.0}

    with ThreadPoolExecutor(1) as pool:
        pool.submit(elsewhere).result()
        assert by_thread.present.results == {"energy": 1.0}
        by_thread.leave()
        assert by_thread.present.results == {}
        assert pool.submit(lambda: by_thread.present.results).result() == {"energy": 2.0}


def test_a_lock_of_the_process_before_a_fork(monkeypatch):
    lock = OneAtATime()
    thread = threading.Thread(target=lock.__enter__)  # and never leaves
    thread.start()
    thread.join()
    monkeypatch.setattr("os.getpid", lambda: -1)
    with lock:
        pass
