"""Invariants of an atom's surroundings, and the distance from those that were learned."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from scipy.spatial.transform import Rotation

from ase_uq.potentials.graph import build_graph
from ase_uq.potentials.variational.environments import DIMENSION, Environments
from tests.made.structures import STRUCTURES, rattled

SPECIES = {1: 0, 6: 1, 8: 2, 29: 3}
CUTOFF = 4.0


def environments():
    return Environments(4, CUTOFF, torch.Generator().manual_seed(0))


def arguments(atoms):
    graph = build_graph(atoms, CUTOFF)
    return torch.tensor([SPECIES[z] for z in atoms.numbers]), graph, graph.edge_vectors()


@pytest.mark.parametrize("name", STRUCTURES)
def test_rotation_and_order_change_nothing(name):
    atoms, found = STRUCTURES[name](), environments()
    turn = Rotation.random(random_state=1).as_matrix()
    order = np.random.default_rng(0).permutation(len(atoms))
    turned = Atoms(atoms.numbers, atoms.positions @ turn.T + 0.3, cell=atoms.cell.array @ turn.T, pbc=atoms.pbc)[order]
    here, there = found.invariants(*arguments(atoms)), found.invariants(*arguments(turned))
    assert here.shape == (len(atoms), DIMENSION)
    torch.testing.assert_close(there, here[order], rtol=1e-10, atol=1e-10)


def test_learned_environments_are_white_within_each_element():
    frames = [rattled(molecule("CH3CH2OH"), seed, 0.1) for seed in range(60)]
    found = environments()
    found.learn(arguments(atoms)[:2] for atoms in frames)
    parts = [arguments(atoms) for atoms in frames]
    species = torch.cat([part[0] for part in parts])
    white = torch.cat([found(*part) for part in parts])
    for element in (0, 1, 2):
        own = white[species == element]
        torch.testing.assert_close(own.mean(dim=0), torch.zeros(DIMENSION, dtype=torch.float64), atol=1e-9, rtol=0)
        variances = torch.linalg.eigvalsh(torch.cov(own.T))
        assert variances.max() < 1.0 + 1.0 / (len(own) - 1)
        assert variances.max() > 0.99
    # The one that did not occur stays as it was.
    assert torch.equal(found.whitening[3], torch.eye(DIMENSION, dtype=torch.float64))
    distances = [found.beyond(each[0], found(*each)) for each in parts]
    ratio = 2 * torch.exp(torch.cat(distances)[:, 0]) - 1  # |z|^2 over its mean
    for element in (0, 1, 2):
        assert ratio[species == element].mean().item() == pytest.approx(1.0, rel=1e-6)
    near, far = (arguments(rattled(molecule("CH3CH2OH"), 99, size)) for size in (0.1, 0.4))
    assert found.beyond(far[0], found(*far)).mean() > found.beyond(near[0], found(*near)).mean() + 1.0


def test_an_element_that_did_not_occur_is_far_from_everything():
    found, water = environments(), molecule("H2O")
    before = found.beyond(arguments(water)[0], found(*arguments(water)))
    assert before.max() < 2.0  # nothing is known, and nothing unknown
    found.learn(arguments(rattled(molecule("CH4"), seed, 0.05))[:2] for seed in range(20))
    of_oxygen, *of_hydrogen = found.beyond(arguments(water)[0], found(*arguments(water)))[:, 0].tolist()
    assert of_oxygen == pytest.approx(7.0)
    assert min(of_hydrogen) > 1.0


def test_one_atom_of_an_element_is_enough_to_know_it():
    found = environments()
    found.learn([arguments(molecule("H2O"))[:2]])
    here, there = arguments(molecule("H2O")), arguments(rattled(molecule("H2O"), 0, 0.2))
    assert found.beyond(here[0], found(*here))[0] < 0.0
    assert found.beyond(there[0], found(*there))[0] > 1.0


def test_a_neighbour_leaves_smoothly():
    found, values = environments(), []
    lengths = CUTOFF + np.array([-2e-3, -1e-3, 0.0, 1e-3])
    for length in lengths:
        values.append(found.invariants(*arguments(Atoms("OH", [[0, 0, 0], [0, 0, length]]))))
    alone = found.invariants(*arguments(Atoms("OH", [[0, 0, 0], [0, 0, 9.0]])))
    for value in values:
        torch.testing.assert_close(value, alone, atol=1e-7, rtol=0)
    assert torch.isfinite(alone).all()


@pytest.mark.parametrize("atoms", [Atoms("O"), bulk("Cu")], ids=["isolated", "own images"])
def test_derivatives_exist_where_densities_vanish(atoms):
    # Odd moments of a lattice are zero, and so is everything around an isolated atom.
    species, graph, _ = arguments(atoms)
    graph.positions.requires_grad_(True)
    value = environments()(species, graph, graph.edge_vectors()).sum()
    if value.requires_grad:
        (gradient,) = torch.autograd.grad(value, graph.positions, create_graph=True)
        assert torch.isfinite(gradient).all()
