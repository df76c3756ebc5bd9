import subprocess
import sys
from importlib.metadata import distribution

import numpy as np
import pytest
from ase.units import kB
from hypothesis import given
from hypothesis import strategies as st
from scipy.signal import lfilter

from ase_uq.errors import InputError
from ase_uq.reweighting import reweight
from ase_uq.reweighting.statistics import sampling_error

TEMPERATURE = 300.0
KT = kB * TEMPERATURE


def run(a, h, **options):
    """Reweight with members given by their energy differences h (T, M) in kT from a driving energy of zero."""
    return reweight(a, energy_members=KT * h, energy_reference=np.zeros(len(a)), temperature_K=TEMPERATURE, **options)


def ar1(rng, phi, n_frames, n_series):
    noise = rng.normal(size=(n_series, n_frames)) * np.sqrt(1 - phi**2)
    noise[:, 0] /= np.sqrt(1 - phi**2)
    return lfilter([1], [1, -phi], noise, axis=1)


def gaussian_toy(rng, std_h, *, n_frames=1000):
    """Unit-variance a, h of width std_h, correlation 0.5; members +h and -h, so that their mean drives."""
    h = std_h * rng.normal(size=n_frames)
    a = 0.5 * h / std_h + np.sqrt(0.75) * rng.normal(size=n_frames)
    return a, np.stack([h, -h], axis=1)


def assert_mean(samples, exact, tolerance=0.0):
    samples = np.asarray(samples)
    assert abs(samples.mean() - exact) < 4 * samples.std(ddof=1) / np.sqrt(len(samples)) + tolerance


# ---------------------------------------------------------------------------------------------------------------------
# Closed forms
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("std_h", [0.5, 1.0, 2.0, 3.0, 4.0])
def test_gaussian_toy_expansion_is_exact_at_any_width(std_h):
    rng = np.random.default_rng(0)
    means = np.array([run(*gaussian_toy(rng, std_h)).member_means for _ in range(100)])
    assert_mean(means[:, 0], -0.5 * std_h)
    assert_mean(means[:, 1], +0.5 * std_h)
    # Var(<a>_i) = (1 + var(h) (1 + corr^2)) / T - ... grows linearly with the width, not exponentially.
    assert means[:, 0].std() < 2 * np.sqrt(1 + std_h**2) / np.sqrt(1000)


@pytest.mark.parametrize(("std_h", "bias", "width"), [(0.5, 0.0, 0.04), (2.0, 0.03, 0.20), (3.0, 0.21, 0.37)])
def test_gaussian_toy_direct_weights_fail_as_tabulated(std_h, bias, width):
    rng = np.random.default_rng(1)
    means = [run(*gaussian_toy(rng, std_h), method="direct").member_means[0] for _ in range(100)]
    assert_mean(means, bias - 0.5 * std_h, tolerance=0.01)
    assert np.std(means) == pytest.approx(width, rel=0.3)


def test_gaussian_toy_gates():
    rng = np.random.default_rng(2)
    for std_h, fails in [(0.3, False), (3.0, True)]:
        a, h = gaussian_toy(rng, std_h)
        h = h * [[1.0, 1.0]] @ np.array([[1, 0.5, 0, 0], [0, 0, 0.5, 1]])  # four members
        direct, cea = run(a, h, method="direct"), run(a, h)
        assert any("not reliable" in w for w in direct.warnings) == fails
        assert any("effective frames" in w for w in direct.warnings) == fails
        assert any("jointly Gaussian" in w for w in cea.warnings) == fails
        assert bool(cea.warnings) == fails


@pytest.mark.parametrize("std_h", [0.5, 0.8])
def test_ess_of_gaussian_weights(std_h):
    a, h = gaussian_toy(np.random.default_rng(3), std_h, n_frames=100_000)
    result = run(a, h, method="direct")
    assert result.ess / result.n_frames == pytest.approx(np.exp(-(std_h**2)), rel=0.05)


def test_ess_with_time_correlation_uses_the_residual_series():
    rng = np.random.default_rng(4)
    a = ar1(rng, 0.9, 100_000, 1)[0]
    slow = np.stack([0.01 * a, -0.01 * a], axis=1)  # weights hardly matter: T/g of a
    assert run(a, slow, method="direct").ess == pytest.approx(100_000 / 19, rel=0.15)
    fast = 1.5 * rng.normal(size=(100_000, 1)) * [[1, -1]]  # white weights break the correlation of the residuals
    result = run(a, fast, method="direct")
    assert 100_000 * np.exp(-2.25) / 19 * 3 < result.ess < 100_000 * np.exp(-2.25) * 1.1


