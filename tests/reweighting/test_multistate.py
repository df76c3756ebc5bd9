"""MBAR weights: springs sampled under umbrellas and at two temperatures, whose averages are known."""

import pickle

import numpy as np
import pytest
from ase.units import kB
from scipy.signal import lfilter
from scipy.stats import norm

from ase_uq.errors import InputError
from ase_uq.reweighting import reweight
from ase_uq.reweighting.multistate import MBARWeights, interleaved, mbar_log_weights, order_of_states

KT = kB * 300.0


def umbrellas(rng, n=4000):
    """A unit spring (kT units) under biases (x - c)^2/10; samples are Gaussian of variance 1/1.2 about c/6."""
    centres = np.array([-6.0, 0.0, 6.0])
    x = np.concatenate([c / 6 + rng.normal(size=n) / np.sqrt(1.2) for c in centres])
    return x, 0.5 * x**2 + 0.1 * (x - centres[:, None]) ** 2, np.full(3, n)


def average_under_members(x, logs, order):
    k = np.array([0.8, 0.9, 1.1, 1.2])
    x, logs = x[order], logs[order]
    members = KT * 0.5 * k * x[:, None] ** 2
    options = {"energy_members": members, "energy_reference": KT * 0.5 * x**2, "temperature_K": 300.0}
    return reweight(x**2, log_weights=logs, method="direct", **options), 1 / k


def test_umbrellas_give_the_unbiased_average_under_every_member():
    x, u, n = umbrellas(np.random.default_rng(0))
    result, exact = average_under_members(x, mbar_log_weights(u, n, 0.5 * x**2), interleaved(n))
    np.testing.assert_allclose(result.member_means, exact, rtol=0.05)
    assert not result.warnings


def test_the_sampling_error_is_the_spread_of_repeated_runs():
    found, errors = [], []
    for seed in range(60):
        x, u, n = umbrellas(np.random.default_rng(seed), 300)
        result, _ = average_under_members(x, mbar_log_weights(u, n, 0.5 * x**2), interleaved(n))
        found.append(result.mean)
        errors.append(result.std_sampling)
    assert np.mean(errors) == pytest.approx(np.std(found, ddof=1), rel=0.25)


def test_the_weights_are_those_of_pymbar():
    from pymbar import MBAR

    x, u, n = umbrellas(np.random.default_rng(1), 500)
    logs = mbar_log_weights(u, n, 0.5 * x**2)
    solved = MBAR(u, n, solver_protocol=({"method": "adaptive"},))
    theirs = solved.compute_expectations(x**2, u_kn=0.5 * x**2, state_dependent=False)["mu"]
    assert np.average(x**2, weights=np.exp(logs)) == pytest.approx(float(np.ravel(theirs)[0]), rel=1e-6)


def test_every_stretch_holds_all_states():
    labels = np.repeat([0, 1, 2], [100, 300, 600])[interleaved([100, 300, 600])]
    for stretch in np.split(labels, 20):
        np.testing.assert_allclose(np.bincount(stretch, minlength=3), [5, 15, 30], atol=1)


def test_two_temperatures():
    rng = np.random.default_rng(2)
    kelvin, n = np.array([300.0, 450.0]), np.array([5000, 5000])
    x = np.concatenate([rng.normal(size=5000) * np.sqrt(t / 300.0) for t in kelvin])
    u = 0.5 * x**2 * (300.0 / kelvin)[:, None]
    logs = mbar_log_weights(u, n, 0.5 * x**2 * 300.0 / 350.0)
    assert np.average(x**2, weights=np.exp(logs)) == pytest.approx(350 / 300, rel=0.05)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"n_frames": [10, 10, 11]}, r"\(3,\) with sum 31"),
        ({"target": np.zeros(29)}, r"\(29,\)"),
        ({"target": np.full(30, np.nan)}, "`target` must be finite"),
        ({"n_frames": [10, 0, 20]}, "at least 1, for every state, got 0 for state 1; leave out its row"),
        ({"n_frames": [10, 9.5, 10.5]}, "whole number of frames, .* got 9.5 for state 1"),
    ],
)
def test_bad_input(change, words):
    good = {"reduced_energies": np.zeros((3, 30)), "n_frames": [10, 10, 10], "target": np.zeros(30)}
    with pytest.raises(InputError, match=words):
        mbar_log_weights(**(good | change))


