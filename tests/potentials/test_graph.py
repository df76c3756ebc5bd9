"""Neighbours of every kind of cell, against ASE's own list."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import bulk, make_supercell
from ase.md.verlet import VelocityVerlet
from ase.neighborlist import neighbor_list
from hypothesis import given, settings
from hypothesis import strategies as st

from ase_uq.calculators.calculator import UQCalculator
from ase_uq.errors import InputError
from ase_uq.models.members import MemberUncertainty
from ase_uq.potentials.graph import Graph, Neighbours, build_graph, collate
from tests.made.potentials import shallow
from tests.made.structures import STRUCTURES, copper, primitive, water


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("cutoff", [2.0, 3.9, 6.1])
def test_edges_are_those_of_ase(name, cutoff):
    atoms = STRUCTURES[name]()
    graph = build_graph(atoms, cutoff)
    ours = graph.edge_vectors().numpy()
    i, j, vectors = neighbor_list("ijD", atoms, cutoff)
    assert len(ours) == len(i)
    key = lambda a, b, v: sorted(zip(a.tolist(), b.tolist(), np.round(v, 6).tolist(), strict=True))  # noqa: E731
    # Rounding may leave -0.0 beside 0.0; adding 0 removes the sign.
    assert key(graph.receivers.numpy(), graph.senders.numpy(), ours + 0.0) == key(i, j, vectors + 0.0)


def test_one_atom_sees_several_of_its_images():
    graph = build_graph(primitive(), 5.0)
    assert set(graph.senders.tolist()) == {0}
    assert len(graph.senders) == 42  # fcc shells within 5 Å of copper: 12 + 6 + 24
    assert graph.edge_vectors().norm(dim=1).min() == pytest.approx(3.61 / np.sqrt(2))


def test_receivers_are_sorted_and_every_pair_stands_twice():
    graph = build_graph(copper(), 4.0)
    assert bool((graph.receivers.diff() >= 0).all())
    pairs = sorted(zip(graph.senders.tolist(), graph.receivers.tolist(), strict=True))
    assert pairs == sorted(zip(graph.receivers.tolist(), graph.senders.tolist(), strict=True))


def test_collating_keeps_structures_apart():
    atoms = [water(), copper(), primitive()]
    single = [build_graph(a, 4.0) for a in atoms]
    joined = collate(single)
    assert joined.n_structures == 3
    assert joined.n_atoms.tolist() == [3, 4, 1]
    assert joined.periodic.tolist() == [False, True, True]
    assert torch.equal(joined.edge_vectors(), torch.cat([graph.edge_vectors() for graph in single]))
    assert torch.equal(joined.structures[joined.senders], joined.structures[joined.receivers])


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10_000), periodic=st.tuples(st.booleans(), st.booleans(), st.booleans()))
def test_random_cells(seed, periodic):
    rng = np.random.default_rng(seed)
    cell = np.diag(rng.uniform(1.5, 6.0, 3)) + rng.uniform(-0.7, 0.7, (3, 3))
    atoms = Atoms(numbers=rng.integers(1, 9, 3), scaled_positions=rng.uniform(-1, 2, (3, 3)), cell=cell, pbc=periodic)
    graph = build_graph(atoms, 3.0)
    assert len(graph.senders) == len(neighbor_list("i", atoms, 3.0))


def test_strain_equals_a_strained_structure():
    atoms = copper()
    strain = torch.tensor([[[0.02, 0.01, 0.0], [0.01, -0.03, 0.005], [0.0, 0.005, 0.01]]], dtype=torch.float64)
    graph = build_graph(atoms, 3.0)
    strained = graph.strained(strain).edge_vectors()
    moved = atoms.copy()
    moved.set_cell(atoms.cell.array @ (np.eye(3) + strain[0].numpy()), scale_atoms=True)
    expected = replace(
        graph, positions=torch.from_numpy(moved.positions), cells=torch.from_numpy(moved.cell.array)[None]
    ).edge_vectors()
    assert torch.allclose(strained, expected, atol=1e-12)


def test_a_supercell_has_the_neighbours_of_the_cell():
    atoms = bulk("Cu")
    big = make_supercell(atoms, [[2, 1, 0], [0, 2, 0], [0, 1, 3]])
    assert len(build_graph(big, 6.0).senders) == len(big) * len(build_graph(atoms, 6.0).senders)


def test_bad_structures_are_refused():
    with pytest.raises(InputError, match="axis 0 is periodic and empty"):
        build_graph(Atoms("H2", [[0, 0, 0], [0, 0, 1]], pbc=True), 3.0)
    with pytest.raises(InputError, match="at least one atom"):
        build_graph(Atoms(), 3.0)


@pytest.mark.parametrize("name", STRUCTURES)
def test_a_skin_changes_no_edge_while_atoms_and_cell_move(name):
    atoms, rng = STRUCTURES[name](), np.random.default_rng(5)
    neighbours = Neighbours(3.9, skin=1.0)
    for step in range(60):
        atoms.positions += rng.normal(scale=0.03, size=atoms.positions.shape)
        if step % 9 == 4:
            # A barostat's move, and one large enough to bring images inside the cut-off.
            atoms.set_cell(atoms.cell.array * (0.999 if step != 40 else 0.8), scale_atoms=True)
        if step == 20:
            atoms.wrap()
        if step == 50:
            atoms = atoms.repeat((2, 1, 1)) if atoms.pbc[0] else atoms + Atoms("He", [[0.5, 0.5, 2.0]])
        edges, expected = _edges(neighbours.graph(atoms)), _edges(build_graph(atoms, 3.9))
        assert edges == expected  # the order, too
        assert edges == sorted(edges)


def _edges(graph):
    return list(zip(graph.receivers.tolist(), graph.senders.tolist(), graph.shifts.tolist(), strict=True))


def test_dynamics_with_a_skin_is_dynamics_without_to_the_last_digit():
    trajectories = []
    for skin in (0.0, 1.0):
        atoms = bulk("Cu", cubic=True) * (2, 2, 1)
        atoms.calc = UQCalculator(MemberUncertainty(shallow(3), skin=skin), forces_var="off")
        atoms.set_momenta(np.random.default_rng(1).normal(scale=3.0, size=(len(atoms), 3)))
        VelocityVerlet(atoms, 2.0 * units.fs).run(120)
        trajectories.append(atoms.positions.copy())
    moved = np.linalg.norm(trajectories[0] - (bulk("Cu", cubic=True) * (2, 2, 1)).positions, axis=1)
    assert moved.max() > 0.5  # the list was rebuilt on the way
    assert (trajectories[0] == trajectories[1]).all()


def test_atoms_that_wandered_across_millions_of_cells_keep_their_neighbours_in_order():
    atoms = bulk("Cu", cubic=True).repeat(2)
    atoms.rattle(0.1, seed=0)
    near = build_graph(atoms, 4.5)
    for cells in (10**5, 10**7, 10**9):
        atoms_far = atoms.copy()
        atoms_far.positions[3] += cells * atoms.cell[0]
        far = build_graph(atoms_far, 4.5)
        assert (far.receivers.diff() >= 0).all()
        assert (far.receivers == near.receivers).all()
        assert (far.senders == near.senders).all()
        assert len(far.slots.unique()) == len(far.slots)


@pytest.mark.parametrize("name", STRUCTURES)
def test_copies_are_what_joining_gives(name):
    graph = build_graph(STRUCTURES[name](), 3.5)
    both = collate([graph, build_graph(STRUCTURES["copper"](), 3.5)])
    for one in (graph, both):
        for n_copies in (1, 3):
            copied, joined = one.copies(n_copies), collate([one] * n_copies)
            for field in Graph.__slots__:
                assert torch.equal(getattr(copied, field), getattr(joined, field)), field


FLYING = {
    "molecules": (False, np.eye(3)),
    "a slab": ([True, True, False], np.eye(3)),
    "a skewed slab": ([True, True, False], [[1, 0, 0], [0.3, 1, 0], [0.4, 0.2, 1]]),
    "a wire": ([False, True, False], np.eye(3)),
}


@pytest.mark.parametrize("distance", [1e3, 1e6])
@pytest.mark.parametrize("name", FLYING)
def test_fragments_that_fly_apart_keep_their_neighbours(name, distance):
    """Bins of a list of neighbours are counted in whole numbers; too many of them end the interpreter."""
    pbc, cell = FLYING[name]
    rng = np.random.default_rng(0)
    parts = [Atoms("H6", rng.uniform(0.0, 3.0, (6, 3)), cell=4.0 * np.array(cell), pbc=pbc) for _ in range(3)]
    alone = [build_graph(part, 2.5) for part in parts]
    open_axis = int(np.flatnonzero(~parts[0].pbc)[-1])
    whole = parts[0].copy()
    for k, part in enumerate(parts[1:], start=1):
        moved = part.copy()
        moved.positions += (-1) ** k * distance * part.cell.array[open_axis]
        whole += moved
    found, expected = build_graph(whole, 2.5), collate(alone)
    for key in ("receivers", "senders"):
        torch.testing.assert_close(getattr(found, key), getattr(expected, key))
    torch.testing.assert_close(found.edge_vectors(), expected.edge_vectors(), atol=1e-8, rtol=0.0)
    skin = Neighbours(2.5)
    torch.testing.assert_close(skin.graph(whole).edge_vectors(), found.edge_vectors())


def test_far_atoms_with_nothing_else_have_no_neighbours():
    for atoms in (Atoms("H2", [[0, 0, 0], [9e6, 0, 0]]), Atoms("H3", [[0, 0, 0], [0, 9e6, 0], [9e6, 0, 0]])):
        assert len(build_graph(atoms, 0.5).senders) == 0


@pytest.mark.parametrize("pbc", [(1, 0, 0), (0, 1, 0), (1, 1, 0)])
@pytest.mark.parametrize("spread", [60.0, 400.0, 3e3, 1e6])
def test_fragments_far_apart_beside_skewed_vectors(pbc, spread):
    """Bins of a skewed cell for all that is between them would take forever, or end the process."""
    cell = np.array([[10.0, 3.0, 2.0], [4.0, 11.0, 1.0], [2.0, -3.0, 9.0]])
    rng = np.random.default_rng(0)
    near = rng.normal(size=(12, 3)) * np.repeat([[0.0, 1.0], [spread, 1.0]], 6, axis=0)[:, 1:]
    near[6:] += spread
    turns = rng.integers(-int(spread / 10), int(spread / 10) + 1, (12, 3)) * np.array(pbc)
    found = build_graph(Atoms("H12", near + turns @ cell, cell=cell, pbc=pbc), 2.5)
    vectors = found.edge_vectors()
    assert float(vectors.norm(dim=1).max()) <= 2.5
    both = []
    for part in (slice(0, 6), slice(6, 12)):
        both.append(build_graph(Atoms("H6", near[part] - near[part][0], cell=cell, pbc=pbc), 2.5))
    assert len(vectors) == sum(len(each.senders) for each in both) > 0
    expected = torch.cat([each.edge_vectors().norm(dim=1) for each in both]).sort().values
    torch.testing.assert_close(vectors.norm(dim=1).sort().values, expected, atol=1e-8, rtol=0.0)
    torch.testing.assert_close(
        Neighbours(2.5).graph(Atoms("H12", near + turns @ cell, cell=cell, pbc=pbc)).shifts, found.shifts
    )


def test_a_cell_too_long_for_its_bins_is_refused():
    for cell in ([10.0, 10.0, 3e7], [10.0, 1e7, 1e7]):
        with pytest.raises(InputError, match="long beside its width"):
            build_graph(Atoms("H", cell=cell, pbc=True), 5.0)
    assert len(build_graph(Atoms("H", cell=[10.0, 10.0, 1e4], pbc=True), 5.0).senders) == 0
