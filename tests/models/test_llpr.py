"""Last-layer prediction rigidity against its closed form, and against reweighing with its members."""

import numpy as np
import pytest
import torch
from ase.units import kB

from ase_uq import InputError, UQCalculator, load, reweight, save
from ase_uq.models.llpr import LLPRUncertainty, fitted_regulariser, model_error, posterior_covariance, posterior_members
from ase_uq.potentials import DeepEnsemble
from ase_uq.potentials.graph import build_graph
from ase_uq.testing import assert_uncertainty_model
from tests.made.potentials import ensemble, potential, shallow
from tests.made.structures import copper, rattled, water


def frames(n=40):
    return [rattled(copper(), seed, 0.1) for seed in range(n)]


@pytest.fixture(scope="module")
def body():
    return potential(seed=2, elements=("Cu", "H", "O"))


@pytest.fixture(scope="module")
def model(body):
    return LLPRUncertainty.fit(body, frames(), alpha=1.3)


def features_of(body, atoms):
    return body.summed_features(build_graph(atoms, body.cutoff))[0].detach()


def centred_features_of(body, model, atoms):
    species = [body.elements.index(symbol) for symbol in atoms.symbols]
    return features_of(body, atoms) - model.potential.centre[species].sum(dim=0)


def test_it_obeys_the_protocol(model):
    assert_uncertainty_model(model, copper(), step=3e-5, tolerance=1e-6)


def test_variance_of_the_energy_is_the_closed_form(body, model):
    for atoms in (copper(), rattled(copper(), 99, 0.3), water()):
        f = centred_features_of(body, model, atoms)
        expected = 1.3**2 * (f @ model.covariance @ f).item()
        assert model.predict(atoms).energy_var == pytest.approx(expected, rel=1e-6)


def test_variance_of_forces_is_the_closed_form(body, model):
    atoms = copper()
    graph = build_graph(atoms, body.cutoff)
    positions = graph.positions.clone().requires_grad_(True)
    moved = type(graph)(positions, *(getattr(graph, name) for name in graph.__slots__[1:]))
    features = body.summed_features(moved)[0]
    jacobian = torch.stack([torch.autograd.grad(f, positions, retain_graph=True)[0] for f in features])
    expected = 1.3**2 * torch.einsum("fnx,fg,gnx->nx", jacobian, model.covariance, jacobian)
    np.testing.assert_allclose(model.predict(atoms).forces_var, expected.numpy(), rtol=1e-5)


def test_the_mean_is_the_potential(body, model):
    atoms = copper()
    alone = body.energies(build_graph(atoms, body.cutoff)).item()
    assert model.predict(atoms).energy == pytest.approx(alone, abs=1e-9)