# ---------------------------------------------------------------------------------------------------------------------
# Free energies are known from the same frames
# ---------------------------------------------------------------------------------------------------------------------

GRID = np.linspace(-3.0, 3.0, 3001)
WELLS = 5.0 * (GRID**2 - 1.0) ** 2 + 0.3 * GRID  # kT, a barrier of 5
OBSERVABLES = (lambda x: 1.0 * (x > 0), lambda x: x, lambda x: x**2)


def windows(seed, *, centres, stiffness, n_frames, memory):
    """Frames of umbrella windows on a double well, correlated through their ranks: x, u (n_states, T), N, target."""
    rng, parts = np.random.default_rng(seed), []
    for centre in centres:
        energy = WELLS + 0.5 * stiffness * (GRID - centre) ** 2
        cumulative = np.cumsum(np.exp(-(energy - energy.min())))
        noise = rng.normal(size=n_frames) * np.sqrt(1 - memory**2)
        noise[0] /= np.sqrt(1 - memory**2)
        parts.append(np.interp(norm.cdf(lfilter([1.0], [1.0, -memory], noise)), cumulative / cumulative[-1], GRID))
    x = np.concatenate(parts)
    target = np.interp(x, GRID, WELLS)
    return x, target + 0.5 * stiffness * (x - np.array(centres)[:, None]) ** 2, [n_frames] * len(centres), target


def reweighed(values, x, target, logs, order=slice(None), **options):
    members = KT * (target[:, None] + 0.1 * x[:, None] * np.array([-1.0, -0.5, 0.5, 1.0]))
    return reweight(
        values[order],
        energy_members=members[order],
        energy_reference=KT * target[order],
        temperature_K=300.0,
        log_weights=logs[order],
        **options,
    )


@pytest.mark.parametrize(
    ("centres", "stiffness", "n_frames", "memory"),
    [
        (np.linspace(-1.3, 1.3, 8), 40.0, 150, 0.0),
        (np.linspace(-1.2, 1.2, 5), 15.0, 300, 0.5),
        (np.linspace(-1.2, 1.2, 4), 8.0, 800, 0.9),
    ],
)
def test_bars_after_mbar_are_the_spread_of_repeats(centres, stiffness, n_frames, memory):
    found, errors = [], []
    for seed in range(60):
        x, u, n, target = windows(seed, centres=centres, stiffness=stiffness, n_frames=n_frames, memory=memory)
        logs, order = mbar_log_weights(u, n, target), interleaved(n)
        results = [reweighed(f(x), x, target, logs, order) for f in OBSERVABLES]
        found.append([np.average(f(x), weights=np.exp(logs)) for f in OBSERVABLES])
        errors.append([result.std_sampling for result in results])
    # Sixty repeats know their spread to 9 %.
    np.testing.assert_allclose(
        np.sqrt(np.mean(np.square(errors), axis=0)) / np.std(found, axis=0, ddof=1), 1.0, atol=0.25
    )


def test_bars_after_mbar_are_those_of_pymbar():
    from pymbar import MBAR

    x, u, n, target = windows(0, centres=np.linspace(-1.3, 1.3, 7), stiffness=30.0, n_frames=500, memory=0.0)
    right = 1.0 + (x > 0)  # pymbar takes logarithms
    result = reweighed(right, x, target, mbar_log_weights(u, n, target), interleaved(n))
    solved = MBAR(u, n, solver_protocol=({"method": "adaptive"},))
    theirs = solved.compute_expectations(right, u_kn=target, state_dependent=False)
    assert result.std_sampling == pytest.approx(float(np.ravel(theirs["sigma"])[0]), rel=0.15)
    shares = reweighed(
        right,
        x,
        target,
        np.asarray(mbar_log_weights(u, n, target)),
        interleaved(n),
        state_shares=(solved.W_nk * solved.N_k)[interleaved(n)],
    )
    assert shares.std_sampling == pytest.approx(result.std_sampling, rel=0.1)


