"""How many independent values correlated errors are: known directions, and what it makes of the error bar of alpha."""

import numpy as np
import pytest

from ase_uq.validation.calibration import calibrate
from ase_uq.validation.independent_values import independent_shares
from ase_uq.validation.student_t import scale_variance


def draws(rng, *, n_draws, n_structures, directions):
    """Independent values (n_draws, S), or functions in so many directions of equal weight."""
    if directions is None:
        return rng.normal(size=(n_draws, n_structures))
    return rng.normal(size=(n_draws, directions)) @ rng.normal(size=(directions, n_structures))


def mean_share(n_members, directions, *, n_structures=150, repeats=40):
    """Mean over repeats of 1/n, of each distribution one over the mean of n."""
    found = []
    for seed in range(repeats):
        all_draws = draws(
            np.random.default_rng(seed), n_draws=n_members + 1, n_structures=n_structures, directions=directions
        )
        deviations = all_draws[1:] - all_draws[1:].mean(axis=0)
        values, probabilities = independent_shares(deviations, all_draws[0], weights=np.ones(n_structures), exact=False)
        assert probabilities.sum() == pytest.approx(1.0)
        found.append(1.0 / (probabilities @ (1.0 / values)))
    return np.mean(found)


@pytest.mark.parametrize(("n_members", "directions"), [(4, 6), (4, 25), (8, 6), (8, 25), (16, 25)])
def test_directions_of_the_members_are_counted(n_members, directions):
    # Normalised columns show p/(p + 2) of a small squared correlation, p being the number of members.
    true = (1.0 / directions + 1.0 / 150.0) * n_members / (n_members + 2.0)
    assert mean_share(n_members, directions) == pytest.approx(true, rel=0.35)


@pytest.mark.parametrize(("n_members", "at_most"), [(4, 1.6), (8, 1.35), (16, 1.25)])
def test_independent_errors_stay_nearly_independent(n_members, at_most):
    assert 1.0 <= 150.0 * mean_share(n_members, None) <= at_most


def test_the_exact_covariance_is_taken_as_it_is():
    deviations = draws(np.random.default_rng(0), n_draws=30, n_structures=50, directions=4)
    deviations -= deviations.mean(axis=0)
    values, probabilities = independent_shares(deviations, np.ones(50), weights=np.ones(50), exact=True)
    rho = np.corrcoef(deviations.T)
    spread = (deviations**2).sum(axis=0)
    rho = (deviations.T @ deviations) / np.sqrt(np.outer(spread, spread))
    assert (len(values), probabilities[0]) == (1, 1.0)
    assert values[0] == pytest.approx((rho**2).mean(), rel=1e-9)


def inside(seed, *, n_members, directions, pinned, n_structures=100, n_compositions=5):
    """Whether alpha lies within two of its errors of the truth, and the error over alpha."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.resize(np.arange(n_compositions), n_structures))
    energies = draws(rng, n_draws=n_members + 1, n_structures=n_structures, directions=directions)
    alpha = np.exp(rng.uniform(*np.log((0.15, 2.5) if pinned else (0.6, 2.5))))
    deviations = energies[1:] - (energies[1:].mean(axis=0) if pinned else 0.0)
    constants = 5.0 * rng.normal(size=(n_members + 1, n_compositions))
    fitted = calibrate(
        reference=alpha * energies[0] + constants[0, labels],
        members=deviations + constants[1:, labels],
        mean_share=0.0 if pinned else None,
        compositions=[f"C{label}" for label in labels],
    )
    return abs(fitted.alpha - alpha) <= 2.0 * fitted.alpha_std_error, fitted.alpha_std_error / fitted.alpha


@pytest.mark.parametrize("pinned", [True, False])
def test_four_members_know_how_badly_they_know_alpha(pinned):
    """A number of directions taken as known would make it nine trials of ten."""
    trials = [inside(seed, n_members=4, directions=15, pinned=pinned) for seed in range(150)]
    assert 0.93 <= np.mean([found for found, _ in trials]) <= 0.985


def test_independent_structures_keep_their_error_bar():
    trials = [inside(seed, n_members=8, directions=None, pinned=True) for seed in range(60)]
    # Of 95 values that are left of 100.
    known = np.sqrt(scale_variance(95.0, dof=7.0))
    assert np.median([error for _, error in trials]) == pytest.approx(known, rel=0.25)