def test_cea_ess_is_the_number_of_independent_frames():
    a = ar1(np.random.default_rng(5), 0.9, 100_000, 1)[0]
    result = run(a, np.stack([0.1 * a, -0.1 * a], axis=1))
    assert result.ess == result.n_frames / result.statistical_inefficiency
    assert result.statistical_inefficiency == pytest.approx(19, rel=0.15)
    assert result.std_sampling == pytest.approx(np.sqrt(19 / 100_000), rel=0.08)


def harmonic(rng, stiffness, n_frames=200_000):
    """Canonical x of a spring of stiffness 1 eV/Å^2, and the energies of members with other springs."""
    x = np.sqrt(KT) * rng.normal(size=n_frames)
    return x, 0.5 * np.asarray(stiffness) * x[:, None] ** 2, 0.5 * x**2


def test_harmonic_committee_direct_is_exact():
    k = np.array([0.8, 0.9, 1.1, 1.2])
    x, members, reference = harmonic(np.random.default_rng(6), k)
    result = reweight(
        x**2, energy_members=members, energy_reference=reference, temperature_K=TEMPERATURE, method="direct"
    )
    np.testing.assert_allclose(result.member_means, KT / k, rtol=0.02)
    assert result.std_model == pytest.approx((KT / k).std(ddof=1), rel=0.05)
    assert abs(result.mean - (KT / k).mean()) < 4 * result.std_sampling


def test_harmonic_committee_expansion_is_first_order():
    k = np.array([0.8, 0.9, 1.1, 1.2])
    x, members, reference = harmonic(np.random.default_rng(7), k)
    result = reweight(x**2, energy_members=members, energy_reference=reference, temperature_K=TEMPERATURE)
    np.testing.assert_allclose(result.member_means, KT * (1 - (k - 1)), rtol=0.02)
    assert result.warnings == ()


def test_harmonic_committee_of_forces_is_exact_for_the_position():
    force = np.array([-0.3, -0.1, 0.1, 0.3])  # eV/Å, V_i = x^2/2 - f_i x, so that <x>_i = f_i
    x, _, reference = harmonic(np.random.default_rng(8), [1.0])
    members = reference[:, None] - x[:, None] * force
    result = reweight(x, energy_members=members, energy_reference=reference, temperature_K=TEMPERATURE)
    np.testing.assert_allclose(result.member_means, force, atol=4 * result.std_sampling + 2e-3)


def test_third_cumulant_gate_on_a_stiff_committee():
    # <x^2>_i to next order is kT (1 - d + d^2), so that the neglected term is d of the first one.
    k = np.array([0.4, 0.7, 1.3, 1.6])
    x, members, reference = harmonic(np.random.default_rng(9), k, n_frames=50_000)
    result = reweight(x**2, energy_members=members, energy_reference=reference, temperature_K=TEMPERATURE)
    assert any("next term of the cumulant expansion" in w for w in result.warnings)


def test_two_states_fool_the_expansion_and_the_gate_says_so():
    rng = np.random.default_rng(11)
    state = (rng.random(20_000) < 0.5).astype(float)
    h = state[:, None] * [[4.0, -4.0, 2.0, -2.0]]
    cea, direct = run(state, h), run(state, h, method="direct")
    assert cea.member_means[0] == pytest.approx(-0.5, abs=0.03)
    assert direct.member_means[0] == pytest.approx(np.exp(-4) / (1 + np.exp(-4)), rel=0.05)
    assert any("not Gaussian" in w for w in cea.warnings)
    assert any("weights keep about" in w for w in direct.warnings)
    for result in (cea, direct):
        assert any("two groups" in w for w in result.warnings)


# ---------------------------------------------------------------------------------------------------------------------
# Error bars
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n_frames", "slope"), [(2000, 0.0), (10_000, 0.0), (10_000, 0.1)])
def test_debiased_model_error(n_frames, slope):
    rng = np.random.default_rng(12)
    spread = np.linspace(-1, 1, 8)
    spread *= slope / spread.std(ddof=1)
    naive, debiased = [], []
    for _ in range(60):
        series = ar1(rng, 0.98, n_frames, 9)
        h = spread * series[:1].T + 0.7 * series[1:].T
        result = run(series[0], h - h.mean(axis=1, keepdims=True))
        naive.append(result.std_model_naive**2)
        debiased.append(result.std_model_naive**2 - result.noise)
    noise = 0.7**2 * (1 + 0.98**2) / (1 - 0.98**2) / n_frames  # var(a) var(h) g_product / T
    assert_mean(naive, slope**2 + noise, tolerance=0.1 * noise)
    assert_mean(debiased, slope**2, tolerance=0.15 * noise)
    assert np.mean(naive) > slope**2 + 0.7 * noise


