"""Last-layer prediction rigidity against its closed form, and against reweighing with its members."""

import numpy as np
import pytest
import torch
from ase.units import kB

from ase_uq import InputError, UQCalculator, load, reweight, save
from ase_uq.graph import build_graph
from ase_uq.llpr import LLPRUncertainty, model_error, posterior_covariance, posterior_members
from ase_uq.potentials import DeepEnsemble
from ase_uq.testing import assert_uncertainty_model
from tests.potentials import ensemble, potential, shallow
from tests.structures import copper, rattled, water


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


def centred_features(model, atoms):
    body = model.potential.potential
    counts = [list(atoms.symbols).count(symbol) for symbol in body.elements]
    return features_of(body, atoms) - torch.tensor(counts, dtype=torch.float64) @ model.potential.centre


def test_it_obeys_the_protocol(model):
    assert_uncertainty_model(model, copper(), step=3e-5, tolerance=1e-6)


def test_variance_of_the_energy_is_the_closed_form(model):
    for atoms in (copper(), rattled(copper(), 99, 0.3), water()):
        f = centred_features(model, atoms)
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


def test_a_singular_information_matrix_is_regularised(body):
    # Three structures cannot determine all weights.
    made = LLPRUncertainty.fit(body, frames(3))
    assert np.isfinite(made.predict(copper()).energy_var)
    known, unknown = made.predict(frames(3)[0]), made.predict(water())
    assert known.energy_var < 1e-3 * unknown.energy_var


def test_the_spread_of_energies_has_no_constant(body, model):
    """Members differ in differences alone: over the training frames none is off by a constant, and their std is the
    size asked for."""
    members = np.array([model.predict(atoms).energy_members for atoms in frames()])
    deviations = members - members.mean(axis=1, keepdims=True)
    assert np.abs(deviations.mean(axis=0)).max() < 1e-9 * deviations.std()
    assert np.sqrt(deviations.var(axis=1, ddof=1).mean()) / 4 == pytest.approx(1.3e-3, rel=1e-6)


def test_frames_that_do_not_differ_are_refused(body):
    with pytest.raises(InputError, match="`frames` must hold structures that differ in more than composition, got 1"):
        LLPRUncertainty.fit(body, frames(1))


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
