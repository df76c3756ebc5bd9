"""Training a shallow ensemble: the likelihoods by hand, the two phases, resuming, and what it is worth."""

import numpy as np
import pytest
import torch
from scipy import stats

from ase_uq.errors import InputError
from ase_uq.evaluation import residuals
from ase_uq.members import MemberUncertainty
from ase_uq.potentials import EquivariantPotential, ShallowEnsemble, evaluate
from ase_uq.training import FitSettings, Frame, fit
from ase_uq.training.batches import Batches
from ase_uq.training.likelihood import ENERGY_FLOOR, FORCE_FLOOR, EnergyLikelihood, Likelihood
from ase_uq.training.losses import SquaredErrors, Weights
from ase_uq.training.shallow import train_shallow
from tests.test_training import SMALL, emt_frames


def labelled(n, seed):
    return [
        Frame(atoms, atoms.info["REF_energy"], atoms.arrays["REF_forces"], atoms.info["REF_stress"], "alloy")
        for atoms in emt_frames(n, seed=seed)
    ]


@pytest.fixture(scope="module")
def alloy():
    return labelled(30, 0)


def settings(**changes):
    return FitSettings(**{"epochs": 10, "batch_size": 4, "learning_rate": 0.02, **changes})


def trained(alloy, **options):
    options = {"n_members": 4, "settings": settings(), "config": SMALL, **options}
    return train_shallow(alloy[:24], alloy[24:], **options)


def heads(scale=0.5):
    body = EquivariantPotential(["Au", "Cu"], dtype="float64", **SMALL)
    body.scale.fill_(scale)
    return ShallowEnsemble(body, 5, seed=2)


def a_batch(alloy, n=3):
    return next(Batches(alloy[:n], cutoff=3.5, batch_size=n).in_order())


def test_the_likelihood_is_that_of_scipy(alloy):
    potential, batch = heads(), a_batch(alloy)
    members = evaluate(potential, batch.graph)
    scored = Likelihood(energy_weight=0.3)(potential, batch.graph, batch.labels, training=False)
    energies, forces = members.energies.numpy(), members.forces.numpy()
    std_e = np.sqrt(energies.var(axis=0, ddof=1) + (ENERGY_FLOOR * 0.5) ** 2 * 4)
    std_f = np.sqrt(forces.var(axis=0, ddof=1) + (FORCE_FLOOR * 0.5) ** 2)
    nll_e = -stats.norm.logpdf(batch.labels.energies.numpy(), energies.mean(axis=0), std_e).mean()
    nll_f = -stats.norm.logpdf(batch.labels.forces.numpy(), forces.mean(axis=0), std_f).mean()
    constant = 0.5 * np.log(2 * np.pi)
    assert scored.loss.item() == pytest.approx(0.3 * (nll_e - constant) + nll_f - constant)
    assert scored.force_error.numpy() == pytest.approx(forces.mean(axis=0) - batch.labels.forces.numpy())


def test_the_energy_likelihood_moves_the_spread_and_squared_errors_the_mean(alloy):
    potential, batch = heads(), a_batch(alloy)
    weights = Weights(2.0, 1.0, 0.5)

    def gradients(objective):
        potential.zero_grad()
        objective(potential, batch.graph, batch.labels, training=True).loss.backward()
        readout = potential.potential.network.readouts[0].weights[-1].grad
        return readout.clone(), potential.heads.grad

    of_squares, spread = gradients(SquaredErrors(weights))
    assert spread.abs().max() < 1e-12
    of_both, spread = gradients(EnergyLikelihood(weights, spread_weight=0.1))
    torch.testing.assert_close(of_squares, of_both)
    assert spread.abs().max() > 1e-3
    # A common shift of all heads is not a spread.
    assert spread.sum(dim=1).abs().max() < 1e-12 * spread.abs().max()


