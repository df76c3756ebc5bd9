"""Noise on weights: its law, its symmetries, and members that are fixed functions of the positions."""

import copy

import numpy as np
import pytest
import torch
from ase import units
from ase.build import bulk, molecule
from ase.md.verlet import VelocityVerlet
from scipy.spatial.transform import Rotation
from scipy.stats import norm

from ase_uq import UQCalculator, load, save
from ase_uq.errors import InputError
from ase_uq.models.members import MemberUncertainty
from ase_uq.potentials import (
    EquivariantPotential,
    evaluate,
    make_variational,
    sample_members,
)
from ase_uq.potentials.graph import build_graph
from ase_uq.potentials.variational import ensemble as ensemble_of_draws
from ase_uq.potentials.variational.layers import Noise, VariationalMap, kl_of_rate

LAYERS = [("readout",), ("radial",), ("radial", "readout")]


def ethanol():
    atoms = molecule("CH3CH2OH")
    atoms.rattle(0.05, seed=1)
    return atoms


def body(dtype="float64", **config):
    return EquivariantPotential(["C", "H", "O"], cutoff=4.0, channels=8, n_layers=2, dtype=dtype, **config)


def members(layers=("readout",), n=5, seed=3, **options):
    return sample_members(make_variational(body(), layers=layers, initial_dropout=0.1, **options), n, seed=seed)


# ---------------------------------------------------------------------------------------------------------------------
# One layer
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("alpha", "prior"), [(0.05, 1.0), (1.0, 1.0), (0.3, 0.1), (2.0, 0.25)])
def test_divergence_against_monte_carlo(alpha, prior):
    rng, theta = np.random.default_rng(0), 0.7
    drawn = rng.normal(theta, np.sqrt(alpha) * theta, size=400_000)
    ratio = norm.logpdf(drawn, theta, np.sqrt(alpha) * theta) - norm.logpdf(drawn, 0.0, np.sqrt(prior) * theta)
    found = kl_of_rate(torch.tensor(alpha, dtype=torch.float64), prior).item()
    assert found == pytest.approx(ratio.mean(), abs=5 * ratio.std() / np.sqrt(len(ratio)))


def test_divergence_is_smallest_at_the_prior():
    rates = torch.linspace(0.05, 4.0, 400, dtype=torch.float64)
    divergence = kl_of_rate(rates, 1.0)
    assert rates[divergence.argmin()].item() == pytest.approx(1.0, abs=0.01)
    assert kl_of_rate(torch.tensor(1.0), 1.0).item() == pytest.approx(0.5)


