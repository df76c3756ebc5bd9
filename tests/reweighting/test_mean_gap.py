"""`method="gap"`: exact where the energies of members differ by a constant in every bin."""

import numpy as np
import pytest
from ase.units import kB

from ase_uq.reweighting import reweight
from ase_uq.reweighting.columns import FRAMES_IN_BIN, bin_edges

TEMPERATURE = 300.0
KT = kB * TEMPERATURE


def run(a, h, **options):
    return reweight(
        a,
        energy_members=KT * h,
        energy_reference=np.zeros(len(a)),
        temperature_K=TEMPERATURE,
        **{"method": "gap", **options},
    )


def test_two_states_are_exact_where_the_expansion_is_wrong():
    rng = np.random.default_rng(0)
    state = (rng.random(20_000) < 0.5).astype(float)
    gaps = np.array([4.0, -4.0, 2.0, -2.0])
    exact = np.exp(-gaps) / (1 + np.exp(-gaps))
    result = run(state, state[:, None] * gaps)
    np.testing.assert_allclose(result.member_means, exact, rtol=0.05)
    assert result.warnings == ()
    assert run(state, state[:, None] * gaps, method="cea").member_means[0] < -0.4
    histogram = run(np.eye(2)[state.astype(int)], state[:, None] * gaps)
    np.testing.assert_allclose(histogram.member_means[:, 1], result.member_means, rtol=1e-12)
    np.testing.assert_allclose(histogram.member_means.sum(axis=1), 1.0, rtol=1e-12)
    # The free energy between the states is the gap, member by member.
    free = run(np.eye(2)[state.astype(int)], state[:, None] * gaps, function=lambda p: -np.log(p[1] / p[0]))
    np.testing.assert_allclose(free.member_means, gaps, atol=4 * free.std_sampling)
    assert free.std_model == pytest.approx(gaps.std(ddof=1), rel=0.01)


def test_two_states_with_noise_inside_are_exact_too():
    """Noise of the same width in both states cancels; of different widths it does not, and the next term says so."""
    rng = np.random.default_rng(1)
    state = (rng.random(50_000) < 0.5).astype(float)
    gap = np.array([2.0, -2.0, 1.0, -1.0])
    exact = np.exp(-gap) / (1 + np.exp(-gap))
    noise = rng.normal(size=(50_000, 4))
    noise -= noise.mean(axis=1, keepdims=True)
    same = run(state, state[:, None] * gap + 0.8 * noise)
    np.testing.assert_allclose(same.member_means, exact, rtol=0.05)
    assert same.warnings == ()
    other = run(state, state[:, None] * gap + 1.6 * noise * state[:, None])
    assert any("next term of the expansion inside the bins" in w for w in other.warnings)


def test_bins_of_another_shape_than_width_are_told_by_direct_weights():
    """Noise of one width, skewed in one state only: the next term of the expansion is the same in both."""
    rng = np.random.default_rng(6)
    state = (rng.random(50_000) < 0.5).astype(float)
    normal, skewed = rng.normal(size=50_000), rng.exponential(size=50_000) - 1.0
    factors = np.array([0.9, 0.5, -0.3, -0.4])
    result = run(state, np.where(state > 0, skewed, normal)[:, None] * factors)
    exact = np.exp(factors) / (1.0 + factors)
    exact = exact / (exact + np.exp(0.5 * factors**2))
    assert abs(result.member_means - exact).max() > 5.0 * result.std_sampling
    assert any(text.startswith("mean gaps and direct weights differ") for text in result.warnings)
    assert not any("next term" in text for text in result.warnings)
    plain = run(state, normal[:, None] * factors)
    assert not any("direct weights" in text for text in plain.warnings)


@pytest.mark.parametrize("std_h", [0.5, 1.0, 2.0])
def test_gaussian_toy(std_h):
    rng = np.random.default_rng(2)
    found = []
    for _ in range(60):
        h = std_h * rng.normal(size=2000)
        a = 0.5 * h / std_h + np.sqrt(0.75) * rng.normal(size=2000)
        found.append(run(a, np.stack([h, -h], axis=1)).member_means)
    found = np.array(found)
    # The tails end at the last frame of the run: beyond two widths the shift begins to be missed.
    tolerance = 0.02 if std_h < 2 else 0.06
    np.testing.assert_allclose(found.mean(axis=0), [-0.5 * std_h, 0.5 * std_h], atol=tolerance)