@pytest.fixture(scope="module")
def sampled():
    x, u, n, target = windows(1, centres=(-1.0, 0.0, 1.0), stiffness=6.0, n_frames=400, memory=0.0)
    return x, n, target, mbar_log_weights(u, n, target)


def test_frames_in_any_order_have_the_same_bars(sampled):
    x, n, target, logs = sampled
    one = reweighed(x, x, target, logs, interleaved(n))
    other = reweighed(x, x, target, logs)
    assert other.std_sampling == pytest.approx(one.std_sampling, rel=1e-9)
    np.testing.assert_allclose(other.member_means, one.member_means, rtol=1e-9)
    for method in ("direct", "gap"):
        bar = reweighed(x, x, target, logs, method=method).std_sampling
        assert bar == pytest.approx(one.std_sampling, rel=0.3)


def test_weights_remember_what_an_index_or_a_shift_leaves(sampled):
    _, n, _, logs = sampled
    order = interleaved(n)
    for same in (logs[order], logs[order] - logs.max(), pickle.loads(pickle.dumps(logs))[order]):
        np.testing.assert_allclose(same.shares, logs.shares[order])
        np.testing.assert_array_equal(same.states, np.repeat(np.arange(3), 400)[order])
    for plain in (np.exp(logs), 2.0 * logs, logs + logs, np.asarray(logs)):
        assert getattr(plain, "shares", None) is None or plain.shape == logs.shape
    assert type(np.exp(logs)) is np.ndarray
    assert isinstance(float(logs.max()), float)
    assert isinstance(logs[3], float)


def test_thinned_frames_still_have_bars(sampled):
    x, n, target, logs = sampled
    all_of_them, half = (reweighed(x, x, target, logs, interleaved(n)[::step]) for step in (1, 2))
    assert half.std_sampling == pytest.approx(np.sqrt(2.0) * all_of_them.std_sampling, rel=0.3)


def test_weights_that_do_not_belong_to_the_frames_are_refused(sampled):
    x, _, target, logs = sampled
    cases = {
        "must be those of all its frames, got 400 of state": (logs[:400], {}, slice(0, 400)),
        "which these have lost, as by take": (np.sort(logs), {}, slice(None)),
        "`runs` cannot be told apart": (logs, {"runs": np.repeat(np.arange(3), 400)}, slice(None)),
        "must add up to 1": (np.asarray(logs), {"state_shares": np.ones((1200, 3))}, slice(None)),
        r"one row a frame, \(1200, n_states\), got \(3, 1200\)": (
            np.asarray(logs),
            {"state_shares": np.ones((3, 1200))},
            slice(None),
        ),
    }
    for words, (given, options, part) in cases.items():
        with pytest.raises(InputError, match=words):
            reweighed(x[part], x[part], target[part], given, **options)
    with pytest.raises(InputError, match="`log_weights` are needed"):
        reweight(
            x,
            energy_members=np.zeros((1200, 2)),
            energy_reference=np.zeros(1200),
            temperature_K=300.0,
            state_shares=logs.shares,
        )
    assert isinstance(logs, MBARWeights)


def test_order_of_states_keeps_the_order_within_a_state():
    states = np.array([1, 0, 1, 1, 0, 1])
    order = order_of_states(states)
    assert order.tolist() == [0, 1, 2, 3, 4, 5]
    assert order_of_states([0, 0, 1, 1, 1, 1]).tolist() == interleaved([2, 4]).tolist()