def test_gradients_of_the_likelihood_by_finite_differences(alloy):
    potential, batch = heads(), a_batch(alloy)
    objective = Likelihood()
    objective(potential, batch.graph, batch.labels, training=True).loss.backward()
    for parameter, index in ((potential.heads, (1, 2)), (potential.potential.network.embedding, (0, 0, 3))):
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter[index] += sign * 1e-5
            values.append(objective(potential, batch.graph, batch.labels, training=False).loss.item())
            with torch.no_grad():
                parameter[index] -= sign * 1e-5
        assert parameter.grad[index].item() == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-5)


def test_spread_learns_the_size_of_the_errors(alloy):
    """Labels with noise that no model can follow: the heads must spread by as much."""
    rng = np.random.default_rng(1)
    noise = 0.3
    noisy = [Frame(f.atoms, f.energy, f.forces + rng.normal(scale=noise, size=f.forces.shape), None, "") for f in alloy]
    train, valid = (Batches(frames, cutoff=3.5, batch_size=6) for frames in (noisy[:24], noisy[24:]))
    potential = heads(scale=1.0)
    before = _mean_std(potential, valid)
    fit(potential, train, valid, settings(epochs=60, ema=0.9), objective=Likelihood(energy_weight=0.0))
    after = _mean_std(potential, valid)
    error = np.sqrt(
        np.mean(
            [
                (Likelihood()(potential, b.graph, b.labels, training=False).force_error.numpy() ** 2).mean()
                for b in valid.in_order()
            ]
        )
    )
    assert abs(np.log(after / error)) < 0.4 < abs(np.log(before / error)) + 0.4
    assert after > 0.5 * noise


def _mean_std(potential, batches):
    return np.sqrt(np.mean([evaluate(potential, b.graph).forces.var(dim=0).mean().item() for b in batches.in_order()]))


def test_two_phases_train_and_report(alloy):
    seen = []
    ensemble = trained(alloy, on_epoch=lambda phase, record: seen.append((phase, record.epoch, record.learning_rate)))
    assert [row[:2] for row in seen] == [(0, i) for i in range(1, 7)] + [(1, i) for i in range(1, 5)]
    assert seen[0][2] == pytest.approx(0.02)
    assert seen[6][2] == pytest.approx(0.004)
    assert ensemble.n_members == 4


def test_a_trained_ensemble_knows_its_errors():
    frames = labelled(60, 3)
    ensemble = train_shallow(frames[:50], frames[50:], n_members=8, settings=settings(epochs=60, ema=0.9), config=SMALL)
    scores = residuals(MemberUncertainty(ensemble), labelled(20, 77)).force_scores()
    assert scores.rmse < 0.25
    assert 0.4 < scores.coverage_68 < 0.95
    assert scores.spearman > 0.2


def test_an_interrupted_training_resumes_to_the_same_result(alloy, tmp_path):
    class Interrupted(Exception):
        pass

    def stop_at(phase, epoch):
        def on_epoch(p, record):
            if (p, record.epoch) == (phase, epoch):
                raise Interrupted

        return on_epoch

    whole = trained(alloy)
    for phase, epoch in ((0, 3), (1, 2)):
        folder = tmp_path / f"{phase}"
        with pytest.raises(Interrupted):
            trained(alloy, state_dir=folder, on_epoch=stop_at(phase, epoch))
        resumed = trained(alloy, state_dir=folder, resume=True)
        for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True):
            assert torch.equal(a, b)
        assert not folder.exists()


def test_fine_tuning_starts_from_the_model(alloy):
    start = trained(alloy)
    before = {name: value.clone() for name, value in start.state_dict().items()}
    # A learning rate of nothing leaves the weights where they were.
    tuned = trained(alloy, start=start, settings=settings(epochs=1, learning_rate=1e-12))
    for name, value in tuned.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=1e-6, atol=1e-8)


def test_bad_input(alloy):
    with pytest.raises(InputError, match="`n_members` must be at least 2"):
        trained(alloy, n_members=1)
    with pytest.raises(InputError, match="`n_members` must be 4 as in the starting model, got 8"):
        trained(alloy, start=trained(alloy, settings=settings(epochs=2)), n_members=8)