def test_unresolved_model_error_is_called_an_upper_bound():
    rng = np.random.default_rng(13)
    series = ar1(rng, 0.9, 5000, 9)
    result = run(series[0], 0.5 * series[1:].T)
    assert result.std_model_naive**2 <= 2 * result.noise
    assert any("upper bound" in w for w in result.warnings)


@pytest.mark.parametrize("method", ["cea", "direct"])
def test_sampling_error_when_the_mean_does_not_drive(method):
    """All members are shifted the same way, so that the reported mean is itself reweighted."""
    rng = np.random.default_rng(14)
    means, errors = [], []
    for _ in range(150):
        series = ar1(rng, 0.8, 2000, 2)
        h = (0.4 * series[0] + 0.5 * series[1])[:, None] * [[0.8, 0.9, 1.1, 1.2]]
        result = run(series[0], h, method=method)
        means.append(result.mean)
        errors.append(result.std_sampling)
    assert np.mean(errors) == pytest.approx(np.std(means, ddof=1), rel=0.2)
    assert any("not the energy that drove" in w for w in result.warnings)


@pytest.mark.parametrize("method", ["cea", "direct"])
def test_sampling_error_of_a_skewed_observable(method):
    rng = np.random.default_rng(20)
    means, errors = [], []
    for _ in range(600):
        a = rng.exponential(size=1000)
        h = 0.5 * a[:, None] * [[0.8, 1.0, 1.2]]
        result = run(a, h, method=method)
        means.append(result.mean)
        errors.append(result.std_sampling)
    assert np.mean(errors) == pytest.approx(np.std(means, ddof=1), rel=0.2)
    d, dh = a - a.mean(), h - h.mean(axis=0)
    w = np.exp(-dh) / np.exp(-dh).mean(axis=0)
    psi = d * (1 - dh.mean(axis=1))
    z = (w * (a[:, None] - result.member_means)).mean(axis=1)
    assert result.std_sampling == pytest.approx(sampling_error(psi if method == "cea" else z).std, rel=1e-9)


def test_direct_weights_do_not_change_their_error_bar_where_blocks_hold_several_frames():
    ratios = []
    for n in (1000, 3000):
        means, errors = [], []
        for seed in range(60):
            rng = np.random.default_rng(seed)
            result = run(rng.normal(size=n), rng.normal(size=(n, 16)), method="direct")
            means.append(result.mean)
            errors.append(result.std_sampling)
        ratios.append(np.mean(errors) / np.std(means, ddof=1))
    np.testing.assert_allclose(ratios, 1.0, atol=0.3)


def test_the_shape_of_members_that_hardly_move_is_no_matter():
    rng = np.random.default_rng(22)
    h = 0.7 * rng.normal(size=(4000, 4))
    h[:, 2] = 0.1 * rng.exponential(size=4000) ** 2
    h[:, 3] = 1e-9 * rng.integers(0, 2, size=4000)
    result = run(rng.normal(size=4000), h)
    assert not any("skewed" in w or "two groups" in w for w in result.warnings)


def test_a_healthy_vector_is_silent():
    """Bins of a histogram of many particles: some are nearly empty, and in some the members' shifts go through zero."""
    rng = np.random.default_rng(23)
    centres, loud = np.linspace(0.02, 1.98, 50), 0
    for _ in range(5):
        x = rng.normal(size=2000)
        shape = np.exp(-0.5 * ((centres - 1) / 0.3) ** 2)
        a = rng.poisson(20 * shape * np.exp(0.3 * x[:, None] * (centres - 1.2))) / 20.0
        h = 0.3 * x[:, None] * np.linspace(-1, 1, 6)
        loud += bool(run(a, h).warnings)
    assert loud <= 1


def test_a_common_driver_mismatch_leaves_no_model_error():
    """Noise shared by all members through the trajectory must not be subtracted from their spread."""
    rng = np.random.default_rng(15)
    a = rng.normal(size=2000)
    result = run(a, a[:, None] * [[0.5, 0.5, 0.5, 0.5]])
    assert result.std_model_naive == pytest.approx(0.0, abs=1e-12)
    assert result.noise == pytest.approx(0.0, abs=1e-12)


