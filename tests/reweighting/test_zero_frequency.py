"""Sampling errors of what vibrates, and of what hides a slow motion under a fast one, against closed forms."""

import numpy as np
import pytest
from ase.units import kB
from scipy.signal import lfilter

from ase_uq.reweighting import reweight
from ase_uq.reweighting.statistics import statistical_inefficiency
from ase_uq.reweighting.zero_frequency import zero_frequency

KT = kB * 300.0


def relaxing(rng, time, n_runs, n_frames):
    """Autoregressions of order 1 and unit variance, and their inefficiency."""
    phi = np.exp(-1.0 / time) if time > 0 else 0.0
    noise = rng.normal(size=(n_frames, n_runs)) * np.sqrt(1.0 - phi**2)
    noise[0] /= np.sqrt(1.0 - phi**2)
    return lfilter([1.0], [1.0, -phi], noise, axis=0), (1.0 + phi) / (1.0 - phi)


def vibrating(rng, period, life, n_runs, n_frames):
    """Autoregressions of order 2 and unit variance, and their inefficiency."""
    r, angle = np.exp(-1.0 / life), 2.0 * np.pi / period
    first, second = 2.0 * r * np.cos(angle), -(r**2)
    variance = (1.0 - second) / ((1.0 + second) * ((1.0 - second) ** 2 - first**2))
    noise = rng.normal(size=(n_frames + 20 * life, n_runs)) / np.sqrt(variance)
    x = lfilter([1.0], [1.0, -first, -second], noise, axis=0)[-n_frames:]
    return x, 1.0 / (1.0 - first - second) ** 2 / variance


def mixed(rng, *, period, life, share, time, n_runs, n_frames):
    fast, g_fast = vibrating(rng, period, life, n_runs, n_frames)
    slow, g_slow = relaxing(rng, time, n_runs, n_frames)
    g = (1.0 - share) * g_fast + share * g_slow
    return np.sqrt(1.0 - share) * fast + np.sqrt(share) * slow, np.sqrt(g / n_frames)


def standard_errors(x):
    return np.sqrt(statistical_inefficiency(x).g * x.var(axis=0, ddof=1) / len(x))


def assert_right(x, exact, *, within=0.1):
    """The median bar is the exact one, and intervals of 95 % hold zero, the mean."""
    errors = standard_errors(x)
    assert np.median(errors) == pytest.approx(exact, rel=within)
    assert 0.9 < np.mean(np.abs(x.mean(axis=0)) < 1.96 * errors) < 0.99


@pytest.mark.parametrize(("period", "life"), [(5, 20), (12, 100), (40, 80), (100, 200)])
def test_a_vibration_with_a_slow_tail(period, life):
    rng = np.random.default_rng(period)
    assert_right(*mixed(rng, period=period, life=life, share=0.03, time=3 * life, n_runs=200, n_frames=400 * life))


@pytest.mark.parametrize(("period", "life"), [(20, 40), (50, 300), (100, 100)])
def test_a_vibration_alone(period, life):
    x, g = vibrating(np.random.default_rng(life), period, life, 200, 50 * life)
    assert_right(x, np.sqrt(g / len(x)), within=0.12)


@pytest.mark.parametrize(("share", "time", "n_frames"), [(0.05, 100, 20_000), (0.01, 100, 20_000), (0.2, 30, 5000)])
def test_white_noise_with_a_slow_mode(share, time, n_frames):
    slow, g = relaxing(np.random.default_rng(time), time, 200, n_frames)
    x = np.sqrt(share) * slow + np.sqrt(1.0 - share) * np.random.default_rng(1).normal(size=slow.shape)
    assert_right(x, np.sqrt((1.0 - share + share * g) / n_frames))


@pytest.mark.parametrize(("time", "n_frames"), [(0, 100), (0, 5000), (10, 2000), (10, 20_000), (100, 20_000)])
def test_plain_series_are_not_inflated(time, n_frames):
    x, g = relaxing(np.random.default_rng(n_frames), time, 300, n_frames)
    exact = np.sqrt(g / n_frames)
    assert 0.92 * exact < np.median(standard_errors(x)) < 1.06 * exact
    assert np.mean(statistical_inefficiency(x).reliable) > 0.85