def one_map(alpha=0.3, n_in=6, n_out=3):
    noise = Noise(rates={"node": torch.full((4, 1), alpha, dtype=torch.float64)})
    weight = torch.randn(n_in, n_out, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return VariationalMap(weight, None, noise, "node", 0), noise


def test_frozen_and_fresh_noise_have_the_same_law_for_a_row():
    layer, noise = one_map()
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    exact = torch.sqrt(0.3 * (x**2) @ (layer.weight**2))
    generator, n = torch.Generator().manual_seed(2), 20_000
    noise.generator = generator
    for mode in ("frozen", "local"):
        noise.mode, drawn = mode, []
        for _ in range(n):
            layer.frozen = torch.randn(1, 6, 3, generator=generator, dtype=torch.float64)
            drawn.append(layer(x).detach())
        stacked = torch.stack(drawn)
        torch.testing.assert_close(stacked.std(dim=0), exact.detach(), rtol=4 / np.sqrt(2 * n), atol=0)
        mean_error = (stacked.mean(dim=0) - x @ layer.weight).abs() / (exact / np.sqrt(n))
        assert mean_error.max() < 4.5
        # Rows share a frozen draw, and nothing else.
        between = np.corrcoef(stacked[:, 0, 0], stacked[:, 1, 0])[0, 1]
        covariance = 0.3 * (x[0] * x[1] * layer.weight[:, 0] ** 2).sum().detach()
        shared = float(covariance / (exact[0, 0] * exact[1, 0]).detach())
        assert between == pytest.approx(shared if mode == "frozen" else 0.0, abs=0.03)


def test_zero_activations_have_finite_derivatives():
    layer, noise = one_map()
    noise.mode = "local"
    x = torch.zeros(4, 6, dtype=torch.float64, requires_grad=True)
    out = layer(x).sum()
    (first,) = torch.autograd.grad(out, x, create_graph=True)
    first.sum().backward()
    assert torch.isfinite(first).all()
    assert torch.isfinite(layer.weight.grad).all()


# ---------------------------------------------------------------------------------------------------------------------
# Potentials and draws
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layers", LAYERS)
def test_without_noise_it_is_the_potential_it_was_made_of(layers):
    plain, graph = body(), build_graph(ethanol(), 4.0)
    variational = make_variational(plain, layers=layers)
    torch.testing.assert_close(variational.energies(graph), plain.energies(graph), rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        for parameter in variational.parameters():
            parameter.add_(0.1)
    assert not torch.equal(variational.energies(graph), plain.energies(graph))  # a copy


@pytest.mark.parametrize("layers", LAYERS)
def test_forces_of_every_draw_are_exact(layers):
    atoms, ensemble = ethanol(), members(layers)
    found = evaluate(ensemble, build_graph(atoms, 4.0))
    assert found.forces.shape == (5, 9, 3)
    for index, axis in ((0, 0), (3, 2), (8, 1)):
        difference = 0.0
        for steps, weight in ((1, 8), (-1, -8), (2, -1), (-2, 1)):  # five-point formula
            moved = atoms.copy()
            moved.positions[index, axis] += steps * 1e-3
            difference = difference - weight * ensemble.energies(build_graph(moved, 4.0)).detach().squeeze(1) / 12e-3
        torch.testing.assert_close(found.forces[:, index, axis], difference, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("layers", LAYERS)
def test_every_draw_turns_with_the_molecule(layers):
    atoms, ensemble = ethanol(), members(layers)
    turn = Rotation.random(random_state=0).as_matrix()
    turned = atoms.copy()
    turned.positions = atoms.positions @ turn.T + [1.0, -2.0, 0.5]
    order = np.random.default_rng(0).permutation(len(atoms))
    here, there = (evaluate(ensemble, build_graph(a, 4.0)) for a in (atoms, turned[order]))
    torch.testing.assert_close(there.energies, here.energies, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(there.forces, here.forces[:, order] @ torch.tensor(turn.T), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("layers", LAYERS)
def test_draws_belong_to_their_seed(layers):
    graph = build_graph(ethanol(), 4.0)
    first, again, other = (members(layers, seed=seed).energies(graph) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.std() > 0.01


@pytest.mark.parametrize("layers", LAYERS)
def test_the_mean_of_members_is_the_potential_of_the_mean_weights(layers):
    graph, plain = build_graph(ethanol(), 4.0), body()
    variational = make_variational(plain, layers=layers, initial_dropout=0.3)
    found, exact = evaluate(sample_members(variational, 6, seed=0), graph), evaluate(plain, graph)
    assert found.energies.std() > 0.1
    torch.testing.assert_close(found.energies.mean(dim=0), exact.energies[0], rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(found.forces.mean(dim=0), exact.forces[0], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("inputs", ["environment", "pair", "none"])
def test_rates_follow_what_they_are_told_to(inputs):
    atoms = ethanol()
    potential = make_variational(body(), layers=("radial", "readout"), inputs=inputs, max_dropout=0.5)
    with torch.no_grad():
        potential.rates.edge.second.mul_(30.0)
        potential.rates.node.second.mul_(30.0)
    found = {}
    for name, moved in (("here", atoms), ("moved", atoms.copy())):
        moved.positions[0, 0] += 0.3 * (name == "moved")
        potential.set_rates(build_graph(moved, 4.0))
        found[name] = {domain: rates.detach() for domain, rates in potential.noise.rates.items()}
    p = found["here"]["edge"] / (1 + found["here"]["edge"])
    assert (p < 0.5 + 1e-5).all()
    assert bool((found["here"]["edge"].std(dim=0) > 1e-3).all()) == (inputs != "none")
    # Rates of atoms feel their neighbours move in an environment alone; elements do not change.
    assert torch.equal(found["here"]["node"], found["moved"]["node"]) == (inputs != "environment")


def test_rates_rise_to_their_cap_away_from_what_was_learned():
    atoms = ethanol()
    potential = make_variational(body(), initial_dropout=0.01)
    frames = [atoms.copy() for _ in range(20)]
    for seed, frame in enumerate(frames):
        frame.rattle(0.03, seed=seed)
    potential.rates.learn([build_graph(frame, 4.0) for frame in frames])
    rates = []
    for stretch in (1.0, 1.2, 1.5, 2.0):
        apart = atoms.copy()
        apart.positions *= stretch
        potential.set_rates(build_graph(apart, 4.0))
        rates.append(potential.noise.rates["node"].detach().mean().item())
    assert rates == sorted(rates)
    assert rates[0] < 0.02
    assert rates[-1] > 20 * rates[0]


def test_members_that_share_the_body_are_evaluated_together():
    ensemble, graph = members(), build_graph(ethanol(), 4.0)
    calls = []
    body = ensemble.potential.body
    original = type(body).scalars
    body.scalars = lambda g: calls.append(1) or original(body, g)
    together = evaluate(ensemble, graph)
    assert len(calls) == 1
    assert together.forces.shape == (5, 9, 3)


@pytest.mark.parametrize("layers", LAYERS)
@pytest.mark.parametrize("atoms", [ethanol(), bulk("Ar", cubic=True, a=5.3)], ids=["molecule", "crystal"])
def test_draws_side_by_side_are_those_one_after_another(layers, atoms, monkeypatch):
    potential = EquivariantPotential(["C", "H", "O", "Ar"], cutoff=4.0, channels=8, dtype="float64")
    ensemble = sample_members(make_variational(potential, layers=layers), 5, seed=1)
    graph, n_maps = build_graph(atoms, 4.0), len(ensemble.potential.maps())
    alone = []
    for s in range(5):
        with ensemble.potential.frozen([getattr(ensemble, f"draws_{k}")[s + 1 : s + 2] for k in range(n_maps)]):
            alone.append(evaluate(ensemble.potential, graph, stress=True))
    plain = evaluate(ensemble.potential, graph, stress=True)
    for most_edges in (10**6, 2 * len(graph.senders), 1):
        monkeypatch.setattr(ensemble_of_draws, "MOST_EDGES", most_edges)
        together = evaluate(ensemble, graph, stress=True)
        for name in ("energies", "forces", "stresses"):
            drawn = torch.cat([getattr(each, name) for each in alone])
            expected = drawn - drawn.mean(dim=0) + getattr(plain, name)
            torch.testing.assert_close(getattr(together, name), expected, rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(ensemble.energies(graph), together.energies, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("pattern", [r"readouts\.0$", r"readouts\.1$"])
def test_one_of_several_readouts_can_have_noise(pattern, tmp_path):
    graph = build_graph(ethanol(), 4.0)
    ensemble = sample_members(make_variational(body(), layers={"node": pattern}, initial_dropout=0.2), 4)
    assert ensemble.shares_body
    for drawn in ensemble._draws():  # of every map with noise
        before = ensemble.energies(graph).detach()
        drawn[1] += 1.0
        assert (ensemble.energies(graph) - before).abs().max() > 1e-3
    save(MemberUncertainty(ensemble), tmp_path / "model.pt")
    loaded = load(tmp_path / "model.pt").potential
    torch.testing.assert_close(loaded.energies(graph), ensemble.energies(graph), rtol=1e-12, atol=1e-12)


def test_the_error_of_a_standard_deviation_over_draws():
    atoms = build_graph(ethanol(), 4.0)
    potential = make_variational(body(), initial_dropout=1e-4)  # so little that energies are normal
    found = [sample_members(potential, 9, seed=seed).energies(atoms).std().item() for seed in range(200)]
    expected = sample_members(potential, 9).std_error
    assert expected == pytest.approx(0.25)
    assert np.std(found) / np.mean(found) == pytest.approx(expected, rel=0.2)


def test_a_copy_for_inference_gives_the_same_after_use():
    ensemble = sample_members(make_variational(body("float32"), initial_dropout=0.1), 4)
    graph = build_graph(ethanol(), 4.0)
    before = evaluate(ensemble, graph)  # leaves rates with derivatives behind
    fast = ensemble.for_inference()
    after = evaluate(fast, graph)
    torch.testing.assert_close(after.energies, before.energies, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(after.forces, before.forces, rtol=1e-3, atol=1e-3)
    copy.deepcopy(ensemble)


def test_dynamics_under_the_mean_of_frozen_draws_conserve_energy():
    atoms = bulk("Ar", cubic=True, a=5.3)
    atoms.rattle(0.05, seed=0)
    potential = make_variational(
        EquivariantPotential(["Ar"], cutoff=4.0, channels=4, n_layers=1, dtype="float64"), initial_dropout=0.2
    )
    potential.body.set_reference(shifts=[0.0], scale=0.05, mean_neighbours=12.0)
    atoms.calc = UQCalculator(MemberUncertainty(sample_members(potential, 4)))
    atoms.set_momenta(np.random.default_rng(0).normal(size=(4, 3)))
    dyn, totals, std = VelocityVerlet(atoms, 1.0 * units.fs), [], []
    dyn.attach(lambda: totals.append(atoms.get_total_energy()))
    dyn.attach(lambda: std.append(atoms.calc.results["energy_var"] ** 0.5))
    dyn.run(300)
    kinetic = atoms.get_kinetic_energy()
    assert np.ptp(totals) < 2e-3 * kinetic
    assert min(std) > 1e-4


def test_machine_code_that_does_not_exist_is_not_asked_for_in_silence(caplog):
    model = MemberUncertainty(members(n=3), compile="auto")
    assert "no machine code for VariationalEnsemble on cpu" in caplog.text
    plain = MemberUncertainty(members(n=3)).predict(ethanol())
    np.testing.assert_allclose(model.predict(ethanol()).energy_members, plain.energy_members)


def test_a_file_keeps_the_draws(tmp_path):
    atoms, model = ethanol(), MemberUncertainty(members(n=4, seed=7), alpha=1.3)
    save(model, tmp_path / "model.pt")
    loaded = load(tmp_path / "model.pt")
    assert loaded.model_hash == model.model_hash
    ours, theirs = (m.predict(atoms, ["energy", "forces"]) for m in (model, loaded))
    np.testing.assert_array_equal(ours.energy_members, theirs.energy_members)
    np.testing.assert_allclose(ours.forces_var, theirs.forces_var)
    assert MemberUncertainty(members(n=4, seed=8)).model_hash != MemberUncertainty(members(n=4, seed=7)).model_hash


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"layers": ("messages",)}, r"`layers` must name some of last, radial, readout, got \['messages'\]"),
        ({"layers": ()}, "name at least one"),
        ({"prior_dropout": 1.0}, "`prior_dropout` must lie between 0 and 1, got 1.0"),
        ({"max_dropout": 0.0}, "`max_dropout` must lie between 0 and 1, got 0.0"),
        ({"initial_dropout": 0.9}, "`initial_dropout` must lie between .* got 0.9"),
        ({"inputs": "angles"}, "`inputs` must be one of environment, pair, none, got 'angles'"),
        ({"law": "cauchy"}, "`law` must be one of gaussian, dropout, got 'cauchy'"),
        ({"law": "dropout"}, "the law 'dropout' needs inputs='none' and centred=False"),
        ({"layers": {"node": "nothing"}}, "'nothing' matches none; there are network"),
        ({"layers": ("last", "readout")}, "must name last or readout, not both"),
        ({"law": "dropout", "inputs": "none"}, "needs inputs='none' and centred=False, got 'none' and True"),
        ({"layers": {"atom": "readouts"}}, "tag layers as of nodes or edges, got 'atom'"),
    ],
)
def test_bad_input(options, words):
    with pytest.raises(InputError, match=words):
        make_variational(body(), **options)


def test_bad_members():
    with pytest.raises(InputError, match="`n_members` must be at least 2 to have a variance, got 1"):
        sample_members(make_variational(body()), 1)
    with pytest.raises(InputError, match="`module` must be a potential of one member .* got Linear"):
        make_variational(torch.nn.Linear(3, 3))
