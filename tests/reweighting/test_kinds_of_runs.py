"""Biased runs, walkers of replica exchange, several runs: frames that are not one canonical stretch."""

import numpy as np
import pytest
from ase.units import kB
from scipy.signal import lfilter

from ase_uq.errors import InputError
from ase_uq.reweighting import reweight

TEMPERATURE = 300.0
KT = kB * TEMPERATURE


def run(a, h, **options):
    return reweight(
        a,
        energy_members=KT * h,
        energy_reference=np.zeros(len(a)),
        **{"temperature_K": TEMPERATURE, **options},
    )


# ---------------------------------------------------------------------------------------------------------------------
# Weights of a biased run
# ---------------------------------------------------------------------------------------------------------------------


def biased_springs(rng, n=20_000, phi=0.0):
    """A unit spring sampled under half its stiffness (bias -x^2/4), and members of other stiffness; all in kT."""
    noise = rng.normal(size=n)
    x = np.sqrt(2.0) * lfilter([np.sqrt(1 - phi**2)], [1, -phi], noise)
    k = np.array([0.9, 0.95, 1.05, 1.1])
    return x, 0.5 * (k - 1) * x[:, None] ** 2, -0.25 * x**2, k


@pytest.mark.parametrize(("method", "exact"), [("direct", lambda k: 1 / k), ("cea", lambda k: 2 - k)])
def test_weights_take_the_bias_away(method, exact):
    x, h, log_weights, k = biased_springs(np.random.default_rng(0), 200_000)
    result = run(x**2, h, log_weights=log_weights, method=method)
    np.testing.assert_allclose(result.member_means, exact(k), rtol=0.02)
    forgotten = run(x**2, h, method=method)
    assert forgotten.mean > 1.7
    # A constant in the weights changes nothing, however large.
    shifted = run(x**2, h, log_weights=log_weights + 1e4, method=method)
    assert shifted.mean == pytest.approx(result.mean, rel=1e-9)
    assert shifted.std_total == pytest.approx(result.std_total, rel=1e-6)


@pytest.mark.parametrize("method", ["direct", "cea", "gap"])
def test_sampling_error_of_a_biased_run_is_the_spread_of_repeated_runs(method):
    means, errors = [], []
    for seed in range(100):
        x, h, log_weights, _ = biased_springs(np.random.default_rng(seed), 3000, phi=0.8)
        result = run(x**2, h, log_weights=log_weights, method=method)
        means.append(result.mean)
        errors.append(result.std_sampling)
    assert np.mean(errors) == pytest.approx(np.std(means, ddof=1), rel=0.2)


def test_weights_written_another_way():
    x, h, log_weights, _ = biased_springs(np.random.default_rng(1), 500)
    b = np.exp(log_weights)
    for i, column in enumerate(h.T):
        a, mean_h = np.average(x, weights=b), np.average(column, weights=b)
        by_hand = a - np.average((x - a) * (column - mean_h), weights=b)
        assert run(x, h, log_weights=log_weights).member_means[i] == pytest.approx(by_hand, abs=1e-10)
        exact = np.average(x, weights=b * np.exp(-column))
        direct = run(x, h, log_weights=log_weights, method="direct")
        assert direct.member_means[i] == pytest.approx(exact, abs=1e-10)


def test_weights_that_leave_a_single_frame_have_no_error_bar():
    x, h, _, _ = biased_springs(np.random.default_rng(3), 500)
    for height in (30.0, 900.0):
        for method in ("cea", "direct", "gap"):
            result = run(x, h, log_weights=height * (np.arange(500) == 77), method=method)
            assert np.isnan(result.std_sampling)
            assert "leave 1 of 500 frames" in result.warnings[0]


def test_few_effective_frames_are_few_independent_ones():
    x, h, _, _ = biased_springs(np.random.default_rng(4), 3000)
    result = run(x, h, log_weights=2.0 * x)
    assert result.ess < 200
    assert any("independent frames" in w or "effective frames" in w for w in result.warnings)


def test_a_bias_that_leaves_few_frames_is_called_out():
    x, h, _, _ = biased_springs(np.random.default_rng(2), 2000)
    result = run(x, h, log_weights=-4.0 * np.abs(x - 6.0) ** 2)
    assert any("weights of the biased run leave only" in w for w in result.warnings)
    assert not any("biased run" in w for w in run(x, h).warnings)