def test_lengths_are_those_of_the_slow_motion():
    x, g = relaxing(np.random.default_rng(2), 20, 100, 2000)
    assert np.median(zero_frequency(x).lengths) == pytest.approx(2000 / g, rel=0.25)
    fast = np.random.default_rng(3).normal(size=(2000, 100))
    assert np.mean(np.isinf(zero_frequency(fast).lengths)) > 0.9


def test_blocks_are_as_long_as_the_slow_motion_wants_them():
    white, slow = (relaxing(np.random.default_rng(4), time, 100, 4000)[0] for time in (0, 20))
    assert np.median(zero_frequency(white).n_blocks) == 100
    assert np.median(zero_frequency(slow).n_blocks) == pytest.approx(4000 / (5 * 40), abs=6)


@pytest.mark.parametrize(("period", "n_frames"), [(31.0, 1900), (115.0, 2000), (280.0, 9000)])
@pytest.mark.parametrize("wander", [0.0, 0.03])
def test_an_endless_vibration_under_noise(period, n_frames, wander):
    """Of periods that low ordinates see, with a phase that stays or wanders: what is left of the mean is noise."""
    rng = np.random.default_rng(int(period))
    phase = rng.uniform(0.0, 2.0 * np.pi, 200) + wander * rng.normal(size=(n_frames, 200)).cumsum(axis=0)
    x = np.cos(2.0 * np.pi * np.arange(n_frames)[:, None] / period + phase) + 0.7 * rng.normal(size=phase.shape)
    assert_right(x, x.mean(axis=0).std(), within=0.15)


@pytest.mark.parametrize(("period", "life", "n_frames"), [(70, 250, 1000), (110, 300, 1600), (45, 150, 600)])
def test_a_vibration_does_not_hide_a_slow_motion(period, life, n_frames):
    """Bars of a run of some fifteen periods are half of what they should be, or right by chance: all are warned of."""
    rng = np.random.default_rng(period)
    x, exact = mixed(rng, period=period, life=life, share=0.05, time=2 * period, n_runs=100, n_frames=n_frames)
    assert np.median(standard_errors(x)) < 0.9 * exact
    assert np.mean(statistical_inefficiency(x).reliable) < 0.1


@pytest.mark.parametrize(("time", "n_frames"), [(0, 200), (0, 1500), (3, 1500), (15, 9000)])
def test_what_is_long_enough_is_not_warned_of(time, n_frames):
    x, _ = relaxing(np.random.default_rng(time + n_frames), time, 500, n_frames)
    assert np.mean(statistical_inefficiency(x).reliable) > 0.9


def test_a_short_run_of_a_vibration_is_warned_of():
    """The amplitude is seen in the product of observable and energy, where the observable itself shows none of it."""
    rng = np.random.default_rng(5)
    x, _ = mixed(rng, period=40, life=200, share=0.02, time=200, n_runs=30, n_frames=2000)
    warned = 0
    for series in x.T:
        h = 0.05 * KT * series[:, None] * np.array([-1.0, -0.5, 0.5, 1.0])
        result = reweight(series, energy_members=h, energy_reference=np.zeros(2000), temperature_K=300.0)
        warned += any("correlation lengths" in w for w in result.warnings)
    assert warned >= 27


def test_a_slow_energy_is_warned_of():
    rng = np.random.default_rng(6)
    x, energy = rng.normal(size=3000), relaxing(rng, 300, 1, 3000)[0][:, 0]
    h = 0.05 * KT * rng.normal(size=(3000, 4))
    options = {"temperature_K": 300.0, "energy_members": energy[:, None] + h - h.mean(axis=1, keepdims=True)}
    assert any("relax so slowly" in w for w in reweight(x, energy_reference=energy, **options).warnings)