def test_errors_add_in_quadrature():
    a, h = gaussian_toy(np.random.default_rng(16), 0.5)
    result = run(a, h)
    assert result.std_total**2 == pytest.approx(result.std_sampling**2 + result.std_model**2)
    assert result.std_model**2 == pytest.approx(result.std_model_naive**2 - result.noise)
    assert result.max_std_h == pytest.approx(h.std(axis=0).max())


# ---------------------------------------------------------------------------------------------------------------------
# Independent implementations and invariances
# ---------------------------------------------------------------------------------------------------------------------


def random_frames(seed, n_frames=60, n_members=5):
    rng = np.random.default_rng(seed)
    members = 0.02 * rng.normal(size=(n_frames, n_members))
    return rng.normal(size=n_frames) + 2 * members.sum(axis=1) / KT, members, 0.02 * rng.normal(size=n_frames)


@given(seed=st.integers(0, 2**32 - 1))
def test_formulas_written_another_way(seed):
    a, members, reference = random_frames(seed)
    options = {"energy_members": members, "energy_reference": reference, "temperature_K": 250.0}
    h = (members - reference[:, None]) / (kB * 250.0)
    by_hand = [a.mean() - np.cov(a, column, ddof=0)[0, 1] for column in h.T]
    np.testing.assert_allclose(reweight(a, **options).member_means, by_hand, atol=1e-10)
    weighted = [np.average(a, weights=np.exp(-column)) for column in h.T]
    np.testing.assert_allclose(reweight(a, **options, method="direct").member_means, weighted, atol=1e-10)


@pytest.mark.parametrize("method", ["cea", "direct"])
def test_agrees_with_ipi(tmp_path, method):
    a, members, _ = random_frames(0)
    np.savetxt(tmp_path / "members", members, fmt="%.17g")
    np.savetxt(tmp_path / "observable", a, fmt="%.17g")
    script = next(f for f in distribution("ipi").files if f.name == "i-pi-committee-reweight").locate()
    command = [sys.executable, script, tmp_path / "members", tmp_path / "observable", "--kt", f"{KT:.17g}"]
    command += ["--direct"] if method == "direct" else []
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    mean, spread, *means = np.array(output.splitlines()[-1].split(), dtype=float)
    result = reweight(
        a,
        energy_members=members,
        energy_reference=members.mean(axis=1),
        temperature_K=TEMPERATURE,
        method=method,
    )
    np.testing.assert_allclose(result.member_means, means, rtol=1e-7)
    assert result.mean == pytest.approx(mean, rel=1e-7)
    assert result.std_model_naive == pytest.approx(spread * np.sqrt(5 / 4), rel=1e-7)  # divisor M there


def test_a_cell_of_two_independent_halves():
    """Differences of energies grow as sqrt(2), an average per atom keeps its shift, its sampling error falls."""
    rng = np.random.default_rng(24)
    a = rng.normal(size=(20_000, 2))
    slopes = np.array([-0.2, -0.1, 0.1, 0.2])
    half, cell = run(a[:, 0], a[:, :1] * slopes), run(a.mean(axis=1), a.sum(axis=1)[:, None] * slopes)
    assert cell.max_std_h == pytest.approx(np.sqrt(2) * half.max_std_h, rel=0.02)
    np.testing.assert_allclose(cell.member_means, half.member_means, atol=0.03)
    assert cell.std_model == pytest.approx(half.std_model, rel=0.05)
    assert cell.std_sampling == pytest.approx(half.std_sampling / np.sqrt(2), rel=0.1)


def test_sign():
    """A member that finds frames with large a lower in energy has the larger average."""
    a = np.random.default_rng(17).normal(size=500)
    for method in ("cea", "direct"):
        result = run(a, a[:, None] * [[-0.5, 0.5]], method=method)
        assert result.member_means[0] > result.mean > result.member_means[1]


@given(seed=st.integers(0, 2**32 - 1), method=st.sampled_from(["cea", "direct"]))
def test_constants_cancel(seed, method):
    a, members, reference = random_frames(seed)
    plain = reweight(a, energy_members=members, energy_reference=reference, temperature_K=TEMPERATURE, method=method)
    shifted = reweight(
        a,
        energy_members=members - 1e5 + np.array([0.0, 3.0, -50.0, 200.0, 1.0]),
        energy_reference=reference - 1e5,
        temperature_K=TEMPERATURE,
        method=method,
    )
    np.testing.assert_allclose(shifted.member_means, plain.member_means, atol=1e-7)
    np.testing.assert_allclose(shifted.std_total, plain.std_total, rtol=1e-6)


