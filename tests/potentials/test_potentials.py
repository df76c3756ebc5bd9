"""Equivariant potential and deep ensemble: derivatives, symmetries, smoothness."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from ase_uq.errors import InputError
from ase_uq.models.members import MemberUncertainty
from ase_uq.potentials import DeepEnsemble, EquivariantPotential, evaluate
from ase_uq.potentials.blocks import Coupling, RadialBasis, spherical_harmonics
from ase_uq.potentials.graph import build_graph, collate
from ase_uq.testing import assert_potential, assert_uncertainty_model
from tests.made.potentials import ensemble, potential
from tests.made.structures import STRUCTURES, copper, rattled, skewed, water

SIZES = [{"l_max": 0}, {"l_max": 1, "hidden_l_max": 1, "body_order": 3}, {"l_max": 2}, {"l_max": 2, "hidden_l_max": 2}]


@pytest.mark.parametrize("options", [*SIZES, {"body_order": 2}, {"n_layers": 1}, {"n_layers": 3}])
def test_potential_obeys_the_protocol(options):
    assert_potential(potential(**options), build_graph(water(), 3.5), step=3e-5, tolerance=1e-7)
    assert_potential(potential(**options), build_graph(skewed(), 3.5), step=3e-5, tolerance=1e-7)


@pytest.mark.parametrize("name", STRUCTURES)
def test_ensemble_obeys_the_protocol_of_models(name):
    atoms = STRUCTURES[name]()
    assert_uncertainty_model(MemberUncertainty(ensemble(), alpha=1.7), atoms, step=3e-5, tolerance=1e-6)


@pytest.mark.parametrize("make", [copper, skewed, STRUCTURES["left_handed"]])
def test_forces_and_stress_of_every_member_by_finite_differences(make):
    atoms = make()
    members = ensemble(hidden_l_max=1)
    graph = build_graph(atoms, members.cutoff)
    evaluation = evaluate(members, graph, stress=True)
    step = 3e-5
    numerical = np.zeros((3, len(atoms), 3))
    for n in range(len(atoms)):
        for axis in range(3):
            ends = []
            for sign in (1, -1):
                positions = graph.positions.clone()
                positions[n, axis] += sign * step
                ends.append(members.energies(replace(graph, positions=positions)).detach().numpy()[:, 0])
            numerical[:, n, axis] = -(ends[0] - ends[1]) / (2 * step)
    forces = evaluation.forces.numpy()
    assert np.abs(forces - numerical).max() < 1e-6 * np.abs(forces).max()
    stress = np.zeros((3, 6))
    for voigt, (i, j) in enumerate(((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))):
        ends = []
        for sign in (1, -1):
            strain = np.eye(3)
            strain[i, j] += sign * step / 2
            strain[j, i] += sign * step / 2
            moved = atoms.copy()
            moved.set_cell(atoms.cell.array @ strain, scale_atoms=True)
            ends.append(members.energies(build_graph(moved, members.cutoff)).detach().numpy()[:, 0])
        stress[:, voigt] = (ends[0] - ends[1]) / (2 * step) / atoms.get_volume()
    assert np.abs(evaluation.stresses.numpy()[:, 0] - stress).max() < 1e-6 * np.abs(stress).max()


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 10_000))
def test_rotation_translation_permutation(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 7))
    atoms = Atoms(rng.choice(["Cu", "H", "O"], n), rng.uniform(0, 2.0 * n ** (1 / 3), (n, 3)))
    if n > 3:
        cell = np.diag(rng.uniform(2.5, 5.0, 3)) + rng.uniform(-0.8, 0.8, (3, 3))
        atoms.set_cell(cell)
        atoms.pbc = rng.random(3) < 0.7
    distances = atoms.get_all_distances(mic=bool(atoms.pbc.any()))[np.triu_indices(n, 1)]
    # Overlapping atoms have forces beyond any tolerance, and say nothing about symmetry.
    atoms.positions *= max(1.0, 0.7 / max(distances.min(), 0.05)) if not atoms.pbc.any() else 1.0
    model = potential(seed % 7, hidden_l_max=1)
    reference = evaluate(model, build_graph(atoms, model.cutoff))
    scale = max(1.0, float(reference.forces.abs().max()))
    rotation = Rotation.random(random_state=seed).as_matrix()
    order = rng.permutation(n)
    moved = atoms[order]
    moved.set_cell(atoms.cell.array @ rotation.T)
    moved.positions = moved.positions @ rotation.T + rng.normal(size=3)
    other = evaluate(model, build_graph(moved, model.cutoff))
    assert float((other.energies - reference.energies).abs().max()) < 1e-9 * scale
    expected = reference.forces[0].numpy()[order] @ rotation.T
    assert np.abs(other.forces[0].numpy() - expected).max() < 1e-8 * scale


@settings(deadline=None, max_examples=8)
@given(seed=st.integers(0, 10_000), repeat=st.sampled_from([(2, 1, 1), (1, 3, 1), (2, 2, 1)]))
def test_a_supercell_has_the_same_energy_per_atom_and_stress(seed, repeat):
    atoms = rattled(skewed(), seed)
    model = potential(1)
    small = evaluate(model, build_graph(atoms, model.cutoff), stress=True)
    big = evaluate(model, build_graph(atoms.repeat(repeat), model.cutoff), stress=True)
    copies = int(np.prod(repeat))
    assert float(big.energies) == pytest.approx(copies * float(small.energies), rel=1e-10)
    assert big.forces[0].numpy() == pytest.approx(np.tile(small.forces[0].numpy(), (copies, 1)), abs=1e-9)
    assert big.stresses.numpy() == pytest.approx(small.stresses.numpy(), abs=1e-10)


def test_energy_and_forces_are_smooth_where_an_atom_crosses_the_cutoff():
    """A rigid OH comes from far: only its O crosses, and nothing else changes on the way."""
    model = potential(0, hidden_l_max=1)

    def at(gap):
        distance = model.cutoff + gap
        atoms = Atoms("HOH", [[0, 0, 0], [distance, 0, 0], [distance + 0.9, 0, 0]])
        return evaluate(model, build_graph(atoms, model.cutoff))

    outside = at(1e-3)
    lone = evaluate(model, build_graph(Atoms("H"), model.cutoff))
    pair = evaluate(model, build_graph(Atoms("OH", [[0, 0, 0], [0.9, 0, 0]]), model.cutoff))
    assert float(outside.energies) == pytest.approx(float(pair.energies) + float(lone.energies), rel=1e-12)
    assert not outside.forces[0, 0].any()
    # The envelope has a third-order zero: energies vanish at least like the cube of the gap,
    # forces like its square.
    gaps = np.array([-0.04, -0.02, -0.01])
    energies = np.array([abs(float(at(gap).energies - outside.energies)) for gap in gaps])
    forces = np.array([float(at(gap).forces[0, 0].norm()) for gap in gaps])
    assert energies[0] > 1e-9
    assert np.log2(energies[:-1] / energies[1:]).min() > 2.75
    assert np.log2(forces[:-1] / forces[1:]).min() > 1.75


def test_envelope_closes_with_two_derivatives():
    radial = RadialBasis(3.0, 4)
    x = torch.tensor([3.0 - 1e-4, 3.0, 3.1, 0.0001], dtype=torch.float64)
    envelope = radial(x)[1][:, 0]
    assert envelope[0].abs() < 1e-10
    assert envelope[1:3].tolist() == [0.0, 0.0]
    assert envelope[3] == pytest.approx(1.0)


@pytest.mark.parametrize("degrees", [(0, 2, 2), (1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 2, 0)])
def test_coupling_commutes_with_rotations(degrees):
    """The product of rotated features is the rotated product; features rotate like spherical harmonics."""
    l_a, l_b, l_out = degrees
    product = Coupling(*degrees)
    generator = torch.Generator().manual_seed(1)
    vectors = torch.randn(40, 3, generator=generator, dtype=torch.float64)
    rotation = torch.from_numpy(Rotation.from_euler("xyz", [0.4, -1.2, 2.2]).as_matrix())
    weights = torch.randn(40, product.n_paths, 2, generator=generator, dtype=torch.float64)

    def coupled(v):
        a = spherical_harmonics(v, l_a).unsqueeze(-1).expand(-1, -1, 2)
        b = spherical_harmonics(v.roll(1, 0), l_b).unsqueeze(-1).expand(-1, -1, 2)
        return product(a, b, weights)

    def rotate(features):
        # The matrix of the rotation in the basis, from harmonics before and after.
        before = spherical_harmonics(vectors, l_out)
        after = spherical_harmonics(vectors @ rotation.T, l_out)
        blocks = [
            torch.linalg.lstsq(before[:, s], after[:, s]).solution
            for s in (slice(degree**2, (degree + 1) ** 2) for degree in range(l_out + 1))
        ]
        return torch.einsum("nkc,kq->nqc", features, torch.block_diag(*blocks))

    assert torch.allclose(coupled(vectors @ rotation.T), rotate(coupled(vectors)), atol=1e-10)


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("l_a", [0, 1, 2])
def test_messages_are_products_summed_over_the_edges_of_each_atom(name, l_a):
    graph = collate([build_graph(STRUCTURES[name](), 3.5), build_graph(water(), 3.5)])
    product, n_edges = Coupling(l_a, 2, 2).double(), len(graph.senders)
    generator = torch.Generator().manual_seed(2)
    a, b, weights = (
        torch.randn(n_edges, *shape, generator=generator, dtype=torch.float64)
        for shape in (((l_a + 1) ** 2, 4), (9,), (product.n_paths, 4))
    )
    rows = product(a, b.unsqueeze(-1).expand(-1, -1, 4), weights)
    expected = torch.zeros(len(graph.positions), 9, 4, dtype=torch.float64).index_add(0, graph.receivers, rows)
    torch.testing.assert_close(product.messages(a, b, weights, graph), expected)


def test_batching_changes_nothing():
    model = ensemble(2)
    structures = [water(), copper(), bulk("Cu")]
    graphs = [build_graph(atoms, model.cutoff) for atoms in structures]
    joined = evaluate(model, collate(graphs), stress=True)
    for s, graph in enumerate(graphs):
        alone = evaluate(model, graph, stress=True)
        assert torch.allclose(joined.energies[:, s], alone.energies[:, 0], rtol=1e-12)
        assert torch.allclose(joined.stresses[:, s], alone.stresses[:, 0], atol=1e-12)
    assert not joined.stresses[:, 0].any()


def test_single_precision_follows_double():
    graph = build_graph(copper(), 3.5)
    exact, fast = evaluate(potential(0), graph), evaluate(potential(0, dtype="float32"), graph)
    assert fast.energies.dtype == torch.float64
    assert float(fast.energies) == pytest.approx(float(exact.energies), rel=1e-5)
    assert fast.forces.numpy() == pytest.approx(exact.forces.numpy(), abs=1e-4 * float(exact.forces.abs().max()))


def test_seeds_make_members_and_nothing_global_is_touched():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    default = torch.get_default_dtype()
    a, b, c = potential(0), potential(0), potential(1)
    graph = build_graph(water(), 3.5)
    assert torch.equal(torch.rand(3), expected)
    assert torch.get_default_dtype() == default
    assert torch.equal(a.energies(graph), b.energies(graph))
    assert not torch.equal(a.energies(graph), c.energies(graph))


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"elements": []}, "`elements`"),
        ({"elements": ["H", "H"]}, "`elements` must be distinct"),
        ({"elements": ["Q"]}, "chemical symbols"),
        ({"cutoff": -1.0}, "`cutoff` must be a positive length"),
        ({"l_max": 3}, "`l_max` must be 0, 1 or 2"),
        ({"hidden_l_max": 3}, "`hidden_l_max` must be between"),
        ({"body_order": 5}, "`body_order`"),
        ({"dtype": "float16"}, "`dtype`"),
        ({"channels": 0}, "`channels` must be at least 1"),
    ],
)
def test_bad_settings_are_named(options, rule):
    with pytest.raises(InputError, match=rule):
        EquivariantPotential(**{"elements": ["H"], **options})


def test_members_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="at least 2 members"):
        DeepEnsemble([potential()])
    with pytest.raises(InputError, match="share one cutoff"):
        DeepEnsemble([potential(), potential(cutoff=4.0)])
    with pytest.raises(InputError, match="at least 2 members"):
        MemberUncertainty(potential())


def test_an_unknown_element_is_named():
    gold = Atoms("AuO", [[0, 0, 0], [0, 0, 2]])
    with pytest.raises(InputError, match="elements the model was trained on .*, got Au"):
        MemberUncertainty(ensemble(2)).predict(gold)
    with pytest.raises(InputError, match="atomic number 79"):
        potential().energies(build_graph(gold, 3.5))
