"""Members evaluated side by side are the members evaluated one after another."""

import numpy as np
import pytest
import torch

from ase_uq.potentials import DeepEnsemble, evaluate
from ase_uq.potentials.base import by_copies
from ase_uq.potentials.graph import build_graph, collate
from ase_uq.potentials.stack import MemberStack, stackable
from tests.made.potentials import ensemble, potential
from tests.made.structures import STRUCTURES, copper, water

SIZES = [{}, {"l_max": 1, "hidden_l_max": 1, "body_order": 3}, {"n_layers": 3, "hidden_l_max": 2}]


def members(n=5, **options):
    made = [potential(seed, **options).requires_grad_(False) for seed in range(n)]
    for i, one in enumerate(made):
        one.shifts.add_(0.1 * i)
        one.scale.fill_(1.0 + 0.2 * i)
    return made


def side_by_side(made, graph):
    return by_copies(evaluate(MemberStack(made), graph.copies(len(made)), stress=True), len(made))


def one_by_one(made, graph):
    return [evaluate(one, graph, stress=True) for one in made]


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("options", SIZES)
def test_a_stack_is_its_members(name, options):
    made = members(4, **options)
    graph = build_graph(STRUCTURES[name](), 3.5)
    together, apart = (
        side_by_side(made, graph),
        one_by_one(made, graph),
    )
    np.testing.assert_allclose(together.energies, torch.cat([e.energies for e in apart]), rtol=1e-12)
    np.testing.assert_allclose(together.forces, torch.cat([e.forces for e in apart]), atol=1e-11)
    np.testing.assert_allclose(together.stresses, torch.cat([e.stresses for e in apart]), atol=1e-12)


def test_several_structures_at_once():
    made = members(3)
    graph = collate([build_graph(atoms, 3.5) for atoms in (copper(), water(), copper())])
    together, apart = (
        side_by_side(made, graph),
        one_by_one(made, graph),
    )
    np.testing.assert_allclose(together.energies, torch.cat([e.energies for e in apart]), rtol=1e-12)
    np.testing.assert_allclose(together.forces, torch.cat([e.forces for e in apart]), atol=1e-11)


@pytest.mark.parametrize("limit", [0, 2, 3, 10**6])
def test_an_ensemble_gives_the_same_in_groups_of_any_size(monkeypatch, limit):
    graph = build_graph(copper(), 3.5)
    made = DeepEnsemble(members(5))
    apart = one_by_one(made.members, graph)
    monkeypatch.setattr("ase_uq.potentials.deep.EDGE_VALUES", limit * len(graph.senders) * 8)
    found = evaluate(made, graph, stress=True)
    assert found.forces.shape == (5, 4, 3)
    np.testing.assert_allclose(found.energies, torch.cat([e.energies for e in apart]), rtol=1e-12)
    np.testing.assert_allclose(found.forces, torch.cat([e.forces for e in apart]), atol=1e-11)
    assert [part.n_copies for part in made.parts(graph)] == {0: [1] * 5, 2: [2, 2, 1], 3: [3, 2]}.get(limit, [5])


def test_one_backward_pass_does_not_touch_other_members():
    """The cost of M members is M passes, not M^2: the gradient of one must not run through the others."""
    passes = []

    class Watched(type(potential())):
        def energies(self, graph):
            energies = super().energies(graph)
            energies.register_hook(lambda gradient: passes.append(gradient))
            return energies

    made = [Watched(elements=["Cu"], cutoff=3.5, channels=8, seed=s) for s in range(4)]
    evaluate(DeepEnsemble(made), build_graph(copper(), 3.5))
    assert len(passes) == 4


def test_trainable_or_different_members_are_not_stacked():
    fixed = members(2)
    assert stackable(fixed)
    assert not stackable([fixed[0], potential(7)])
    assert not stackable([fixed[0], potential(7, l_max=1).requires_grad_(False)])
    other = potential(7).requires_grad_(False)
    other.mean_neighbours.fill_(5.0)
    assert not stackable([fixed[0], other])


def test_stacks_are_no_part_of_the_state():
    made = ensemble(3)
    before = set(made.state_dict())
    evaluate(made.requires_grad_(False), build_graph(water(), made.cutoff))
    assert [part.n_copies for part in made.parts(build_graph(water(), made.cutoff))] == [3]
    assert set(made.state_dict()) == before