# ---------------------------------------------------------------------------------------------------------------------
# Several temperatures
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["direct", "cea"])
def test_members_reweigh_within_each_temperature(method):
    rng = np.random.default_rng(3)
    kelvin = np.repeat([300.0, 600.0], [400, 600])
    x = rng.normal(size=1000) * np.sqrt(kelvin / 300.0)
    members = KT * 0.3 * (x[:, None] ** 2 + 0.5 * x[:, None]) * [[1.0, -0.5, -0.5]] + [0.0, 5.0, -3.0]
    options = {"energy_reference": np.zeros(1000), "method": method}
    together = reweight(x, energy_members=members, temperature_K=kelvin, **options)
    parts = []
    for t in (300.0, 600.0):
        there = kelvin == t
        options["energy_reference"] = np.zeros(there.sum())
        parts.append(reweight(x[there], energy_members=members[there], temperature_K=t, **options).member_means)
    np.testing.assert_allclose(together.member_means, 0.4 * parts[0] + 0.6 * parts[1], atol=1e-9)


@pytest.mark.parametrize("method", ["direct", "cea"])
@pytest.mark.parametrize("gap", [0.0, 10.0])
def test_averages_that_differ_by_temperature_put_no_noise_into_the_spread(method, gap):
    """The same fluctuations about means 10 widths apart: the members' spread is known as well as at one temperature."""
    spreads = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        kelvin = np.repeat([300.0, 600.0], 1500)
        x = rng.normal(size=3000)
        h = 0.02 * x[:, None] * np.linspace(-1, 1, 6) + 0.2 * rng.normal(size=(3000, 6))
        members = units_of_kT(kelvin) * (h - h.mean(axis=1, keepdims=True))
        options = {"energy_members": members, "energy_reference": np.zeros(3000), "temperature_K": kelvin}
        result = reweight(x + gap * (kelvin > 400), method=method, **options)
        spreads.append(result.std_model_naive**2 - result.noise)
        assert result.mean == pytest.approx(x.mean() + gap / 2, abs=0.05)
    assert np.mean(spreads) == pytest.approx((0.02 * np.linspace(-1, 1, 6)).var(ddof=1), rel=0.3)


def units_of_kT(kelvin):
    return kB * kelvin[:, None]


# ---------------------------------------------------------------------------------------------------------------------
# Several runs
# ---------------------------------------------------------------------------------------------------------------------


def test_runs_that_differ_give_the_sampling_error():
    """Each run is stuck near a value of its own: no correlation inside of them shows that."""
    rng = np.random.default_rng(4)
    centres = rng.normal(size=12)
    a = (centres[:, None] + 0.1 * rng.normal(size=(12, 500))).ravel()
    h = 0.1 * rng.normal(size=(6000, 4))
    h -= h.mean(axis=1, keepdims=True)
    labels = np.repeat(np.arange(12), 500)
    result = run(a, h, runs=labels)
    assert result.n_blocks == 12
    assert result.mean == pytest.approx(run(a, h).mean, rel=1e-9)
    assert result.std_sampling == pytest.approx(centres.std(ddof=1) / np.sqrt(12), rel=0.1)


def test_labels_may_be_words():
    rng = np.random.default_rng(6)
    a, h = rng.normal(size=60), rng.normal(size=(60, 3))
    assert run(a, h, runs=np.repeat(["cold", "warm"], 30)).mean == pytest.approx(run(a, h).mean)


def test_runs_of_different_length_weigh_by_their_frames():
    rng = np.random.default_rng(5)
    lengths = rng.integers(20, 300, size=9)
    a, h = rng.normal(size=lengths.sum()), 0.2 * rng.normal(size=(lengths.sum(), 3))
    result = run(a, h, runs=np.repeat(np.arange(9), lengths))
    np.testing.assert_allclose(result.member_means, run(a, h).member_means, rtol=1e-9)
    assert result.std_sampling == pytest.approx(1 / np.sqrt(len(a)), rel=0.6)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"runs": np.tile([0, 1], 15)}, "keep the frames of a run together, got 30 stretches of 2 runs"),
        ({"log_weights": np.zeros(29)}, r"`log_weights` must have one value a frame, \(30,\), got \(29,\)"),
        ({"log_weights": np.where(np.arange(30) == 4, np.inf, 0.0)}, "`log_weights` must be finite.*frame 4"),
        ({"temperature_K": np.full(30, -1.0)}, "`temperature_K` must be positive, got -1.0"),
        ({"temperature_K": np.full(29, 300.0)}, r"`temperature_K` must have one value a frame"),
        ({"temperature_K": np.repeat([300.0, 400.0], 15), "method": "gap"}, "one number for method 'gap'"),
    ],
)
def test_bad_input(change, words):
    with pytest.raises(InputError, match=words):
        run(np.zeros(30), np.zeros((30, 4)), **change)
