"""Scores of draws against closed forms and `scoringrules`, and noise that gets the size of the errors."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import scoringrules
import torch

from ase_uq.potentials import evaluate, make_variational
from ase_uq.training.batches import Batches
from ase_uq.training.crps import fair_crps, gaussian_crps
from ase_uq.training.noise import DrawsScore, evaluate_draws, fit_noise, size_of_errors, without_constants
from tests.made.alloys import labelled
from tests.made.potentials import potential

RNG = np.random.default_rng(0)


def test_the_score_of_gaussians_is_that_of_scoringrules():
    error, std = RNG.normal(size=50), RNG.uniform(0.01, 3.0, size=50)
    found = gaussian_crps(torch.from_numpy(error), torch.from_numpy(std))
    assert found.numpy() == pytest.approx(scoringrules.crps_normal(error, 0.0, std), rel=1e-10)


@pytest.mark.parametrize("n_draws", [2, 3, 7])
def test_the_score_of_draws_is_that_of_scoringrules(n_draws):
    members, labels = RNG.normal(size=(n_draws, 40)), RNG.normal(size=40)
    found = fair_crps(torch.from_numpy(members), torch.from_numpy(labels)).numpy()
    assert found == pytest.approx(scoringrules.crps_ensemble(labels, members.T, estimator="fair"), rel=1e-10)


def test_two_draws_give_the_score_of_their_law_on_average():
    label, std = 0.7, 1.3
    members = torch.from_numpy(RNG.normal(scale=std, size=(2, 200_000)))
    found = fair_crps(members, torch.full((200_000,), label, dtype=torch.float64))
    closed = float(gaussian_crps(torch.tensor(label), torch.tensor(std)))
    assert abs(float(found.mean()) - closed) < 5 * float(found.std()) / 200_000**0.5


def test_draws_tied_to_their_mean_are_no_estimate():
    label = torch.full((200_000,), 0.7, dtype=torch.float64)
    members = torch.from_numpy(RNG.normal(size=(2, 200_000)))
    tied = (members - members.mean(dim=0)) * 2**0.5  # of unit variance again
    closed = float(gaussian_crps(torch.tensor(0.7), torch.tensor(1.0)))
    assert abs(float(fair_crps(tied, label).mean()) - closed) > 0.05


def test_energies_without_constants_do_not_know_of_any():
    counts = torch.from_numpy(RNG.integers(1, 9, size=(7, 2)).astype(float))
    energies = torch.from_numpy(RNG.normal(size=(3, 7)))
    shifted = energies + (counts @ torch.from_numpy(RNG.normal(size=(2, 3)) * 100.0)).T
    torch.testing.assert_close(without_constants(shifted, counts), without_constants(energies, counts))
    # What is left has two degrees of freedom less.
    assert int(torch.linalg.matrix_rank(without_constants(torch.eye(7, dtype=torch.float64), counts))) == 5


def test_the_factor_puts_a_normal_share_within_one_standard_deviation():
    kinds = [torch.from_numpy(np.abs(RNG.normal(scale=3.0, size=20_000))) for _ in range(2)]
    assert size_of_errors(kinds) == pytest.approx(3.0, rel=0.02)
    kinds[1] *= 2.0
    factor = size_of_errors(kinds)
    assert np.mean([float((kind < factor).double().mean()) for kind in kinds]) == pytest.approx(0.6827, abs=1e-3)


@pytest.fixture(scope="module")
def noisy():
    """A potential that is wrong by a twentieth of its forces, on frames of its own."""
    made = make_variational(potential(elements=("Au", "Cu")), seed=1)
    batches = list(Batches(labelled(20, 0), cutoff=3.5, batch_size=5).in_order())
    made.learn([batch.graph for batch in batches])
    generator, mine = torch.Generator().manual_seed(0), []
    for batch in batches:
        found = evaluate(made, batch.graph)
        errors = torch.randn(found.forces[0].shape, generator=generator, dtype=torch.float64)
        forces = found.forces[0] + 0.05 * found.forces.std() * errors
        mine.append(replace(batch, labels=replace(batch.labels, energies=found.energies[0], forces=forces)))
    return made, mine


@pytest.mark.parametrize("start", [-12.0, 0.0, 12.0, 40.0])
def test_noise_gets_the_size_of_the_errors(noisy, start):
    made, batches = copy.deepcopy(noisy[0]), noisy[1]
    made.rates.shift_logits(start)
    # Energies are right, all of them within: more of the forces may be outside.
    fit_noise(made, batches)
    shares = []
    for batch in batches:
        found = evaluate_draws(made, batch.graph, 16, torch.Generator().manual_seed(9))
        mean = evaluate(made, batch.graph).forces[0]
        shares.append(float(((mean - batch.labels.forces).abs() < found.forces.std(dim=0)).double().mean()))
    assert np.mean(shares) == pytest.approx((3 * 0.683 - 1.0) / 2.0, abs=0.1)


def test_draws_of_any_layers_are_scored_alike(noisy):
    made, batches = noisy
    both = make_variational(potential(elements=("Au", "Cu")), seed=1, layers=("readout", "radial"))
    both.learn([batch.graph for batch in batches])
    batch = batches[0]
    for each in (made, both):
        score = DrawsScore(seed=3)
        losses = []
        for epoch in (0, 1, 0):
            score.begin_epoch(epoch, progress=0.0)
            losses.append(score(each, batch.graph, batch.labels, training=True).loss.item())
            losses.append(score(each, batch.graph, batch.labels, training=False).loss.item())
        assert losses[0] == losses[4] != losses[2]
        assert losses[1] == pytest.approx(losses[3])  # validation sees the same draws in every epoch


def test_the_score_has_derivatives_by_the_rates(noisy):
    made, batches = noisy
    made.rates.zero_grad()
    score = DrawsScore(seed=3)

    def loss():
        score.begin_epoch(0, progress=0.0)
        return score(made, batches[0].graph, batches[0].labels, training=True).loss

    loss().backward()
    bias, values = made.rates.node.bias, []
    for sign in (1, -1):
        with torch.no_grad():
            bias[0] += sign * 1e-4
        values.append(loss().item())
        with torch.no_grad():
            bias[0] -= sign * 1e-4
    # The unit of a frame counts as given, and moves a little with the draws.
    assert bias.grad[0].item() == pytest.approx((values[0] - values[1]) / 2e-4, rel=0.1)