@pytest.mark.parametrize(("softest", "told"), [(0.7, False), (0.2, True)])
def test_a_member_that_goes_where_the_run_does_not_is_told(softest, told):
    """x^2 of a soft spring lies beyond the last frame of a stiff one: the average and the spread miss it."""
    k = np.array([softest, 0.9, 1.1, 2.0 - softest])
    warned, found = [], []
    for seed in range(6):
        x = np.random.default_rng(seed).normal(size=2000)
        result = run(x**2, 0.5 * (k - 1.0) * x[:, None] ** 2)
        warned.append(any("end of the range of the run" in text for text in result.warnings))
        found.append(result.member_means[0])
    assert np.mean(warned) == told
    assert (np.mean(found) < 0.75 / softest) == told


def test_states_of_small_weight_have_no_end():
    rng = np.random.default_rng(5)
    state = (rng.random(2000) < 0.02).astype(float)
    gaps = np.array([3.0, -3.0, 1.0, -1.0])
    assert not any("end of the range" in text for text in run(state, state[:, None] * gaps).warnings)


def test_springs_are_exact_at_any_stiffness():
    k = np.array([0.5, 0.7, 1.3, 2.0])
    x = np.sqrt(KT) * np.random.default_rng(3).normal(size=100_000)
    members = 0.5 * k * x[:, None] ** 2
    options = {"energy_members": members, "energy_reference": 0.5 * x**2, "temperature_K": TEMPERATURE}
    gap = reweight(x**2, method="gap", **options)
    np.testing.assert_allclose(gap.member_means, KT / k, rtol=0.05)
    expansion = reweight(x**2, **options)
    np.testing.assert_allclose(expansion.member_means, KT * (2 - k), rtol=0.05, atol=0.02 * KT)


def test_sampling_error_is_the_spread_of_repeated_runs():
    found, errors, noise, spread = [], [], [], []
    for seed in range(120):
        rng = np.random.default_rng(seed)
        a = rng.normal(size=600)
        result = run(a, 0.5 * rng.normal(size=(600, 4)))
        found.append(result.mean)
        errors.append(result.std_sampling)
        noise.append(result.noise)
        spread.append(result.std_model_naive**2)
    assert np.mean(errors) == pytest.approx(np.std(found, ddof=1), rel=0.2)
    assert np.mean(noise) == pytest.approx(np.mean(spread), rel=0.25)  # there is no model error here


def test_frames_outside_a_histogram_keep_their_weight():
    rng = np.random.default_rng(4)
    state = rng.integers(0, 3, size=30_000)
    h = state[:, None] * np.array([[1.0, -1.0]])
    result = run(np.eye(3)[state][:, :2], h)
    weights = np.exp(-np.outer([1.0, -1.0], np.arange(3)))
    np.testing.assert_allclose(result.member_means, (weights / weights.sum(axis=1)[:, None])[:, :2], rtol=0.05)


def test_a_preference_for_what_the_run_hardly_visits_is_called_out():
    rng = np.random.default_rng(5)
    state = np.zeros(2000, dtype=int)
    state[rng.choice(2000, size=5, replace=False)] = 1
    result = run(np.eye(2)[state], -8.0 * state[:, None] * np.array([[1.0, 0.5, 0.0, -0.5]]))
    assert any("bins of fewer than 10 frames" in w for w in result.warnings)


def test_bins_too_wide_for_the_run_are_called_out():
    rng = np.random.default_rng(8)
    for n, wide in ((60, True), (5000, False)):
        x = rng.normal(size=n)
        result = run(x, 0.3 * x[:, None] * [[-1.0, 1.0]])
        assert any("lies inside the bins" in w for w in result.warnings) == wide


def test_bins():
    rng = np.random.default_rng(6)
    x = rng.standard_t(2, size=5000)
    counts = np.bincount(np.searchsorted(bin_edges(x), x, side="right"))
    assert counts.min() >= FRAMES_IN_BIN
    assert 15 < len(counts) < 200
    assert bin_edges(np.zeros(30)).tolist() == []
    assert bin_edges(np.repeat([1.0, 3.0], 30)).tolist() == [2.0]
    assert bin_edges(np.repeat([0.0, 1.0, 5.0], 30)).tolist() == [0.5, 3.0]


def test_a_constant_observable_has_no_error():
    h = np.random.default_rng(7).normal(size=(100, 3))
    result = run(np.full(100, 0.1), h)
    assert result.mean == pytest.approx(0.1, rel=1e-12)
    assert result.std_total == pytest.approx(0.0, abs=1e-12)