def test_the_variance_of_linear_regression():
    """Features and noise of our own: the posterior is that of ordinary least squares with unit noise."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 5))
    estimates = []
    for _ in range(4000):
        y = x @ np.arange(5.0) + rng.normal(size=60)
        estimates.append(np.linalg.lstsq(x, y, rcond=None)[0])
    covariance = posterior_covariance(torch.from_numpy(x.T @ x)).numpy()
    scatter = np.cov(np.array(estimates).T)
    assert np.abs(covariance - scatter).max() < 5 * np.diagonal(covariance).max() * np.sqrt(2 / 4000)


@pytest.mark.parametrize("n_members", [6, 9, 50])
def test_members_have_the_covariance_exactly_when_there_are_enough(n_members):
    rng = np.random.default_rng(1)
    root = torch.from_numpy(rng.normal(size=(5, 8)))
    covariance = root @ root.T
    members = posterior_members(covariance, n_members, seed=3)
    assert members.mean(dim=1).abs().max() < 1e-12
    np.testing.assert_allclose(members @ members.T / (n_members - 1), covariance, atol=1e-10)
    other = posterior_members(covariance, n_members, seed=4)
    assert not torch.allclose(members, other)


def test_few_members_have_it_on_average():
    rng = np.random.default_rng(2)
    root = torch.from_numpy(rng.normal(size=(6, 9)))
    covariance = root @ root.T
    found = torch.stack([(m := posterior_members(covariance, 4, seed=s)) @ m.T / 3 for s in range(3000)])
    z = (found.mean(dim=0) - covariance) / (found.std(dim=0) / 3000**0.5)
    assert z.abs().max() < 4.5


def std_per_atom(model, structures):
    return np.array([model.predict(atoms).energy_std / len(atoms) for atoms in structures])


@pytest.mark.parametrize("n", [2, 3, 5, 8, 16, 40])
def test_few_structures_do_not_make_new_ones_absurd(body, n):
    """Before calibration a structure like those of the training has a std of the size of its unit, 1 meV per atom."""
    assert body.n_features == 16
    made = LLPRUncertainty.fit(body, frames(n))
    new = std_per_atom(made, [rattled(copper(), 1000 + seed, 0.1) for seed in range(20)])
    assert 0.2e-3 < np.median(new) < 5e-3
    # One that was never like any of them is less certain, and not known to 1 meV.
    far = std_per_atom(made, [rattled(copper(), 2000 + seed, 0.4) for seed in range(10)])
    assert np.median(far) > 2.0 * np.median(new)
    assert far.max() < 1.0


def test_weights_that_do_not_matter_for_the_training_vary_by_their_own_size(body):
    """Many structures, but displaced along one line only: all features are functions of one number."""
    base, step = copper(), np.random.default_rng(5).normal(size=(4, 3))
    line = []
    for size in np.linspace(-0.03, 0.03, 60):
        line.append(base.copy())
        line[-1].positions += size * step
    made = LLPRUncertainty.fit(body, line)
    assert 0.1e-3 < np.median(std_per_atom(made, line)) < 2e-3
    far = std_per_atom(made, [rattled(copper(), seed, 0.1) for seed in range(10)])
    # Below what random weights of that size would give, not 1e4 times 1 meV.
    assert far.max() < 1.0


@pytest.mark.parametrize("n", [5, 10, 20, 50, 200])
@pytest.mark.parametrize("decay", [0.0, 1.0, 3.0])
def test_one_factor_is_right_for_structures_inside_and_outside(n, decay):
    """Weights of our own, fitted to noisy energies of few structures: std against errors of many new ones."""
    n_features, n_trials = 24, 40
    rng = np.random.default_rng([n, int(decay)])
    scales = np.arange(1.0, n_features + 1.0) ** -decay
    found = []
    for _ in range(n_trials):
        weights, noise = rng.normal(size=n_features), 0.05
        x, held, inside = (rng.normal(size=(size, n_features)) * scales for size in (n, 40, 200))
        y = x @ weights + noise * rng.normal(size=n)
        # As training leaves it: of the smallest norm that fits, with the weakest of regularisers.
        error = weights - np.linalg.solve(x.T @ x + 1e-3 * np.eye(n_features), x.T @ y)
        information = torch.from_numpy(x.T @ x)
        covariance = posterior_covariance(
            information, regulariser=fitted_regulariser(information, n_free=n, least=noise**2)
        ).numpy()
        sizes = [np.sqrt([np.mean((z @ error) ** 2), np.mean((z @ covariance * z).sum(1))]) for z in (held, inside)]
        found.append(sizes[1][0] / sizes[1][1] * sizes[0][1] / sizes[0][0])
    assert 0.7 < np.median(found) < 1.4
    assert np.mean((np.array(found) > 0.5) & (np.array(found) < 2.0)) > 0.85


def test_the_regulariser_leaves_half_of_the_structures_for_the_weights():
    rng = np.random.default_rng(3)
    values, vectors = np.geomspace(1e-9, 10.0, 12), np.linalg.qr(rng.normal(size=(12, 12)))[0]
    information = torch.from_numpy(vectors * values @ vectors.T)
    for n_free in (1, 4, 9, 20):
        regulariser = fitted_regulariser(information, n_free=n_free)
        assert (values / (values + regulariser)).sum() == pytest.approx(n_free / 2, rel=1e-6)
    # Enough structures: only what is asked for at least.
    assert fitted_regulariser(information, n_free=24, least=1e-5) == 1e-5
    assert fitted_regulariser(information, n_free=100) == pytest.approx(1e-10 * values.mean())
    assert fitted_regulariser(information, n_free=100, least=np.inf) == pytest.approx(1e-10 * values.mean())


def test_few_structures_are_said(body, model):
    assert model.warnings == ()
    (said,) = LLPRUncertainty.fit(body, frames(4)).warnings
    assert said.startswith("4 different frames determine 1.")
    assert "of the 16 weights" in said


def test_copies_of_structures_are_no_further_structures(body):
    often = LLPRUncertainty.fit(body, frames(6) * 100)
    assert often.training["determined"] == pytest.approx(2.5, rel=1e-6)


def test_members_add_nothing_to_all_frames_of_a_composition(body):
    """One composition: deviations of the energies of the training structures have mean zero, for every member."""
    made = LLPRUncertainty.fit(body, frames(30))
    deviations = np.array([(p := made.predict(atoms)).energy_members - p.energy for atoms in frames(30)])
    assert np.abs(deviations.mean(axis=0)).max() < 1e-6 * np.abs(deviations).max()
    mixed = [*frames(6), *(rattled(water(), seed, 0.1) for seed in range(6))]
    made = LLPRUncertainty.fit(body, mixed)
    deviations = np.array([(p := made.predict(atoms)).energy_members - p.energy for atoms in mixed])
    for kind in (deviations[:6], deviations[6:]):
        assert np.abs(kind.mean(axis=0)).max() < 1e-6 * np.abs(deviations).max()


def test_structures_that_do_not_differ_say_nothing(body):
    moved = copper()
    moved.rotate(35.0, (1, 2, 3), rotate_cell=True)
    for alike in ([copper()], [copper()] * 5, [copper(), moved], [copper(), water()]):
        with pytest.raises(InputError, match=r"more different structures than .* compositions .*pass all frames"):
            LLPRUncertainty.fit(body, alike)


def test_replicas_have_a_std_proportional_to_their_number(model):
    atoms = copper()
    assert model.predict(atoms.repeat((2, 1, 1))).energy_std == pytest.approx(
        2 * model.predict(atoms).energy_std, rel=1e-6
    )


def test_the_closed_form_of_the_model_error_is_that_of_reweighing(body, model):
    rng = np.random.default_rng(5)
    atoms = copper()
    observable, features, members, energies = [], [], [], []
    for _ in range(200):
        atoms.positions += rng.normal(scale=0.01, size=(4, 3))
        prediction = model.predict(atoms)
        observable.append(atoms.get_distance(0, 1, mic=True))
        features.append(features_of(body, atoms).numpy())
        members.append(prediction.energy_members)
        energies.append(prediction.energy)
    temperature_K = 300.0
    by_members = reweight(
        observable, energy_members=members, energy_reference=energies, temperature_K=temperature_K
    ).std_model_naive
    closed = model_error(
        observable, features=features, covariance=model.covariance, alpha=model.alpha, temperature_K=temperature_K
    )
    assert by_members == pytest.approx(closed, rel=1e-5)
    # And by hand, along one direction.
    c = np.cov(np.column_stack([observable, np.array(features) @ np.ones(body.n_features)]).T, ddof=0)[0, 1]
    by_hand = abs(c) / (kB * temperature_K)
    ones = np.ones((body.n_features, body.n_features))
    assert model_error(
        observable, features=features, covariance=ones, alpha=1.0, temperature_K=temperature_K
    ) == pytest.approx(by_hand)


def test_it_is_made_of_a_shallow_or_a_deep_ensemble_too():
    atoms = copper()
    for made, mean in ((shallow(), shallow().potential), (ensemble(), ensemble().members[0])):
        expected = mean.energies(build_graph(atoms, 3.5)).item()
        assert LLPRUncertainty.fit(made, frames(30)).predict(atoms).energy == pytest.approx(expected, abs=1e-9)
    assert isinstance(ensemble(), DeepEnsemble)


def test_it_drives_a_calculator_and_is_saved(model, tmp_path):
    save(model, tmp_path / "llpr.pt")
    back = load(tmp_path / "llpr.pt")
    atoms = copper()
    assert back.predict(atoms).energy_var == pytest.approx(model.predict(atoms).energy_var, rel=1e-12)
    atoms.calc = UQCalculator(back, forces_var="off")
    assert atoms.get_forces().shape == (4, 3)
    assert back.n_members == model.potential.potential.n_features + 1


def test_bad_input(body):
    with pytest.raises(InputError, match="`frames` must hold the structures"):
        LLPRUncertainty.fit(body, [])
    with pytest.raises(InputError, match="must have last-layer features, str has none"):
        LLPRUncertainty.fit("model.pt", frames(2))
    with pytest.raises(InputError, match="`n_members` must be at least 2"):
        LLPRUncertainty.fit(body, frames(2), n_members=1)
