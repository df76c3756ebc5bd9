"""One potential, several structures at the same time: threads do not see each other's draws and rates."""

import copy
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import torch
from ase.build import molecule

from ase_uq.potentials import evaluate, kl_divergence, make_variational, sample_members
from ase_uq.potentials.graph import build_graph
from tests.made.foreign import ForeignPotential
from tests.made.potentials import ensemble, potential

CHO = {"elements": ("C", "H", "O"), "cutoff": 4.0}
KINDS = {
    "readout": lambda: make_variational(potential(**CHO), initial_dropout=0.1),
    "radial": lambda: make_variational(potential(**CHO), layers=("radial", "readout"), initial_dropout=0.1),
    "foreign": lambda: make_variational(ForeignPotential(), layers={"node": "last"}, initial_dropout=0.1),
}
GRAPHS = [build_graph(molecule(name), 4.0) for name in ("CH3CH2OH", "H2O")]
ROUNDS = 8


@pytest.fixture
def often_switched():
    """Threads take turns as often as they can, so that what they share is found out."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def in_threads(function):
    """What a function of each graph returns, round after round, in two threads that begin together."""
    barrier = Barrier(len(GRAPHS))

    def rounds(graph):
        barrier.wait()
        return [function(graph) for _ in range(ROUNDS)]

    with ThreadPoolExecutor(len(GRAPHS)) as pool:
        return [future.result() for future in [pool.submit(rounds, graph) for graph in GRAPHS]]


def assert_equal(found, expected):
    for rounds, of_graph in zip(found, expected, strict=True):
        for each in rounds:
            # A thread may split its sums otherwise; another one's draws are far off.
            torch.testing.assert_close(each.energies, of_graph.energies, rtol=1e-11, atol=1e-11)
            torch.testing.assert_close(each.forces, of_graph.forces, rtol=1e-9, atol=1e-11)


@pytest.mark.usefixtures("often_switched")
@pytest.mark.parametrize("kind", KINDS)
def test_draws_evaluated_in_two_threads_are_those_of_one(kind):
    drawn = sample_members(KINDS[kind](), 3, seed=1)
    expected = [evaluate(drawn, graph) for graph in GRAPHS]
    assert_equal(in_threads(lambda graph: evaluate(drawn, graph)), expected)


@pytest.mark.usefixtures("often_switched")
def test_fresh_noise_of_one_thread_leaves_the_mean_weights_of_another_alone():
    noisy = KINDS["readout"]()
    expected = evaluate(noisy, GRAPHS[1])

    def either(graph):
        if graph is GRAPHS[1]:
            return evaluate(noisy, graph)
        with noisy.fresh(torch.Generator().manual_seed(0)):
            return evaluate(noisy, graph)

    found = in_threads(either)
    assert_equal(found[1:], [expected])
    assert_equal(found[:1], found[0][:1])
    assert not torch.equal(found[0][0].energies, evaluate(noisy, GRAPHS[0]).energies)


@pytest.mark.usefixtures("often_switched")
def test_stacks_of_other_sizes_in_another_thread(monkeypatch):
    """Groups of members depend on the size of the structure."""
    monkeypatch.setattr("ase_uq.potentials.deep.EDGE_VALUES", 3 * 8 * len(GRAPHS[0].senders))
    made = ensemble(6, **CHO).requires_grad_(False)
    expected = [evaluate(made, graph) for graph in GRAPHS]
    assert [len(made.parts(graph)) for graph in GRAPHS] == [2, 1]
    assert_equal(in_threads(lambda graph: evaluate(made, graph)), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_draws_within_draws(kind):
    noisy, graph = KINDS[kind](), GRAPHS[0]
    first, second = (noisy.draws(1, torch.Generator().manual_seed(seed)) for seed in (1, 2))

    def energies(drawn):
        with noisy.frozen(drawn):
            return noisy.energies(graph)

    expected, other, mean = energies(first), energies(second), noisy.energies(graph)
    with noisy.frozen(first):
        assert torch.equal(noisy.energies(graph), expected)
        assert torch.equal(energies(second), other)
        noisy.energies(GRAPHS[1])
        assert torch.equal(noisy.energies(graph), expected)
    assert torch.equal(noisy.energies(graph), mean)
    assert not torch.equal(expected, other)


def test_the_divergence_of_a_graph_is_not_that_of_the_last_one():
    noisy = KINDS["readout"]()
    with torch.no_grad():
        noisy.rates.node.second.mul_(30.0)  # rates that differ from atom to atom
    of_first = kl_divergence(noisy, GRAPHS[0])
    noisy.set_rates(GRAPHS[1])
    assert torch.equal(kl_divergence(noisy, GRAPHS[0]), of_first)
    assert not torch.equal(kl_divergence(noisy), of_first)


@pytest.mark.parametrize("twin", [copy.deepcopy, lambda made: pickle.loads(pickle.dumps(made))])
@pytest.mark.parametrize("kind", KINDS)
def test_copies_have_noise_of_their_own(kind, twin):
    drawn, graph = sample_members(KINDS[kind](), 3), GRAPHS[0]
    expected = evaluate(drawn, graph)
    made = twin(drawn)
    assert (
        {id(each.noise) for each in made.potential.maps()} == {id(made.potential.noise)} != {id(drawn.potential.noise)}
    )
    with drawn.potential.fresh(torch.Generator().manual_seed(0)):
        assert torch.equal(evaluate(made, graph).forces, expected.forces)