def test_the_noise_in_the_spread_of_members_is_that_of_a_vibration():
    """Members that follow another vibration: all of their spread is noise, and blocks are long enough to see it."""
    rng = np.random.default_rng(7)
    naive, noise = [], []
    for _ in range(40):
        fast, _ = mixed(rng, period=25, life=50, share=0.05, time=150, n_runs=5, n_frames=15_000)
        h = 0.3 * KT * (fast[:, 1:] - fast[:, 1:].mean(axis=1, keepdims=True))
        result = reweight(fast[:, 0], energy_members=h, energy_reference=np.zeros(15_000), temperature_K=300.0)
        naive.append(result.std_model_naive**2)
        noise.append(result.noise)
    assert np.mean(noise) == pytest.approx(np.mean(naive), rel=0.3)


def test_a_known_relaxation_time_needs_less_evidence():
    """Of a slow part that one run can hardly tell from noise, more is counted where its time is known."""
    slow, g = relaxing(np.random.default_rng(8), 100, 300, 6000)
    x = np.sqrt(0.003) * slow + np.sqrt(0.997) * np.random.default_rng(9).normal(size=slow.shape)
    known, unknown = (np.median(zero_frequency(x, relaxation=time).value) for time in (100.0, 0.0))
    exact = 0.997 + 0.003 * g
    assert abs(known - exact) < abs(unknown - exact)
    assert known == pytest.approx(exact, rel=0.15)


@pytest.mark.parametrize("n", [2, 3, 5, 20, 25, 64])
def test_short_series_have_an_error(n):
    x = np.random.default_rng(n).normal(size=(n, 400))
    found = zero_frequency(x)
    assert np.isfinite(found.value).all()
    assert np.median(found.value) == pytest.approx(1.0, rel=0.5)


def test_extreme_series():
    n = np.arange(1000.0)
    alternating, constant, trend = (-1.0) ** n, np.full(1000, -3e5), n
    with np.errstate(all="raise"):
        found = zero_frequency(np.stack([alternating, constant, trend, np.sin(2 * np.pi * n / 200)], axis=1))
    assert np.isfinite(found.value).all()
    assert found.value[0] < 1e-3
    assert found.value[1] == 0.0
    assert found.lengths[2] < 5


def test_every_kind_of_average_has_the_bar_of_a_vibration():
    """Whether it is a mean of frames or a function of means: blocks of a tenth of the run would see the vibration."""
    rng = np.random.default_rng(10)
    x, exact = mixed(rng, period=20, life=40, share=0.05, time=60, n_runs=24, n_frames=6000)
    found = []
    for series in x.T:
        h = 0.05 * KT * series[:, None] * np.array([-1.0, -0.5, 0.5, 1.0])
        options = {"energy_members": h, "energy_reference": np.zeros(6000), "temperature_K": 300.0}
        own = series[:, None] + 0.01 * rng.normal(size=(6000, 4))
        results = (
            reweight(series, **options),
            reweight(series, method="direct", **options),
            reweight(series, method="gap", **options),
            reweight(np.stack([series, series**2], axis=1), function=lambda mean: mean[0], **options),
            reweight(own, observable_members="paired", **options),
        )
        found.append([result.std_sampling for result in results])
    np.testing.assert_allclose(np.median(found, axis=0) / exact, 1.0, atol=0.15)


def test_blocks_are_longer_than_the_period_of_a_vibration():
    x, _ = vibrating(np.random.default_rng(11), 20, 40, 100, 1000)
    assert np.median(zero_frequency(x).n_blocks) <= 16


def test_an_average_of_rare_events_is_warned_of():
    rng = np.random.default_rng(12)
    x = np.exp(1.5 * relaxing(rng, 25, 20, 6000)[0])
    warned = 0
    for series in x.T:
        h = 0.05 * KT * rng.normal(size=(6000, 1)) * np.array([-1.0, -0.5, 0.5, 1.0])
        result = reweight(series, energy_members=h, energy_reference=np.zeros(6000), temperature_K=300.0)
        warned += any("rare events" in w for w in result.warnings)
    assert warned > 18