@given(seed=st.integers(0, 2**32 - 1))
def test_mean_over_members_is_the_plain_mean_when_the_mean_drives(seed):
    a, members, _ = random_frames(seed)
    result = reweight(a + 1e4, energy_members=members, energy_reference=members.mean(axis=1), temperature_K=TEMPERATURE)
    assert result.mean == pytest.approx(a.mean() + 1e4, rel=1e-12)
    assert not any("drove" in w for w in result.warnings)


def test_members_first_or_last():
    a, members, reference = random_frames(1)
    options = {"energy_reference": reference, "temperature_K": TEMPERATURE}
    np.testing.assert_array_equal(
        reweight(a, energy_members=members, **options).member_means,
        reweight(a, energy_members=members.T, **options).member_means,
    )


def test_the_observable_scales_everything():
    a, members, reference = random_frames(2)
    options = {"energy_members": members, "energy_reference": reference, "temperature_K": TEMPERATURE}
    one, thousand = reweight(a, **options), reweight(-1000 * a, **options)
    for name in ("std_sampling", "std_model", "std_model_naive", "std_total"):
        assert getattr(thousand, name) == pytest.approx(1000 * getattr(one, name), rel=1e-9)
    assert thousand.mean == pytest.approx(-1000 * one.mean)


def test_a_constant_observable_has_no_error():
    _, members, reference = random_frames(3)
    for method in ("cea", "direct"):
        result = reweight(
            np.full(60, 0.1),
            energy_members=members,
            energy_reference=reference,
            temperature_K=TEMPERATURE,
            method=method,
        )
        assert result.mean == 0.1
        assert result.std_total == 0.0
        assert not any("plateau" in w for w in result.warnings)


def test_extreme_weights_do_not_overflow():
    a = np.random.default_rng(18).normal(size=200)
    result = run(a, a[:, None] * [[1000.0, -1000.0]], method="direct")
    assert result.member_means[0] == pytest.approx(a.min())
    assert result.member_means[1] == pytest.approx(a.max())


def test_single_precision_energies_are_called_out():
    a, members, reference = random_frames(4)
    big = (members - 2.3e5).astype(np.float32)
    result = reweight(a, energy_members=big, energy_reference=reference - 2.3e5, temperature_K=TEMPERATURE)
    assert any("single precision" in w for w in result.warnings)
    small = reweight(
        a, energy_members=members.astype(np.float32), energy_reference=reference, temperature_K=TEMPERATURE
    )
    assert not any("single precision" in w for w in small.warnings)


# ---------------------------------------------------------------------------------------------------------------------
# Bad input
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"observable": np.zeros((19, 2))}, r"one value a frame.*\(19, 2\)"),
        ({"observable": np.zeros(19)}, r"at least 20.*\(19,\)"),
        ({"energy_reference": np.zeros(29)}, r"one value a frame, \(30,\), got \(29,\)"),
        ({"energy_members": np.zeros((29, 4))}, r"shape \(30, M\), got \(29, 4\)"),
        ({"energy_members": np.zeros(30)}, r"shape \(30, M\), got \(30,\)"),
        ({"energy_members": np.zeros((30, 1))}, "at least 2 members, got 1"),
        ({"observable": np.where(np.arange(30) == 17, np.nan, 0.0)}, "`observable`.*frame 17"),
        ({"energy_reference": np.where(np.arange(30) == 3, np.inf, 0.0)}, "`energy_reference`.*frame 3"),
        ({"energy_members": np.where(np.arange(30) == 8, np.nan, np.zeros((4, 30))).T}, "`energy_members`.*frame 8"),
        ({"temperature_K": 0.0}, "must be positive, got 0.0"),
        ({"temperature_K": np.nan}, "must be positive, got nan"),
        ({"method": "cumulant"}, "'cea', 'direct', 'gap'.*'cumulant'"),
    ],
)
def test_bad_input(change, words):
    good = {
        "observable": np.zeros(30),
        "energy_members": np.zeros((30, 4)),
        "energy_reference": np.zeros(30),
        "temperature_K": TEMPERATURE,
    }
    arguments = good | change
    with pytest.raises(InputError, match=words):
        reweight(arguments.pop("observable"), **arguments)
