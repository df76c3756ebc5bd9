"""Tabulated radial functions are the networks they stand for."""

import numpy as np
import pytest
import torch
from ase import units
from ase.md.verlet import VelocityVerlet

from ase_uq import InputError, UQCalculator, save
from ase_uq.models.members import MemberUncertainty
from ase_uq.potentials import DeepEnsemble, EquivariantPotential, ShallowEnsemble, evaluate
from ase_uq.potentials.base import by_copies
from ase_uq.potentials.graph import build_graph
from ase_uq.potentials.radial_table import RadialTable, needed_cells
from ase_uq.potentials.stack import MemberStack, stackable
from tests.made.potentials import potential
from tests.made.structures import STRUCTURES, copper, rattled

SINGLE = {"dtype": "float32"}


def tabulated_in_double(made, n_cells=2048):
    """The potential in float64 with a table in float64, which `for_inference` never makes."""
    functions = made._radial_functions()
    made.network.table = RadialTable(functions, made.cutoff, n_cells, torch.float64)
    return made


def in_double(made):
    """The same weights, rounded to single precision, in a network of double precision."""
    twin = EquivariantPotential(**{**made.config(), "dtype": "float64"})
    twin.load_state_dict({name: value.double() for name, value in made.state_dict().items()})
    return twin


def test_values_slopes_and_the_end_of_a_table():
    def functions(r):
        x = (r / 5.0).unsqueeze(1)
        smooth = torch.cat([torch.sin(9.0 * x), torch.exp(-3.0 * x)], dim=1) * (1.0 - x) ** 3
        return [smooth, smooth[:, :1] ** 2]

    assert needed_cells(functions, 5.0) == 512
    table = RadialTable(functions, 5.0, 512, torch.float64)
    r = torch.linspace(1e-3, 5.0, 3001, dtype=torch.float64, requires_grad=True)
    for found, expected in zip(table(r), functions(r), strict=True):
        assert found.shape == expected.shape
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)
        slopes = [torch.autograd.grad(values.sum(), r, retain_graph=True)[0] for values in (found, expected)]
        torch.testing.assert_close(*slopes, rtol=0, atol=1e-8)
        assert found[-1].abs().max() < 1e-14


def test_what_is_too_sharp_is_not_tabulated():
    assert needed_cells(lambda r: [torch.tanh(4000.0 * (r - 2.0)).unsqueeze(1)], 5.0) is None
    assert needed_cells(lambda r: [torch.nan * r.unsqueeze(1)], 5.0) is None
    assert potential().for_inference().network.table is None  # double precision


def test_members_with_unlike_tables_are_not_stacked():
    made = [potential(seed, **SINGLE).for_inference(cells) for seed, cells in enumerate((512, 1024, 0))]
    assert not stackable(made[:2])
    assert not stackable(made[::2])
    found = evaluate(DeepEnsemble(made), build_graph(copper(), 3.5))
    apart = [evaluate(each, build_graph(copper(), 3.5)) for each in made]
    torch.testing.assert_close(found.energies, torch.cat([each.energies for each in apart]))


def test_a_copy_for_inference_is_not_saved(tmp_path):
    made = DeepEnsemble([potential(seed, **SINGLE) for seed in range(2)])
    with pytest.raises(InputError, match="store the original"):
        save(MemberUncertainty(made.for_inference()), tmp_path / "model.pt")


@pytest.mark.parametrize("name", STRUCTURES)
def test_a_tabulated_potential_is_nearer_to_double_precision_than_the_network(name):
    made = potential(**SINGLE, hidden_l_max=1).requires_grad_(False)
    graph = build_graph(rattled(STRUCTURES[name](), 2), made.cutoff)
    exact, network, table = (evaluate(p, graph, stress=True) for p in (in_double(made), made, made.for_inference()))
    scale = exact.forces.abs().max()
    torch.testing.assert_close(table.forces, exact.forces, rtol=0, atol=float(5e-6 * scale))
    torch.testing.assert_close(table.forces, network.forces, rtol=0, atol=float(2e-5 * scale))
    torch.testing.assert_close(table.energies, exact.energies, rtol=2e-6, atol=0)
    torch.testing.assert_close(table.stresses, exact.stresses, rtol=0, atol=float(5e-6 * exact.stresses.abs().max()))


def test_forces_and_stress_are_derivatives_of_the_table():
    made = tabulated_in_double(potential(hidden_l_max=1))
    atoms = rattled(copper(), 1)
    found = evaluate(made, build_graph(atoms, made.cutoff), stress=True)

    def energy(displaced):
        return float(made.energies(build_graph(displaced, made.cutoff)).detach())

    for index, axis in ((0, 0), (2, 1), (3, 2)):
        ends = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[index, axis] += sign * 1e-4
            ends.append(energy(moved))
        assert -(ends[0] - ends[1]) / 2e-4 == pytest.approx(float(found.forces[0, index, axis]), rel=1e-6, abs=1e-7)
    ends = []
    for sign in (1, -1):
        moved = atoms.copy()
        moved.set_cell(moved.cell * (1 + sign * 1e-4), scale_atoms=True)
        ends.append(energy(moved))
    pressure = (ends[0] - ends[1]) / 2e-4 / atoms.get_volume()
    assert pressure == pytest.approx(float(found.stresses[0, 0, :3].sum()), rel=1e-6)


def test_a_stack_of_tabulated_members_is_its_members():
    made = DeepEnsemble([potential(seed, **SINGLE).requires_grad_(False) for seed in range(3)])
    fast = made.for_inference()
    assert all(member.network.table is not None for member in fast.members)
    graph = build_graph(copper(), made.cutoff)
    n = fast.n_members
    together = by_copies(evaluate(MemberStack(list(fast.members)), graph.copies(n), stress=True), n)
    apart = [evaluate(member, graph, stress=True) for member in fast.members]
    torch.testing.assert_close(together.energies, torch.cat([each.energies for each in apart]))
    torch.testing.assert_close(together.forces, torch.cat([each.forces for each in apart]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["deep", "shallow"])
def test_what_is_saved_and_trained_is_left_alone(kind):
    bodies = [potential(seed, **SINGLE) for seed in range(3)]
    made = DeepEnsemble(bodies) if kind == "deep" else ShallowEnsemble(bodies[0], 4, seed=1)
    before = {name: value.clone() for name, value in made.state_dict().items()}
    model = MemberUncertainty(made)
    assert model.potential is made
    assert before.keys() == made.state_dict().keys()
    assert all((value == before[name]).all() for name, value in made.state_dict().items())
    evaluated = model._evaluator.potential
    body = evaluated.members[0] if kind == "deep" else evaluated.potential
    assert body.network.table is not None
    slow = evaluate(made, build_graph(copper(), made.cutoff), stress=True)
    found = model.predict(copper())
    np.testing.assert_allclose(found.energy_members, slow.energies[:, 0], rtol=1e-5)
    np.testing.assert_allclose(found.forces_members, slow.forces, atol=2e-5 * float(slow.forces.abs().max()))


def test_dynamics_on_a_table_conserve_energy():
    made = ShallowEnsemble(potential(**SINGLE), 4, seed=1)
    atoms = rattled(copper().repeat((2, 2, 1)), 3)
    atoms.calc = UQCalculator(MemberUncertainty(made), forces_var="off")
    atoms.set_velocities(np.random.default_rng(0).normal(scale=0.02, size=(len(atoms), 3)))
    kinetic = atoms.get_kinetic_energy()
    dynamics = VelocityVerlet(atoms, 0.5 * units.fs)
    totals = []
    dynamics.attach(lambda: totals.append(atoms.get_total_energy()))
    dynamics.run(400)
    drift = np.polyfit(np.arange(len(totals)), totals, 1)[0] * len(totals)
    assert abs(drift) < 1e-3 * kinetic
    assert np.ptp(totals) < 2e-2 * kinetic
